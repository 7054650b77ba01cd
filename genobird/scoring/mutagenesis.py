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

from genobird.columns import PROMOTER
from genobird.errors import InputError, UsageError, quoted
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval, RegionStatus
from genobird.genome.sequence import n_fraction
from genobird.inference import Floats
from genobird.runs import Progress, ignore
from genobird.scoring.inputs import region_of
from genobird.scoring.regions import LONGEST_BP, Site, target_values_of
from genobird.scoring.scorer import Scorer, opened
from genobird.scoring.table import TableWriter, as_list, clean_text
from genobird.scoring.windows import CHROMATIN_FLANK, STRANDS, larger_strand, parted
from genobird.targets import MARK

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

    scorer: Scorer
    """The model."""
    site: Site
    """The window and the place that the outputs are asked about."""
    first: int
    """Offset of the first base in the window."""
    length: int
    """Number of bases, L."""
    names: tuple[str, ...]
    """Outputs, O."""
    chosen: tuple[int, ...]
    """Places of the chromatin outputs among `scorer.features`."""
    targets: tuple[int, ...]
    """Places of the outputs of a table head among `scorer.targets`; they come last."""
    strand: str
    """Of the promoter output, which comes first; empty where it is not asked for."""
    ref: Floats
    """Logits of the unchanged window, [O]; of a table head, values as it gives them."""

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
        self._ask([self.site])
        return (time.monotonic() - began) * self.size

    def chunks(self) -> Iterator[tuple[int, Floats]]:
        """Yield offsets from the first base and the logits [n, 3, O] of successive n bases.

        The three are the other bases in the order A, C, G, T. Chunks end at fixed places, so that
        the same scan gives the same numbers.
        """
        step = max(1, self.scorer.chunk // 3)
        for begin in range(0, self.length, step):
            end = min(begin + step, self.length)
            sites = [
                self._changed(offset, alt)
                for offset in range(begin, end)
                for alt in others(self.bases[offset])
            ]
            logits = self._ask(sites)
            yield begin, logits.reshape(end - begin, 3, len(self.names))

    def deltas(self) -> Floats:
        """Return ALT minus REF, [L, 4, O], for A, C, G and T in place of each base; REF is 0."""
        table = np.zeros((self.length, len(BASES), len(self.names)), np.float32)
        for begin, logits in self.chunks():
            for row, values in enumerate(logits, start=begin):
                at = [BASES.index(alt) for alt in others(self.bases[row])]
                table[row, at] = values - self.ref
        return table

    def _ask(self, sites: Sequence[Site]) -> Floats:
        return _ask(self.scorer, sites, self.strand, self.chosen, self.targets)

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
    window = interval.window(CHROMATIN_FLANK, CHROMATIN_FLANK)
    text, start = genome.fetch_clipped(interval.contig, *window)
    if n_fraction(text) > 0.5:
        raise InputError(f"more than half of the window around {interval} is N; choose another")
    site = Site(interval, RegionStatus.OK, text, interval.midpoint - start)
    _require_targets_window(scorer, interval, features)
    scan = scan_site(scorer, site, interval.start - start, interval.length, features)
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
    asks_promoter, chosen, targets = chosen_outputs(scorer, features)
    if features is None and length > 2 * scorer.target_flank:
        targets = []
    strand = _strand(scorer, site) if asks_promoter else ""
    ref = _ask(scorer, [site], strand, chosen, targets)[0]
    promoters, profile, values = np.split(ref, np.cumsum([asks_promoter, len(chosen)]))
    if features is None:
        best = np.argsort(-profile, kind="stable")[:TOP]
        chosen, profile = [chosen[place] for place in best], profile[best]
    names = [PROMOTER] * asks_promoter + [scorer.features[place] for place in chosen]
    names += [scorer.targets[place] for place in targets]
    found = np.concatenate([promoters, profile, values])
    outputs = tuple(chosen), tuple(targets)
    return Scan(scorer, site, first, length, tuple(names), *outputs, strand, found)


def chosen_outputs(
    scorer: Scorer, features: Sequence[str] | None
) -> tuple[bool, list[int], list[int]]:
    """Tell whether the promoter is asked about, and places of features and of a table head's.

    Raises:
        UsageError: an output is unknown, or there is none.
    """
    wanted = None if features is None else as_list(features)
    known = (PROMOTER, *scorer.targets)
    named = None if wanted is None else [name for name in wanted if name not in known]
    has_promoter = scorer.checkpoint.promoter is not None
    asks_promoter = has_promoter if wanted is None else PROMOTER in wanted
    if unknown := [name for name in named or () if str(name).startswith(MARK)]:
        has = ", ".join(scorer.targets) or "no table head"
        raise UsageError(f"the model has no output {quoted(unknown[0])}; it has {has}")
    chosen = scorer.select_features(named)
    targets = [
        place for place, name in enumerate(scorer.targets) if wanted is None or name in wanted
    ]
    if not asks_promoter and not chosen and not targets:
        raise UsageError("no output is chosen; name features of the model, or promoter")
    return asks_promoter, chosen, targets


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
    scan: Scan,
    writer: TableWriter,
    form: Form = "long",
    progress: Progress = ignore,
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


def _ask(
    scorer: Scorer,
    sites: Sequence[Site],
    strand: str,
    chosen: Sequence[int],
    targets: Sequence[int],
) -> Floats:
    """Return [S, O]: the promoter where a strand is given, chosen features, a table head's."""
    blocks: list[Floats] = []
    if strand:
        windows = [site.promoter(strand) for site in sites]
        blocks.append(scorer.promoter_logits(*parted(windows))[:, None])
    if chosen:
        profile = scorer.chromatin_logits([s.text for s in sites], [s.centre for s in sites])
        blocks.append(profile[:, list(chosen)])
    if targets:
        blocks.append(target_values_of(scorer, sites)[:, list(targets)])
    return np.concatenate(blocks, axis=1)


def _strand(scorer: Scorer, site: Site) -> str:
    if site.interval.strand != ".":
        return site.interval.strand
    logits = scorer.promoter_logits(*parted([site.promoter(strand) for strand in STRANDS]))
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
    table["output"] = list(scan.names) * len(keys)
    table["ref_logit"] = refs
    table["alt_logit"] = alts.reshape(-1)
    table["delta"] = alts.reshape(-1) - refs
    return table


def _wide(keys: pd.DataFrame, scan: Scan, alts: Floats) -> pd.DataFrame:
    values = np.stack([np.broadcast_to(scan.ref, alts.shape), alts, alts - scan.ref], axis=2)
    columns = [f"{name}|{part}" for name in scan.names for part in ("ref", "alt", "delta")]
    return pd.concat([keys, pd.DataFrame(values.reshape(len(keys), -1), columns=columns)], axis=1)
