"""What the tests of motifs and alleles ask: a model, or a rival that was trained beside it.

Both are one thing here: sequences, and the place in each that a bin is centred on, to the logits of
features. Features are ranked by what is usual for them; a model that has no background of its own,
and every rival, gets one of random changes of single bases in the training part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray

from genobird.baselines.train import FEATURES, load_baselines
from genobird.datasets import ChromatinDataset
from genobird.draws import generator
from genobird.errors import UsageError
from genobird.scoring.background import Background
from genobird.scoring.effects import relative_sizes
from genobird.scoring.scorer import feature_columns, load

Floats = NDArray[np.float32]

Model = Annotated[Path | None, typer.Option(help="Model; the bundled one by default.")]
Baselines = Annotated[Path | None, typer.Option(help="Trained baselines, with --rival.")]
Rival = Annotated[str | None, typer.Option(help="Ask this baseline, not a model.")]

_AT_ONCE = 64


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
    """Read a model, or a rival.

    Args:
        model: model directory; the bundled one if None.
        baselines: directory of trained baselines, for a rival.
        rival: name of the baseline.
        threads: CPU threads.

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

    Args:
        predictor: what is asked.
        dataset: holds the sequence.
        split: part that the changes lie in, each in the middle of another bin.
        count: how many changes; fewer where the part has fewer bins.
        flank_bp: bases on each side, clipped at the contig's ends.
        seed: of the changes.
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
