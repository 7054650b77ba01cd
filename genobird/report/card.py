"""The model card: what a model is, what it was made from, and every test figure, as Markdown.

Nothing in it is written by hand: verdicts against the baselines follow from the paired intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from genobird.errors import InputError
from genobird.files import write_text
from genobird.report.evaluation import (
    Facts,
    listed,
    name_of,
    names,
    number,
    read_json,
    shown,
    table,
)

FIGURES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "f1": "F1 at 0.5",
    "brier": "Brier score",
}
LOWER_IS_BETTER = {"brier", "bits_per_base"}
PLACES = {"all_bins": "all bins", "tf_bins": "bins where any TF binds"}
CHROMOSOMES, PROFILES = 24, 919
DEEPSEA_CLASSES = {"TF", "DNase", "histone"}
CHANGES = {"core": "core", "base": "best base", "control": "control"}
ALLELE_TESTS = {
    "ctcf-pairs": "CTCF pairs, right allele",
    "dsqtl-pairs": "dsQTL pairs, right allele",
    "ctcf-asb": "allele-specific CTCF, AUROC",
    "raqtl": "reporter QTLs of K562, sign",
    "cagi": "CAGI4 active constructs, Spearman",
}


def write_card(model: Path, evaluation: Path, output: Path | None = None) -> Path:
    """Write the card of a model, `MODEL_CARD.md` in its directory by default.

    Its `evaluation.json` is the one that `evaluate` wrote for this very model.

    Raises:
        UsageError: a missing file.
        InputError: a file that is no JSON, or an evaluation of another model.
    """
    provenance, figures = (read_json(path) for path in (model / "provenance.json", evaluation))
    found = figures.get("model_sha256")
    wanted = provenance.get("sha256", {}).get("model.safetensors")
    if found != wanted:
        raise InputError(
            f"{evaluation} measures model {str(found)[:12]}, {model} is {str(wanted)[:12]}; "
            "evaluate this model"
        )
    output = output or model / "MODEL_CARD.md"
    shapes = read_json(model / "config.json")
    write_text(output, model_card({**provenance, "shapes": shapes}, figures))
    return output


def model_card(provenance: Facts, evaluation: Facts) -> str:
    """Write the card as Markdown, from a checkpoint's provenance and what `evaluate` returns.

    With the checkpoint's `config.json` under `shapes`, sizes are named too.

    Returns:
        Markdown.
    """
    parts = [
        "# Model card",
        *_identity(provenance, evaluation),
        *_data(evaluation),
        *_training(provenance),
        *_baselines(evaluation),
        *_chromatin(evaluation),
        *_promoters(evaluation),
        *_scan(evaluation),
        *_table(evaluation),
        *_masked(evaluation),
        *_motifs(evaluation),
        *_limits(evaluation),
    ]
    return "\n\n".join(parts) + "\n"


def _identity(provenance: Facts, evaluation: Facts) -> Iterable[str]:
    digest = str(evaluation.get("model_sha256", ""))
    yield (
        "A BigBird transformer over DNA that predicts "
        + listed(_outputs(evaluation))
        + f". Weights `{digest[:12]}` (first letters of the sha256), genobird "
        f"{evaluation.get('genobird', 'of unknown version')}."
    )
    shape = provenance.get("shapes", {}).get("encoder")
    if shape:
        yield (
            f"Encoder: {shape['layers']} layers, width {shape['width']}, {shape['heads']} heads, "
            f"vocabulary {shape['vocab_size']:,}, pattern `{shape['pattern']}` in blocks of "
            f"{shape['block_size']} tokens, positions `{shape['position']}`, "
            f"stem `{shape['stem']}`."
        )


def _outputs(evaluation: Facts) -> list[str]:
    outputs = []
    if "chromatin" in evaluation:
        outputs.append(f"{evaluation['chromatin']['features']} chromatin profiles of 200-bp bins")
    if "promoters" in evaluation:
        outputs.append("promoters from 8,000 bp around a transcription start")
    if "table" in evaluation:
        outputs.append(f"{listed(_targets_of(evaluation['table']))} of the regions of a table")
    if "masked" in evaluation:
        outputs.append("masked tokens")
    return outputs


def _targets_of(figures: Facts) -> list[str]:
    """Return the names of a table head's targets, or of its classes."""
    return list(figures.get("targets") or figures["classes"])


def _data(evaluation: Facts) -> Iterable[str]:
    yield "## Data"
    chromatin = evaluation.get("data", {}).get("chromatin")
    if chromatin:
        contigs = dict.fromkeys(c for rows in chromatin["splits"].values() for c, *_ in rows)
        left_out = chromatin["left_out"] or []
        classes = set(evaluation["chromatin"]["all_bins"]["classes"]) - {"all"}
        if classes <= DEEPSEA_CLASSES:
            yield (
                f"Sequence and labels come from {len(contigs)} of {CHROMOSOMES} chromosomes "
                f"({listed(contigs)}), and the chromatin head holds {chromatin['features']} of "
                f"{PROFILES} profiles"
                + (
                    ": those whose peak files were at hand and had enough positive training bins."
                    if chromatin["features"] < PROFILES
                    else "."
                )
            )
        else:
            yield (
                f"Sequence and labels come from {listed(contigs)}, and the chromatin head holds "
                f"{chromatin['features']} tracks."
            )
        if left_out:
            yield f"Left out for too few positives ({len(left_out)}): {', '.join(left_out)}."
        rows = [
            [
                split,
                ", ".join(_stretch(*i) for i in intervals),
                f"{chromatin['bins'].get(split, 0):,}",
            ]
            for split, intervals in chromatin["splits"].items()
        ]
        yield table(["split", "where", "bins without N"], rows)
    promoters = evaluation.get("promoters")
    if promoters:
        yield (
            f"Promoters: the {evaluation['split']} part holds {promoters['windows']} windows, "
            f"{promoters['positives']} of them promoters."
        )
    trained = evaluation.get("training", {}).get("table")
    if trained:
        counts = [f"{n:,} regions to {split}" for split, n in trained["data"]["regions"].items()]
        yield f"Table: {listed(counts)}, on {listed(trained['data']['contigs'])}."


def _training(provenance: Facts) -> Iterable[str]:
    """Yield the section on training: one row per stage, the commands and the notes."""
    rows, commands = [], []
    for stage, facts in _stages(provenance):
        fit = facts.get("config", {}).get("fit", {})
        rows.append(
            [
                stage,
                f"{fit.get('steps', 0):,}",
                f"{fit.get('learning_rate', '')} {fit.get('schedule', '')}",
                str(fit.get("precision", "")),
                str(fit.get("seed", "")),
                _seen(facts),
            ]
        )
        commands.append(facts.get("command"))
    commands.append(provenance.get("command"))
    if rows:
        yield "## Training"
        yield table(["stage", "steps", "learning rate", "precision", "seed", "seen"], rows)
    combined: Facts = provenance.get("combined", {})
    if combined:
        each = [
            f"{kind}: far x {far:.3g}, local x {local:.3g} {offset:+.3g}"
            for kind, (far, local, offset) in combined["weights"].items()
        ]
        yield (
            "The chromatin head weighs what it reads far away and what the local network reads, "
            f"fitted on the {combined['split']} part: {'; '.join(each)}."
        )
    calibration: Mapping[str, Facts] = provenance.get("calibration", {})
    if calibration:
        each = [
            f"{name} logits x {line['slope']:.3g} {line['offset']:+.3g}"
            for name, line in calibration.items()
        ]
        part = next(iter(calibration.values()))["split"]
        yield f"Calibrated on the {part} part: {', '.join(each)}."
    lines = [str(command) for command in dict.fromkeys(commands) if command]
    if lines:
        yield "Commands:\n\n```\n" + "\n".join(lines) + "\n```"
    yield from map(str, provenance.get("notes", ()))


def _stages(provenance: Facts) -> Iterable[tuple[str, Facts]]:
    """Yield the stages of training in their order; one may have gone on with an earlier one."""
    for name in ("pretraining", "chromatin", "local network", "promoter", "mlm", "table"):
        chain: list[Facts] = []
        facts = provenance.get(name)
        if name == "local network":
            facts = provenance.get("combined", {}).get("local")
        while isinstance(facts, Mapping):
            chain.append(facts)
            facts = facts.get("earlier")
        for turn, found in enumerate(reversed(chain), start=1):
            yield (f"{name} {turn}" if len(chain) > 1 else name), found


def _seen(facts: Facts) -> str:
    units = [unit for unit in ("tokens", "bases") if facts.get(f"{unit}_seen")]
    seen = "".join(f"{facts[f'{unit}_seen']:,} {unit}" for unit in units[:1])
    data = facts.get("data", {})
    sites = data.get("sites", {}).get("sites")
    others = data.get("auxiliary", {}).get("features")
    seen += f", {sites:,} placed sites among them" if sites else ""
    return f"{seen}, labels of {others:,} other tracks beside" if others else seen


def _baselines(evaluation: Facts) -> Iterable[str]:
    """Say how the baselines were trained, where that is known."""
    facts = evaluation.get("data", {}).get("baselines", {})
    rows = []
    for kind in ("chromatin", "promoters"):
        for name in names():
            found = facts.get(kind, {}).get(name)
            if found:
                steps = (
                    f"{found['steps']:,} ({found['epochs']:g} epochs)" if "steps" in found else ""
                )
                rows.append([kind, name_of(name), f"{found['parameters']:,}", steps])
    if rows:
        yield "## Baselines"
        yield table(["data", "baseline", "parameters", "steps"], rows)


def _chromatin(evaluation: Facts) -> Iterable[str]:
    chromatin = evaluation.get("chromatin")
    if not chromatin:
        return
    baselines, settings = chromatin["baselines"], evaluation["settings"]
    strands = ", both strands averaged" if settings["both_strands"] else ""
    yield "## Chromatin profiles"
    yield (
        f"{chromatin['windows']:,} bins of the {evaluation['split']} part, each read with at least "
        f"{settings['context_bp']:,} bp of context on both sides{strands}; context may reach over "
        "the part's border, labels never do. Medians over the features that have positives. "
        + _interval_text(chromatin["groups"], settings)
        + " The baselines were trained on the same training part and answer for the same bins."
    )
    for what, title in PLACES.items():
        if what not in chromatin:
            yield f"There are no {title} in this part."
            continue
        mine = chromatin[what]
        yield f"### {title[0].upper()}{title[1:]} ({mine['windows']:,})"
        rows = []
        for kind, cells in mine["classes"].items():
            if not cells["features"]:
                continue
            for figure in ("auroc", "auprc"):
                others = [b[what]["classes"][kind][figure] for b in baselines.values()]
                chance = "0.500" if figure == "auroc" else number(cells["positive_share"])
                rows.append(
                    [
                        f"{kind} ({cells['features']})",
                        FIGURES[figure],
                        *map(shown, [cells[figure], *others]),
                        chance,
                    ]
                )
        names = [name_of(name) for name in baselines]
        yield table(["class (features)", "figure", "transformer", *names, "chance"], rows)
        yield from _verdicts(
            (
                f"median {FIGURES[figure]} of {kind}",
                name,
                baseline[what]["classes"][kind][f"{figure}_difference"],
                figure,
            )
            for name, baseline in baselines.items()
            for kind, cells in mine["classes"].items()
            if cells["features"]
            for figure in ("auroc", "auprc")
        )
    yield from _calibration(chromatin, "Calibration")


def _promoters(evaluation: Facts) -> Iterable[str]:
    found = evaluation.get("promoters")
    if found:
        yield "## Promoters"
        yield (
            f"{found['windows']} windows, {found['positives']} promoters. "
            + _interval_text(found["groups"], evaluation["settings"])
        )
        yield from _told_apart(found, "promoters")


def _scan(evaluation: Facts) -> Iterable[str]:
    found = evaluation.get("scan")
    if found:
        negatives = found["windows"] - found["positives"]
        yield "## Promoters among all windows"
        yield (
            f"The same {found['positives']} promoters among {negatives:,} windows without a known "
            "start in them or within 2 kb of them, one every 2,000 bp of the "
            f"{evaluation['split']} part, each on a random strand. All models were trained on as "
            "many negatives as promoters, so their probabilities are too high here; an order of "
            f"chance has an AUPRC of {number(found['positives'] / found['windows'])}. "
            + _interval_text(found["groups"], evaluation["settings"])
        )
        yield from _told_apart(found, "promoters among all windows")


def _told_apart(found: Facts, what: str) -> Iterable[str]:
    """Figures of windows that are promoters or not, the model's beside the baselines'."""
    baselines = found["baselines"]
    rows = [
        [FIGURES[f], *map(shown, [mine, *(b["figures"][f] for b in baselines.values())])]
        for f, mine in found["figures"].items()
    ]
    yield table(["figure", "transformer", *map(name_of, baselines)], rows)
    yield from _verdicts(
        (FIGURES[figure], name, difference, figure)
        for name, baseline in baselines.items()
        for figure, difference in baseline["difference"].items()
    )
    yield from _calibration(found, f"Calibration of {what}")


def _table(evaluation: Facts) -> Iterable[str]:
    """Yield the figures of a table head: of each target, or of all classes together."""
    found = evaluation.get("table")
    if not found:
        return
    yield "## Table"
    yield (
        f"{found['regions']:,} regions of the {evaluation['split']} part. "
        + _interval_text(found["stretches"], evaluation["settings"])
    )
    if "targets" in found:
        rows = [
            [name, f"{of['known']:,}", shown(of["pearson"]), shown(of["spearman"])]
            for name, of in found["targets"].items()
        ]
        yield table(["target", "regions with a value", "Pearson", "Spearman"], rows)
    else:
        figures = [shown(found[name]) for name in ("accuracy", "auroc", "log_loss")]
        yield table(["accuracy", "AUROC, mean over classes", "log loss, nats"], [figures])
        yield f"Regions of each class: {listed(f'{k} {n:,}' for k, n in found['classes'].items())}."


def _masked(evaluation: Facts) -> Iterable[str]:
    masked = evaluation.get("masked")
    if not masked:
        return
    yield "## Masked tokens"
    yield (
        f"{masked['tokens']:,} masked tokens ({masked['bases']:,} bases) of {masked['sequences']} "
        "held-out windows. " + _interval_text(masked["groups"], evaluation["settings"])
    )
    if reach := evaluation.get("encoder", {}).get("neighbours"):
        yield (
            "The head adds counts to the transformer's logits, as an n-gram model has them: how "
            f"often pieces stand beside each of the {reach} before and after a token."
        )
    bits, chance = masked["bits_per_base"], masked["frequencies"]
    rows = [
        ["bits per base", shown(bits), number(chance), "2.000"],
        ["bits per base, tokens without N", shown(masked["bits_per_base_no_n"]), "", "2.000"],
        ["accuracy of tokens", shown(masked["accuracy"]), "", ""],
    ]
    names = ["figure", "transformer", "frequencies of the same pieces", "bases at random"]
    yield table(names, rows)
    if bits["high"] is not None and bits["high"] < chance:
        yield "Context helps: the interval lies below what piece frequencies alone give."
    else:
        yield (
            "**No use of context is shown: the interval does not lie below what the frequencies of "
            "the masked pieces alone give.**"
        )
    others = masked.get("baselines", {})
    if others:
        keys = ("bits_per_base", "bits_per_base_repeats", "bits_per_base_unique")
        yield (
            "Bits per base of other models, for the same tokens. N-gram models read from the left "
            "and know every token there; transformers see both sides, "
            f"{evaluation['settings']['masked']['mask_rate'] * 100:.3g} % of the tokens hidden."
        )
        each = {"transformer": masked, **{name_of(name): found for name, found in others.items()}}
        rows = [
            [name, *(shown(found[key]) if key in found else "" for key in keys)]
            for name, found in each.items()
        ]
        yield table(["model", "all", "in repeats", "elsewhere"], rows)
        yield from _verdicts(
            ("bits per base", name, found["difference"]["bits_per_base"], "bits_per_base")
            for name, found in others.items()
        )


def _verdicts(comparisons: Iterable[tuple[str, str, Facts, str]]) -> Iterable[str]:
    """One sentence a baseline and outcome: where the transformer wins, loses, or neither."""
    outcomes: dict[str, dict[str, list[str]]] = {}
    for what, name, difference, figure in comparisons:
        low, high = difference["low"], difference["high"]
        if low is None or high is None:
            continue
        if figure in LOWER_IS_BETTER:
            low, high = -high, -low
        outcome = "wins" if low > 0 else "loses" if high < 0 else "draws"
        outcomes.setdefault(name, {}).setdefault(outcome, []).append(
            f"{what} ({shown(difference, signed=True)})"
        )
    for name, by_outcome in outcomes.items():
        sentences = []
        if lost := by_outcome.get("loses"):
            sentences.append(f"**The transformer loses to the {name_of(name)}** in {listed(lost)}.")
        if won := by_outcome.get("wins"):
            sentences.append(f"The transformer beats the {name_of(name)} in {listed(won)}.")
        if drawn := by_outcome.get("draws"):
            sentences.append(
                f"No difference from the {name_of(name)} can be shown in {listed(drawn)}."
            )
        yield " ".join(sentences)
    if outcomes:
        yield "In brackets: transformer minus baseline on the same windows, with its interval."


def _calibration(result: Facts, title: str) -> Iterable[str]:
    """Say how right the probabilities are: each model's error, the transformer's reliability."""
    rows = []
    named = {"transformer": result, **{name_of(n): b for n, b in result["baselines"].items()}}
    for name, facts in named.items():
        found = facts["calibration"]
        shares = [number(found[key]) for key in ("predicted_share", "observed_share")]
        rows.append([name, number(found["error"]), *shares])
    yield f"### {title}"
    yield table(["model", "expected calibration error", "predicted share", "observed share"], rows)
    yield "Reliability of the transformer's probabilities:"
    cells = [
        [
            f"{row['low']:.1f} to {row['high']:.1f}",
            f"{row['count']:,}",
            number(row["predicted"]),
            number(row["observed"]),
        ]
        for row in result["calibration"]["table"]
    ]
    yield table(["probability", "labels", "predicted", "observed"], cells)


def _interval_text(groups: int, settings: Facts) -> str:
    """Say how the intervals were made."""
    if groups < 2:
        return "All lie in one stretch, so there are no intervals."
    return (
        f"In square brackets: 95 % bootstrap intervals, {settings['resamples']} resamples of "
        f"{groups} stretches of {settings['group_bp'] / 1000:g} kb."
    )


def _motifs(evaluation: Facts) -> Iterable[str]:
    """Yield what broken motifs and known alleles have shown (`pipelines.harness`), if measured."""
    motifs = evaluation.get("motifs", {})
    effects, alleles = motifs.get("effects", {}), motifs.get("alleles", {})
    if not (effects or alleles):
        return
    yield "## Motifs"
    if effects:
        mine = next(iter(effects.values()))["together"]
        yield (
            f"{mine['sites']:,} strong matches of {mine['factors']} factors under their own peaks "
            f"in the {motifs['split']} part, up to 20 per factor: the core is replaced, or its "
            "most informative base, or as many bases 60 bp away (control). A factor leads where "
            "its feature, or its partner's, changes most, relative to what is usual for each. "
            "In square brackets: 95 % bootstrap intervals over factors; for CTCF alone, over "
            "stretches of 250 kb."
        )
        rows = [
            [title, *(_figure_at(found, keys) for found in effects.values())]
            for title, keys in _motif_rows()
        ]
        seen = [f"{found['together'][k]}" for found in effects.values() for k in ("seen", "known")]
        rows.append(
            [
                f"factors with {mine['fewest']} sites that are among the first five at half",
                *(f"{a} of {b}" for a, b in zip(seen[::2], seen[1::2], strict=True)),
            ]
        )
        yield table(["figure", *map(name_of, effects)], rows)
    if alleles:
        yield (
            "Public tests of alleles, of which nothing was trained or chosen. Best match of the "
            "factor's matrix (matrix scan) is the rival to beat."
        )
        yield table(
            ["test", "pairs", *map(name_of, alleles)],
            [
                [
                    title,
                    f"{next(tests[key]['n'] for tests in alleles.values() if key in tests):,}",
                    *(shown(tests[key]) if key in tests else "" for tests in alleles.values()),
                ]
                for key, title in ALLELE_TESTS.items()
                if any(key in tests for tests in alleles.values())
            ],
        )


def _motif_rows() -> Iterable[tuple[str, tuple[str, ...]]]:
    """Yield the titles of figures of broken motifs, and the keys that lead to each."""
    for change, what in CHANGES.items():
        yield f"CTCF or cohesin leads: {what}", ("ctcf", change, "leads")
    for change, what in CHANGES.items():
        yield f"factor leads, mean: {what}", ("together", "means", change, "leads")
    yield "factor among the first five, mean: core", ("together", "means", "core", "top5")
    yield "AUROC of core against control, mean", ("together", "auroc")


def _figure_at(found: Facts, keys: Iterable[str]) -> str:
    """Write the figure that keys lead to; nothing where there is none, as without CTCF's sites."""
    for key in keys:
        if key not in found:
            return ""
        found = found[key]
    return shown(found)


def _limits(evaluation: Facts) -> Iterable[str]:
    yield "## Limits"
    lines = [
        "Do not use it for clinical decisions. Scores are statistical associations in a few cell "
        "types, not evidence that a variant matters.",
        "It knows nothing of cell types, profiles and chromosomes it was not trained on.",
    ]
    data = evaluation.get("data", {}).get("chromatin")
    if data:
        tested = data["splits"][evaluation["split"]]
        width = sum(end - start for _, start, end in tested)
        lines.append(
            f"All chromatin figures come from {width / 1e6:g} Mb of "
            f"{listed(dict.fromkeys(contig for contig, *_ in tested))} and may differ elsewhere in "
            "the genome. They are not comparable with published figures on other chromosomes."
        )
        lines.append(
            "The intervals say how figures vary between stretches of this part, not between "
            "training runs. Resampling adds noise to features with few positives, so an interval "
            "of a median may lie lopsided around its figure."
        )
    promoters = evaluation.get("promoters")
    if promoters:
        windows = "the windows; in a genome promoters are rare, and the probability is far too high"
        there = "there, as the scan shows" if "scan" in evaluation else "there"
        lines.append(
            f"Promoter figures rest on {promoters['positives']} promoters, one half or so of "
            f"{windows} {there}."
        )
    yield "\n".join(f"- {line}" for line in lines)


def _stretch(contig: str, start: int, end: int) -> str:
    return f"{contig}:{start + 1:,}-{end:,}"
