"""How good a head for one's own tracks is where it was not trained, beside GC content.

Figures are weighted by how many bins of the held-out part each measured bin stands for: AUPRC and
the mean probability are those of all its bins, although background was thinned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genobird.composition import CHROMATIN_WINDOWS_BP as GC_WINDOWS_BP
from genobird.composition import place_composition
from genobird.datasets import stretches
from genobird.genome.fasta import Genome
from genobird.heads import Head
from genobird.peaks import BIN_BP
from genobird.tasks.bins import ChosenBins
from genobird.tasks.features import BinFeatures
from genobird.tasks.metrics import Ranking, Statistic, Stretches

Floats = NDArray[np.float64]
Logits = NDArray[np.float32]

_PLACES = 1_024  # at a time


@torch.inference_mode()
def predict(head: Head, features: BinFeatures, bins: int) -> Logits:
    """Return the logits of N bins, those of the places of one bin (its strands) averaged, [N, F].

    Args:
        head: on the CPU.
        features: of the places; each bin has at least one.
        bins: N.
    """
    head.eval()
    logits = []
    for first in range(0, len(features), _PLACES):
        logits.append(head.answer(features.pooled[first : first + _PLACES].float()).double())
    sums = torch.zeros(bins, head.config.outputs, dtype=torch.float64)
    sums.index_add_(0, features.rows, torch.cat(logits))
    each = torch.bincount(features.rows, minlength=bins)[:, None]
    found: Logits = (sums / each).float().numpy()
    return found


def gc_contents(genome: Genome, chosen: ChosenBins) -> Floats:
    """Return the share of G and C in windows of several widths around each bin, [N, W]."""
    shares, flank = [], max(GC_WINDOWS_BP) // 2
    for contig, place in zip(chosen.contigs, chosen.bins, strict=True):
        centre = int(place) * BIN_BP + BIN_BP // 2
        text, start = genome.fetch_clipped(str(contig), centre - flank, centre + flank)
        shares.append(place_composition(text, centre - start, GC_WINDOWS_BP)[:, ::2])
    return np.concatenate(shares).astype(np.float64)


def measure(
    names: Sequence[str],
    test: ChosenBins,
    logits: Logits,
    probabilities: Logits,
    train: ChosenBins,
    gc_test: Floats,
    gc_train: Floats,
    *,
    group_bp: int,
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Measure each track, and GC content beside it.

    GC content is given the width and the sign that serve best on the training bins.

    Args:
        names: of F tracks.
        test: N bins that were held out.
        logits: of the head, [N, F].
        probabilities: of the head, [N, F].
        train: M bins that the head was trained on.
        gc_test: `gc_contents` of `test`, [N, W].
        gc_train: of `train`, [M, W].
        group_bp: width of the stretches that the bootstrap resamples.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    groups = stretches(test.contigs, test.bins * BIN_BP, group_bp)
    resampled = Stretches(groups, resamples, seed, digits=5)
    stands_for = test.weights()
    found = []
    for f, name in enumerate(names):
        truth = test.labels[:, f]
        width, sign = _best_gc(train.labels[:, f], gc_train)
        rankings = {
            "model": Ranking.of(truth, logits[:, f]),
            "gc": Ranking.of(truth, sign * gc_test[:, width]),
        }
        row: dict[str, Any] = {
            "name": name,
            "positives": int(truth.sum()),
            "stretches": len(set(groups[truth])),
            "rate": float(stands_for @ truth / stands_for.sum()),
            "mean_probability": float(stands_for @ probabilities[:, f] / stands_for.sum()),
            "gc": {"window_bp": GC_WINDOWS_BP[width], "sign": sign},
        }
        for figure, of in (("auroc", Ranking.auroc), ("auprc", Ranking.auprc)):
            model, gc = (_weighted(of, rankings[key], stands_for) for key in ("model", "gc"))
            row[figure] = resampled.interval(model)
            row["gc"][figure] = resampled.interval(gc)
            row["gc"][f"{figure}_difference"] = resampled.difference(model, gc)
        found.append(row)
    return found


def _weighted(figure: Any, ranking: Ranking, stands_for: Floats) -> Statistic:
    return lambda drawn: float(figure(ranking, drawn * stands_for))


def _best_gc(truth: NDArray[np.bool_], shares: Floats) -> tuple[int, int]:
    """Return the column of `shares` that ranks best, and the sign that it needs."""
    areas = np.array([Ranking.of(truth, column).auroc() for column in shares.T])
    column = int(np.abs(areas - 0.5).argmax())
    return column, 1 if areas[column] >= 0.5 else -1
