from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genobird.errors import ChainError, UsageError
from genobird.genome.chain import ChainFile
from genobird.genome.interval import Interval
from genobird.genome.sequence import reverse_complement
from genobird.genome.variant import Variant
from tests.genome.packing import KINDS, pack

CHAIN = """# made by hand
chain 100 chr1 1000 + 100 310 chr9 2000 + 1100 1315 1
100\t10\t0
50\t0\t15
50

chain 90 chr1 1000 + 400 500 chr9 2000 - 400 500 2
100

chain 80 chr1 1000 + 450 550 chrAlt 500 + 0 100 3
100
"""


@pytest.fixture
def chain(tmp_path: Path) -> ChainFile:
    return ChainFile(pack(CHAIN.encode(), tmp_path / "a.over.chain", "plain"))


@pytest.mark.parametrize("kind", KINDS)
def test_any_packing_is_read(kind: str, tmp_path: Path) -> None:
    chain = ChainFile(pack(CHAIN.encode(), tmp_path / "a", kind))
    assert chain.source_lengths == {"chr1": 1000}
    assert chain.target_lengths == {"chr9": 2000, "chrAlt": 500}
    assert chain.places("chr1", 100, 101) == (Interval("chr9", 1100, 1101, "+"),)


@pytest.mark.parametrize(
    ("start", "end", "places"),
    [
        (100, 200, [Interval("chr9", 1100, 1200, "+")]),
        (99, 101, []),
        (199, 211, []),  # bases without a partner
        (210, 260, [Interval("chr9", 1200, 1250, "+")]),
        (259, 261, []),  # 15 bases of the other assembly in between
        (309, 310, [Interval("chr9", 1314, 1315, "+")]),
        (400, 402, [Interval("chr9", 1598, 1600, "-")]),
        (450, 451, [Interval("chr9", 1549, 1550, "-"), Interval("chrAlt", 0, 1, "+")]),
        (499, 501, [Interval("chrAlt", 49, 51, "+")]),
        (5, 5, []),
        (-1, 0, []),
        (990, 1100, []),
    ],
)
def test_a_stretch_lies_where_one_chain_pairs_all_of_it(
    chain: ChainFile, start: int, end: int, places: list[Interval]
) -> None:
    assert list(chain.places("1", start, end)) == places


def test_an_interval_may_lose_one_base_in_twenty(chain: ChainFile) -> None:
    assert chain.lift(Interval("chr1", 100, 310, "-", "a")) == Interval(
        "chr9", 1100, 1315, "-", "a"
    )
    assert chain.lift(Interval("chr1", 195, 215)) is None, "10 of 20 bases"
    assert chain.lift(Interval("chr1", 400, 410, "+", "b")) == Interval(
        "chr9", 1590, 1600, "-", "b"
    )
    assert chain.lift(Interval("chr1", 450, 460)) is None, "two places"
    assert chain.lift(Interval("chr1", 100, 100)) is None
    assert chain.lift(Interval("chr2", 100, 101)) is None


def test_a_turned_variant_has_the_alleles_of_the_other_strand(chain: ChainFile) -> None:
    lifted = chain.lift_variant(Variant("1", 400, "AC", "a"))
    assert lifted == (Variant("chr9", 1598, "GT", "t"), Interval("chr9", 1598, 1600, "-"))
    assert chain.lift_variant(Variant("1", 400, "A", "<DEL>")) == (
        Variant("chr9", 1599, "A", "<DEL>"),
        Interval("chr9", 1599, 1600, "-"),
    )
    assert chain.lift_variant(Variant("1", 400, "A", "Z")) is not None
    straight = chain.lift_variant(Variant("1", 210, "AC", "T"))
    assert straight == (Variant("chr9", 1200, "AC", "T"), Interval("chr9", 1200, 1202, "+"))
    for absent in (
        Variant("1", 199, "AC", "A"),
        Variant("1", 450, "A", "C"),
        Variant("1", 0, "", "A"),
    ):
        assert chain.lift_variant(absent) is None


@settings(max_examples=150)
@given(st.data())
def test_a_lifted_ref_is_what_the_other_assembly_has(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """An assembly made of blocks of another one, between other bases: each base is known."""
    source = "".join(data.draw(st.lists(st.sampled_from("ACGT"), min_size=30, max_size=60)))
    turned = data.draw(st.booleans())
    cuts = sorted(data.draw(st.sets(st.integers(1, len(source) - 1), min_size=2, max_size=8)))
    blocks = list(zip(cuts[::2], cuts[1::2], strict=False))
    text, strand, at = [], "", 0
    for number, (start, end) in enumerate(blocks):
        strand += "" if number == 0 else "G" * data.draw(st.integers(0, 3))
        if number:
            text[-1] += f"\t{start - blocks[number - 1][1]}\t{len(strand) - at}"
        strand += source[start:end]
        at = len(strand)
        text.append(str(end - start))
    target = reverse_complement(strand) if turned else strand
    head = f"chain 1 chr1 {len(source)} + {blocks[0][0]} {blocks[-1][1]}"
    head += f" chr9 {len(target)} {'-' if turned else '+'} 0 {len(target)} 1"
    path = tmp_path_factory.mktemp("chain") / "a.chain"
    path.write_text("\n".join([head, *text]) + "\n")
    chain = ChainFile(path)
    for start in range(len(source)):
        for end in range(start + 1, min(start + 6, len(source)) + 1):
            ref = source[start:end]
            lifted = chain.lift_variant(Variant("chr1", start, ref, "A"))
            inside = any(first <= start and end <= last for first, last in blocks)
            assert lifted is not None or not inside
            if lifted is not None:
                moved, place = lifted
                assert target[moved.position : moved.end] == moved.ref
                assert (place.start, place.end) == (moved.position, moved.end)
                assert (place.strand == "-") == turned


def test_contigs_have_many_names_and_mitochondria_are_told_apart(tmp_path: Path) -> None:
    text = "".join(
        f"chain 1 {name} {size} + 0 5 {name} 100 + 0 5 {number}\n5\n\n"
        for number, (name, size) in enumerate([("chr20", 63025520), ("chrM", 16571)])
    )
    (tmp_path / "a").write_text(text)
    chain = ChainFile(tmp_path / "a")
    assert chain.source == "GRCh37"
    assert chain.target is None
    names = ("20", "chr20", "NC_000020.10", "NC_000020.11", "chrM", "M", "MT", "NC_012920.1")
    assert [chain.resolve(name) for name in names] == [
        *("chr20", "chr20", "chr20", None, "chrM", "chrM", None, None)
    ]
    assert chain.resolve("NC_001807.4") == "chrM"
    assert chain.resolve("scaffold") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "holds no chain"),
        (b"# nothing\n\n", "holds no chain"),
        (b"##fileformat=VCFv4.2\nchr1\t5\n", r"line 2: .* does not belong in a chain file"),
        (b"chain 1 chr1 100 + 0 5 chr9\n5\n", "line 1: .*'chain' and 11 columns"),
        (b"chain 1 chr1 100 - 0 5 chr9 100 + 0 5 1\n5\n", "line 1: .*strands"),
        (b"chain 1 chr1 x + 0 5 chr9 100 + 0 5 1\n5\n", "line 1"),
        (b"chain 1 chr1 100 + 0 5 chr9 100 + 0 5 1\n4\n", "line 2: .*do not end where the chain"),
        (b"chain 1 chr1 100 + 0 5 chr9 100 + 0 5 1\n3 1\n", "line 2"),
        (b"chain 1 chr1 100 + 0 5 chr9 100 + 0 5 1\n3 1 1\n", "ends inside of a chain"),
        (b"chain 1 chr1 100 + 0 5 chr9 100 + 0 5 1\n3 1 1\nchain 1\n", "line 3"),
        (gzip.compress(CHAIN.encode() * 99)[:-20], "cut short"),
    ],
)
def test_what_is_no_chain_file_is_one_clear_error(text: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.chain").write_bytes(text)
    with pytest.raises(ChainError, match=reason) as caught:
        ChainFile(tmp_path / "a.chain")
    assert "\n" not in str(caught.value)


def test_a_missing_chain_file_is_a_misuse(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        ChainFile(tmp_path / "none.chain")


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["hg19ToHg38", "hg38ToHg19"])
def test_published_chains_lead_where_another_reader_says(name: str, shared_data: Path) -> None:
    liftover = pytest.importorskip("liftover")
    path = shared_data / "liftover" / f"{name}.over.chain.gz"
    chain, oracle = ChainFile(path), liftover.ChainFile(str(path), one_based=False)
    assert (chain.source, chain.target) == {
        "hg19ToHg38": ("GRCh37", "GRCh38"),
        "hg38ToHg19": ("GRCh38", "GRCh37"),
    }[name]
    found = 0
    for contig in ("chr20", "chrX", "chrM", "chr17", "chrY"):
        for position in range(0, chain.source_lengths[contig], 30_011):
            places = chain.places(contig, position, position + 1)
            mine = sorted((place.contig, place.start, place.strand) for place in places)
            assert mine == sorted(tuple(hit[:3]) for hit in oracle.query(contig, position))
            found += bool(mine)
    assert found > 10_000
