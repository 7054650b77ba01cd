"""Where variants lie on a genome, and whether they and it are of the same assembly.

Most variants lie where they say. With a chain file they are lifted first, and are then checked on
the genome like any other: REF must be the genome's.

What speaks of an assembly, from strong to weak: the lengths of contigs (FASTA, `##contig` lines,
chain file), names in a VCF header (`assembly=b37`, `##reference=hg38.fa`), and whether the first
variants carry the genome's bases. Known assemblies are called by name; for any other genome the
lengths of the contigs that both sides have are compared.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from genobird.errors import AssemblyError, OutOfBoundsError
from genobird.genome import assemblies
from genobird.genome.chain import ChainFile
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.genome.streams import whole
from genobird.genome.variant import Status, Variant, check

logger = logging.getLogger(__name__)

SAMPLE = 1_000
"""Records at the start of a file whose alleles are compared with the genome."""

_FEWEST = 20  # comparable records that make a verdict
# Of variants of another assembly about half have neither allele in the genome.
_SUSPICIOUS = 0.2

_CONTIG = re.compile(r"##contig=<(?P<facts>.*)>\r?")
_FACT = re.compile(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|([^,]*))')
_INSIST = "--ignore-build goes on"


@dataclass(frozen=True, slots=True)
class Locus:
    """A variant on the genome."""

    variant: Variant
    """As it came, or lifted."""
    status: Status
    place: Interval | None = None
    """Where REF was lifted to."""

    @property
    def lifted(self) -> tuple[str, int, str] | tuple[None, None, None]:
        """Contig, 1-based position and strand that REF was lifted to, if it was."""
        place = self.place
        return (
            (None, None, None) if place is None else (place.contig, place.start + 1, place.strand)
        )


class Locator:
    """Put variants onto a genome.

    Args:
        genome: Where they are scored.
        flank: Longest allele, in bp; see `check`.
        chain: From their assembly to the genome's, where these differ.
        absent: Contigs, as the variants name them, that the genome lacks although it has one of
            the same name; see `place_on`.
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

    def on_genome(self, variant: Variant, place: Interval | None = None) -> Locus:
        """Return a variant that lies where it says, with its status."""
        return Locus(variant, check(variant, self.genome, self._flank), place)


def contigs_of(header: Iterable[str]) -> dict[str, int]:
    """Return the lengths in bp of the contigs that a VCF header gives them for."""
    lengths = ((facts.get("ID"), whole(facts.get("length", ""))) for facts in map(_facts, header))
    return {name: bp for name, bp in lengths if name and bp is not None}


def _facts(line: str) -> dict[str, str]:
    """Return what a `##contig` line says of its contig; nothing of another line."""
    match = _CONTIG.match(line)
    found = _FACT.findall(match["facts"]) if match else ()
    return {key: quoted_text or plain for key, quoted_text, plain in found}


def assembly_of(header: Sequence[str]) -> str | None:
    """Name the assembly of a VCF header: by lengths of contigs, or else by names."""
    by_length = assemblies.recognise(contigs_of(header))
    if by_length is not None:
        return by_length
    texts = [fact for line in header if (fact := _naming(line))]
    named = {assembly for text in texts if (assembly := assemblies.named(text))}
    return named.pop() if len(named) == 1 else None


def place_on(
    genome: Genome,
    flank: int,
    source: str,
    header: Sequence[str] = (),
    first: Iterable[Sequence[Variant]] = (),
    chain: ChainFile | None = None,
    strict: bool = True,
) -> Locator:
    """Make sure that variants belong to a genome, and return how they are put onto it.

    Their assembly is seen in their VCF header, if they have one, and in the alleles of the first
    records; `source` is what messages call them. Unless `strict`, another one is a warning.

    Raises:
        AssemblyError: They are of another assembly than the genome, or than the chain starts from;
            or the chain does not lead to the genome.
    """
    contigs, assembly = contigs_of(header), assembly_of(header)
    if chain is None:
        theirs, whose = genome.contigs, str(genome.path)
        remedy = "give the FASTA of their assembly, or lift them with --liftover and a chain file"
    else:
        theirs, whose = chain.source_lengths, f"the start of {chain.path}"
        remedy = "give the chain from their assembly to the genome's"
        require_chain(chain, genome)
    if difference := _difference(contigs, assembly, theirs):
        _object(f"{source} is of another assembly than {whose}: {difference}; {remedy}", strict)
    absent = _absent(source, contigs, theirs, whose)
    locator = Locator(genome, flank, chain, absent)
    _require_alleles(locator, source, first, remedy, strict)
    return locator


def require_chain(chain: ChainFile, genome: Genome) -> None:
    """Refuse a chain file to another assembly than the genome's by an AssemblyError."""
    if difference := _difference(chain.target_lengths, chain.target, genome.contigs):
        raise AssemblyError(
            f"{chain.path} leads to another assembly than {genome.path}: {difference}; give the "
            "chain from the assembly of the input to that of the FASTA"
        )


def require_on_genome(
    intervals: Sequence[Interval],
    genome: Genome,
    chain: ChainFile | None = None,
    remedy: str = "",
) -> None:
    """Refuse intervals of another assembly than the genome's, or than a chain starts from.

    Args:
        intervals: Where they say.
        genome: Where they are looked for.
        chain: From their assembly to the genome's, where these differ.
        remedy: What else can be done about one that ends after its contig.

    Raises:
        ContigError, AssemblyError: An unknown contig.
        OutOfBoundsError: An interval ends after its contig.
    """
    for interval in intervals:
        contig = chain.resolve(interval.contig) if chain else genome.resolve(interval.contig)
        if contig is None:  # without a place, which is no sign of another assembly
            continue
        length = chain.source_lengths[contig] if chain else genome.length(contig)
        if interval.ends_beyond(length):
            # sorted, so that the largest end of each contig comes last
            ends = dict(sorted((each.contig, each.end) for each in intervals))
            where, what = (f"{interval.source}: ", "BED") if interval.source else ("", "region")
            raise OutOfBoundsError(
                f"{where}{interval} ends after {contig} ({length:,} bp); "
                f"{beyond(ends, genome, f'the {what}')}{remedy}"
            )


def warn_of_training(provenance: Mapping[str, object], genome: Genome) -> None:
    """Say when a model learnt from another assembly than the genome; what it scores is sequence."""
    learnt = provenance.get("assembly")
    if learnt is not None and genome.assembly not in (None, learnt):
        logger.warning(
            "%s is %s, the model learnt from %s: scores depend on sequence alone and are valid, "
            "coordinates are those of %s",
            genome.path,
            genome.assembly,
            learnt,
            genome.assembly,
        )


def beyond(ends: Mapping[str, int], genome: Genome, what: str = "the input") -> str:
    """Ask of which assembly the largest ends on contigs are (0-based, half-open), if of another.

    `what` holds the positions: `the BED`.
    """
    if genome.assembly is None:
        return f"is {what} from another assembly?"
    others = [name for name in assemblies.fitting(ends) if name != genome.assembly]
    named = " or ".join(others) or "another assembly"
    return f"is {what} from {named}? the FASTA is {genome.assembly}"


def _naming(line: str) -> str | None:
    return line if line.startswith("##reference=") else _facts(line).get("assembly")


def _difference(one: Mapping[str, int], first: str | None, other: Mapping[str, int]) -> str | None:
    """Say how contigs of the assembly `first` differ from others; None where they do not."""
    second = assemblies.recognise(other)
    shared = list(_shared(one, other))
    if first is not None and second is not None:
        if first == second:
            return None
    elif not shared or any(length == theirs for _, length, theirs in shared):
        return None
    names = f"it is {first}, the other {second}" if first and second else ""
    lengths = next(
        (
            f"contig {name} has {length:,} bp, there {other_length:,} bp"
            for name, length, other_length in shared
            if length != other_length
        ),
        "",
    )
    return f"{names} ({lengths})" if names and lengths else names or lengths


def _shared(one: Mapping[str, int], other: Mapping[str, int]) -> Iterable[tuple[str, int, int]]:
    """Yield name and both lengths of each contig that both have; the mitochondrion is apart."""
    names = assemblies.names_in(other)
    for name, length in one.items():
        known = assemblies.chromosome(name)
        if known is not None and known[0] == assemblies.MITOCHONDRION:
            continue
        found = name if name in other else names.get(known[0]) if known else None
        if found is not None:
            yield name, length, other[found]


def _absent(
    source: str, contigs: Mapping[str, int], theirs: Mapping[str, int], whose: str
) -> frozenset[str]:
    """Return the names of the mitochondrion, when both sides have one and it is not the same."""
    mine, other = assemblies.mitochondrion_of(contigs), assemblies.mitochondrion_of(theirs)
    if mine is None or other is None or mine == other:
        return frozenset()
    logger.warning(
        "the mitochondrial contig of %s is %s (%s bp), that of %s is %s (%s bp): hg19 and GRCh37 "
        "differ in it; its variants are not scored and get the status NO_CONTIG",
        source,
        assemblies.MITOCHONDRIA[mine],
        f"{mine:,}",
        whose,
        assemblies.MITOCHONDRIA[other],
        f"{other:,}",
    )
    return assemblies.MITOCHONDRION_NAMES


def _require_alleles(
    locator: Locator, source: str, records: Iterable[Sequence[Variant]], remedy: str, strict: bool
) -> None:
    """Refuse variants of which too many have neither REF nor ALT in common with the genome.

    Alleles that are only swapped do not count, so a file with the effect allele first passes.
    """
    compared = strange = 0
    for variants in records:
        loci = [locator.find(variant) for variant in variants]
        if any(locus.status is Status.OK for locus in loci):
            compared += 1
        elif any(locus.status is Status.REF_MISMATCH for locus in loci):
            compared += 1
            strange += not any(locator.is_swapped(locus) for locus in loci)
    if compared >= _FEWEST and strange > _SUSPICIOUS * compared:
        lifted = "" if locator.chain is None else ", where they were lifted to"
        _object(
            f"{source} seems to be of another assembly than {locator.genome.path}: {strange:,} of "
            f"its first {compared:,} records have neither REF nor ALT of the genome{lifted}; "
            f"{remedy}",
            strict,
        )


def _object(message: str, strict: bool) -> None:
    if strict:
        raise AssemblyError(f"{message} ({_INSIST})")
    logger.warning("%s", message)
