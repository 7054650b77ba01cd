"""The model card: what a model is, what it was made from, and every test figure, as Markdown.

Nothing in it is written by hand: its text is `templates/card.md.j2`, its figures are those of an
evaluation, and verdicts against the baselines follow from the paired intervals.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from jinja2 import Environment

from genobird.errors import InputError, counted
from genobird.files import read_json, write_text
from genobird.report.evaluation import (
    Facts,
    as_written,
    listed,
    name_of,
    names,
    number,
    plain,
    shown,
    table,
)
from genobird.report.page import environment

FIGURES = {"auroc": "AUROC", "auprc": "AUPRC", "f1": "F1 at 0.5", "brier": "Brier score"}
LOWER_IS_BETTER = {"brier", "bits_per_base"}
PLACES = {"all_bins": "all bins", "tf_bins": "bins where any TF binds"}
CHANGES = {"core": "core", "base": "best base", "control": "control"}

Rows = Iterable[list[str]]

# Of a baseline, and the figures.
LOSES = "**The transformer loses to the {}** in {}."
WINS = "The transformer beats the {} in {}."
DRAWS = "No difference from the {} can be shown in {}."


def write_card(model: Path, evaluation: Path, output: Path | None = None) -> Path:
    """Write the card of a model, `MODEL_CARD.md` in its directory by default.

    Its `evaluation.json` is the one that `evaluate` wrote for this very model.

    Raises:
        UsageError: a missing file.
        InputError: a file that is no JSON, or an evaluation of another model or shape.
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
    with as_written(evaluation):
        write_text(output, model_card({**provenance, "shapes": shapes}, figures))
    return output


def model_card(provenance: Facts, evaluation: Facts) -> str:
    """Write the card as Markdown, from a checkpoint's provenance and what `evaluate` returns.

    With the checkpoint's `config.json` under `shapes`, sizes are named too.

    Returns:
        Markdown.
    """
    motifs = evaluation.get("motifs", {})
    template = _environment().get_template("card.md.j2")
    text = template.render(
        **{key: evaluation.get(key) for key in ("chromatin", "masked", "promoters", "scan")},
        genobird=evaluation.get("genobird", "of unknown version"),
        digest=str(evaluation.get("model_sha256", "")),
        part=evaluation.get("split"),
        settings=evaluation.get("settings"),
        encoder=provenance.get("shapes", {}).get("encoder"),
        outputs=list(_outputs(evaluation)),
        places=PLACES,
        of_table=evaluation.get("table"),
        counted=evaluation.get("encoder", {}).get("neighbours"),
        motifs=motifs,
        effects=motifs.get("effects"),
        alleles=motifs.get("alleles"),
        baselines=list(_baselines(evaluation)),
        **_data(evaluation),
        **_training(provenance),
    )
    return re.sub(r"\n{3,}", "\n\n", text)  # what is left out leaves its empty lines behind


def _environment() -> Environment:
    """Return the environment of the templates, for Markdown."""
    made = environment().overlay(autoescape=False)
    made.filters |= {
        "called": name_of,
        "grouped": "{:,}".format,
        "listed": listed,
        "number": number,
        "shown": shown,
        "stretch": lambda row: f"{row[0]}:{row[1] + 1:,}-{row[2]:,}",
    }
    made.globals |= {
        "allele_rows": _allele_rows,
        "bits_rows": _bits_rows,
        "bits_verdicts": _bits_verdicts,
        "calibration_rows": _calibration_rows,
        "class_rows": _class_rows,
        "class_verdicts": _class_verdicts,
        "figure_rows": _figure_rows,
        "motif_rows": _motif_rows,
        "table": table,
        "target_rows": _target_rows,
        "window_verdicts": _window_verdicts,
    }
    return made


def _outputs(evaluation: Facts) -> Iterable[str]:
    if "chromatin" in evaluation:
        yield f"{evaluation['chromatin']['features']} chromatin profiles of 200-bp bins"
    if "promoters" in evaluation:
        yield "promoters from 8,000 bp around a transcription start"
    if "table" in evaluation:
        found = evaluation["table"]
        named = map(plain, found.get("targets") or found["classes"])
        yield f"{listed(named)} of the regions of a table"
    if "masked" in evaluation:
        yield "masked tokens"


def _data(evaluation: Facts) -> Facts:
    """Return what the data were: bins and their splits, and the regions of a table."""
    found: dict[str, object] = {"data": None, "regions": None}
    if chromatin := evaluation.get("data", {}).get("chromatin"):
        tested = chromatin["splits"][evaluation["split"]]
        rows = [row for part in chromatin["splits"].values() for row in part]
        found |= {
            "data": chromatin,
            "contigs": _contigs(rows),
            "tested": {
                "contigs": _contigs(tested),
                "width": sum(end - start for _, start, end in tested),
            },
        }
    if trained := evaluation.get("training", {}).get("table"):
        regions = trained["data"]["regions"].items()
        counts = [f"{counted(n, 'region')} to {split}" for split, n in regions]
        found["regions"] = {"counts": counts, "contigs": trained["data"]["contigs"]}
    classes = evaluation.get("table", {}).get("classes", {})
    return {**found, "class_sizes": [f"{plain(name)} {n:,}" for name, n in classes.items()]}


def _contigs(rows: Iterable[tuple[str, int, int]]) -> list[str]:
    return list(dict.fromkeys(contig for contig, *_ in rows))


def _training(provenance: Facts) -> Facts:
    """Return one row per stage of training, what was fitted afterwards, commands and notes."""
    stages = list(_stages(provenance))
    commands = [*(facts.get("command") for _, facts in stages), provenance.get("command")]
    found: dict[str, object] = {
        "weighed": None,
        "calibrated": None,
        "stages": [_stage_row(name, facts) for name, facts in stages],
        "commands": [str(command) for command in dict.fromkeys(commands) if command],
        "notes": provenance.get("notes", ()),
    }
    if combined := provenance.get("combined"):
        found["weighed"] = {
            "split": combined["split"],
            "lines": [
                f"{kind}: far x {far:.3g}, local x {local:.3g} {offset:+.3g}"
                for kind, (far, local, offset) in combined["weights"].items()
            ],
        }
    if calibration := provenance.get("calibration"):
        found["calibrated"] = {
            "split": next(iter(calibration.values()))["split"],
            "lines": [
                f"{name} logits x {line['slope']:.3g} {line['offset']:+.3g}"
                for name, line in calibration.items()
            ],
        }
    return found


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


def _stage_row(name: str, facts: Facts) -> list[str]:
    fit = facts.get("config", {}).get("fit", {})
    rate = f"{fit.get('learning_rate', '')} {fit.get('schedule', '')}"
    made = [str(fit.get(key, "")) for key in ("precision", "seed")]
    return [name, f"{fit.get('steps', 0):,}", rate, *made, _seen(facts)]


def _seen(facts: Facts) -> str:
    units = [unit for unit in ("tokens", "bases") if facts.get(f"{unit}_seen")]
    seen = "".join(f"{facts[f'{unit}_seen']:,} {unit}" for unit in units[:1])
    data = facts.get("data", {})
    sites = data.get("sites", {}).get("sites")
    others = data.get("auxiliary", {}).get("features")
    seen += f", {sites:,} placed sites among them" if sites else ""
    return f"{seen}, labels of {others:,} other tracks beside" if others else seen


def _baselines(evaluation: Facts) -> Rows:
    """Yield how the baselines were trained, where that is known."""
    facts = evaluation.get("data", {}).get("baselines", {})
    for kind in ("chromatin", "promoters"):
        known = facts.get(kind, {})
        for name in (name for name in names() if known.get(name)):
            found, steps = known[name], ""
            if "steps" in found:
                steps = f"{found['steps']:,} ({found['epochs']:g} epochs)"
            yield [kind, name_of(name), f"{found['parameters']:,}", steps]


def _class_rows(chromatin: Facts, place: str) -> Rows:
    """Yield the medians of each class of features over bins of one kind."""
    for kind, cells in _classes(chromatin, place):
        for figure in ("auroc", "auprc"):
            others = [b[place]["classes"][kind] for b in chromatin["baselines"].values()]
            chance = "0.500" if figure == "auroc" else number(cells["positive_share"])
            figures = [shown(found[figure]) for found in (cells, *others)]
            yield [f"{kind} ({cells['features']})", FIGURES[figure], *figures, chance]


def _class_verdicts(chromatin: Facts, place: str) -> Iterable[str]:
    return _verdicts(
        (
            f"median {FIGURES[figure]} of {kind}",
            name,
            baseline[place]["classes"][kind][f"{figure}_difference"],
            figure,
        )
        for name, baseline in chromatin["baselines"].items()
        for kind, _ in _classes(chromatin, place)
        for figure in ("auroc", "auprc")
    )


def _classes(chromatin: Facts, place: str) -> Iterable[tuple[str, Facts]]:
    return (
        (kind, cells) for kind, cells in chromatin[place]["classes"].items() if cells["features"]
    )


def _figure_rows(found: Facts) -> Rows:
    """Yield the figures of windows that are promoters or not."""
    for figure, mine in found["figures"].items():
        others = [baseline["figures"][figure] for baseline in found["baselines"].values()]
        yield [FIGURES[figure], *map(shown, [mine, *others])]


def _window_verdicts(found: Facts) -> Iterable[str]:
    return _verdicts(
        (FIGURES[figure], name, difference, figure)
        for name, baseline in found["baselines"].items()
        for figure, difference in baseline["difference"].items()
    )


def _target_rows(found: Facts) -> Rows:
    """Yield the figures of each target of a table head."""
    for name, of in found["targets"].items():
        yield [name, f"{of['known']:,}", shown(of["pearson"]), shown(of["spearman"])]


def _bits_rows(masked: Facts) -> Rows:
    """Yield bits per base of the model and of others."""
    keys = ("bits_per_base", "bits_per_base_repeats", "bits_per_base_unique")
    for name, found in {"transformer": masked, **masked["baselines"]}.items():
        yield [name_of(name), *(shown(found[key]) if key in found else "" for key in keys)]


def _bits_verdicts(masked: Facts) -> Iterable[str]:
    return _verdicts(
        ("bits per base", name, found["difference"]["bits_per_base"], "bits_per_base")
        for name, found in masked["baselines"].items()
    )


def _verdicts(comparisons: Iterable[tuple[str, str, Facts, str]]) -> Iterable[str]:
    """Yield one paragraph per baseline: where the transformer wins, loses, or neither."""
    outcomes: dict[str, dict[str, list[str]]] = {}
    for what, name, difference, figure in comparisons:
        low, high = difference["low"], difference["high"]
        if low is None or high is None:
            continue
        if figure in LOWER_IS_BETTER:
            low, high = -high, -low
        outcome = LOSES if high < 0 else WINS if low > 0 else DRAWS
        outcomes.setdefault(name_of(name), {}).setdefault(outcome, []).append(
            f"{what} ({shown(difference, signed=True)})"
        )
    for name, found in outcomes.items():
        told = [o for o in (LOSES, WINS, DRAWS) if o in found]
        yield " ".join(outcome.format(name, listed(found[outcome])) for outcome in told)
    if outcomes:
        yield "In brackets: transformer minus baseline on the same windows, with its interval."


def _calibration_rows(result: Facts) -> Rows:
    """Yield how right the probabilities of each model are."""
    for name, facts in {"transformer": result, **result["baselines"]}.items():
        found = facts["calibration"]
        figures = [number(found[k]) for k in ("error", "predicted_share", "observed_share")]
        yield [name_of(name), *figures]


def _motif_rows(effects: Mapping[str, Facts]) -> Rows:
    """Yield what broken motifs have shown (`pipelines.harness`), of the model and its rivals."""
    rows: dict[str, tuple[str, ...]] = {}
    for change, what in CHANGES.items():
        rows[f"CTCF or cohesin leads: {what}"] = ("ctcf", change, "leads")
    for change, what in CHANGES.items():
        rows[f"factor leads, mean: {what}"] = ("together", "means", change, "leads")
    rows["factor among the first five, mean: core"] = ("together", "means", "core", "top5")
    rows["AUROC of core against control, mean"] = ("together", "auroc")
    for title, keys in rows.items():
        yield [title, *(_figure_at(found, keys) for found in effects.values())]
    each = [found["together"] for found in effects.values()]
    yield [
        f"factors with {each[0]['fewest']} sites that are among the first five at half",
        *(f"{found['seen']} of {found['known']}" for found in each),
    ]


def _figure_at(found: Facts, keys: Iterable[str]) -> str:
    """Write the figure that keys lead to; nothing where there is none, as without CTCF's sites."""
    for key in keys:
        if key not in found:
            return ""
        found = found[key]
    return shown(found)


def _allele_rows(alleles: Mapping[str, Facts]) -> Rows:
    """Yield the figures of tests of known alleles, by their titles."""
    for title in dict.fromkeys(title for tests in alleles.values() for title in tests):
        pairs = next(tests[title]["n"] for tests in alleles.values() if title in tests)
        figures = [shown(tests[title]) if title in tests else "" for tests in alleles.values()]
        yield [title, f"{pairs:,}", *figures]
