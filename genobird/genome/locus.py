"""Where a variant lies on the genome, and whether it can be scored there.

Most variants lie where they say. With a chain file they are lifted first, and are then checked on
the genome like any other: REF must be the genome's.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from genobird.genome.chain import ChainFile, Place
from genobird.genome.fasta import Genome
from genobird.genome.variant import Status, Variant, check


@dataclass(frozen=True, slots=True)
class Locus:
    """A variant on the genome."""

    variant: Variant
    """As it came, or lifted."""
    status: Status
    place: Place | None = None
    """Where REF was lifted to."""


class Locator:
    """Put variants onto a genome.

    Args:
        genome: Where they are scored.
        flank: Longest allele, in bp; see `check`.
        chain: From their assembly to the genome's, where these differ.
        absent: Contigs, as the variants name them, that the genome lacks although it has one of
            the same name; see `build.Guard`.
    """

    def __init__(
        self,
        genome: Genome,
        flank: int,
        chain: ChainFile | None = None,
        absent: Collection[str] = (),
    ) -> None:
        self.genome = genome
        self.chain = chain
        self._flank = flank
        self._absent = frozenset(absent)

    def find(self, variant: Variant) -> Locus:
        """Return where a variant lies, with its status."""
        if variant.alt in ("", "."):
            return Locus(variant, Status.MISSING_ALT)
        if variant.contig in self._absent:
            return Locus(variant, Status.NO_CONTIG)
        if self.chain is None:
            return self.on_genome(variant)
        found = self.chain.lift_variant(variant)
        if found is None:
            return Locus(variant, Status.NOT_LIFTED)
        return self.on_genome(*found)

    def swapped(self, locus: Locus) -> Locus:
        """Return a locus with REF and ALT exchanged; its status is OK where the genome has ALT."""
        variant = locus.variant
        turned = Variant(variant.contig, variant.position, variant.alt, variant.ref)
        return self.on_genome(turned, locus.place)

    def is_swapped(self, locus: Locus) -> bool:
        """Tell whether the genome has ALT where REF should be."""
        return locus.status is Status.REF_MISMATCH and self.swapped(locus).status is Status.OK

    def on_genome(self, variant: Variant, place: Place | None = None) -> Locus:
        """Return a variant that lies where it says, with its status."""
        return Locus(variant, check(variant, self.genome, self._flank), place)
