"""Sites: a region with the bases around its midpoint, and what a model gives for that place.

Tables of regions, mutagenesis and the one-hot module ask the same `Outputs` about sites; what they
do with the answers differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from genobird.columns import PROMOTER
from genobird.errors import SequenceError, UsageError, quoted
from genobird.genome.chain import ChainFile
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval, RegionStatus
from genobird.genome.locus import require_chain
from genobird.genome.sequence import n_fraction, normalise
from genobird.genome.variant import Window
from genobird.inference import Floats
from genobird.scoring.table import as_list
from genobird.scoring.windows import CHROMATIN_FLANK, STRANDS, flag_of, parted, promoter_reach
from genobird.targets import MARK

if TYPE_CHECKING:
    from genobird.scoring.scorer import Scorer

LONGEST_BP = 2 * CHROMATIN_FLANK
"""A longer region is no longer represented by the window around its midpoint."""


@dataclass(frozen=True, slots=True)
class Site:
    """A region with the bases around its midpoint."""

    interval: Interval
    status: RegionStatus
    text: str = ""
    """The chromatin window, forward strand; it holds the promoter windows of both strands."""
    centre: int = 0
    """Offset of the midpoint in `text`."""
    lifted: Interval | None = None
    """Where the region lies on the genome, when it was lifted there."""

    @property
    def strand(self) -> str:
        """The strand of the region on the genome."""
        return (self.lifted or self.interval).strand

    @property
    def flags(self) -> str:
        """What makes one doubt its scores, if it has any; see `flag_of`."""
        return flag_of(self.text, self.centre) if self.status is RegionStatus.OK else ""

    @property
    def is_start(self) -> bool:
        """Whether it names a transcription start to the base; a longer region has one near."""
        return (self.lifted or self.interval).length == 1

    def promoter(self, strand: str) -> Window:
        """Return the promoter window along a strand."""
        return self.around(*promoter_reach(strand)).along(strand)

    def around(self, before: int, after: int) -> Window:
        """Return the bases before the midpoint, and from it on, as far as they go."""
        first = max(0, self.centre - before)
        return Window(self.text[first : self.centre + after], self.centre - first)


def site_of(interval: Interval, genome: Genome, chain: ChainFile | None = None) -> Site:
    """Return a region with its bases, or with the reason why it cannot be scored.

    With a chain, the bases are those of the place that the region is lifted to.
    """
    if chain is not None:
        lifted = chain.lift(interval)
        if lifted is None:
            return Site(interval, RegionStatus.NOT_LIFTED)
        return replace(site_of(lifted, genome), interval=interval, lifted=lifted)
    contig = genome.find(interval.contig)
    if contig is None:
        return Site(interval, RegionStatus.NO_CONTIG)
    if interval.ends_beyond(genome.length(contig)):
        return Site(interval, RegionStatus.OUT_OF_BOUNDS)
    if interval.length > LONGEST_BP:
        return Site(interval, RegionStatus.TOO_LONG)
    window = interval.window(CHROMATIN_FLANK, CHROMATIN_FLANK)
    text, start = genome.fetch_clipped(contig, *window)
    own = text[max(0, interval.start - start) : interval.end - start]
    ambiguous = "N" in own or n_fraction(text) > 0.5
    status = RegionStatus.AMBIGUOUS if ambiguous else RegionStatus.OK
    return Site(interval, status, text, interval.midpoint - start)


def sites_of(
    intervals: Iterable[Interval], genome: Genome, chain: ChainFile | None = None
) -> Iterator[Site]:
    """Yield the site of each interval; AssemblyError where a chain leads to another assembly."""
    if chain is not None:
        require_chain(chain, genome)
    for interval in intervals:
        yield site_of(interval, genome, chain)


def sequence_site(name: str, text: str) -> Site:
    """Return a sequence as a region of its own, cut to the chromatin window around its midpoint.

    Raises:
        SequenceError: letters that are no DNA, or an empty sequence.
    """
    interval = Interval(name, 0, len(text))
    if not text:
        raise SequenceError(f"sequence {name} is empty; at least one base is needed")
    first = max(0, interval.midpoint - CHROMATIN_FLANK)
    window = normalise(text[first : interval.midpoint + CHROMATIN_FLANK], f"sequence {name}")
    status = RegionStatus.AMBIGUOUS if n_fraction(window) > 0.5 else RegionStatus.OK
    return Site(interval, status, window, interval.midpoint - first)


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model is asked about: O outputs, the promoter first, then features, then targets."""

    scorer: Scorer
    promoter: bool
    chosen: Sequence[int]
    """Places of chromatin features among `scorer.features`."""
    targets: Sequence[int]
    """Places of outputs of a table head among `scorer.targets`."""

    @classmethod
    def of(cls, scorer: Scorer, features: Sequence[str] | None) -> Outputs:
        """Return what a table of regions has: all of a model, but of its chromatin some features.

        Raises:
            UsageError: a feature is unknown.
        """
        promoter, chosen = scorer.checkpoint.promoter is not None, scorer.select_features(features)
        return cls(scorer, promoter, chosen, range(len(scorer.targets)))

    @classmethod
    def named(cls, scorer: Scorer, names: Sequence[str] | None) -> Outputs:
        """Return the outputs of these names: `promoter`, features and targets; None is all.

        Raises:
            UsageError: an output is unknown, or there is none.
        """
        found = cls.of(scorer, None)
        if names is not None:
            wanted = as_list(names)
            features = [name for name in wanted if name not in (PROMOTER, *scorer.targets)]
            if unknown := [name for name in features if str(name).startswith(MARK)]:
                has = ", ".join(scorer.targets) or "no table head"
                raise UsageError(f"the model has no output {quoted(unknown[0])}; it has {has}")
            chosen = scorer.select_features(features)
            targets = [place for place, name in enumerate(scorer.targets) if name in wanted]
            found = cls(scorer, PROMOTER in wanted, chosen, targets)
        if not found.names:
            raise UsageError("no output is chosen; name features of the model, or promoter")
        return found

    @property
    def names(self) -> list[str]:
        """Columns of the outputs, [O]."""
        features = [self.scorer.features[place] for place in self.chosen]
        targets = [self.scorer.targets[place] for place in self.targets]
        return [PROMOTER] * self.promoter + features + targets

    def parts(self, values: Floats) -> list[Floats]:
        """Return the values [..., O] of the promoter, of features and of targets."""
        ends = np.cumsum([self.promoter, len(self.chosen)])
        return np.split(values, ends, axis=-1)

    def at(self, sites: Sequence[Site], strand: str = "") -> Floats:
        """Return logits, of a table head values as it gives them, at S sites, [S, O].

        Promoters are read along `strand`, else along that of the site; without one, the larger
        logit of both counts. A table head goes by the site's strand.
        """
        scorer, blocks = self.scorer, [np.zeros((len(sites), 0), np.float32)]
        if self.promoter:
            blocks.append(self._promoters(sites, strand)[:, None])
        if self.chosen:
            texts, centres = [site.text for site in sites], [site.centre for site in sites]
            blocks.append(scorer.chromatin_logits(texts, centres)[:, list(self.chosen)])
        if self.targets:
            flank = scorer.target_flank
            texts, places = parted([site.around(flank, flank) for site in sites])
            strands = [site.strand for site in sites]
            values = scorer.target_values(texts, [[place] for place in places], strands)
            blocks.append(values[:, list(self.targets)])
        return np.concatenate(blocks, axis=1)

    def _promoters(self, sites: Sequence[Site], strand: str) -> Floats:
        along = [strand or (STRANDS if site.strand == "." else site.strand) for site in sites]
        pairs = zip(sites, along, strict=True)
        windows = [site.promoter(one) for site, strands in pairs for one in strands]
        best = np.full(len(sites), -np.inf, np.float32)
        rows = np.repeat(np.arange(len(sites)), list(map(len, along)))
        near = [not sites[row].is_start for row in rows]
        np.maximum.at(best, rows, self.scorer.promoter_logits(*parted(windows), near=near))
        return best
