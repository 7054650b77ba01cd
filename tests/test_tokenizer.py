from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from genobird import tokenizer as module
from genobird.errors import InputError, OutputError, SequenceError, UsageError
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.tokenizer import CLS, MASK, N_SPECIAL, PAD, SEGMENT_BP, SEP, UNK, Tokenizer

dna = st.text(alphabet="ACGTN", max_size=300)


@pytest.fixture(scope="module")
def text(tiny_contigs: dict[str, str]) -> list[str]:
    sequence = tiny_contigs["chr1"][:20_000]
    return [sequence[start : start + 400] for start in range(0, len(sequence), 400)]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def trained(
    request: pytest.FixtureRequest, text: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    path = tmp_path_factory.mktemp(request.param) / "tokenizer.model"
    return Tokenizer.train(text, path, kind=request.param, vocab_size=100, max_piece=8)


def test_special_ids_come_first(trained: Tokenizer) -> None:
    assert (PAD, UNK, CLS, SEP, MASK) == (0, 1, 2, 3, 4)
    assert trained.pieces[:N_SPECIAL] == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    assert trained.vocab_size == 100


def test_single_bases_are_in_every_vocabulary(trained: Tokenizer, tmp_path: Path) -> None:
    assert set("ACGTN") <= set(trained.pieces)
    lacking = Tokenizer.train(["AACA" * 100, "CAAAC" * 50], tmp_path / "ac.model", vocab_size=16)
    assert lacking.decode(lacking.encode("GATTACANN").ids) == "GATTACANN"


@given(sequence=dna)
def test_decoding_inverts_encoding(trained: Tokenizer, sequence: str) -> None:
    encoding = trained.encode(sequence)
    assert trained.decode(encoding.ids) == sequence
    assert not np.isin(encoding.ids, range(N_SPECIAL)).any()


@given(sequence=dna)
def test_spans_tile_the_sequence_and_name_its_pieces(trained: Tokenizer, sequence: str) -> None:
    encoding = trained.encode(sequence)
    assert encoding.ids.dtype == np.uint16
    assert encoding.spans.dtype == np.int32
    assert encoding.spans.shape == (len(encoding), 2)
    bounds = [0, *encoding.spans[:, 1].tolist()]
    assert encoding.spans[:, 0].tolist() == bounds[:-1]
    assert bounds[-1] == len(sequence)
    spelled = [sequence[start:end] for start, end in encoding.spans.tolist()]
    assert spelled == [trained.pieces[i] for i in encoding.ids.tolist()]


@pytest.mark.parametrize("sequence", ["N", "NNN", "N" * 5_000, "A" + "N" * 77 + "C", "ANANN"])
def test_runs_of_n_are_encoded(trained: Tokenizer, sequence: str) -> None:
    assert trained.decode(trained.encode(sequence).ids) == sequence


def test_runs_of_n_become_pieces_where_the_text_holds_them(tmp_path: Path) -> None:
    text = ["ACGTTGCA" * 20 + "N" * 200] * 20
    tokenizer = Tokenizer.train(text, tmp_path / "t.model", vocab_size=40)
    assert len(tokenizer.encode("N" * 160)) < 160


def bpe_by_definition(sequence: str, pieces: tuple[str, ...]) -> list[str]:
    """Join the adjacent pieces that were learnt first, the leftmost of equals, while there are."""
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    found = list(sequence)
    while len(found) > 1:
        joined = [ranks.get(a + b, len(ranks)) for a, b in itertools.pairwise(found)]
        at = joined.index(min(joined))
        if joined[at] == len(ranks):
            break
        found[at : at + 2] = [found[at] + found[at + 1]]
    return found


@given(sequence=dna)
def test_bpe_joins_pieces_in_the_order_they_were_learnt(
    tiny_tokenizer: Tokenizer, sequence: str
) -> None:
    found = [tiny_tokenizer.pieces[i] for i in tiny_tokenizer.encode(sequence).ids]
    assert found == bpe_by_definition(sequence, tiny_tokenizer.pieces)


def test_long_sequences_are_segmented_anew_at_fixed_steps(
    tiny_tokenizer: Tokenizer, tiny_contigs: dict[str, str]
) -> None:
    sequence = tiny_contigs["chr1"]
    assert len(sequence) > SEGMENT_BP
    whole = tiny_tokenizer.encode(sequence)
    parts = [
        tiny_tokenizer.encode(sequence[start : start + SEGMENT_BP]).ids
        for start in range(0, len(sequence), SEGMENT_BP)
    ]
    assert np.array_equal(whole.ids, np.concatenate(parts))
    assert whole.spans[-1, 1] == len(sequence)


@pytest.mark.parametrize("threads", [1, 2])
def test_encoding_many_equals_encoding_each(
    tiny_tokenizer: Tokenizer,
    tiny_contigs: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
) -> None:
    monkeypatch.setattr(module, "_CALL_SEGMENTS", 3)
    monkeypatch.setattr(module, "SEGMENT_BP", 1_000)
    sequences = ["", *tiny_contigs.values(), "A", "", "GATTACA" * 300, ""]
    many = tiny_tokenizer.encode_many(sequences, threads=threads)
    flat, counts = tiny_tokenizer.encode_flat(sequences, threads=threads)
    assert counts.tolist() == [len(encoding) for encoding in many]
    assert np.array_equal(flat, np.concatenate([encoding.ids for encoding in many]))
    for sequence, encoding in zip(sequences, many, strict=True):
        single = tiny_tokenizer.encode(sequence)
        assert np.array_equal(encoding.ids, single.ids)
        assert np.array_equal(encoding.spans, single.spans)


def test_nothing_gives_nothing(tiny_tokenizer: Tokenizer) -> None:
    assert tiny_tokenizer.encode_many([]) == []
    empty = tiny_tokenizer.encode("")
    assert empty.ids.shape == (0,)
    assert empty.spans.shape == (0, 2)
    assert tiny_tokenizer.decode(empty.ids) == ""


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("ACGTacgt", r"letter 'a' at offset 4.*genobird\.genome\.sequence\.normalise"),
        ("ACGR", "letter 'R' at offset 3"),
        ("ACG U", "letter ' ' at offset 3"),
        ("ACGÄ", "letter 'Ä' at offset 3"),
        ("AC\nGT", r"letter '\\n' at offset 2"),
    ],
)
def test_other_letters_are_refused(tiny_tokenizer: Tokenizer, sequence: str, message: str) -> None:
    with pytest.raises(SequenceError, match=message):
        tiny_tokenizer.encode(sequence)
    with pytest.raises(SequenceError, match="sequence 1 has"):
        tiny_tokenizer.encode_many(["ACGT", sequence])
    with pytest.raises(SequenceError, match=message):
        tiny_tokenizer.encode_sampled(sequence, seed=0)


def test_sampled_segmentations_follow_their_seed(
    trained: Tokenizer, tiny_contigs: dict[str, str]
) -> None:
    sequence = tiny_contigs["chr2"][:3_000]
    first = trained.encode_sampled(sequence, seed=1)
    assert np.array_equal(first.ids, trained.encode_sampled(sequence, seed=1).ids)
    assert not np.array_equal(first.ids, trained.encode_sampled(sequence, seed=2).ids)
    assert trained.decode(first.ids) == sequence
    assert first.spans[-1, 1] == len(sequence)


def test_special_ids_decode_to_no_bases(tiny_tokenizer: Tokenizer) -> None:
    ids = tiny_tokenizer.encode("GATTACA").ids.tolist()
    assert tiny_tokenizer.decode([CLS, *ids, SEP, PAD, MASK, UNK]) == "GATTACA"


@pytest.mark.parametrize("ids", [[64], [-1], [5, 70]])
def test_ids_beyond_the_vocabulary_are_refused(tiny_tokenizer: Tokenizer, ids: list[int]) -> None:
    with pytest.raises(InputError, match="0 to 63 allowed; were they made with another"):
        tiny_tokenizer.decode(ids)


def test_tables_of_lengths_and_bases_spell_the_pieces(trained: Tokenizer) -> None:
    assert trained.lengths.dtype == trained.bases.dtype == np.uint8
    assert trained.bases.shape == (trained.vocab_size, trained.lengths.max())
    assert trained.lengths.max() <= 8
    for index, piece in enumerate(trained.pieces):
        expected = "" if index < N_SPECIAL else piece
        assert trained.lengths[index] == len(expected)
        row = trained.bases[index]
        assert "".join("ACGTN"[code] for code in row[row != 255]) == expected
        assert (row[len(expected) :] == 255).all()


def test_a_saved_model_is_all_of_the_tokenizer(trained: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "copy.model"
    trained.save(path)
    loaded = Tokenizer.load(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["copy.model"]
    assert loaded.sha256 == trained.sha256
    assert loaded.kind == trained.kind
    assert loaded.pieces == trained.pieces
    again: Tokenizer = pickle.loads(pickle.dumps(loaded))
    assert np.array_equal(again.encode("GATTACANN").ids, trained.encode("GATTACANN").ids)


def test_kind_is_known(text: list[str], tmp_path: Path) -> None:
    kinds: tuple[Literal["bpe", "unigram"], ...] = ("bpe", "unigram")
    for kind in kinds:
        path = tmp_path / f"{kind}.model"
        Tokenizer.train(text, path, kind=kind, vocab_size=40)
        assert Tokenizer.load(path).kind == kind


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_training_is_deterministic(
    text: list[str], tmp_path: Path, kind: Literal["bpe", "unigram"]
) -> None:
    first = Tokenizer.train(text, tmp_path / "one.model", kind=kind, vocab_size=80)
    Tokenizer.train(iter(text), tmp_path / "two.model", kind=kind, vocab_size=80)
    assert (tmp_path / "one.model").read_bytes() == (tmp_path / "two.model").read_bytes()
    assert first.sha256 == Tokenizer.load(tmp_path / "two.model").sha256


def test_threads_do_not_change_a_bpe_model(text: list[str], tmp_path: Path) -> None:
    one = Tokenizer.train(text, tmp_path / "one.model", vocab_size=80)
    two = Tokenizer.train(text, tmp_path / "two.model", vocab_size=80, threads=2)
    assert one.model == two.model


@pytest.mark.parametrize("vocab_size", [16, 5_000])
def test_vocabularies_of_any_size_are_learnt(
    tiny_contigs: dict[str, str], tmp_path: Path, vocab_size: int
) -> None:
    # One long sentence: it is cut before training.
    path = tmp_path / "t.model"
    tokenizer = Tokenizer.train([tiny_contigs["chr1"]], path, vocab_size=vocab_size)
    assert tokenizer.vocab_size == vocab_size
    assert tokenizer.decode(tokenizer.encode("GATTACAN").ids) == "GATTACAN"


@pytest.mark.slow
@pytest.mark.realdata
def test_the_largest_vocabulary_fits_uint16(shared_data: Path, tmp_path: Path) -> None:
    with Genome(shared_data / "genome" / "chr20.fa.gz") as genome:
        _, sequence = next(genome.stream())
    text = (sequence[start : start + 1_000] for start in range(5_000_000, 10_000_000, 1_000))
    tokenizer = Tokenizer.train(text, tmp_path / "t.model", vocab_size=65_535)
    ids = tokenizer.encode(sequence[5_000_000:7_000_000]).ids
    assert ids.max() > 60_000
    assert tokenizer.decode(ids) == sequence[5_000_000:7_000_000]


@pytest.mark.slow
@pytest.mark.realdata
def test_megabases_of_a_chromosome_decode_to_themselves(shared_data: Path, tmp_path: Path) -> None:
    """Its N first."""
    with Genome(shared_data / "genome" / "chr20.fa.gz") as genome:
        sequence = genome.fetch(Interval("chr20", 0, 8_000_000))
    assert sequence.startswith("N" * 60_000)
    text = (sequence[start : start + 500] for start in range(5_000_000, 7_000_000, 500))
    tokenizer = Tokenizer.train(text, tmp_path / "t.model", vocab_size=4_096)
    encoding = tokenizer.encode(sequence)
    assert tokenizer.decode(encoding.ids) == sequence
    assert encoding.spans[-1, 1] == len(sequence)
    assert np.array_equal(encoding.spans[1:, 0], encoding.spans[:-1, 1])


def test_a_text_too_small_for_the_vocabulary_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.model"
    with pytest.raises(UsageError, match=r"8 bp of text are too small for a bpe vocabulary of 300"):
        Tokenizer.train(["ACGT", "GGTT"], path, vocab_size=300)
    with pytest.raises(UsageError, match=r"0 bp of text are too small.*10 pieces at most"):
        Tokenizer.train([], path, vocab_size=16)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 15}, "^15 pieces in the vocabulary found; choose 16 to 65,535"),
        ({"vocab_size": 65_536}, "65,536 pieces in the vocabulary found"),
        ({"kind": "word"}, "kind 'word' found; choose bpe or unigram"),
        ({"max_piece": 0}, "^0 bp in the longest piece found; choose 1 to 255"),
        ({"max_piece": 256}, "256 bp in the longest"),
        ({"threads": 0}, "^0 threads found; choose 1 to"),
    ],
)
def test_settings_out_of_range_are_refused(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Tokenizer.train(["ACGT" * 100], tmp_path / "t.model", **settings)  # type: ignore[arg-type]


def test_errors_in_the_text_reach_the_caller(tmp_path: Path) -> None:
    with pytest.raises(SequenceError, match="sentence 1 has the letter 'g'"):
        Tokenizer.train(["ACGT", "ACgT"], tmp_path / "t.model", vocab_size=16)

    def broken() -> Iterator[str]:
        yield "ACGT"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Tokenizer.train(broken(), tmp_path / "t.model", vocab_size=16)


def test_a_missing_file_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no tokenizer can be read at .*none\.model \(No such"):
        Tokenizer.load(tmp_path / "none.model")


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_truncated_model_is_refused(tiny_tokenizer: Tokenizer, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut.model"
    path.write_bytes(tiny_tokenizer.model[:keep])
    with pytest.raises(
        InputError, match=r"cut\.model \([\d,]+ bytes\) is not a SentencePiece model"
    ):
        Tokenizer.load(path)


def test_a_model_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    prefix = tmp_path / "english"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat"] * 10),
        model_prefix=str(prefix),
        vocab_size=30,
        model_type="bpe",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(InputError, match="of another vocabulary: ids 0 to 4 have to be"):
        Tokenizer.load(prefix.with_suffix(".model"))


def test_a_folder_in_the_way_cannot_be_written(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "t.model").mkdir()
    with pytest.raises(OutputError, match=r"t\.model cannot be written: Is a directory"):
        tiny_tokenizer.save(tmp_path / "t.model")
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.model"]


def test_training_is_silent(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from genobird.tokenizer import Tokenizer\n"
        "Tokenizer.train(['ACGTTGCA' * 50], Path(sys.argv[1]), vocab_size=16)\n"
        "assert 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "t.model")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
