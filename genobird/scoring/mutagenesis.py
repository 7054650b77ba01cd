"""Saturation mutagenesis: each base of a region changed to each of the other three.

The outputs are asked about one place, the midpoint of the region, in windows that stay where they
are: the REF window is computed once, and each of the 3 L others differs from it in one base. So a
table says how the bases around a place make what is predicted for that place. (`variants` asks
about each variant's own place instead.)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from genobird.errors import InputError, UsageError
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval, RegionStatus
from genobird.inference import Floats
from genobird.runs import Progress, ignore
from genobird.scoring.inputs import region_of
from genobird.scoring.scorer import Scorer, opened
from genobird.scoring.sites import LONGEST_BP, Outputs, Site, site_of
from genobird.scoring.table import TableWriter, as_list, clean_text
from genobird.scoring.windows import STRANDS, larger_strand, parted

BASES = "ACGT"
MOST_BP = 2_000
"""Longest region without asking: every base costs three windows."""
TOP = 5
"""Chromatin features that are taken where none is named: those with the highest REF logit."""

Form = Literal["long", "wide"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Scan:
    """Bases of a window, ready to be changed one after the other."""

    site: Site
    """The window and the place that the outputs are asked about."""
    first: int
    """Offset of the first base in the window."""
    length: int
    """Number of bases, L."""
    outputs: Outputs
    """What is asked, O outputs."""
    strand: str
    """Of the promoter; empty where it is not asked for."""
    ref: Floats
    """Logits of the unchanged window, [O]; of a table head, values as it gives them."""

    @property
    def names(self) -> list[str]:
        """Columns of the outputs, [O]."""
        return self.outputs.names

    @property
    def bases(self) -> str:
        """The bases, forward strand."""
        return self.site.text[self.first : self.first + self.length]

    @property
    def size(self) -> int:
        """Number of changed windows, 3 L."""
        return 3 * self.length

    def seconds(self) -> float:
        """Estimate how long all windows take, by computing the REF window once more."""
        began = time.monotonic()
        self.outputs.at([self.site], self.strand)
        return (time.monotonic() - began) * self.size

    def chunks(self) -> Iterator[tuple[int, Floats]]:
        """Yield offsets from the first base and the logits [n, 3, O] of successive n bases.

        The three are the other bases in the order A, C, G, T. Chunks end at fixed places, so that
        the same scan gives the same numbers.
        """
        step = max(1, self.outputs.scorer.chunk // 3)
        for begin in range(0, self.length, step):
            end = min(begin + step, self.length)
            sites = [
                self._changed(offset, alt)
                for offset in range(begin, end)
                for alt in others(self.bases[offset])
            ]
            logits = self.outputs.at(sites, self.strand)
            yield begin, logits.reshape(end - begin, 3, len(self.names))

    def deltas(self) -> Floats:
        """Return ALT minus REF, [L, 4, O], for A, C, G and T in place of each base; REF is 0."""
        table = np.zeros((self.length, len(BASES), len(self.names)), np.float32)
        for begin, logits in self.chunks():
            for row, values in enumerate(logits, start=begin):
                at = [BASES.index(alt) for alt in others(self.bases[row])]
                table[row, at] = values - self.ref
        return table

    def _changed(self, offset: int, alt: str) -> Site:
        text, at = self.site.text, self.first + offset
        return replace(self.site, text=text[:at] + alt + text[at + 1 :])


def mutagenesis(
    scorer: Scorer,
    region: Interval | str,
    fasta: Path | str | Genome,
    *,
    features: Sequence[str] | None = None,
    form: Form = "long",
    most_bp: int = MOST_BP,
) -> pd.DataFrame:
    """Change every base of a region and say what that does to the outputs at its midpoint.

    Args:
        scorer: the model.
        region: 0-based `Interval`, or 1-based text as `chr20:1,001-1,200`. The promoter is asked
            about along its strand; without one, on the strand on which REF has the larger logit.
        fasta: the genome.
        features: `promoter`, columns, names or classes of the chromatin head, and columns of a
            table head, as `table|activity`; None is the promoter, the `TOP` chromatin features with
            the highest REF logit and, where its window holds the region, all of a table head.
        form: `long` has a row per changed base and output, `wide` one per changed base.
        most_bp: longest region that is allowed.

    Returns:
        `chrom pos ref alt`, `pos` 1-based; then in the long form `output ref_logit alt_logit
        delta`, in the wide form `<output>|ref`, `<output>|alt` and `<output>|delta`. Values are
        logits, of a table head in the units that it was trained in, or probabilities of classes;
        the delta is ALT minus REF.

    Raises:
        UsageError: the region is too long, for the window of a table head too, or an output is
            unknown.
        ContigError, OutOfBoundsError: the region is not on the genome.
        InputError: it holds N, or more than half of its window is N.
    """
    check_form(form)
    with opened(fasta) as genome:
        scan = prepare(scorer, region, genome, features=features, most_bp=most_bp)
    tables = [_frame(scan, begin, logits, form) for begin, logits in scan.chunks()]
    return pd.concat(tables, ignore_index=True)


def prepare(
    scorer: Scorer,
    region: Interval | str,
    genome: Genome,
    *,
    features: Sequence[str] | None = None,
    most_bp: int = MOST_BP,
) -> Scan:
    """Compute the REF window and choose the outputs; see `mutagenesis`."""
    interval = region_of(region)
    own = genome.fetch(interval)
    if not own or interval.length > LONGEST_BP:
        raise UsageError(
            f"{interval} is {interval.length:,} bp; 1 to {LONGEST_BP:,} bp are allowed, what the "
            "model sees around the midpoint"
        )
    if "N" in own:
        at = interval.start + own.index("N")
        raise InputError(
            f"{interval} holds N at {interval.contig}:{at + 1:,}; choose a region of A, C, G and T"
        )
    site = site_of(interval, genome)
    if site.status is RegionStatus.AMBIGUOUS:
        raise InputError(f"more than half of the window around {interval} is N; choose another")
    _require_targets_window(scorer, interval, features)
    first = site.centre - (interval.midpoint - interval.start)
    scan = scan_site(scorer, site, first, interval.length, features)
    if interval.length > most_bp:
        raise UsageError(
            f"{interval} is {interval.length:,} bp, thus {scan.size:,} windows, "
            f"{duration(scan.seconds())} on {scorer.device}; up to {most_bp:,} bp are allowed: "
            f"choose a smaller region, or allow it with --max-bp {interval.length}"
        )
    return scan


def scan_site(
    scorer: Scorer, site: Site, first: int, length: int, features: Sequence[str] | None
) -> Scan:
    """Compute the unchanged window and choose the outputs; see `Scan` and `mutagenesis`."""
    outputs = Outputs.named(scorer, features)
    if features is None and length > 2 * scorer.target_flank:
        outputs = replace(outputs, targets=())
    strand = _strand(scorer, site) if outputs.promoter else ""
    ref = outputs.at([site], strand)[0]
    if features is None:
        promoters, profile, values = outputs.parts(ref)
        best = np.argsort(-profile, kind="stable")[:TOP]
        outputs = replace(outputs, chosen=[outputs.chosen[place] for place in best])
        ref = np.concatenate([promoters, profile[best], values])
    return Scan(site, first, length, outputs, strand, ref)


def _require_targets_window(
    scorer: Scorer, interval: Interval, features: Sequence[str] | None
) -> None:
    """Refuse outputs of a table head that does not see the region; if others are there, warn."""
    most = 2 * scorer.target_flank
    named = [name for name in scorer.targets if features is None or name in as_list(features)]
    if not named or interval.length <= most:
        return
    found = (
        f"the table head sees {most:,} bp around the midpoint, and {interval} has "
        f"{interval.length:,} bp"
    )
    has_others = scorer.checkpoint.promoter is not None or bool(scorer.features)
    if features is not None or not has_others:
        raise UsageError(
            f"{found}; choose a region of up to {most:,} bp, or leave out {', '.join(named)}"
        )
    logger.warning("%s: its outputs are left out", found)


def write_mutagenesis(
    scan: Scan, writer: TableWriter, form: Form = "long", progress: Progress = ignore
) -> pd.DataFrame:
    """Write a table as it comes, and return it in the long form, whatever is written.

    `progress` is called with the number of bases that are done.

    Raises:
        OutputError: the table cannot be written.
    """
    parts = []
    for begin, logits in scan.chunks():
        parts.append(_frame(scan, begin, logits, "long"))
        writer.write(parts[-1] if form == "long" else _frame(scan, begin, logits, form))
        progress(len(logits))
    return pd.concat(parts, ignore_index=True)


def check_form(form: str) -> None:
    """Refuse an unknown form of the table by a UsageError."""
    if form not in ("long", "wide"):
        raise UsageError(f"form {form!r} is unknown; allowed are long and wide")


def others(base: str) -> str:
    """Return the other three bases, in the order A, C, G, T."""
    return BASES.replace(base, "")


def duration(seconds: float) -> str:
    """Write a time for people, with `about` before it."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 90 else f"about {seconds / 3600:.1f} h"


def _strand(scorer: Scorer, site: Site) -> str:
    if site.interval.strand != ".":
        return site.interval.strand
    windows = [site.promoter(strand) for strand in STRANDS]
    logits = scorer.promoter_logits(*parted(windows), near=not site.is_start)
    return STRANDS[larger_strand(logits[None, :, None])[0]]


def _frame(scan: Scan, begin: int, logits: Floats, form: Form) -> pd.DataFrame:
    interval, bases = scan.site.interval, scan.bases[begin : begin + len(logits)]
    keys = pd.DataFrame(
        {
            "chrom": clean_text(interval.contig),
            "pos": np.repeat(np.arange(len(bases)) + interval.start + begin + 1, 3),
            "ref": [ref for ref in bases for _ in range(3)],
            "alt": [alt for ref in bases for alt in others(ref)],
        }
    )
    alts = logits.reshape(len(keys), len(scan.names))
    return _long(keys, scan, alts) if form == "long" else _wide(keys, scan, alts)


def _long(keys: pd.DataFrame, scan: Scan, alts: Floats) -> pd.DataFrame:
    outputs = len(scan.names)
    table = keys.loc[keys.index.repeat(outputs)].reset_index(drop=True)
    refs: NDArray[np.float32] = np.tile(scan.ref, len(keys))
    table["output"] = scan.names * len(keys)
    table["ref_logit"] = refs
    table["alt_logit"] = alts.reshape(-1)
    table["delta"] = alts.reshape(-1) - refs
    return table


def _wide(keys: pd.DataFrame, scan: Scan, alts: Floats) -> pd.DataFrame:
    values = np.stack([np.broadcast_to(scan.ref, alts.shape), alts, alts - scan.ref], axis=2)
    columns = [f"{name}|{part}" for name in scan.names for part in ("ref", "alt", "delta")]
    return pd.concat([keys, pd.DataFrame(values.reshape(len(keys), -1), columns=columns)], axis=1)
