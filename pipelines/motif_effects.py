"""Does a model know what factors bind? Their held-out sites broken, and what it then predicts.

At sites with a strong match to a factor's matrix under the factor's own peak, three changes are
made: the core (the whole match) is replaced by the same bases in another order, the one base that
says most is replaced by the one that fits least, and, as a control, as many bases `CONTROL_BP` away
are put in another order. A model that sees the motif ranks the factor first among all features for
the first two, and not for the third.

Targets of tracks find their matrices (`data_manifests/motif_factors.tsv` knows the targets that are
called otherwise, and the factors that bind together), and the model is asked as `genobird variants`
would ask it, or a rival with the same sequences: both are one thing here, sequences and the place
in each that a bin is centred on, to the logits of features. Features are ranked by what is usual
for them; a model that has no background of its own, and every rival, gets one of random changes of
single bases in the training part.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

from genobird.baselines.train import FEATURES, load_baselines
from genobird.checkpoint import feature_columns
from genobird.datasets import ChromatinDataset, stretches
from genobird.draws import generator
from genobird.errors import UsageError
from genobird.files import refuse_existing
from genobird.genome.sequence import NO_BASE, base_codes
from genobird.motifs import Motif, best_of_each, read_motifs
from genobird.scoring.background import Background
from genobird.scoring.effects import relative_sizes
from genobird.scoring.scorer import load
from genobird.tasks.metrics import Bootstrap, mean_of
from pipelines import manifest, steps

logger = logging.getLogger(__name__)

FACTORS = manifest.FOLDER / "motif_factors.tsv"
FLANK = 8_100
STRETCH_BP, RESAMPLES = 250_000, 1_000
CTCF = "CTCF"
FEWEST = 20
"""Sites that a factor needs to count in the share of factors."""
CONTROL_BP = 60
CORE, BASE, CONTROL = "core", "base", "control"
CHANGES = (CORE, BASE, CONTROL)
STRONG_QUANTILE = 0.99
"""A match is strong that is better than the best one in so many bins without a peak."""
_AT_ONCE = 64

Floats = NDArray[np.float32]
Columns = dict[str, list[int]]
Predict = Callable[[Sequence[str]], Floats]
"""Sequences, each centred on the middle of a bin, to logits [S, F]."""
Rank = Callable[[Floats, Floats], Floats]
"""Logits of REF and ALT [n, F] to how much each feature changed [n, F]: the largest leads."""

Model = Annotated[Path | None, typer.Option(help="Model; the bundled one by default.")]
Baselines = Annotated[Path | None, typer.Option(help="Trained baselines, with --rival.")]
Rival = Annotated[str | None, typer.Option(help="Ask this baseline, not a model.")]


@dataclass(frozen=True)
class Predictor:
    """A model or a rival.

    Attributes:
        name: first letters of the model's hash, or the rival's name.
        features: F rows `index name class`.
        logits: of sequences [S], and of the place in each, to [S, F], both strands averaged.
        background: how large effects usually are; None where that was not measured.
    """

    name: str
    features: pd.DataFrame
    logits: Callable[[Sequence[str], Sequence[int]], Floats]
    background: Background | None = None

    @property
    def names(self) -> list[str]:
        """Names of the features; one that repeats has its index appended."""
        return feature_columns(self.features)

    def rank(self, ref: Floats, alt: Floats) -> Floats:
        """Return how much each feature changed by the rule of `GB_TOP`, [n, F]."""
        return relative_sizes(ref, alt, self.names, self.background)


def load_predictor(
    model: Path | None = None,
    baselines: Path | None = None,
    rival: str | None = None,
    threads: int | None = None,
) -> Predictor:
    """Read a model, the bundled one if None, or a rival from a directory of trained baselines.

    Raises:
        UsageError: a rival without its directory, or one that is not in it.
    """
    if (baselines is None) != (rival is None) or (model and rival):
        raise UsageError("give --baselines and --rival together, and no --model beside them")
    if baselines is not None and rival is not None:
        if threads is not None:
            torch.set_num_threads(threads)
        return _rival(baselines, rival)
    scorer = load(model, threads=threads)
    return Predictor(
        scorer.model_hash, scorer.checkpoint.features, scorer.chromatin_logits, scorer.background
    )


def _rival(baselines: Path, name: str) -> Predictor:
    known = load_baselines(baselines, "chromatin")
    if name not in known:
        raise UsageError(f"{baselines} has no {name}; it has {', '.join(known)}")
    return Predictor(name, pd.read_csv(baselines / FEATURES, sep="\t"), known[name].predict_places)


def usual_changes(
    predictor: Predictor,
    dataset: ChromatinDataset,
    *,
    split: str = "train",
    count: int = 800,
    flank_bp: int = 8_100,
    seed: int = 0,
) -> Background:
    """Return how large the effects of random changes of single bases are.

    Each of at most `count` changes lies in the middle of another bin of a split, and is given
    `flank_bp` on each side, clipped at the contig's ends.
    """
    rng = generator(seed, 8)
    bins = [(i.contig, int(b)) for i in dataset.intervals(split) for b in dataset.usable_bins(i)]
    drawn = rng.choice(len(bins), min(count, len(bins)), replace=False)
    texts, places = [], []
    for contig, number in (bins[row] for row in drawn):
        middle = number * dataset.bin_bp + dataset.bin_bp // 2
        start = max(0, middle - flank_bp)
        end = min(middle + flank_bp, dataset.length(contig))
        text, place = dataset.sequence(contig, start, end), middle - start
        other = rng.choice([base for base in "ACGT" if base != text[place]])
        texts += [text, f"{text[:place]}{other}{text[place + 1 :]}"]
        places += [place, place]
    logits = np.concatenate(
        [
            predictor.logits(texts[i : i + _AT_ONCE], places[i : i + _AT_ONCE])
            for i in range(0, len(texts), _AT_ONCE)
        ]
    )
    names = predictor.names
    return Background.of(logits[1::2] - logits[::2], names, range(len(names)))


@dataclass(frozen=True, slots=True)
class Site:
    """A strong match under a peak of its factor.

    Attributes:
        factor: name of the matrix's factor.
        contig: where it lies.
        start: first base of the match, 0-based.
        reverse: whether the match is on the reverse strand.
        score: of the match, in bits.
    """

    factor: str
    contig: str
    start: int
    reverse: bool
    score: float


def find_sites(
    dataset: ChromatinDataset,
    split: str,
    motifs: Mapping[str, Motif],
    columns: Mapping[str, Sequence[int]],
    *,
    most: int = 20,
    background: int = 4_000,
    seed: int = 0,
) -> list[Site]:
    """Find sites of factors in a split of a dataset, the best matches first, one per bin.

    `columns` are the features of each factor. At most `most` sites per factor are taken, whose
    match is better than the best one in nearly all of `background` bins without the factor.
    """
    found: list[Site] = []
    for factor, motif in motifs.items():
        matches: list[Site] = []
        length = motif.counts.shape[1]
        for interval in dataset.intervals(split):
            bins = dataset.usable_bins(interval)
            bound = dataset.labels(interval.contig, bins)[:, list(columns[factor])].any(1)
            others = generator(seed, 6).choice(bins[~bound], min(background, int((~bound).sum())))
            rest, _, _ = _best(dataset, interval.contig, others, motif)
            least = np.quantile(rest, STRONG_QUANTILE)
            scores, at, reverse = _best(dataset, interval.contig, bins[bound], motif)
            matches += [
                Site(factor, interval.contig, int(start), bool(turned), float(score))
                for score, start, turned in zip(scores, at, reverse, strict=True)
                if score >= least
            ]
        matches.sort(key=lambda site: (-site.score, site.contig, site.start))
        kept: list[Site] = []
        for site in matches:  # neighbouring bins of one peak share a match
            if all(site.contig != o.contig or abs(site.start - o.start) > length for o in kept):
                kept.append(site)
        found += kept[:most]
    return found


def _best(
    dataset: ChromatinDataset, contig: str, bins: NDArray[np.int64], motif: Motif
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return the best match within each bin: its score, first base and strand, [n] each."""
    width = dataset.bin_bp
    starts = bins * width
    text = [dataset.sequence(contig, int(start), int(start) + width) for start in starts]
    if not text:
        return np.zeros(0), np.zeros(0, np.int64), np.zeros(0, bool)
    codes = np.stack([base_codes(sequence) for sequence in text])
    plus, minus = motif.scan(codes)
    best = np.maximum(plus, minus)
    at = best.argmax(1)
    rows = np.arange(len(bins))
    return best[rows, at], starts + at, minus[rows, at] > plus[rows, at]


def changed(sequence: str, at: int, site: Site, motif: Motif, seed: int) -> dict[str, str]:
    """Return the sequence around a site, whose first base is `at`, after each of `CHANGES`."""
    odds = motif.odds[::-1, ::-1] if site.reverse else motif.odds
    length = odds.shape[1]
    rng = generator(seed, 7, site.start)
    codes = base_codes(sequence)
    core = codes[at : at + length]
    drop = np.where(core < NO_BASE, odds[np.minimum(core, 3), np.arange(length)], 0) - odds.min(0)
    place = int(drop.argmax())
    single = codes.copy()
    single[at + place] = odds[:, place].argmin()
    away = at + CONTROL_BP if at + CONTROL_BP + length <= len(sequence) else at - CONTROL_BP
    return {
        CORE: _text(_shuffled(codes, at, length, odds, rng)),
        BASE: _text(single),
        CONTROL: _text(_shuffled(codes, away, length, odds, rng)),
    }


def _shuffled(
    codes: NDArray[np.uint8],
    at: int,
    length: int,
    odds: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Put bases in another order: of twenty, the one that fits the matrix least."""
    table = np.concatenate([odds, odds.min(0, keepdims=True)])
    orders = [rng.permutation(codes[at : at + length]) for _ in range(20)]
    worst = min(orders, key=lambda order: float(table[order, np.arange(length)].sum()))
    broken = codes.copy()
    broken[at : at + length] = worst
    return broken


def _text(codes: NDArray[np.uint8]) -> str:
    return np.frombuffer(b"ACGTN", dtype=np.uint8)[codes].tobytes().decode("ascii")


def motif_effects(
    predict: Predict,
    rank: Rank,
    dataset: ChromatinDataset,
    sites: Sequence[Site],
    motifs: Mapping[str, Motif],
    columns: Mapping[str, Sequence[int]],
    *,
    flank_bp: int,
    partners: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Break sites and ask a model.

    Args:
        predict: the model.
        rank: the score by which features lead.
        dataset: where the sites lie.
        sites: what is broken.
        motifs: a matrix by factor.
        columns: the features of each factor.
        flank_bp: bases given on each side of a site's middle, clipped at the contig's ends.
        partners: further features that may lead in the factor's place, by factor.
        seed: of the changes.

    Returns:
        One row per site and change: `factor contig start score change place delta size leader`,
        where `place` is the best place of the factor's features (or its partners') among all
        features (0 leads), `delta` the mean change of the factor's logits, `size` its size relative
        to all features (`rank`), `leader` the column that leads.
    """
    rows: list[dict[str, Any]] = []
    for site in sites:
        motif, wanted = motifs[site.factor], list(columns[site.factor])
        either = wanted + list((partners or {}).get(site.factor, ()))
        middle = site.start + motif.counts.shape[1] // 2
        start = max(0, middle - flank_bp)
        end = min(middle + flank_bp, dataset.length(site.contig))
        sequence = dataset.sequence(site.contig, start, end)
        changes = changed(sequence, site.start - start, site, motif, seed)
        logits = predict([sequence, *changes.values()])
        order = rank(np.repeat(logits[:1], len(changes), axis=0), logits[1:])
        for change, alt, sizes in zip(changes, logits[1:], order, strict=True):
            delta = alt[wanted] - logits[0, wanted]
            rows.append(
                {
                    **{key: getattr(site, key) for key in ("factor", "contig", "start", "score")},
                    "change": change,
                    "place": _place(sizes, either),
                    "delta": float(delta.mean()),
                    "size": float(sizes[wanted].max()),
                    "leader": int(sizes.argmax()),
                }
            )
    return pd.DataFrame(rows)


def _place(sizes: Floats, wanted: Sequence[int]) -> int:
    """Return how many features lie before the best of the wanted ones; all, if that is 0."""
    best = sizes[list(wanted)].max()
    return int((sizes > best).sum()) if best > 0 else len(sizes)


def summary(effects: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Summarise effects by factor: how often it leads, is among the first five, and by how much.

    Returns:
        By factor: `sites`; for each change `leads`, `top5` (shares), `delta` (mean) and `lower`
        (share that lowers the logit); `auroc` of core against control by size.
    """
    found: dict[str, dict[str, Any]] = {}
    for factor, rows in effects.groupby("factor"):
        changes = dict(list(rows.groupby("change")))
        facts: dict[str, Any] = {"sites": len(changes[CORE])}
        for name, part in changes.items():
            facts[str(name)] = {
                "leads": float((part["place"] == 0).mean()),
                "top5": float((part["place"] < 5).mean()),
                "delta": float(part["delta"].mean()),
                "lower": float((part["delta"] < 0).mean()),
            }
        both = pd.concat([changes[CORE], changes[CONTROL]])
        facts["auroc"] = float(roc_auc_score(both["change"] == CORE, -both["delta"]))
        found[str(factor)] = facts
    return found


def factor_columns(
    features: pd.DataFrame, motifs: Mapping[str, Motif], names: pd.DataFrame
) -> tuple[Columns, Columns]:
    """Return the columns of each factor that has a matrix, and those of its partners.

    Features are rows `name class`, names `cell|target|treatment`; `motifs` are by the factor's
    name, upper-case; `names` are rows `target factor role`, where role is `own` or `partner`.
    """
    own: Columns = {}
    partners: Columns = {}
    called = names[names["role"] == "own"].set_index("target")["factor"].to_dict()
    joined = names[names["role"] == "partner"].set_index("target")["factor"].to_dict()
    for column, (name, kind) in enumerate(zip(features["name"], features["class"], strict=True)):
        if kind != "TF":
            continue
        target = name.split("|")[1]
        factor = str(called.get(target, target)).upper()
        if factor in motifs:
            own.setdefault(factor, []).append(column)
        if target in joined:
            partners.setdefault(str(joined[target]), []).append(column)
    return own, partners


def overall(factors: Mapping[str, Mapping[str, Any]], fewest: int = FEWEST) -> dict[str, Any]:
    """Return means over factors, and the share of well-known factors that are seen.

    Intervals resample factors: what is asked is how another factor would do.
    """
    known = {name: facts for name, facts in factors.items() if facts["sites"] >= fewest}
    seen = [name for name, facts in known.items() if facts[CORE]["top5"] >= 0.5]
    means = {
        change: {
            key: mean_interval([facts[change][key] for facts in factors.values()], list(factors))
            for key in ("leads", "top5", "lower")
        }
        for change in CHANGES
    }
    return {
        "factors": len(factors),
        "sites": sum(facts["sites"] for facts in factors.values()),
        "means": means,
        "known": len(known),
        "seen": len(seen),
        "fewest": fewest,
        "auroc": mean_interval([facts["auroc"] for facts in factors.values()], list(factors)),
    }


def of_factor(effects: pd.DataFrame, factor: str) -> dict[str, dict[str, Any]]:
    """Return shares of a factor's sites, by change; intervals resample stretches of 250 kb."""
    found: dict[str, dict[str, Any]] = {}
    for change, rows in effects[effects["factor"] == factor].groupby("change"):
        groups = stretches(rows["contig"], rows["start"], STRETCH_BP).tolist()
        found[str(change)] = {
            "sites": len(rows),
            "leads": mean_interval(rows["place"] == 0, groups),
            "lower": mean_interval(rows["delta"] < 0, groups),
        }
    return found


def mean_interval(values: ArrayLike, groups: Sequence[str]) -> dict[str, float | None]:
    """Return the mean of values [N] as `point` between `low` and `high`, whole groups resampled."""
    return Bootstrap(groups, RESAMPLES).interval(mean_of(values))


def main(
    chromatin: Annotated[Path, typer.Option(help="Chromatin dataset.")],
    motifs: Annotated[Path, typer.Option(help="Matrices (JASPAR).")],
    output: steps.OutputJson,
    model: Model = None,
    baselines: Baselines = None,
    rival: Rival = None,
    split: Annotated[str, typer.Option(help="Held-out part whose sites are broken.")] = "test",
    factors: Annotated[Path, typer.Option(help="Table target, factor, role.")] = FACTORS,
    most: Annotated[int, typer.Option(min=1, help="Sites per factor.")] = 20,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    force: steps.Force = False,
) -> None:
    """Break motifs in held-out sites and report which features a model changes most."""
    refuse_existing(output, force)
    dataset, asked = ChromatinDataset(chromatin), load_predictor(model, baselines, rival, threads)
    if asked.background is None:
        asked = replace(asked, background=usual_changes(asked, dataset))
    matrices = best_of_each(read_motifs(motifs))
    features = asked.features
    own, partners = factor_columns(features, matrices, pd.read_csv(factors, sep="\t"))
    place = {name: column for column, name in enumerate(dataset.features["name"])}
    known = {
        factor: [place[name] for name in features["name"].iloc[columns] if name in place]
        for factor, columns in own.items()
    }
    known = {factor: columns for factor, columns in known.items() if columns}
    chosen = {factor: matrices[factor] for factor in known}
    sites = find_sites(dataset, split, chosen, known, most=most)
    logger.info("%d sites of %d factors", len(sites), len({site.factor for site in sites}))

    def predict(sequences: Sequence[str]) -> Floats:
        return asked.logits(sequences, [len(text) // 2 for text in sequences])

    effects = motif_effects(
        predict, asked.rank, dataset, sites, chosen, own, flank_bp=FLANK, partners=partners
    )
    found = summary(effects)
    report = {
        "model": asked.name,
        "split": split,
        "together": overall(found),
        "ctcf": of_factor(effects, CTCF),
        "factors": found,
        "rows": json.loads(effects.to_json(orient="records")),
    }
    steps.write(output, json.dumps(report, indent=1) + "\n", force)
    logger.info("%s", json.dumps(report["together"]))


if __name__ == "__main__":
    steps.run(main)
