"""What is added to a VCF, INFO keys and header lines, and the writer that adds it.

A copy of a VCF is complete under its name or not there at all.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count, takewhile
from pathlib import Path
from typing import Any, Final

import pysam
import pysam.bcftools

from genobird import __version__
from genobird.errors import OutputError, VcfError, counted
from genobird.files import STDOUT, VCFS, Draft, check_output, writing
from genobird.genome import assemblies, streams
from genobird.genome.fasta import Genome
from genobird.genome.index import quiet_htslib
from genobird.genome.streams import whole
from genobird.genome.vcf import Record, VcfReader

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

# A .tbi index ends at 512 Mbp; longer contigs need a .csi.
_TBI_END = 1 << 29
_PIECE = 1 << 20
# Characters that are gathered before they are written.
_HELD = 1 << 13
_END = ("ID=END,Number=1,Type=String", "ID=END,Number=1,Type=Integer")


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
        if (name := genome.find(match[1])) is None:
            continue
        covered.add(name)
        found = _CONTIG_LENGTH.search(line)
        length = whole(found[1]) if found else None
        if length is not None and length != lengths[name]:
            logger.warning(
                "contig %s has %d bp in the VCF header but %d bp in %s; is it another assembly?",
                match[1],
                length,
                lengths[name],
                genome.path,
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


def annotated_copy(
    reader: VcfReader,
    output: Path | str,
    info: Sequence[InfoField],
    *,
    genome: Genome | None = None,
    meta: Mapping[str, str] | None = None,
    example: str | None = None,
    force: bool = False,
) -> VcfWriter:
    """Open a copy of a VCF whose records get INFO added; see `extend_header` and `VcfWriter`.

    INFO that an earlier run of genobird added is removed, in the header and in each record: what
    is found in the output is of this run.
    """
    header = extend_header(reader.header, info, meta or {}, genome, example)
    return VcfWriter(output, header, info, stale=own_keys(reader.header), force=force)


class VcfWriter:
    """Write records with INFO added, complete or not at all.

    Everything goes to a draft, which gets its name on closing; see `files.Draft`. `.vcf.gz` becomes
    BGZF with an index (`.tbi`, or `.csi` beyond 512 Mbp), `.bcf` becomes BCF with `.csi`,
    `-` is standard output. Records that are not sorted are written without index, with a warning.

    Args:
        path: Output ending in `.vcf`, `.vcf.gz`, `.vcf.bgz` or `.bcf`, or `-`.
        header: Header lines; see `extend_header`.
        info: The INFO keys that may be added; older values of theirs are removed.
        stale: Further INFO keys to remove from the records.
        force: Overwrite an existing file.

    Raises:
        UsageError: The output exists, its folder does not, or its ending is another.
        OutputError: It cannot be written.
        VcfError: On closing: htslib cannot write the records as BCF. They are left as
            `<path>.vcf.gz`, or `<path>.2.vcf.gz` and so on where there is such a file.
    """

    def __init__(
        self,
        path: Path | str,
        header: Iterable[str],
        info: Sequence[InfoField],
        *,
        stale: Collection[str] = (),
        force: bool = False,
    ) -> None:
        self.path: Final = Path(path)
        self._stdout = str(path) == STDOUT
        self._info = {field.id: field for field in info}
        self._removed = {*self._info, *stale}
        self._suspect = re.compile("|".join(map(re.escape, sorted(self._removed))))
        self._waiting: list[str] = []
        self._held = 0
        self._contigs: set[str] = set()
        self._last = ("", -1)
        self._longest = 0
        self._sorted = True
        self._packed = self.path.name.endswith((".gz", ".bgz", ".bcf"))
        check_output(path, VCFS, force, stdout=True)
        self._draft = None if self._stdout else Draft(self.path)
        self._file: Any = None
        try:
            self._file = self._open()
            self._write("".join(f"{line}\n" for line in header))
        except BaseException:
            self.discard()
            raise

    def __enter__(self) -> VcfWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def write(self, record: Record, values: Values) -> None:
        """Write a record with these INFO values added.

        Keys of `info` that have no values are left out. A key with `Number=A` needs one value per
        ALT; a record without ALT has none, or one that says why.

        Raises:
            ValueError: A key was not declared, or there is not one value per ALT.
            OutputError: The file cannot be written.
        """
        added = []
        for key, several in values.items():
            field = self._info.get(key)
            if field is None:
                raise ValueError(f"INFO {key} was not declared to the writer")
            allowed = (len(record.alts),) if record.alts else (0, 1)
            if field.number == "A" and len(several) not in allowed:
                raise ValueError(
                    f"INFO {key} of {record.contig}:{record.position + 1} has "
                    f"{counted(len(several), 'value')} for {counted(len(record.alts), 'ALT')}"
                )
            if several:
                added.append(f"{key}={','.join([field.text(value) for value in several])}")
        line = "\t".join(record.columns)
        self._write(f"{line}\t{self._joined(record.info, added)}{record.rest}\n")
        contig, position = self._last
        if record.contig != contig:
            self._sorted &= record.contig not in self._contigs
            self._contigs.add(record.contig)
        elif record.position < position:
            self._sorted = False
        self._last = record.contig, record.position
        self._longest = max(self._longest, record.position + len(record.ref))

    def close(self) -> None:
        """Complete the file, make its index and give it its name."""
        if self._file is None:
            return
        try:
            with writing(self.path):
                self._flush()
                if self._draft is None:
                    self._file.flush()
                    return
                with quiet_htslib():
                    self._file.close()
                self._file = None
                if self._packed and not streams.ends_whole(self._text):
                    raise OSError("the last block was not written")
                self._publish(self._draft)
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what was written so far; a finished file stays, and so does standard output."""
        if self._stdout and self._waiting:
            with suppress(OSError, OutputError):
                self._flush()
        file, self._file = self._file, None
        if self._draft is None:
            return
        with suppress(OSError), quiet_htslib():
            if file is not None:
                file.close()
        self._draft.discard()

    @property
    def _text(self) -> Path:
        """Where the records go; those of a BCF as BGZF, which bcftools packs anew."""
        assert self._draft is not None
        part = self._draft.part
        return part.with_name("text.gz") if part.suffix == ".bcf" else part

    def _open(self) -> Any:
        if self._stdout:
            return sys.stdout.buffer
        with writing(self.path), quiet_htslib():
            text = self._text
            return pysam.BGZFile(str(text), "wb") if self._packed else text.open("wb")

    def _write(self, text: str) -> None:
        self._waiting.append(text)
        self._held += len(text)
        if self._held >= _HELD:
            self._flush()

    def _flush(self) -> None:
        text = "".join(self._waiting)
        self._waiting, self._held = [], 0
        with writing(self.path), quiet_htslib():
            self._file.write(text.encode("utf-8", "surrogateescape"))

    def _joined(self, info: str, added: Sequence[str]) -> str:
        kept = info
        if self._suspect.search(info):  # most have no such key, and stay in one piece
            items = [
                item for item in info.split(";") if item.partition("=")[0] not in self._removed
            ]
            kept = ";".join(items)
        if not added:
            return kept or "."
        if kept in ("", "."):
            return ";".join(added)
        return kept + ("" if kept.endswith(";") else ";") + ";".join(added)

    def _publish(self, draft: Draft) -> None:
        if self.path.suffix == ".bcf":
            try:
                _to_bcf(self._text, draft.part)
            except VcfError as error:
                _require_space(draft.part.parent)
                endings = chain([".vcf.gz"], (f".{number}.vcf.gz" for number in count(2)))
                places = (Path(f"{self.path}{ending}") for ending in endings)
                kept = next(path for path in places if not os.path.lexists(path))
                with Draft(kept) as part:
                    os.replace(self._text, part)
                raise VcfError(f"{error}; as VCF they are in {kept}") from error
            self._text.unlink()
        if self._packed:
            self._make_index(draft.part)
        draft.publish(*(Path(f"{self.path}{ending}") for ending in (".tbi", ".csi")))

    def _make_index(self, finished: Path) -> None:
        if not self._sorted:
            logger.warning(
                "%s is not sorted by contig and position, so it has no index; "
                "sort it with `bcftools sort` to make one",
                self.path,
            )
            return
        preset = "bcf" if self.path.suffix == ".bcf" else "vcf"
        csi = preset == "bcf" or self._longest >= _TBI_END
        try:
            with quiet_htslib():
                pysam.tabix_index(str(finished), preset=preset, force=True, csi=csi)
        except (OSError, ValueError) as error:
            _require_space(finished.parent)
            logger.warning("%s has no index: htslib cannot make it (%s)", self.path, error)


def _require_space(folder: Path) -> None:
    """Raise the OSError of a full disk, which htslib does not tell from data it cannot write."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_PIECE))


def _to_bcf(text: Path, bcf: Path) -> None:
    """Pack a VCF as BCF with bcftools, which, unlike pysam's writer, leaves END as it is."""
    try:
        _view(text, bcf)
    except pysam.SamtoolsError:
        complete = bcf.with_suffix(".whole.gz")
        try:
            _declare_all(text, complete)
            _view(complete, bcf)
        except (OSError, ValueError, pysam.SamtoolsError) as error:
            raise VcfError(
                "htslib cannot write the records as BCF: a value that BCF cannot hold, or no space"
            ) from error
        finally:
            complete.unlink(missing_ok=True)


def _view(text: Path, bcf: Path) -> None:
    with quiet_htslib():
        pysam.bcftools.view(
            "--output-type",
            "b",
            "--no-version",
            "--output",
            str(bcf),
            str(text),
            catch_stdout=False,
        )


def _declare_all(text: Path, complete: Path) -> None:
    """Copy a VCF with a header line for each contig, filter and key that its records use.

    htslib adds one to its header whenever a record brings a name that is not declared, as String;
    only END must be the Integer that it is in the specification.
    """
    with quiet_htslib():
        with pysam.VariantFile(str(text)) as file:
            for _ in file:
                pass
            header = str(file.header).replace(*_END)
        with pysam.BGZFile(str(text), "rb") as source, pysam.BGZFile(str(complete), "wb") as target:
            target.write(header.encode("utf-8", "surrogateescape"))
            while not source.readline().startswith(b"#CHROM"):
                pass
            while piece := source.read(_PIECE):
                target.write(piece)
