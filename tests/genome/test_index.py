from __future__ import annotations

import errno
import logging
import os
import pickle
from pathlib import Path

import pysam
import pytest

from genobird.errors import FastaError, OutputError
from genobird.genome import index
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from tests.genome.packing import pack


def test_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.fa"
    path.write_bytes(b">a\r\nACGT\r\nAC\r\n>b\r\nGG\r\n")
    genome = Genome(path)
    assert dict(genome.stream()) == {"a": "ACGTAC", "b": "GG"}
    assert genome.fetch(Interval("a", 2, 6)) == "GTAC"


def test_a_full_temporary_folder_is_no_damaged_genome(
    tiny_genome_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    genome = Genome(tiny_genome_path)
    assert genome.length("chr1") == 60_000
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left on device; make room there, or name"):
        genome.fetch(Interval("chr1", 0, 4))


@pytest.mark.parametrize("keep", [0.3, 0.7, -1, -20, -28])
@pytest.mark.parametrize("kind", ["gzip", "bgzf"])
@pytest.mark.parametrize("with_index", [False, True])
def test_a_truncated_file_is_one_clear_error(
    kind: str,
    keep: float,
    with_index: bool,
    tiny_genome_path: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = pack(tiny_genome_path.read_bytes(), tmp_path / "x.fa.gz", kind)
    if with_index and kind == "bgzf":
        pysam.faidx(str(path))
    packed = path.read_bytes()
    path.write_bytes(packed[: int(len(packed) * keep)] if keep > 0 else packed[: int(keep)])
    for file in tmp_path.glob("x.fa.gz.*"):
        os.utime(file, ns=(path.stat().st_mtime_ns + 10**9,) * 2)
    with pytest.raises(FastaError, match="is cut short"):
        list(Genome(path).stream())
    with pytest.raises(FastaError, match="is cut short"):
        Genome(path).fetch(Interval("chr1", 0, 10))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["gzip", "bgzf"])
def test_flipped_bytes_are_one_clear_error(
    kind: str, tiny_genome_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = pack(tiny_genome_path.read_bytes(), tmp_path / "x.fa.gz", kind)
    packed = bytearray(path.read_bytes())
    packed[len(packed) // 2] ^= 0xFF
    path.write_bytes(packed)
    whole = Interval("chr1", 0, 60_000)
    for read in (lambda: list(Genome(path).stream()), lambda: Genome(path).fetch(whole)):
        with pytest.raises(FastaError, match=r"damaged|no DNA|cut short|cannot be indexed"):
            read()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["plain", "bgzf"])
@pytest.mark.parametrize("text", [b">a\nACGT\nACGTA\nAC\n", b">a\nACGT\nAC\nACGT\n"])
def test_lines_of_unequal_length_stream_but_cannot_be_indexed(
    text: bytes, kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    genome = Genome(pack(text, tmp_path / "x.fa", kind))
    assert [len(bases) for _, bases in genome.stream()] == [len(text) - 6]
    with pytest.raises(FastaError, match=r"line [34]: lines of a have unequal lengths.*seqkit"):
        genome.fetch(Interval("a", 0, 2))
    assert capfd.readouterr().err == ""
    assert [file.name for file in tmp_path.iterdir()] == ["x.fa"]


def test_a_last_contig_without_bases_cannot_be_indexed(tmp_path: Path) -> None:
    path = pack(b">a\nACGT\n>b\n", tmp_path / "x.fa", "plain")
    with pytest.raises(FastaError, match="the last contig, b, has no bases"):
        Genome(path).fetch(Interval("a", 0, 2))


@pytest.mark.parametrize("kind", ["plain", "bgzf"])
def test_an_index_is_made_beside_the_file_and_used_again(
    kind: str, tiny_genome_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(tiny_genome_path.read_bytes(), tmp_path / "x.fa", kind)
    first = Genome(path).fetch(Interval("chr2", 7, 99))
    made = {"x.fa", "x.fa.fai"} | ({"x.fa.gzi"} if kind == "bgzf" else set())
    assert {file.name for file in tmp_path.iterdir()} == made
    monkeypatch.setattr(pysam, "faidx", None)
    assert Genome(path).fetch(Interval("chr2", 7, 99)) == first


@pytest.mark.parametrize("kind", ["plain", "bgzf"])
@pytest.mark.parametrize("older", [True, False])
def test_a_stale_index_is_built_again(
    kind: str, older: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = pack(b">a\nACGT\nACGT\n>b\nGGGG\n", tmp_path / "x.fa", kind)
    assert Genome(path).fetch(Interval("b", 0, 4)) == "GGGG"
    pack(b">a\nACGT\nACGT\nTT\n>b\nCCCC\n", path, kind)
    shift = -(10**9) if older else 10**9
    for file in tmp_path.glob("x.fa.*"):
        os.utime(file, ns=(path.stat().st_mtime_ns + shift,) * 2)
    with caplog.at_level(logging.WARNING):
        genome = Genome(path)
        assert genome.fetch(Interval("b", 0, 4)) == "CCCC"
        assert genome.contigs == {"a": 10, "b": 4}
    assert "does not fit" in caplog.text


@pytest.mark.parametrize("kind", ["plain", "bgzf"])
def test_an_old_index_that_fits_is_used(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = pack(b">a\nACGT\nACGT\n>b\nGGGG\n", tmp_path / "x.fa", kind)
    assert Genome(path).contigs == {"a": 8, "b": 4}
    for file in tmp_path.glob("x.fa.*"):  # as after copying the FASTA
        os.utime(file, ns=(path.stat().st_mtime_ns - 10**12,) * 2)
    monkeypatch.setattr(pysam, "faidx", None)
    assert Genome(path).fetch(Interval("b", 0, 4)) == "GGGG"
    assert not caplog.records


@pytest.mark.parametrize("spoil", [b"", b"a\tb\n", b"a\t4\n", b"a\t4\t3\t4\t5\n", b"\xff\xfe\n"])
def test_a_damaged_index_is_built_again(spoil: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.fa"
    path.write_bytes(b">a\nACGT\n>b\nGGGG\n")
    Path(f"{path}.fai").write_bytes(spoil)
    assert Genome(path).contigs == {"a": 4, "b": 4}


@pytest.mark.parametrize("kind", ["plain", "bgzf"])
def test_a_folder_that_cannot_be_written_needs_no_index(
    kind: str,
    tiny_genome_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_contigs: dict[str, str],
) -> None:
    path = pack(tiny_genome_path.read_bytes(), tmp_path / "x.fa", kind)
    make = index.tempfile.TemporaryDirectory

    def refuse(*args: object, dir: Path | None = None, **kwargs: object) -> object:
        # Permissions do not hold back the superuser, who may be running this test.
        if dir == tmp_path:
            raise PermissionError(13, "Permission denied")
        return make(*args, **kwargs)

    monkeypatch.setattr(index.tempfile, "TemporaryDirectory", refuse)
    genome = pickle.loads(pickle.dumps(Genome(path)))
    assert genome.fetch(Interval("chr2", 0, 100)) == tiny_contigs["chr2"][:100]
    assert [file.name for file in tmp_path.iterdir()] == ["x.fa"]
