from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from genobird.genome.fasta import Genome
from genobird.tasks.bins import ChosenBins
from genobird.tasks.figures import evaluate_tracks
from genobird.tasks.metrics import Resampling
from genobird.tasks.peaks import gc_contents
from tests.conftest import write_fasta

HOW = Resampling(group_bp=10_000, resamples=20)


@pytest.fixture(scope="module")
def world():
    """10,000 bins with one peak in fifty, logits that know of it, GC content that knows less."""
    rng = np.random.default_rng(3)
    labels = rng.random((10_000, 2)) < 0.02
    logits = (labels * 1.5 + rng.normal(size=labels.shape)).astype(np.float32)
    gc = 0.4 + 0.1 * rng.normal(size=(10_000, 4))
    gc[:, 2] -= 0.1 * labels[:, 0]
    bins = ChosenBins(
        np.array(["chr1"] * 10_000), np.arange(10_000), labels,
        int(labels.any(axis=1).sum()), int((~labels.any(axis=1)).sum()),
    )  # fmt: skip
    return bins, logits, gc


def figures(bins, logits, gc):
    return evaluate_tracks(["a", "b"], bins, logits, bins, gc, gc, how=HOW)


def test_figures_of_all_bins_are_those_of_scikit_learn(world):
    bins, logits, gc = world
    for f, row in enumerate(figures(bins, logits, gc)):
        truth = bins.labels[:, f]
        assert row["auroc"]["point"] == pytest.approx(roc_auc_score(truth, logits[:, f]), abs=1e-5)
        expected = average_precision_score(truth, logits[:, f])
        assert row["auprc"]["point"] == pytest.approx(expected, abs=1e-5)
        assert row["rate"] == pytest.approx(truth.mean())
        assert row["positives"] == truth.sum()
        assert row["auroc"]["low"] < row["auroc"]["point"] < row["auroc"]["high"]


def test_gc_content_gets_the_width_and_the_sign_that_serve_it_best(world):
    bins, logits, gc = world
    row = figures(bins, logits, gc)[0]
    assert (row["gc"]["window_bp"], row["gc"]["sign"]) == (1_000, -1)
    expected = roc_auc_score(bins.labels[:, 0], -gc[:, 2])
    assert row["gc"]["auroc"]["point"] == pytest.approx(expected, abs=1e-5)
    difference = row["gc"]["auroc_difference"]
    assert difference["point"] == pytest.approx(
        row["auroc"]["point"] - row["gc"]["auroc"]["point"], abs=2e-5
    )


def test_thinned_background_changes_the_figures_little(world):
    bins, logits, gc = world
    rng = np.random.default_rng(4)
    kept = np.flatnonzero(bins.peaked | (rng.random(len(bins)) < 0.2))
    whole = figures(bins, logits, gc)[0]
    thinned = figures(bins.take(kept), logits[kept], gc[kept])[0]
    assert thinned["auprc"]["point"] == pytest.approx(whole["auprc"]["point"], rel=0.15)
    assert thinned["rate"] == pytest.approx(whole["rate"], rel=1e-6)
    naive = average_precision_score(bins.labels[kept, 0], logits[kept, 0])
    assert naive > 1.5 * whole["auprc"]["point"]


def test_a_track_without_positives_has_no_figures(world):
    bins, logits, gc = world
    rows = np.flatnonzero(~bins.labels[:, 0])
    row = evaluate_tracks(["a", "b"], bins.take(rows), logits[rows], bins, gc[rows], gc, how=HOW)[0]
    assert row["auroc"] == {"low": None, "point": None, "high": None}


def test_gc_content_is_counted_around_the_bin_without_n(tmp_path):
    text = "A" * 1000 + "G" * 200 + "A" * 1000 + "N" * 400
    with Genome(write_fasta(tmp_path / "g.fa", {"c": text})) as genome:
        chosen = ChosenBins(np.array(["c", "c"]), np.array([5, 10]), np.zeros((2, 1), bool), 1, 1)
        shares = gc_contents(genome, chosen)
    assert shares[0].tolist() == pytest.approx([1.0, 0.4, 0.2, 200 / 2000])
    # the bin at 2000-2200: 500 bp reach to 2350, N from 2200 on
    assert shares[1].tolist() == pytest.approx([0, 0, 0, 100 / 1100])
