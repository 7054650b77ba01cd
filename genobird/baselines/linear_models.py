"""Linear models on base composition, on k-mers and on gapped k-mers, both strands as one.

Logistic regressions are fitted many at a time: a table of inputs and 0/1 labels enters, a `Linear`
whose logits predict every label leaves.

A gapped k-mer is k letters within a word of l bases, the other l - k are free (Ghandi et al. 2014,
gkm-SVM: l = 10 or 11, k = 6 or 7). A support vector machine on these counts is theirs; with all
gapped k-mers as columns instead of their kernel, l is at most 8 or so. With l = k a gapped k-mer is
a k-mer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC

from genobird.baselines.config import BaselineConfig, GappedSettings, GappedShape, KmerSettings
from genobird.baselines.fitted import (
    Arrays,
    BinModel,
    Bins,
    BinSource,
    Fitted,
    Logits,
    PromoterModel,
)
from genobird.baselines.network import UInt8Array
from genobird.baselines.windows import bin_codes, place_codes, promoter_codes
from genobird.composition import (
    CHROMATIN_WINDOWS_BP,
    PROMOTER_WINDOWS_BP,
    bin_composition,
    place_composition,
)
from genobird.datasets import UPSTREAM_BP
from genobird.draws import generator
from genobird.errors import InputError
from genobird.genome.sequence import NO_BASE, base_codes
from genobird.heads import POSITIVE_WEIGHT

Doubles = NDArray[np.float64]

_CHUNK = 8_192  # rows at a time: bounds memory at about 16 MB for 242 features
_STEPS = 50  # at most, of a regression
_SEQUENCES = 64  # at a time: bounds memory at about 50 MB
_MEGABASE = 1_000_000
_BINS = 2_048  # at a time


@dataclass(frozen=True, eq=False)
class Linear:
    """F linear models that share K inputs.

    Attributes:
        mean: of the inputs, [K].
        scale: their standard deviations, [K].
        weights: of the standardised inputs, then the intercept, [F, K + 1].
    """

    mean: Doubles
    scale: Doubles
    weights: Doubles

    def predict(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of inputs [N, K], [N, F]."""
        return (_design(inputs, self.mean, self.scale) @ self.weights.T).astype(np.float32)


def fit_logistic(
    inputs: NDArray[np.float32],
    labels: NDArray[np.uint8],
    *,
    positive_weight: float = 1.0,
    tolerance: float = 1e-6,
) -> Linear:
    """Fit one logistic regression per column of labels by Newton's method.

    The loss is that of scikit-learn's `LogisticRegression(C=1)` on standardised inputs: the
    weighted sum of cross-entropies plus half the squared weights, the intercept free. All columns
    share the products of the inputs, so that hundreds of them take seconds.

    Args:
        inputs: [N, K].
        labels: 0 or 1, [N, F].
        positive_weight: weight of a positive label.
        tolerance: a column is done when its loss falls by less than this share.

    Raises:
        InputError: no rows, or shapes that do not agree.
    """
    if not len(inputs) or inputs.ndim != 2 or labels.ndim != 2 or len(inputs) != len(labels):
        raise InputError(
            f"inputs are {list(inputs.shape)} and labels {list(labels.shape)}; "
            "they are [N, K] and [N, F] with at least one row"
        )
    mean, scale = _moments(inputs)
    penalty = np.ones(inputs.shape[1] + 1)
    penalty[-1] = 0.0
    share = (labels.sum(0) + 0.5) / (len(labels) + 1)
    best = np.zeros((labels.shape[1], len(penalty)))
    best[:, -1] = np.log(positive_weight * share / (1 - share))
    best_loss = np.full(labels.shape[1], np.inf)
    trial, active = best.copy(), np.arange(labels.shape[1])
    step = np.zeros_like(best)
    for _ in range(_STEPS):
        loss, gradient, curvature = _derivatives(
            inputs, labels[:, active], trial[active], mean, scale, positive_weight
        )
        loss += 0.5 * (trial[active] ** 2) @ penalty
        gradient += trial[active] * penalty
        curvature += np.diag(penalty)
        better = loss < best_loss[active]
        small = best_loss[active] - loss < tolerance * np.abs(loss)
        accepted = active[better]
        best[accepted], best_loss[accepted] = trial[accepted], loss[better]
        step[accepted] = np.linalg.solve(curvature[better], gradient[better][..., None])[..., 0]
        step[active[~better]] /= 2  # the step led uphill: halve it
        trial = best - step
        active = active[~(better & small) & (np.abs(step[active]).max(1) > 1e-9)]
        if not len(active):
            break
    return Linear(mean, scale, best)


def fit_wide_logistic(
    inputs: NDArray[np.float32], labels: NDArray[np.uint8], *, ridge: float = 1.0
) -> Linear:
    """Fit one logistic regression with scikit-learn: for more inputs than Newton's method likes.

    Args:
        inputs: [N, K].
        labels: 0 or 1, both present, [N].
        ridge: strength of the penalty on standardised inputs.

    Raises:
        InputError: there is one class only.
    """
    if len(np.unique(labels)) < 2:
        raise InputError(f"all {len(labels)} labels are equal; a regression needs both classes")
    mean, scale = _moments(inputs)
    fitted = LogisticRegression(C=1 / ridge, max_iter=1_000).fit((inputs - mean) / scale, labels)
    return Linear(mean, scale, np.hstack([fitted.coef_, fitted.intercept_[:, None]]))


def _moments(inputs: NDArray[np.float32]) -> tuple[Doubles, Doubles]:
    """Return means and standard deviations of inputs, [K] each; that of a constant is 1."""
    scale = inputs.std(0, dtype=np.float64)
    scale[scale == 0] = 1.0
    return inputs.mean(0, dtype=np.float64), scale


def _design(inputs: NDArray[np.float32], mean: Doubles, scale: Doubles) -> Doubles:
    """Standardise and append the 1 of the intercept, [N, K + 1]."""
    return np.hstack([(inputs - mean) / scale, np.ones((len(inputs), 1))])


def _derivatives(
    inputs: NDArray[np.float32],
    labels: NDArray[np.uint8],
    weights: Doubles,
    mean: Doubles,
    scale: Doubles,
    positive_weight: float,
) -> tuple[Doubles, Doubles, Doubles]:
    """Return loss [F], gradient [F, K + 1] and curvature [F, K + 1, K + 1] of the cross-entropy."""
    features, width = weights.shape
    loss, gradient = np.zeros(features), np.zeros((features, width))
    curvature = np.zeros((features, width * width))
    for first in range(0, len(inputs), _CHUNK):
        x = _design(inputs[first : first + _CHUNK], mean, scale)  # [n, K + 1]
        y = labels[first : first + _CHUNK].astype(bool)
        z = x @ weights.T  # [n, F]
        tail = np.exp(-np.abs(z))
        p = np.where(z >= 0, 1.0, tail) / (1 + tail)
        w = np.where(y, positive_weight, 1.0)
        loss += (w * (np.log1p(tail) + np.maximum(np.where(y, -z, z), 0))).sum(0)
        gradient += (w * (p - y)).T @ x
        products = (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)
        curvature += (w * p * (1 - p)).T @ products
    return loss, gradient, curvature.reshape(features, width, width)


@lru_cache(maxsize=4)
def columns(shape: GappedShape) -> tuple[NDArray[np.int64], int]:
    """Number the gapped k-mers, one number for a gapped k-mer and its reverse complement.

    Returns:
        The column of each pattern and letters, int64 [patterns, 4^k], and the number of columns.
    """
    patterns = list(combinations(range(shape.length), shape.letters))
    size = 4**shape.letters
    mirrored = [tuple(shape.length - 1 - place for place in reversed(p)) for p in patterns]
    codes = np.arange(size)
    other, rest = np.zeros(size, dtype=np.int64), codes.copy()
    for _ in range(shape.letters):
        other, rest = other * 4 + 3 - rest % 4, rest // 4
    own = np.arange(len(patterns))[:, None] * size + codes
    partner = np.array([patterns.index(p) for p in mirrored])[:, None] * size + other
    kept, number = np.unique(np.minimum(own, partner), return_inverse=True)
    return number.reshape(own.shape), len(kept)


def count_gapped(codes: UInt8Array, shape: GappedShape) -> sparse.csr_array:
    """Count the gapped k-mers of sequences; words with N among the letters that count are none.

    Codes are 0 to 3, 4 for N, [S, L]; counts are float32 [S, columns].
    """
    number, width = columns(shape)
    words = codes.shape[1] - shape.length + 1
    blocks = []
    for first in range(0, len(codes), _SEQUENCES):
        part = codes[first : first + _SEQUENCES].astype(np.int64)
        rows, cols = [], []
        for pattern, column in zip(
            combinations(range(shape.length), shape.letters), number, strict=True
        ):
            letters = [part[:, place : place + words] for place in pattern]
            code = np.zeros_like(letters[0])
            for letter in letters:
                code = code * 4 + letter
            row, word = np.nonzero(np.all([letter != NO_BASE for letter in letters], axis=0))
            rows.append(row)
            cols.append(column[code[row, word]])
        places = tuple(np.concatenate(x).astype(np.int32) for x in (rows, cols))
        ones = np.ones(len(places[0]), dtype=np.float32)
        blocks.append(sparse.coo_array((ones, places), shape=(len(part), width)).tocsr())
    return sparse.csr_array(sparse.vstack(blocks))


def unit_rows(counts: sparse.csr_array) -> sparse.csr_array:
    """Divide each row by its Euclidean length, as the gapped k-mer kernel is normalised."""
    length = np.sqrt(counts.multiply(counts).sum(axis=1))
    inverse = np.repeat(1 / np.maximum(length, 1e-12), np.diff(counts.indptr)).astype(np.float32)
    # scikit-learn's support vector machine reads column numbers of 32 bits.
    indices, starts = counts.indices.astype(np.int32), counts.indptr.astype(np.int32)
    return sparse.csr_array((counts.data * inverse, indices, starts), shape=counts.shape)


def kmer_shares(
    codes: UInt8Array, k: int, place: int, widths_bp: tuple[int, ...]
) -> NDArray[np.float32]:
    """Describe sequences by the shares of their k-mers in windows around one place.

    Codes are 0 to 3, 4 for N, [S, L]; windows are clipped at the sequences' ends. The shares are
    float32 [S, windows x columns].
    """
    shape = GappedShape(length=k, letters=k)
    parts: list[NDArray[np.float32]] = []
    for width in widths_bp:
        counts = count_gapped(codes[:, max(0, place - width // 2) : place + width // 2], shape)
        dense = counts.toarray()
        parts.append(dense / np.maximum(dense.sum(1, keepdims=True), 1))
    return np.concatenate(parts, axis=1)


class _Regression(Fitted):
    """What a logistic regression keeps."""

    model: Linear

    def arrays(self) -> Arrays:
        """Mean, scale and weights."""
        return vars(self.model)


class CompositionModel(_Regression, BinModel, PromoterModel):
    """Logistic regressions on GC content and CpG islands."""

    def __init__(self, model: Linear, facts: dict[str, Any]) -> None:
        self.model, self.facts = model, facts

    @classmethod
    def train_chromatin(cls, source: BinSource, config: BaselineConfig) -> CompositionModel:
        """Fit one regression per feature."""
        every = Bins.of_split(source.dataset, "train")
        bins = every.drawn(config.composition_bins, generator(config.seed, 2))
        model = fit_logistic(_bin_inputs(bins), bins.labels(), positive_weight=POSITIVE_WEIGHT)
        return cls(model, {"rows": len(bins), "parameters": model.weights.size})

    @classmethod
    def train_promoters(cls, table: pd.DataFrame, config: BaselineConfig) -> CompositionModel:
        """Fit one regression."""
        labels = table["label"].to_numpy(np.uint8)[:, None]
        model = fit_logistic(_promoter_inputs(table), labels)
        return cls(model, {"rows": len(table), "parameters": model.weights.size})

    @classmethod
    def load(cls, arrays: Arrays, facts: dict[str, Any]) -> CompositionModel:
        """Read what `arrays` and `facts` gave."""
        return cls(Linear(**arrays), facts)

    def predict_bins(self, bins: Bins) -> Logits:
        """Return the logits of bins, [N, F]."""
        return self.model.predict(_bin_inputs(bins))

    def predict_places(self, sequences: Sequence[str], places: Sequence[int]) -> Logits:
        """Return the logits of one place of each sequence, [S, F]."""
        return self.model.predict(place_composition(sequences, places, CHROMATIN_WINDOWS_BP))

    def predict_promoters(self, table: pd.DataFrame) -> Logits:
        """Return the logits of promoter windows, [N]."""
        return self.model.predict(_promoter_inputs(table))[:, 0]


def _promoter_inputs(table: pd.DataFrame) -> NDArray[np.float32]:
    return place_composition(table["sequence"], [UPSTREAM_BP] * len(table), PROMOTER_WINDOWS_BP)


def _bin_inputs(bins: Bins) -> NDArray[np.float32]:
    return np.concatenate([bin_composition(bins.dataset, *run) for run in bins.by_contig()])


class KmerModel(_Regression, PromoterModel):
    """Logistic regression on k-mer shares around a transcription start.

    It knows no order beyond k letters: what it separates, a generator of negatives gives away.
    """

    def __init__(self, model: Linear, settings: KmerSettings, facts: dict[str, Any]) -> None:
        self.model, self.settings = model, settings
        self.facts = {**facts, "settings": settings.model_dump(mode="json")}

    @classmethod
    def train_promoters(cls, table: pd.DataFrame, config: BaselineConfig) -> KmerModel:
        """Fit the regression."""
        inputs, labels = _shares(table, config.kmers), table["label"].to_numpy(np.uint8)
        model = fit_wide_logistic(inputs, labels, ridge=config.kmers.ridge)
        return cls(model, config.kmers, {"rows": len(table), "parameters": model.weights.size})

    @classmethod
    def load(cls, arrays: Arrays, facts: dict[str, Any]) -> KmerModel:
        """Read what `arrays` and `facts` gave."""
        settings = KmerSettings.model_validate(facts["settings"])
        return cls(Linear(**arrays), settings, facts)

    def predict_promoters(self, table: pd.DataFrame) -> Logits:
        """Return the logits of promoter windows, [N]."""
        return self.model.predict(_shares(table, self.settings))[:, 0]


def _shares(table: pd.DataFrame, settings: KmerSettings) -> NDArray[np.float32]:
    codes = np.stack([base_codes(str(sequence)) for sequence in table["sequence"]])
    return kmer_shares(codes, settings.k, UPSTREAM_BP, settings.widths_bp)


class GappedModel(BinModel, PromoterModel):
    """A linear model on normalised gapped k-mer counts.

    Promoters: scikit-learn's `LinearSVC`, its margin turned into a logit by Platt's method on five
    folds. Chromatin, hundreds of features at once: the least-squares form of the same, `Ridge`;
    Platt's method then reads a fifth of the megabases, which the ridge does not see.
    """

    def __init__(
        self, weights: NDArray[np.float32], settings: GappedSettings, facts: dict[str, Any]
    ) -> None:
        self.weights, self.settings = weights, settings  # [F, columns + 1]
        self.facts = {**facts, "settings": settings.model_dump(mode="json")}

    @classmethod
    def train_chromatin(cls, source: BinSource, config: BaselineConfig) -> GappedModel:
        """Fit all features at once."""
        dataset, settings = source.dataset, config.gapped_chromatin
        bins = Bins.of_split(dataset, "train").drawn(settings.bins, generator(config.seed, 3))
        labels, inputs = bins.labels(), _bin_counts(bins, settings).toarray()
        aside = bins.numbers * dataset.bin_bp // _MEGABASE % 5 == 4
        if aside.all() or not aside.any():
            aside = np.arange(len(bins)) % 5 == 4
        fitted = Ridge(alpha=settings.penalty, solver="cholesky").fit(
            inputs[~aside], labels[~aside].astype(np.float32)
        )
        margins = fitted.predict(inputs[aside]).astype(np.float32).reshape(int(aside.sum()), -1)
        weights = np.column_stack([np.atleast_2d(fitted.coef_), np.atleast_1d(fitted.intercept_)])
        for f, margin in enumerate(margins.T):
            platt = fit_logistic(
                margin[:, None], labels[aside][:, f : f + 1], positive_weight=POSITIVE_WEIGHT
            )
            slope = platt.weights[0, 0] / platt.scale[0]
            weights[f] *= slope
            weights[f, -1] += platt.weights[0, 1] - slope * platt.mean[0]
        facts = {"rows": int((~aside).sum()), "parameters": weights.size, "method": "Ridge"}
        return cls(weights.astype(np.float32), settings, facts)

    @classmethod
    def train_promoters(cls, table: pd.DataFrame, config: BaselineConfig) -> GappedModel:
        """Fit the support vector machine."""
        settings = config.gapped_promoters
        inputs = _promoter_counts(table, settings)
        machine = LinearSVC(C=1 / settings.penalty, random_state=config.seed)
        fitted = CalibratedClassifierCV(machine, method="sigmoid", cv=5, ensemble=False).fit(
            inputs, table["label"].to_numpy(np.uint8)
        )
        (one,) = fitted.calibrated_classifiers_
        (platt,) = one.calibrators  # p = 1 / (1 + exp(a margin + b))
        weights = np.append(one.estimator.coef_[0], one.estimator.intercept_[0]) * -platt.a_
        weights[-1] -= platt.b_
        facts = {"rows": len(table), "parameters": weights.size, "method": "LinearSVC"}
        return cls(weights.astype(np.float32)[None], settings, facts)

    @classmethod
    def load(cls, arrays: Arrays, facts: dict[str, Any]) -> GappedModel:
        """Read what `arrays` and `facts` gave."""
        return cls(arrays["weights"], GappedSettings.model_validate(facts["settings"]), facts)

    def arrays(self) -> Arrays:
        """Weights of the counts, then the intercept."""
        return {"weights": self.weights}

    def predict_bins(self, bins: Bins) -> Logits:
        """Return the logits of bins, [N, F]."""
        logits = np.empty((len(bins), len(self.weights)), dtype=np.float32)
        for first in range(0, len(bins), _BINS):
            part = slice(first, first + _BINS)
            logits[part] = self._logits(_bin_counts(bins.take(part), self.settings))
        return logits

    def predict_places(self, sequences: Sequence[str], places: Sequence[int]) -> Logits:
        """Return the logits of one place of each sequence, [S, F]."""
        half = self.settings.input_bp // 2
        codes = place_codes(sequences, places, half, half)
        return self._logits(unit_rows(count_gapped(codes, self.settings.shape)))

    def predict_promoters(self, table: pd.DataFrame) -> Logits:
        """Return the logits of promoter windows, [N]."""
        return self._logits(_promoter_counts(table, self.settings))[:, 0]

    def _logits(self, counts: sparse.csr_array) -> Logits:
        found: Logits = counts @ self.weights[:, :-1].T + self.weights[:, -1]
        return found.astype(np.float32)


def _bin_counts(bins: Bins, settings: GappedSettings) -> sparse.csr_array:
    codes = [
        bin_codes(bins.dataset, str(contig), bins.numbers[i : i + 1], settings.input_bp)
        for i, contig in enumerate(bins.contigs)
    ]
    return unit_rows(count_gapped(np.stack(codes), settings.shape))


def _promoter_counts(table: pd.DataFrame, settings: GappedSettings) -> sparse.csr_array:
    codes = promoter_codes(table, settings.input_bp, settings.input_bp // 2)
    return unit_rows(count_gapped(codes, settings.shape))
