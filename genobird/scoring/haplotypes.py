"""The joint effect of the ALTs that lie together on a haplotype, beside the sum of single effects.

For an ALT on a haplotype, all phased ALTs of that haplotype within its window are applied together.
The joint effect is the logit of that sequence minus that of REF, at the place of the ALT; the sum
is that of the effects, at the same place, of each of these ALTs alone. Where they differ, the model
sees more, or less, than the parts. The masked language model has no joint score: its likelihood is
one of the bases that change, and those of several ALTs lie apart.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from genobird.genome.fasta import Genome
from genobird.genome.haplotypes import Edit, Phase, PhasedCalls, haplotype_windows, together
from genobird.genome.locus import Locator
from genobird.genome.variant import left_align
from genobird.genome.vcf_writer import InfoField, Value
from genobird.inference import Floats
from genobird.scoring.alleles import Allele
from genobird.scoring.effects import shares_window
from genobird.scoring.scorer import Scorer
from genobird.scoring.settings import DEFAULT, EffectSettings
from genobird.scoring.windows import (
    CHROMATIN_FLANK,
    STRANDS,
    Queries,
    larger_strand,
    promoter_reach,
)

logger = logging.getLogger(__name__)

GB_PHASE = InfoField(
    "GB_PHASE", f"What the genotype tells about each ALT: {' '.join(Phase)}", type="String"
)
GB_HAP_N = InfoField(
    "GB_HAP_N", "ALTs applied together on the haplotype, this one included", type="Integer"
)
GB_HAP_JOINT = InfoField(
    "GB_HAP_JOINT", "Chromatin logit of the haplotype - REF, of the feature in GB_HAP_TOP"
)
GB_HAP_SUM = InfoField(
    "GB_HAP_SUM", "Sum of the effects of the ALTs of the haplotype alone, of GB_HAP_TOP"
)
GB_HAP_TOP = InfoField(
    "GB_HAP_TOP", "Chromatin feature with the largest |haplotype - REF|", type="String"
)
GB_HAP_PROMOTER_JOINT = InfoField("GB_HAP_PROMOTER_JOINT", "Promoter logit of the haplotype - REF")
GB_HAP_PROMOTER_SUM = InfoField(
    "GB_HAP_PROMOTER_SUM", "Sum of the promoter effects of the ALTs of the haplotype alone"
)
_CHROMATIN_FIELDS = (GB_HAP_JOINT, GB_HAP_SUM, GB_HAP_TOP)
_PROMOTER_FIELDS = (GB_HAP_PROMOTER_JOINT, GB_HAP_PROMOTER_SUM)
FIELDS = (GB_PHASE, GB_HAP_N, *_CHROMATIN_FIELDS, *_PROMOTER_FIELDS)

# Of an ALT that the sample carries.
_LEFT_OUT = (Phase.UNPHASED, Phase.OVERLAP, Phase.UNSCORED)

PHASE = "phase"
HAPLOTYPES = ("haplotype1", "haplotype2")


@dataclass(frozen=True, slots=True)
class _Focus:
    """An ALT on a haplotype."""

    row: int
    haplotype: int
    contig: str
    position: int
    edits: tuple[Edit, ...]
    offsets: tuple[int, ...]
    """How far from the middle of each window the ALT lies; effects are averaged over them."""


class Haplotypes:
    """Score the ALTs of one sample with what lies on the same haplotype.

    A context manager, which reads a sorted VCF or BCF file a second time. Records have to come in
    file order.

    Raises:
        UsageError, VcfError: see `PhasedCalls`.
    """

    def __init__(
        self,
        scorer: Scorer,
        source: Path | str,
        sample: str,
        locator: Locator,
        features: Sequence[str] | None = None,
        settings: EffectSettings = DEFAULT,
    ) -> None:
        self._scorer = scorer
        self._settings = settings
        self._genome: Genome = locator.genome
        parts = scorer.checkpoint
        self._chosen = scorer.select_features(features) if parts.chromatin is not None else []
        self._calls = PhasedCalls(source, sample, locator)
        self._sample = sample
        self.counts: Counter[str] = Counter()
        """How many of the ALTs whose INFO was asked for there were of each phase."""
        chromatin = _CHROMATIN_FIELDS if self._chosen else ()
        promoter = _PROMOTER_FIELDS if parts.promoter else ()
        self.fields = [GB_PHASE, GB_HAP_N, *chromatin, *promoter]
        """INFO keys that the model gives."""

    def __enter__(self) -> Haplotypes:
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.close()

    def columns(self, alleles: Sequence[Allele]) -> pd.DataFrame:
        """Return one row per ALT, in order.

        Columns are `phase` and, for `haplotype1` and `haplotype2`, `|count` (ALTs applied, 0 where
        this one is not), `|promoter|joint`, `|promoter|sum`, `|chromatin|top` (the feature with
        the largest joint effect), `|chromatin|joint` and `|chromatin|sum`, as far as the model has
        them.
        """
        phases: list[str] = []
        asked: list[_Focus] = []
        for row, allele in enumerate(alleles):
            variant = allele.variant
            near = self._calls.around(allele.record, variant.contig, variant.position)
            here = self._calls.phases(allele.record)
            phases.append(str(here[max(allele.allele, 1) - 1]))
            carried = self._calls.carried(allele.record, allele.allele)
            if carried is None:
                continue
            contig = self._genome.resolve(variant.contig)
            position = left_align(variant, self._genome).position
            for haplotype in carried.haplotypes:
                edits = tuple(together(carried, haplotype, near))
                offsets = tuple(self._settings.offsets(position))
                asked.append(_Focus(row, haplotype, contig, position, edits, offsets))
        return self._table(phases, asked)

    def info(self, table: pd.DataFrame) -> dict[str, list[Value]]:
        """Return INFO values from the columns: of the haplotype with the larger joint effect."""
        self.counts.update(table[PHASE])
        found: dict[str, list[Value]] = {GB_PHASE.id: table[PHASE].tolist()}
        counts = _of_both(table, "count")
        best = counts.argmax(axis=1)
        for kind, fields in (("promoter", _PROMOTER_FIELDS), ("chromatin", _CHROMATIN_FIELDS)):
            if fields[0] in self.fields:
                best = _largest(table, f"{kind}|joint")
                for field, part in zip(fields, ("joint", "sum", "top"), strict=False):
                    found[field.id] = _picked(_of_both(table, f"{kind}|{part}"), best)
        found[GB_HAP_N.id] = [number or None for number in _picked(counts, best)]
        return {field.id: found[field.id] for field in self.fields}

    def warn(self) -> None:
        """Say how many ALTs of the sample were not applied, if any."""
        counts = {phase: self.counts[phase] for phase in _LEFT_OUT if self.counts[phase]}
        if counts:
            logger.warning(
                "ALTs of %s: %d applied on their haplotypes, %d not: %s",
                self._sample,
                self.counts[Phase.PHASED],
                sum(counts.values()),
                ", ".join(f"{phase} {count:,}" for phase, count in counts.items()),
            )

    def _table(self, phases: Sequence[str], asked: Sequence[_Focus]) -> pd.DataFrame:
        size = len(phases)
        found = self._effects(asked)
        columns: dict[str, object] = {PHASE: phases}
        for number, name in enumerate(HAPLOTYPES):
            places = [place for place, focus in enumerate(asked) if focus.haplotype == number]
            rows = [asked[place].row for place in places]
            counts = np.zeros(size, np.int64)
            counts[rows] = 1
            columns[f"{name}|count"] = counts
            for kind, effects in found.items():
                counts[rows] = effects.counts[places]
                best = np.abs(effects.joint[places]).argmax(axis=1)
                if kind == "chromatin":
                    tops = np.full(size, None, object)
                    tops[rows] = [self._scorer.features[self._chosen[place]] for place in best]
                    columns[f"{name}|chromatin|top"] = pd.Series(tops, dtype=object)
                joint, total = effects.joint[places, best], effects.total[places, best]
                columns[f"{name}|{kind}|joint"] = _spread(size, rows, joint)
                columns[f"{name}|{kind}|sum"] = _spread(size, rows, total)
        return pd.DataFrame(columns)

    def _effects(self, asked: Sequence[_Focus]) -> dict[str, _Effects]:
        """Return effects on each head of the model: `promoter`, `chromatin`."""
        if shares_window(self._scorer, self._settings):
            return self._around(asked, with_starts=True)
        found: dict[str, _Effects] = {}
        if GB_HAP_PROMOTER_JOINT in self.fields:
            found["promoter"] = self._promoter(asked)
        if self._chosen:
            found |= self._around(asked, with_starts=False)
        return found

    def _around(self, asked: Sequence[_Focus], *, with_starts: bool) -> dict[str, _Effects]:
        """Return effects on profiles and, with starts, on promoters read in the same windows."""
        scorer, strands = self._scorer, len(STRANDS) * with_starts
        ask = scorer.starts_and_profiles if with_starts else scorer.profiles

        def predict(texts: list[str], places: list[list[int]]) -> Floats:
            *starts, logits, _ = ask(texts, places)
            return np.concatenate([*starts, logits[:, self._chosen]], axis=1)

        queries = Queries(predict)
        reach = CHROMATIN_FLANK, CHROMATIN_FLANK
        rows = [_ask(queries, self._genome, focus, reach) for focus in asked]
        effects = _Effects.of(queries, rows, strands + len(self._chosen))
        features = strands + np.arange(len(self._chosen))[None]
        found = {"chromatin": effects.of_outputs(features)}
        if not with_starts:
            return found
        logits = [queries.answers()[two[:2], :strands].mean(axis=1).T for two in rows]
        larger = larger_strand(np.reshape(logits, (-1, strands, 2)))[:, None]
        return {"promoter": effects.of_outputs(larger), **found}

    def _promoter(self, asked: Sequence[_Focus]) -> _Effects:
        """Return effects [asked, 1] on the strand on which REF or the haplotype has the larger."""

        def predict(texts: list[str], places: list[list[int]]) -> Floats:
            return self._scorer.promoter_logits(texts, places, near=True)[:, None]

        queries = Queries(predict)

        def ask(focus: _Focus, strand: str, *, alone: bool) -> NDArray[np.int64]:
            reach = promoter_reach(strand)
            return _ask(queries, self._genome, focus, reach, strand, alone=alone)

        both = [[ask(focus, strand, alone=False) for strand in STRANDS] for focus in asked]
        rows: list[NDArray[np.int64]] = []
        if both:
            logits = queries.answers()[np.array(both)].mean(axis=3)[..., 0]  # [asked, strand, 2]
            rows = [
                ask(focus, STRANDS[strand], alone=True)
                for focus, strand in zip(asked, larger_strand(logits), strict=True)
            ]
        return _Effects.of(queries, rows, 1)


def _ask(
    queries: Queries[str, int],
    genome: Genome,
    focus: _Focus,
    reach: tuple[int, int],
    strand: str = "+",
    *,
    alone: bool = True,
) -> NDArray[np.int64]:
    """Ask about REF, about the haplotype and, with `alone`, about each ALT of the haplotype alone.

    Returns:
        Rows of the answers, [2 + ALTs, windows].
    """
    asked: list[tuple[int, int, dict[Edit, int]]] = []
    for offset in focus.offsets:
        windows = haplotype_windows(
            genome,
            focus.contig,
            focus.edits,
            focus.position,
            reach[0] + offset,
            reach[1] - offset,
            alone=alone,
        )
        ref, joint, *single = [queries.add(*one.window.along(strand)) for one in windows]
        # An ALT that the haplotype has in reach may lie beyond the window that has it alone.
        asked.append((ref, joint, dict(zip(windows[1].edits, single, strict=alone))))
    seen = sorted({edit for _, _, alts in asked for edit in alts})
    rows = [[ref for ref, _, _ in asked], [joint for _, joint, _ in asked]]
    rows += [[alts.get(edit, ref) for ref, _, alts in asked] for edit in seen]
    return np.array(rows, np.int64)


@dataclass(frozen=True, slots=True)
class _Effects:
    """Effects of ALTs on haplotypes."""

    counts: NDArray[np.int64]
    """ALTs applied together, [asked]."""
    joint: Floats
    """Of the haplotype, [asked, outputs]."""
    total: Floats
    """Sum of each ALT alone, [asked, outputs]."""

    @classmethod
    def of(
        cls, queries: Queries[str, int], asked: Sequence[NDArray[np.int64]], outputs: int
    ) -> _Effects:
        """Read the effects from the answers; `asked` are the rows that `_ask` returned."""
        counts = np.array([len(rows) - 2 for rows in asked], np.int64)
        joint, total = np.zeros((2, len(asked), outputs), np.float32)
        for number, rows in enumerate(asked):
            logits = queries.answers()[rows].mean(axis=1)  # [2 + ALTs, outputs]
            deltas = logits[1:] - logits[0]
            joint[number], total[number] = deltas[0], deltas[1:].sum(axis=0)
        return cls(counts, joint, total)

    def of_outputs(self, which: NDArray[np.intp]) -> _Effects:
        """Return some outputs: of each, or of all alike, their places [asked or 1, some]."""
        joint, total = (np.take_along_axis(of, which, axis=1) for of in (self.joint, self.total))
        return _Effects(self.counts, joint, total)


def _spread(size: int, rows: Sequence[int], values: Floats) -> Floats:
    """Put values into rows; NaN elsewhere."""
    spread = np.full(size, np.nan, np.float32)
    spread[list(rows)] = values
    return spread


def _of_both(table: pd.DataFrame, column: str) -> NDArray[Any]:
    """Return a column of both haplotypes, [rows, 2]."""
    return np.stack([table[f"{name}|{column}"].to_numpy() for name in HAPLOTYPES], axis=1)


def _largest(table: pd.DataFrame, column: str) -> NDArray[np.intp]:
    """Return the haplotype on which an effect is larger by size, [rows]."""
    sizes = np.nan_to_num(np.abs(_of_both(table, column)), nan=-1.0)
    larger: NDArray[np.intp] = sizes.argmax(axis=1)
    return larger


def _picked(values: NDArray[Any], best: NDArray[np.intp]) -> list[Any]:
    """Return one of each row, [rows]; None where it is missing."""
    chosen = values[np.arange(len(values)), best].tolist()
    return [None if value is None or value != value else value for value in chosen]
