"""What is added to a VCF file: INFO keys with their values, and header lines."""

from __future__ import annotations

import logging
import math
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from genobird import __version__
from genobird.errors import AssemblyError, ContigError
from genobird.genome import assemblies
from genobird.genome.fasta import Genome
from genobird.genome.position import whole

logger = logging.getLogger(__name__)

Value = float | int | str | None
Values = Mapping[str, Sequence[Value]]
"""For each INFO key one value per ALT (`Number=A`), or any number of them (`Number=.`)."""

_ESCAPED = {ord(character): f"%{ord(character):02X}" for character in "%:;=, \r\n\t"}
_INFO_ID = re.compile(r"[A-Za-z_][0-9A-Za-z_.]*")
_CONTIG_LENGTH = re.compile(r"[<,]length=([0-9]+)")
_OWN = re.compile(r"##genobird\w*=")
_OWN_INFO = re.compile(r'##INFO=<ID=([^,>]+),.*,Source="genobird"[,>]')
_CONTIG_ID = re.compile(r'##contig=<(?:[^"]*,)?ID=([^,>]+)')


@dataclass(frozen=True, slots=True)
class InfoField:
    """An INFO key to add.

    Raises:
        ValueError: The id, the number or the type is not one of VCF.
    """

    id: str
    description: str
    type: str = "Float"
    number: str = "A"
    """`A` for one value per ALT, `.` for any number."""

    def __post_init__(self) -> None:
        if not _INFO_ID.fullmatch(self.id):
            raise ValueError(f"{self.id!r} is no INFO id; allowed are letters, digits, _ and .")
        if self.type not in ("Float", "Integer", "String") or self.number not in ("A", "."):
            raise ValueError(
                f"INFO {self.id}: {self.type} with Number={self.number} is not written"
            )

    @property
    def header_line(self) -> str:
        """The `##INFO` line."""
        text = self.description.replace("\\", "\\\\").replace('"', '\\"')
        return (
            f"##INFO=<ID={self.id},Number={self.number},Type={self.type},"
            f'Description="{text}",Source="genobird",Version="{__version__}">'
        )

    def text(self, value: Value) -> str:
        """Write one value; a missing one and one that is no finite number is `.`."""
        if value is None or value == "":
            return "."
        if self.type == "String":
            return encode_info(str(value))
        if not math.isfinite(float(value)):
            return "."
        return str(int(value)) if self.type == "Integer" else f"{float(value):.6g}"


def extend_header(
    header: Sequence[str],
    info: Sequence[InfoField],
    meta: Mapping[str, str],
    genome: Genome | None = None,
    example: str | None = None,
) -> list[str]:
    """Return header lines with ours added before `#CHROM`, in place of all older ones of ours.

    Args:
        header: Lines of the input, `#CHROM` last.
        info: INFO keys to declare.
        meta: Further lines, `##key=value`; line breaks in a value become spaces.
        genome: Its contigs that have no `##contig` line get one.
        example: A contig name from the records, whose style (`20` or `chr20`) the new lines take.
    """
    stale = {*own_keys(header), *(field.id for field in info)}
    kept = [
        line
        for line in header[:-1]
        if not _OWN.match(line) and line.removeprefix("##INFO=<ID=").partition(",")[0] not in stale
    ]
    ending = "\r" if header[-1].endswith("\r") else ""
    added = [] if genome is None else _contig_lines(kept, genome, example)
    added += [field.header_line for field in info]
    added += [f"##{key}={' '.join(value.splitlines())}" for key, value in meta.items()]
    return [*kept, *(line + ending for line in added), header[-1]]


def own_keys(header: Sequence[str]) -> frozenset[str]:
    """Return the INFO keys that a header says genobird added."""
    return frozenset(match[1] for line in header if (match := _OWN_INFO.match(line)))


def _contig_lines(header: Sequence[str], genome: Genome, example: str | None) -> list[str]:
    lengths = genome.contigs
    covered = set()
    for line in header:
        match = _CONTIG_ID.match(line)
        if match is None:
            continue
        try:
            name = genome.resolve(match[1])
        except (AssemblyError, ContigError):
            continue
        covered.add(name)
        found = _CONTIG_LENGTH.search(line)
        length = whole(found[1]) if found else None
        if length is not None and length != lengths[name]:
            logger.warning(
                "contig %s has %d bp in the VCF header but %d bp in %s; is it another assembly?",
                *(match[1], length, lengths[name], genome.path),
            )
    return [
        f"##contig=<ID={_in_style(name, example)},length={length}>"
        for name, length in lengths.items()
        if name not in covered
    ]


def _in_style(name: str, example: str | None) -> str:
    """Spell a chromosome as the example does, with or without `chr`."""
    known = assemblies.chromosome(name)
    style = assemblies.chromosome(example or "")
    if known is None or style is None or example is None or style[1] is not None:
        return name
    prefix = "".join(takewhile(str.isalpha, example)) if example.lower().startswith("chr") else ""
    prefix = prefix[:3]
    if known[0] == assemblies.MITOCHONDRION and prefix:
        return f"{prefix}M"
    return f"{prefix}{known[0]}"


def encode_info(text: str) -> str:
    """Percent-encode a string for INFO, as VCF 4.3 says (and spaces, which older versions lack)."""
    return text.translate(_ESCAPED)


def decode_info(text: str) -> str:
    """Undo `encode_info`."""
    return urllib.parse.unquote(text)
