"""Does a model know what a factor binds? Its sites broken, and what the model then predicts.

At held-out sites with a strong match to the factor's matrix under the factor's own peak, three
changes are made: the core (the whole match) is replaced by the same bases in another order, the one
base that says most is replaced by the one that fits least, and, as a control, as many bases
`CONTROL_BP` away are put in another order. A model that sees the motif ranks the factor first among
all features for the first two, and not for the third.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from genobird.datasets import ChromatinDataset
from genobird.draws import generator
from genobird.genome.sequence import NO_BASE, base_codes
from genobird.motifs import Motif

CONTROL_BP = 60
CORE, BASE, CONTROL = "core", "base", "control"
CHANGES = (CORE, BASE, CONTROL)
STRONG_QUANTILE = 0.99
"""A match is strong that is better than the best one in so many bins without a peak."""

Floats = NDArray[np.float32]
Predict = Callable[[Sequence[str]], Floats]
"""Sequences, each centred on the middle of a bin, to logits [S, F]."""
Rank = Callable[[Floats, Floats], Floats]
"""Logits of REF and ALT [n, F] to how much each feature changed [n, F]: the largest leads."""


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
    """Find sites of factors in a split, the best matches first, one per bin.

    Args:
        dataset: sequence and labels.
        split: held-out part.
        motifs: a matrix by factor.
        columns: the features of each factor.
        most: sites per factor.
        background: bins without the factor that say what a strong match is.
        seed: of the draw of these.
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
    """Return the sequence after each of `CHANGES`.

    Args:
        sequence: around a site.
        at: its first base in the sequence.
        site: the site.
        motif: its factor's matrix.
        seed: of the orders.
    """
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
