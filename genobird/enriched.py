"""Training batches of single places where something binds, as many others, and placed sites.

Bins with a bound factor are one in sixteen, and a factor binds in one of two hundred. Long windows
show a network each motif a few thousand times; short stretches around bound bins show it as often
in a tenth of the time. Placed sites are short sequences of contigs whose rest is not at hand: what
lies beside them is unknown, so the flanks of ordinary bins are masked as often as not, lest a
masked flank tell that a site is open.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator

from genobird.batch import LabelledBatch
from genobird.config import Strict
from genobird.datasets import ChromatinDataset, Sites
from genobird.draws import generator
from genobird.errors import InputError, UsageError
from genobird.genome.sequence import NO_BASE, complement_codes

_ORDINARY, _SITE = 0, 1


class EnrichedSettings(Strict):
    """How single places are drawn."""

    places: int = Field(128, ge=1, description="Places per batch.")
    classes: tuple[str, ...] = Field(
        ("TF",), description="Bins with a positive label of these classes are visited each epoch."
    )
    others: float = Field(1.0, ge=0, description="Other bins per visited one, drawn anew.")
    shift_bp: int = Field(16, ge=0, description="Bases that a place may lie off its bin's centre.")
    masked_flanks: float = Field(
        0.35, ge=0, le=1, description="Share of the bins whose flanks are masked as sites' are."
    )
    kept_bp: tuple[int, int] = Field(
        (150, 380),
        description="Bases that stay between masked flanks: the least, and one more than the most; "
        "more than are read count as all.",
    )
    site_weight: float = Field(0.6, ge=0, description="Weight of a site beside a bin.")
    mutated: float = Field(0.0, ge=0, le=1, description="Share of the bases that are replaced.")
    indels: float = Field(
        0.0, ge=0, le=1, description="Share of the places where bases are deleted or inserted."
    )
    indel_bp: int = Field(16, ge=1, description="Most bases that are deleted or inserted.")

    @field_validator("kept_bp")
    @classmethod
    def _ascending(cls, kept_bp: tuple[int, int]) -> tuple[int, int]:
        low, high = kept_bp
        if not 1 <= low < high:
            raise ValueError(
                f"kept_bp is {low} to {high}; the least is 1 or more, and the second number, which "
                "is never drawn, larger than it"
            )
        return kept_bp


class EnrichedBatches:
    """Batches of places for heads that read bases alone (`pool = "local"`).

    Args:
        dataset: bins and their labels.
        split: whose bins are visited.
        settings: how they are drawn.
        span_bp: bases read around a place.
        sites: further places; none with `augment` off.
        auxiliary: a dataset of the same bins whose labels are learnt beside.
        seed: of every draw.
        augment: shift, turn and mask what is read.

    Raises:
        InputError: the split has no bin with a positive label of the wanted classes.
    """

    def __init__(
        self,
        dataset: ChromatinDataset,
        split: str,
        settings: EnrichedSettings,
        *,
        span_bp: int,
        sites: Sites | None = None,
        auxiliary: ChromatinDataset | None = None,
        seed: int = 0,
        augment: bool = True,
    ) -> None:
        self.dataset, self.settings, self.span_bp = dataset, settings, span_bp
        self.sites = sites if augment else None
        self.auxiliary, self.seed, self.augment = auxiliary, seed, augment
        # Bases read beyond the span, so that a deletion draws others in.
        self._spare = 2 * settings.indel_bp if augment and settings.indels else 0
        if sites is not None:
            _same_features(sites, dataset, auxiliary)
        self.contigs = sorted({interval.contig for interval in dataset.intervals(split)})
        bound, rest = zip(*(self._divide(split, name) for name in self.contigs), strict=True)
        self.bound, self.rest = np.concatenate(bound), np.concatenate(rest)
        if not len(self.bound):
            raise InputError(
                f"{dataset.path}: no bin of split {split} is positive for a feature of the classes "
                f"{', '.join(settings.classes)}; choose others (enriched.classes)"
            )

    def _divide(self, split: str, contig: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the bins of a contig with and without a wanted label, [n, 2] each: contig, bin."""
        wanted = self.dataset.features["class"].isin(self.settings.classes).to_numpy()
        bins = np.concatenate(
            [
                self.dataset.usable_bins(interval)
                for interval in self.dataset.intervals(split)
                if interval.contig == contig
            ]
        )
        bound = self.dataset.labels(contig, bins)[:, wanted].any(1)
        rows = np.stack([np.full(len(bins), self.contigs.index(contig)), bins], axis=1)
        return rows[bound], rows[~bound]

    @property
    def visits(self) -> int:
        """Places of an epoch."""
        others = min(len(self.rest), round(self.settings.others * len(self.bound)))
        return len(self.bound) + others + (len(self.sites) if self.sites else 0)

    @property
    def _size(self) -> int:
        return min(self.settings.places, self.visits)

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self.visits // self._size

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        """Return what an epoch visits, in its order, [visits, 3]: kind, contig or site, bin."""
        rng = generator(self.seed, 4, epoch)
        sites = np.arange(len(self.sites)) if self.sites else np.zeros(0, np.int64)
        others = self.visits - len(self.bound) - len(sites)
        drawn = self.rest[np.sort(rng.choice(len(self.rest), others, replace=False))]
        bins = np.concatenate([self.bound, drawn])
        rows = np.concatenate(
            [
                np.insert(bins, 0, _ORDINARY, axis=1),
                np.stack([np.full_like(sites, _SITE), sites, sites], axis=1),
            ]
        )
        return rng.permutation(rows)

    def __call__(self, step: int) -> LabelledBatch:
        """Make the batch of a step; the end of an epoch that fills no batch is left out."""
        epoch, part = divmod(step, len(self))
        if getattr(self, "_order_of", None) != epoch:
            self._order_of, self._order = epoch, self._epoch(epoch)
        rng = generator(self.seed, 1, step)
        rows = self._order[part * self._size : (part + 1) * self._size]
        bases, labels, known = zip(*(self._place(row, rng) for row in rows), strict=True)
        weights = np.where(rows[:, 0] == _SITE, self.settings.site_weight, 1.0)
        return LabelledBatch(
            None,
            torch.from_numpy(np.stack(labels).astype(np.float32)),
            torch.from_numpy((weights / weights.mean()).astype(np.float32)),
            bases=torch.from_numpy(np.stack(bases)),
            known=torch.from_numpy(np.stack(known)),
        )

    def _place(
        self, row: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
        """Return bases [span], labels [F + A] and which of these are known, of one place."""
        kind, where, number = row.tolist()
        shift = int(rng.integers(-self.settings.shift_bp, self.settings.shift_bp + 1))
        shift *= self.augment
        span = self.span_bp + self._spare
        if kind == _SITE:
            assert self.sites is not None
            codes = self.sites.around(number, shift, span)
            labels, known = self.sites.labels[number], self.sites.known[number]
        else:
            contig, width = self.contigs[where], self.dataset.bin_bp
            centre = number * width + width // 2 + shift
            codes = self.dataset.codes(contig, centre - span // 2, centre + span // 2)
            labels = self._labels(contig, number)
            known = np.ones(len(labels), dtype=bool)
        if self.augment:
            codes = self._augmented(codes, kind == _ORDINARY, rng)
        return codes, labels, known

    def _augmented(
        self, codes: NDArray[np.uint8], bin_: bool, rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """Change what is read of a bin or a site, [span + spare] -> [span]."""
        settings = self.settings
        if settings.indels and rng.random() < settings.indels:
            codes = _with_indel(codes, settings.indel_bp, rng)
        codes = _middle(codes, self.span_bp)
        if settings.mutated:
            codes = _mutated(codes, settings.mutated, rng)
        if bin_ and rng.random() < settings.masked_flanks:
            kept = min(int(rng.integers(*settings.kept_bp)), self.span_bp)
            first = (self.span_bp - kept) // 2
            codes = np.pad(
                _middle(codes, kept), (first, self.span_bp - kept - first), constant_values=NO_BASE
            )
        return complement_codes(codes) if rng.random() < 0.5 else codes

    def _labels(self, contig: str, number: int) -> NDArray[np.uint8]:
        sources = [self.dataset, *([self.auxiliary] if self.auxiliary else [])]
        return np.concatenate([data.labels(contig, np.array([number]))[0] for data in sources])


def _middle(codes: NDArray[np.uint8], length: int) -> NDArray[np.uint8]:
    first = (len(codes) - length) // 2
    return codes[first : first + length]


def _with_indel(codes: NDArray[np.uint8], most: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Delete 1 to `most` bases somewhere among those that are known, or insert random ones."""
    known = np.flatnonzero(codes != NO_BASE)
    if not len(known):
        return codes
    at, bases = int(rng.choice(known)), int(rng.integers(1, most + 1))
    if rng.random() < 0.5:
        return np.delete(codes, slice(at, at + bases))
    return np.insert(codes, at, rng.integers(4, size=bases, dtype=np.uint8))


def _mutated(codes: NDArray[np.uint8], share: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Replace a share of the known bases by others."""
    hit = (rng.random(len(codes)) < share) & (codes != NO_BASE)
    others = (codes + rng.integers(1, 4, len(codes), dtype=np.uint8)) % 4
    return np.where(hit, others, codes)


def _same_features(
    sites: Sites, dataset: ChromatinDataset, auxiliary: ChromatinDataset | None
) -> None:
    names = dataset.features["name"].tolist()
    names += auxiliary.features["name"].tolist() if auxiliary else []
    if sites.features != names:
        raise UsageError(
            f"{sites.path} has labels of {len(sites.features)} features, the data of {len(names)}, "
            "or in another order; build the sites from the same tracks with the same "
            "--min-positives"
        )
