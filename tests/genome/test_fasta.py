from __future__ import annotations

import logging
import multiprocessing
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyfaidx
import pysam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genobird.errors import (
    AssemblyError,
    ContigError,
    FastaError,
    GenobirdError,
    OutOfBoundsError,
    UsageError,
)
from genobird.genome import fasta, index
from genobird.genome.assemblies import CHROMOSOMES
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.genome.sequence import normalise
from tests.conftest import random_dna
from tests.genome.packing import KINDS, pack

TEXT = b">one first contig\nacgtRn\r\nACG\n>two\nNNNNNN\nTTTTTT\nG\n\n>empty\n>last\nAC"
CONTIGS = {"one": "ACGTNNACG", "two": "NNNNNNTTTTTTG", "last": "AC"}


@pytest.fixture(params=KINDS)
def tiny(
    request: pytest.FixtureRequest, tiny_genome_path: Path, tmp_path: Path
) -> Iterator[Genome]:
    path = pack(tiny_genome_path.read_bytes(), tmp_path / "tiny.fa", request.param)
    with Genome(path) as genome:
        yield genome


@pytest.fixture
def plain(tiny_genome_path: Path, tmp_path: Path) -> Genome:
    return Genome(shutil.copy(tiny_genome_path, tmp_path / "plain.fa"))


def test_every_kind_of_file_gives_the_same_text(tiny: Genome, tiny_contigs: dict[str, str]) -> None:
    assert dict(tiny.stream()) == tiny_contigs
    assert list(tiny.contigs) == list(tiny_contigs)
    for name, sequence in tiny_contigs.items():
        assert tiny.contigs[name] == len(sequence)
        assert tiny.fetch(Interval(name, 0, len(sequence))) == sequence


@pytest.mark.parametrize("kind", KINDS)
def test_case_ambiguity_codes_blank_lines_and_contigs_without_bases(
    kind: str, tmp_path: Path
) -> None:
    text = TEXT.replace(b"\r\n", b"\n")
    genome = Genome(pack(text, tmp_path / "x.fa", kind))
    assert dict(genome.stream()) == CONTIGS
    assert genome.contigs == {name: len(bases) for name, bases in CONTIGS.items()}
    assert genome.fetch(Interval("one", 3, 8)) == "TNNAC"
    every = dict(genome.stream(empty=True))
    assert {name: bases for name, bases in every.items() if bases} == CONTIGS
    assert len(every) > len(CONTIGS)


@settings(max_examples=40)
@given(
    st.lists(st.text("ACGTNacgtnRYk", max_size=200), min_size=1, max_size=5).filter(
        lambda sequences: sequences[-1] != ""
    ),
    st.integers(1, 70),
    st.sampled_from(KINDS),
    st.integers(1, 40),
    st.randoms(use_true_random=False),
)
def test_any_window_is_a_slice_of_the_contig(
    tmp_path_factory: pytest.TempPathFactory,
    sequences: list[str],
    width: int,
    kind: str,
    chunk: int,
    draw: random.Random,
) -> None:
    lines = []
    for number, sequence in enumerate(sequences):
        lines.append(f">c{number} text > here")
        lines += [sequence[at : at + width] for at in range(0, len(sequence), width)]
    path = pack("\n".join(lines).encode(), tmp_path_factory.mktemp("g") / "x.fa", kind)
    genome = Genome(path)
    every = {f"c{number}": normalise(text) for number, text in enumerate(sequences)}
    expected = {name: bases for name, bases in every.items() if bases}
    assert dict(genome.stream()) == expected
    text = "\n".join(lines).encode()
    pieces = [text[at : at + chunk] for at in range(0, len(text), chunk)]
    assert {name: bases.decode() for name, bases in fasta._contigs(pieces, path)} == every
    for name, sequence in expected.items():
        start = draw.randint(0, len(sequence))
        end = draw.randint(start, len(sequence))
        assert genome.fetch(Interval(name, start, end)) == sequence[start:end]
        clipped, true_start = genome.fetch_clipped(name, start - 500, end + 500)
        assert clipped == sequence[true_start : true_start + len(clipped)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["x.fa", "x.fa.gz", "x.bgz", "x"])
def test_windows_are_slices_in_any_order_under_any_name(
    kind: str,
    name: str,
    tiny_genome_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_contigs: dict[str, str],
) -> None:
    monkeypatch.setattr(fasta, "_PIECE", 5000)
    monkeypatch.setattr(index, "_READ_AHEAD", 3000)
    genome = Genome(pack(tiny_genome_path.read_bytes(), tmp_path / name, kind))
    draw = random.Random(7)
    for _ in range(300):
        start = draw.randrange(59_000)
        end = min(60_000, start + draw.randrange(12_000))
        assert genome.fetch(Interval("chr1", start, end)) == tiny_contigs["chr1"][start:end]


def test_joined_bgzf_files_are_read(tmp_path: Path) -> None:
    parts = [
        pack(text, tmp_path / "x", "bgzf").read_bytes() for text in (b">a\nAC\nGT\n", b"CC\nA")
    ]
    path = tmp_path / "joined.fa.gz"
    path.write_bytes(b"".join(parts))
    assert Genome(path).fetch(Interval("a", 1, 7)) == "CGTCCA"


def test_contigs_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "x.fa"
    wide = ["x\u2028y", "x\u2028z", "n\xa0a", "n\x85b", "c\x1cd"]  # no white space in a FASTA file
    rest = "".join(f">{name}\ttext\nTA\n" for name in wide).encode()
    path.write_bytes(b">\xff|:1-2 text\nAC\n>1\nGT\n>0\nCC\n" + rest)
    genome = Genome(path)
    assert list(genome.contigs) == ["\udcff|:1-2", "1", "0", *wide]
    assert [name for name, _ in genome.stream()] == list(genome.contigs)
    bases = [genome.fetch(Interval(name, 0, 2)) for name in genome.contigs]
    assert bases == ["AC", "GT", "CC"] + 5 * ["TA"]


@pytest.mark.parametrize("kind", ["plain", "bgzf"])
@pytest.mark.parametrize("library", [pysam.FastaFile, pyfaidx.Fasta])
def test_the_open_file_of_another_library_is_a_genome(
    library: Callable[[str], Any],
    kind: str,
    tiny_genome_path: Path,
    tmp_path: Path,
    tiny_contigs: dict[str, str],
) -> None:
    path = pack(tiny_genome_path.read_bytes(), tmp_path / "x.fa.gz", kind)
    if kind == "plain":
        path = path.rename(tmp_path / "x.fa")
    with library(str(path)) as opened:
        genome = Genome(opened)
        assert genome.fetch(Interval("2", 5, 9)) == tiny_contigs["chr2"][5:9]


def test_fetch_clipped_stops_at_the_contig_ends(tiny: Genome, tiny_contigs: dict[str, str]) -> None:
    assert tiny.fetch_clipped("chr2", -50, 10) == (tiny_contigs["chr2"][:10], 0)
    assert tiny.fetch_clipped("2", 29_990, 40_000) == (tiny_contigs["chr2"][-10:], 29_990)
    assert tiny.fetch_clipped("chr2", 40_000, 50_000) == ("", 30_000)
    assert tiny.fetch_clipped("chr2", -9, -1) == ("", 0)


def test_an_interval_past_the_end_names_the_contig_and_asks_for_the_assembly(tiny: Genome) -> None:
    with pytest.raises(
        OutOfBoundsError,
        match=r"chr1:59,901-60,100 ends after chr1 \(60,000 bp\); is the interval from another",
    ):
        tiny.fetch(Interval("chr1", 59_900, 60_100))


def test_an_unknown_contig_is_named_with_known_ones(plain: Genome) -> None:
    with pytest.raises(ContigError, match=r"contig 'chr9' is not in .*has chr1, chr2, chrN"):
        plain.fetch(Interval("chr9", 0, 1))


def test_a_name_of_any_length_is_one_short_message(plain: Genome) -> None:
    with pytest.raises(ContigError, match="is not in") as found:
        plain.fetch(Interval("c" * 140_000, 0, 1))
    assert len(str(found.value)) < 1_000


@pytest.mark.parametrize("style", ["{}", "chr{}", "accession"])
def test_every_chromosome_answers_to_all_its_names(style: str, tmp_path: Path) -> None:
    versions = [
        10,
        11,
        11,
        11,
        9,
        11,
        13,
        10,
        11,
        10,
        9,
        11,
        10,
        8,
        9,
        9,
        10,
        9,
        9,
        10,
        8,
        10,
        10,
        9,
    ]
    accessions = [f"NC_{number:06d}.{version}" for number, version in enumerate(versions, 1)]
    accessions.append("NC_012920.1")
    if style == "accession":
        names = accessions
    else:
        names = [style.format(name if name != "MT" else "M") for name in CHROMOSOMES]
    path = tmp_path / "x.fa"
    path.write_text("".join(f">{name}\nACGT\n" for name in names))
    genome = Genome(path)
    for name, plain_name, accession in zip(names, CHROMOSOMES, accessions, strict=True):
        for alias in (plain_name, f"chr{plain_name}", accession):
            assert genome.resolve(alias) == name
    assert genome.resolve("chrM") == genome.resolve("M") == genome.resolve("MT") == names[-1]


def test_a_contig_is_found_under_its_names_or_not_at_all_however_many_are_asked_for(
    plain: Genome,
) -> None:
    for number in range(1_500):  # more than are kept
        assert plain.find(f"chrUn_{number}") is None
        assert plain.find("1") == "chr1"
    assert plain.find("NC_000001.11") is None  # of another assembly


def test_an_accession_of_another_assembly_is_refused(plain: Genome) -> None:
    assert plain.resolve("NC_000001.10") == "chr1"
    with pytest.raises(AssemblyError, match=r"NC_000001\.11 belongs to GRCh38, but .* is GRCh37"):
        plain.resolve("NC_000001.11")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"hello\nworld\n", "is no FASTA: it starts with 'hello"),
        (b"@read\nACGT\n+\nIIII\n", "looks like FASTQ"),
        (b">p1\nMKVLAAGEE\n", "letter 'L' at p1:4 is no DNA.* protein"),
        (b">a\nACGU\n", "letter 'U' at a:4"),
        (b">a\nAC>T\n", "letter '>' at a:3"),
        (b">\nACGT\n", "a header line has no name"),
        (b">a\n>b\n", "holds names but no bases"),
        (b">a\rACGT\r", "no bases; its lines end as on an old Mac"),
        (b"> a\nACGT\n", "a header line has no name"),
        (b">a\nACGT\n>", "a header line has no name"),
        (b">a\nACGT\n>b\nAC\n>a\nGG\n", "contig a appears twice"),
        (b"\x00\x01\x02\x03", "is no FASTA"),
        (b"BZh91AY&SY", "is no FASTA: it starts with .*; it is packed: unpack it, or use bgzip"),
        (b"##fileformat=VCFv4.2\n", "is no FASTA: it starts with .*; it is a VCF"),
    ],
)
def test_what_is_no_fasta_of_dna_is_refused_on_opening(
    text: bytes, reason: str, kind: str, tmp_path: Path
) -> None:
    path = pack(text, tmp_path / "x.fa", kind)
    with pytest.raises(FastaError, match=reason) as caught:
        Genome(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_a_misuse(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.fa does not exist"):
        Genome(tmp_path / "none.fa")
    with pytest.raises(UsageError, match="is a folder"):
        Genome(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_late_protein_is_seen_when_it_is_read(kind: str, tmp_path: Path) -> None:
    text = f">a\n{random_dna(500_000, seed=5) * 10}\n>b\nEEEE\n".encode()
    genome = Genome(pack(text, tmp_path / "x.fa", kind))
    with pytest.raises(FastaError, match="letter 'E' at b:1 "):
        list(genome.stream())
    with pytest.raises(FastaError, match="letter 'E' at"):
        genome.fetch(Interval("b", 0, 4))


def test_plain_gzip_warns_that_it_fills_memory(
    tiny_genome_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    genome = Genome(pack(tiny_genome_path.read_bytes(), tmp_path / "x.fa.gz", "gzip"))
    with caplog.at_level(logging.WARNING):
        dict(genome.stream())
        assert caplog.text == ""
        genome.fetch(Interval("chr1", 0, 5))
        genome.fetch(Interval("chr1", 0, 5))
    assert caplog.text.count("bgzip") == 1


def test_the_hash_depends_on_names_and_bases_only(tmp_path: Path) -> None:
    texts = {
        "wrapped": b">a x\nAC\nGT\n>b\nGG\n",
        "lower": b">a\nacgt\n>b\ngg",
        "renamed": b">a\nACGT\n>c\nGG\n",
        "moved": b">a\nACG\n>b\nTGG\n",
    }
    hashes = {
        (name, kind): Genome(pack(text, tmp_path / f"{name}.{kind}", kind)).sha256()
        for name, text in texts.items()
        for kind in KINDS
    }
    assert len({hashes[name, kind] for name in ("wrapped", "lower") for kind in KINDS}) == 1
    assert len(set(hashes.values())) == 3


def _fetch(genome: Genome, start: int) -> str:
    return genome.fetch(Interval("chr1", start, start + 500))


def test_a_genome_may_be_pickled_closed_and_shared(
    tiny: Genome, tiny_contigs: dict[str, str]
) -> None:
    starts = range(0, 59_000, 250)
    expected = [tiny_contigs["chr1"][start : start + 500] for start in starts]
    assert _fetch(tiny, 0) == expected[0]
    copy = pickle.loads(pickle.dumps(tiny))
    assert [_fetch(copy, start) for start in starts] == expected
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(_fetch, [tiny] * len(starts), starts)) == expected
    tiny.close()
    assert _fetch(tiny, 250) == expected[1]


def test_a_forked_process_opens_the_file_for_itself(
    plain: Genome, tiny_contigs: dict[str, str]
) -> None:
    _fetch(plain, 0)
    jobs = [(plain, start) for start in range(0, 59_000, 500)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.starmap(_fetch, jobs)
    assert found == [tiny_contigs["chr1"][start : start + 500] for _, start in jobs]


@given(st.binary(max_size=300))
@settings(max_examples=100)
def test_any_bytes_give_contigs_or_a_genobird_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("noise") / "x.fa"
    path.write_bytes(content)
    with suppress(GenobirdError):
        genome = Genome(path)
        assert {name: len(bases) for name, bases in genome.stream()} == genome.contigs


@pytest.mark.realdata
def test_the_real_chromosome_has_its_published_length_and_bases(shared_data: Path) -> None:
    with Genome(shared_data / "genome" / "chr20.fa.gz") as genome:
        assert genome.contigs == {"chr20": 63_025_520}
        assert genome.assembly == "GRCh37"
        [(name, bases)] = genome.stream()
        assert name == "chr20"
        for start in range(60_000, 57_000_000, 1_234_567):
            assert (
                genome.fetch(Interval("NC_000020.10", start, start + 16_000))
                == (bases[start : start + 16_000])
            )
        with pytest.raises(AssemblyError, match="GRCh38"):
            genome.resolve("NC_000020.11")
