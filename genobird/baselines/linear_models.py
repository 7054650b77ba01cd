"""Linear models on base composition, on k-mers and on gapped k-mers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC

from genobird.baselines.config import (
    BaselineConfig,
    GappedSettings,
    KmerSettings,
)
from genobird.baselines.fitted import (
    Arrays,
    BinModel,
    BinSource,
    Logits,
    PromoterModel,
    contig_runs,
    labels_of,
    training_bins,
)
from genobird.baselines.kmers import count_gapped, kmer_shares, unit_rows
from genobird.baselines.linear import Linear, fit_logistic, fit_wide_logistic
from genobird.baselines.network import UInt8Array
from genobird.baselines.windows import bin_codes, place_codes, promoter_codes
from genobird.composition import (
    CHROMATIN_WINDOWS_BP,
    bin_composition,
    place_composition,
    promoter_composition,
)
from genobird.datasets import UPSTREAM_BP, ChromatinDataset
from genobird.draws import generator
from genobird.genome.sequence import base_codes
from genobird.heads import POSITIVE_WEIGHT

_LINEAR = ("mean", "scale", "weights")
_MEGABASE = 1_000_000
_ROWS = 2_048  # bins at a time


class CompositionModel(BinModel, PromoterModel):
    """Logistic regressions on GC content and CpG islands."""

    def __init__(self, model: Linear, facts: dict[str, Any]) -> None:
        self.model, self.facts = model, facts

    @classmethod
    def train_chromatin(cls, source: BinSource, config: BaselineConfig) -> CompositionModel:
        """Fit one regression per feature."""
        dataset = source.dataset
        rng = generator(config.seed, 2)
        contigs, bins = training_bins(dataset, config.composition_bins, rng)
        labels = labels_of(dataset, contigs, bins)
        inputs = _bin_inputs(dataset, contigs, bins)
        model = fit_logistic(inputs, labels, positive_weight=POSITIVE_WEIGHT)
        return cls(model, {"rows": len(bins), "parameters": model.weights.size})

    @classmethod
    def train_promoters(cls, table: pd.DataFrame, config: BaselineConfig) -> CompositionModel:
        """Fit one regression."""
        inputs = promoter_composition(table["sequence"].tolist(), UPSTREAM_BP)
        model = fit_logistic(inputs, table["label"].to_numpy(np.uint8)[:, None])
        return cls(model, {"rows": len(table), "parameters": model.weights.size})

    @classmethod
    def load(cls, arrays: Arrays, facts: dict[str, Any]) -> CompositionModel:
        """Read what `arrays` and `facts` gave."""
        return cls(Linear(*(arrays[name] for name in _LINEAR)), facts)

    def arrays(self) -> Arrays:
        """Mean, scale and weights."""
        return {name: getattr(self.model, name) for name in _LINEAR}

    def predict_bins(
        self,
        dataset: ChromatinDataset,
        contigs: NDArray[np.str_],
        bins: NDArray[np.int64],
        precision: str,
    ) -> Logits:
        """Return the logits of bins, [N, F]."""
        return self.model.predict(_bin_inputs(dataset, contigs, bins))

    def predict_places(self, sequences: Sequence[str], places: Sequence[int]) -> Logits:
        """Return the logits of one place of each sequence, [S, F]."""
        inputs = [
            place_composition(sequence, place, CHROMATIN_WINDOWS_BP)
            for sequence, place in zip(sequences, places, strict=True)
        ]
        return self.model.predict(np.concatenate(inputs))

    def predict_promoters(self, table: pd.DataFrame, precision: str) -> Logits:
        """Return the logits of promoter windows, [N]."""
        inputs = promoter_composition(table["sequence"].tolist(), UPSTREAM_BP)
        return self.model.predict(inputs)[:, 0]


def _bin_inputs(
    dataset: ChromatinDataset, contigs: NDArray[np.str_], bins: NDArray[np.int64]
) -> NDArray[np.float32]:
    runs = contig_runs(contigs)
    return np.concatenate([bin_composition(dataset, str(contigs[r.start]), bins[r]) for r in runs])


class KmerModel(PromoterModel):
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
        return cls(Linear(*(arrays[name] for name in _LINEAR)), settings, facts)

    def arrays(self) -> Arrays:
        """Mean, scale and weights."""
        return {name: getattr(self.model, name) for name in _LINEAR}

    def predict_promoters(self, table: pd.DataFrame, precision: str) -> Logits:
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
        contigs, bins = training_bins(dataset, settings.bins, generator(config.seed, 3))
        labels = labels_of(dataset, contigs, bins)
        inputs = _bin_counts(dataset, contigs, bins, settings).toarray()
        aside = bins * dataset.bin_bp // _MEGABASE % 5 == 4
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

    def predict_bins(
        self,
        dataset: ChromatinDataset,
        contigs: NDArray[np.str_],
        bins: NDArray[np.int64],
        precision: str,
    ) -> Logits:
        """Return the logits of bins, [N, F]."""
        logits = np.empty((len(bins), len(self.weights)), dtype=np.float32)
        for first in range(0, len(bins), _ROWS):
            part = slice(first, first + _ROWS)
            counts = _bin_counts(dataset, contigs[part], bins[part], self.settings)
            logits[part] = self._logits(counts)
        return logits

    def predict_places(self, sequences: Sequence[str], places: Sequence[int]) -> Logits:
        """Return the logits of one place of each sequence, [S, F]."""
        half = self.settings.input_bp // 2
        codes = place_codes(sequences, places, half, half)
        return self._logits(unit_rows(count_gapped(codes, self.settings.shape)))

    def predict_promoters(self, table: pd.DataFrame, precision: str) -> Logits:
        """Return the logits of promoter windows, [N]."""
        return self._logits(_promoter_counts(table, self.settings))[:, 0]

    def _logits(self, counts: sparse.csr_array) -> Logits:
        found: Logits = counts @ self.weights[:, :-1].T + self.weights[:, -1]
        return found.astype(np.float32)


def _bin_counts(
    dataset: ChromatinDataset,
    contigs: NDArray[np.str_],
    bins: NDArray[np.int64],
    settings: GappedSettings,
) -> sparse.csr_array:
    codes: list[UInt8Array] = [
        bin_codes(dataset, str(contig), bins[i : i + 1], settings.input_bp)
        for i, contig in enumerate(contigs)
    ]
    return unit_rows(count_gapped(np.stack(codes), settings.shape))


def _promoter_counts(table: pd.DataFrame, settings: GappedSettings) -> sparse.csr_array:
    codes = promoter_codes(table, settings.input_bp, settings.input_bp // 2)
    return unit_rows(count_gapped(codes, settings.shape))
