import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genobird import corpus
from genobird import shards as store
from genobird.bits_per_base import BaseBits, TokenSpans, extent, token_spans
from genobird.corpus import CorpusSettings
from genobird.errors import InputError, UsageError
from genobird.genome.sequence import reverse_complement


@pytest.fixture(scope="module")
def shards(tiny_genome_path, tiny_tokenizer, tmp_path_factory):
    """Documents of both strands, two to four sentences each."""
    folder = tmp_path_factory.mktemp("places")
    settings = CorpusSettings(
        passes=1, sentences=(2, 4), sentence_bp=(100, 300), both_strands=True, max_n_fraction=0.3
    )
    corpus.build([tiny_genome_path], folder / "corpus", settings)
    return store.write(folder / "corpus", tiny_tokenizer, folder / "shards")


def test_the_bases_of_each_token_are_found_on_either_strand(shards, tiny_tokenizer, tiny_contigs):
    strands = set()
    for number in range(len(shards)):
        places = token_spans(shards, number, tiny_tokenizer.lengths)
        strand = shards.rows(number)["strand"][0]
        strands.add(strand)
        assert places.contig == shards.positions(number)[0]
        for start, end, piece in zip(
            places.starts, places.ends, shards.document(number), strict=True
        ):
            text = tiny_contigs[places.contig][start:end]
            spelt = tiny_tokenizer.decode([piece])
            assert spelt == (reverse_complement(text) if strand == b"-" else text)
    assert strands == {b"+", b"-"}


def test_a_document_reaches_from_its_first_base_to_its_last(shards, tiny_tokenizer):
    for number in range(len(shards)):
        spans = token_spans(shards, number, tiny_tokenizer.lengths)
        found = extent(shards, number, tiny_tokenizer.lengths)
        assert (found.contig, found.start, found.end) == (
            spans.contig,
            spans.starts.min(),
            spans.ends.max(),
        )


BITS = BaseBits(
    contigs=np.array(["b", "a", "a"]),
    starts=np.array([100, 50, 10]),
    lengths=np.array([4, 6, 5]),
    bits=np.arange(15, dtype=np.float32),
)


@given(st.sampled_from([("b", 100, 4, 0), ("a", 50, 6, 4), ("a", 10, 5, 10)]), st.data())
def test_bits_of_a_token_are_those_of_its_bases(stretch, data):
    contig, start, length, offset = stretch
    first = data.draw(st.integers(0, length))
    last = data.draw(st.integers(first, length))
    places = TokenSpans(contig, np.array([start + first]), np.array([start + last]))
    if first < length:
        assert BITS.of(places)[0] == sum(range(offset + first, offset + last))


@pytest.mark.parametrize(("contig", "start", "end"), [
    ("a", 9, 11), ("a", 14, 16), ("a", 20, 21), ("b", 10, 11), ("c", 100, 101), ("a", 55, 57),
])  # fmt: skip
def test_bases_without_bits_are_refused(contig, start, end):
    message = rf"no bits for {contig}:{start + 1}-{end}; train the n-gram models again"
    with pytest.raises(InputError, match=message):
        BITS.of(TokenSpans(contig, np.array([start]), np.array([end])))


def test_bits_are_kept_in_a_file(tmp_path):
    BITS.save(tmp_path / "x.bases.npz")
    found = BaseBits.load(tmp_path / "x.bases.npz")
    for name in ("contigs", "starts", "lengths", "bits"):
        np.testing.assert_array_equal(getattr(found, name), getattr(BITS, name))
    assert [p.name for p in tmp_path.iterdir()] == ["x.bases.npz"]
    for content in ("no", ""):  # a power cut leaves an empty file
        (tmp_path / "y.npz").write_text(content)
        with pytest.raises(InputError, match=r"y.npz holds no bits of bases"):
            BaseBits.load(tmp_path / "y.npz")
    with pytest.raises(UsageError, match="there is no file of bits"):
        BaseBits.load(tmp_path / "z.npz")
