"""Parts: chunks in which something is scored, one by one, and runs of chunks in which nothing is.

A chunk that costs the model no work needs no frame, journal or progress of its own: such chunks are
joined, so that what is done once for each part is cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic

from genobird.errors import AssemblyError
from genobird.genome.locus import Locator, Locus
from genobird.genome.variant import Status, Variant
from genobird.scoring.alleles import RefMismatch
from genobird.scoring.table import Item, in_chunks

# No chunk is joined to those that hold so many alleles, or so much text.
_ALLELES: Final = 1_024
_CHARACTERS: Final = 1 << 22


@dataclass(slots=True)
class Part(Generic[Item]):
    """One chunk in which something is scored, or successive chunks in which nothing is."""

    last: int
    """Number of its last chunk, from 0."""
    items: list[Item]
    loci: list[Locus]
    """Where each allele of the items lies."""
    is_scored: bool
    text: int = 0
    """Characters that the items hold beside their alleles."""

    @property
    def is_large(self) -> bool:
        """Whether nothing is to be joined to it."""
        return len(self.loci) >= _ALLELES or self.text >= _CHARACTERS


def parts_of(
    items: Iterable[Item],
    variants: Callable[[Item], Sequence[Variant]],
    size: int,
    locator: Locator,
    policy: RefMismatch,
    *,
    always: bool = False,
    text: Callable[[Item], int] = lambda _: 0,
) -> Iterator[Part[Item]]:
    """Yield all items, in order.

    Args:
        items: records or alleles.
        variants: returns the alleles of an item.
        size: items of a chunk.
        locator: puts alleles onto the genome.
        policy: what happens where REF is not the genome's.
        always: whether every chunk counts as one in which something is scored.
        text: returns the characters that an item holds beside its alleles.

    Raises:
        AssemblyError: REF is not the genome's, and the policy is `error`.
    """
    joined: Part[Item] | None = None
    for number, chunk in enumerate(in_chunks(items, size)):
        alleles = [variant for item in chunk for variant in variants(item)]
        loci = [locator.find(variant) for variant in alleles]
        is_scored = always or any(
            scored_locus(variant, locus, locator, policy) is not None
            for variant, locus in zip(alleles, loci, strict=True)
        )
        if joined is not None and (is_scored or joined.is_large):
            yield joined
            joined = None
        if is_scored:
            yield Part(number, chunk, loci, is_scored)
            continue
        joined = joined or Part(number, [], [], is_scored)
        joined.last = number
        joined.items += chunk
        joined.loci += loci
        joined.text += sum(map(text, chunk))
    if joined is not None:
        yield joined


def scored_locus(
    variant: Variant, locus: Locus, locator: Locator, policy: RefMismatch
) -> Locus | None:
    """Return what is scored for a variant: its locus, that with REF and ALT exchanged, or nothing.

    Raises:
        AssemblyError: REF is not the genome's, and the policy is `error`.
    """
    if locus.status is Status.OK:
        return locus
    if locus.status is Status.REF_MISMATCH:
        if policy is RefMismatch.ERROR:
            raise AssemblyError(_mismatch(variant, locus, locator))
        if policy is RefMismatch.SWAP:
            swapped = locator.swapped(locus)
            return swapped if swapped.status is Status.OK else None
    return None


def _mismatch(variant: Variant, locus: Locus, locator: Locator) -> str:
    there, place = locus.variant, locus.place
    found, _ = locator.genome.fetch_clipped(there.contig, there.position, there.end)
    lifted = "" if place is None else f", lifted to {place.contig}:{place.start + 1}{place.strand},"
    return (
        f"REF {there.ref} at {variant.contig}:{variant.position + 1}{lifted} is {found} in "
        f"{locator.genome.path}; is the VCF from another assembly? (--ref-mismatch flag goes on)"
    )
