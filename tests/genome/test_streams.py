from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from genobird.errors import BedError, VcfError
from genobird.genome import streams
from genobird.genome.vcf import VcfReader

HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


@pytest.mark.parametrize("cuts", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("text", ["", "a", "a\n", "\n\na\r\n\nbc", "\ufeffa\nb", "é\xa0\u2028x\n"])
def test_lines_do_not_depend_on_how_the_bytes_come(text: str, cuts: int) -> None:
    data = text.encode()
    pieces = [data[at : at + cuts] for at in range(0, len(data), cuts)]
    expected = text.removeprefix("\ufeff").split("\n")
    assert list(streams.split_lines(pieces)) == (expected if expected[-1] else expected[:-1])


def test_a_line_is_as_long_as_the_limit_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MOST_LINE", 1 << 20)

    def pieces(rest: int) -> Iterator[bytes]:
        yield b"first\n"
        yield from [b"a" * 1024] * 1024
        yield b"a" * rest + b"\nlast"

    assert [len(line) for line in streams.split_lines(pieces(0))] == [5, 1 << 20, 4]
    endless = (b"a" * 1024 for _ in range(1025))
    with pytest.raises(BedError, match=r"^x\.bed, line 1 has more than 1 MiB, the most that is"):
        list(streams.split_lines(endless, "x.bed", BedError))


@pytest.mark.parametrize("cuts", [1, 4, 100])
def test_a_nul_byte_is_damage_and_other_control_characters_are_text(cuts: int) -> None:
    # htslib ends a line there: bcftools writes such a record without its ALT, and says nothing.
    data = b"a\nb\x07\x1b\x7f\nc\0d\r\ne"
    lines = streams.split_lines(
        [data[at : at + cuts] for at in range(0, len(data), cuts)], "x.vcf", VcfError
    )
    assert [next(lines), next(lines)] == ["a", "b\x07\x1b\x7f"]
    message = r"^x\.vcf, line 3 holds a NUL byte; the file is damaged: make or copy it again$"
    with pytest.raises(VcfError, match=message):
        next(lines)


def test_a_nul_byte_in_the_first_line_of_a_text_is_damage_too() -> None:
    with pytest.raises(BedError, match="line 1 holds a NUL byte; the file is damaged"):
        next(streams.split_lines([b"1\t0\t9\ta\0b\n"], "x.bed", BedError))


def test_memory_does_not_follow_what_a_small_file_unpacks_to(tmp_path: Path) -> None:
    path = tmp_path / "bomb.vcf.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(HEADER.encode() + b"chr1\t1\t.\tA\tC\t.\t.\tX=")
        for _ in range(200):
            file.write(b"N" * (1 << 20))
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(VcfError, match="line 3 has more than 64 MiB"):
            next(VcfReader(path))
        assert tracemalloc.get_traced_memory()[1] < 80 << 20
    finally:
        tracemalloc.stop()


def test_what_is_unpacked_in_pieces_is_whole(tmp_path: Path) -> None:
    """Members of many sizes, some of which fill the last piece to its end."""
    sizes = [0, 1, streams._MOST_UNPACKED - 1, streams._MOST_UNPACKED, 5 * streams._MOST_UNPACKED]
    path = tmp_path / "x.gz"
    path.write_bytes(b"".join(gzip.compress(b"N" * size, 1) for size in sizes))
    assert b"".join(streams.chunks(path, VcfError)) == b"N" * sum(sizes)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VcfError, match="is cut short"):
        list(streams.chunks(path, VcfError))
