"""SentencePiece over DNA: sequences in, ids and base-pair spans out; one `.model` file is all.

Ids 0 to 4 are `[PAD] [UNK] [CLS] [SEP] [MASK]`. Every other piece is a string over A, C, G, T, N,
and the single bases are always among them: every normalised sequence can be encoded and decodes to
itself, and encoding never yields a special id. Sequences longer than `SEGMENT_BP` are segmented
anew every `SEGMENT_BP` bases, which keeps time and memory linear in the length.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from genobird.errors import InputError, SequenceError, UsageError
from genobird.files import Draft
from genobird.genome.sequence import ALPHABET
from genobird.segmenter import REMEDY, segmenter

Kind = Literal["bpe", "unigram"]

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(5)
N_SPECIAL = len(SPECIALS)

MIN_VOCAB = 16
MAX_VOCAB = 65_535
MAX_PIECE = BEYOND = 255
"""Longest piece in bp, and the value of `Tokenizer.bases` beyond the end of a piece."""
SEGMENT_BP = 20_000
"""Longest string that is segmented as a whole, in bp."""
TRAIN_BP = 4_000
"""Training sentences are cut to this length, in bp, so that training scales."""

_CALL_SEGMENTS = 256
_LETTERS = np.frombuffer(ALPHABET.encode("ascii"), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Encoding:
    """A segmented sequence.

    Attributes:
        ids: Token ids, uint16 [T], without special tokens.
        spans: Base pairs of each token, int32 [T, 2], 0-based half-open within the sequence,
            contiguous from 0 to its length.
    """

    ids: NDArray[np.uint16]
    spans: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ids)


class Tokenizer:
    """A trained SentencePiece model, or BPE merges, over the alphabet A, C, G, T, N.

    Attributes:
        model: The bytes of the `.model` file.
        pieces: The vocabulary in the order of ids.
        segmenter: What cuts sequences, see `segmenter.py`.
    """

    def __init__(self, model: bytes, where: str = "tokenizer") -> None:
        """Read a serialised model.

        Args:
            model: The bytes of a `.model` file or of a `tokenizer.json`.
            where: Name of the model in error messages.

        Raises:
            InputError: The bytes are no such model, or one of another vocabulary.
            UsageError: The package that reads merges is missing.
        """
        self.model = model
        self.segmenter = segmenter(model, SPECIALS, ALPHABET, where)
        indices = list(range(self.segmenter.GetPieceSize()))
        self.pieces: tuple[str, ...] = tuple(self.segmenter.IdToPiece(indices))
        _check_pieces(self.pieces, where)

    @classmethod
    def train(
        cls,
        sentences: Iterable[str],
        output: Path | str,
        kind: Kind = "bpe",
        vocab_size: int = 32_000,
        max_piece: int = 16,
        threads: int = 1,
    ) -> Tokenizer:
        """Learn a vocabulary and save it; the same arguments give the same bytes.

        Memory is about 36 bytes per base pair: train on a sample of 10 to 300 Mbp.

        Args:
            sentences: Upper-case sequences over A, C, G, T, N; read once.
            output: The `.model` file to write; replaced where it exists.
            kind: `bpe` (the paper's) or `unigram` (fewer tokens, about 180 times slower to train).
            vocab_size: Number of ids with the special ones, 16 to 65,535.
            max_piece: Longest piece in bp, 1 to 255.
            threads: Threads of unigram training: another number gives other last digits of scores,
                and so other bytes. BPE trains on one.

        Raises:
            UsageError: A setting is out of range, or the text is too small for the vocabulary.
            SequenceError: A sentence holds other letters.
            OutputError: The file cannot be written.
        """
        _check_settings(kind, vocab_size, max_piece, threads)
        checked = _TrainingText(sentences)
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(checked),
                model_writer=model,
                model_type=kind,
                vocab_size=vocab_size,
                max_sentencepiece_length=max_piece,
                max_sentence_length=2 * TRAIN_BP,
                num_threads=threads if kind == "unigram" else 1,
                character_coverage=1.0,
                required_chars=ALPHABET,
                pad_id=PAD,
                unk_id=UNK,
                bos_id=CLS,
                eos_id=SEP,
                pad_piece=SPECIALS[PAD],
                unk_piece=SPECIALS[UNK],
                bos_piece=SPECIALS[CLS],
                eos_piece=SPECIALS[SEP],
                control_symbols=[SPECIALS[MASK]],
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                split_by_whitespace=False,
                split_by_unicode_script=False,
                split_by_number=False,
                shuffle_input_sentence=False,
                minloglevel=2,
            )
        except RuntimeError as error:
            if checked.error is not None:
                raise checked.error from None
            raise _training_error(error, kind, vocab_size, checked.bp) from error
        tokenizer = cls(model.getvalue(), str(output))
        tokenizer.save(output)
        return tokenizer

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Read a `.model` file.

        Raises:
            UsageError: There is no such file.
            InputError: It is no tokenizer of this alphabet.
        """
        try:
            model = Path(path).read_bytes()
        except OSError as error:
            raise UsageError(
                f"no tokenizer can be read at {path} ({error.strerror}); "
                "give the .model file that `genobird tokenizer train` wrote"
            ) from error
        return cls(model, str(path))

    def save(self, path: Path | str) -> None:
        """Write the `.model` file.

        Raises:
            OutputError: The file cannot be written.
        """
        with Draft(Path(path)) as part:
            part.write_bytes(self.model)

    def encode(self, sequence: str) -> Encoding:
        """Segment a sequence.

        Raises:
            SequenceError: Letters other than A, C, G, T, N; `genome.sequence.normalise` maps them.
        """
        return self.encode_many([sequence])[0]

    def encode_many(self, sequences: Sequence[str], threads: int = 1) -> list[Encoding]:
        """Segment many sequences, in order.

        Raises:
            SequenceError: Letters other than A, C, G, T, N.
        """
        ids, counts = self.encode_flat(sequences, threads)
        parts = np.split(ids, np.cumsum(counts))[:-1]
        return [Encoding(part, self._spans(part)) for part in parts]

    def encode_flat(
        self, sequences: Sequence[str], threads: int = 1
    ) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        """Segment many sequences into one array, without spans: the fast way in bulk.

        Returns:
            Ids of all sequences end to end, uint16 [T]; number of ids of each sequence, int64 [S].

        Raises:
            SequenceError: Letters other than A, C, G, T, N.
        """
        for index, sequence in enumerate(sequences):
            check_letters(sequence, "sequence" if len(sequences) == 1 else f"sequence {index}")
        counts = np.zeros(len(sequences), dtype=np.int64)
        parts: list[NDArray[np.uint16]] = []
        for owners, segments in _batches(sequences):
            if threads > 1:
                lists = self.segmenter.encode(segments, out_type=int, num_threads=threads)
            else:  # given a list, SentencePiece starts a thread, which may hang in a forked process
                lists = [self.segmenter.encode(segment, out_type=int) for segment in segments]
            sizes = [len(ids) for ids in lists]
            np.add.at(counts, owners, sizes)
            flat = itertools.chain.from_iterable(lists)
            parts.append(np.fromiter(flat, dtype=np.uint16, count=sum(sizes)))
        return np.concatenate(parts), counts

    def encode_sampled(self, sequence: str, seed: int, alpha: float = 0.1) -> Encoding:
        """Draw one segmentation of many; the same seed gives the same one.

        Args:
            sequence: Upper-case bases.
            seed: Seed of the draw.
            alpha: For BPE the probability to leave out a merge, for unigram the exponent of the
                piece probabilities (0 draws evenly over segmentations).

        Raises:
            SequenceError: Letters other than A, C, G, T, N.
        """
        check_letters(sequence)
        sentencepiece.set_random_generator_seed(seed)
        found: list[int] = []
        for start in range(0, len(sequence), SEGMENT_BP):
            segment = sequence[start : start + SEGMENT_BP]
            found += self.segmenter.SampleEncodeAsIds(segment, nbest_size=-1, alpha=alpha)
        ids = np.array(found, dtype=np.uint16)
        return Encoding(ids, self._spans(ids))

    def decode(self, ids: NDArray[np.integer] | Sequence[int]) -> str:
        """Spell the bases of tokens; special ids stand for none.

        Raises:
            InputError: An id is outside the vocabulary.
        """
        index = np.asarray(ids, dtype=np.int64)
        if index.size and not 0 <= index.min() <= index.max() < self.vocab_size:
            raise InputError(
                f"token ids from {index.min()} to {index.max()} found, 0 to {self.vocab_size - 1} "
                "allowed; were they made with another tokenizer?"
            )
        codes = self.bases[index]
        return str(_LETTERS[codes[codes != BEYOND]].tobytes(), "ascii")

    @property
    def vocab_size(self) -> int:
        """Number of ids, with the special ones."""
        return len(self.pieces)

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the `.model` file."""
        return hashlib.sha256(self.model).hexdigest()

    @cached_property
    def kind(self) -> Kind:
        """How the vocabulary was learnt."""
        # BPE scores are minus the rank of the merge; unigram scores are log-probabilities.
        scores = self.segmenter.GetScore(list(range(N_SPECIAL, self.vocab_size)))
        return "bpe" if np.array_equal(scores, -np.arange(float(len(scores)))) else "unigram"

    @cached_property
    def lengths(self) -> NDArray[np.uint8]:
        """Bases of each piece, uint8 [V]; 0 for special ids."""
        return np.array([0] * N_SPECIAL + [len(p) for p in self.pieces[N_SPECIAL:]], np.uint8)

    @cached_property
    def bases(self) -> NDArray[np.uint8]:
        """Bases of each piece, uint8 [V, longest piece].

        0 = A, 1 = C, 2 = G, 3 = T, 4 = N, 255 = beyond the piece; special ids are all 255.
        """
        codes = np.full(256, BEYOND, dtype=np.uint8)
        codes[_LETTERS] = np.arange(len(ALPHABET))
        table = np.full((self.vocab_size, self.lengths.max()), BEYOND, dtype=np.uint8)
        for index, piece in enumerate(self.pieces[N_SPECIAL:], start=N_SPECIAL):
            table[index, : len(piece)] = codes[np.frombuffer(piece.encode("ascii"), np.uint8)]
        return table

    def _spans(self, ids: NDArray[np.uint16]) -> NDArray[np.int32]:
        lengths = self.lengths[ids]
        spans = np.empty((len(ids), 2), dtype=np.int32)
        np.cumsum(lengths, out=spans[:, 1])
        np.subtract(spans[:, 1], lengths, out=spans[:, 0])
        return spans


def check_letters(sequence: str, where: str = "sequence") -> None:
    """Refuse what is not upper-case A, C, G, T or N.

    Raises:
        SequenceError: Names the first such letter and its 0-based offset.
    """
    if sequence.isascii() and not sequence.encode("ascii").translate(None, ALPHABET.encode()):
        return
    offset = next(index for index, letter in enumerate(sequence) if letter not in ALPHABET)
    raise SequenceError(
        f"{where} has the letter {sequence[offset]!r} at offset {offset:,}; A, C, G, T and N in "
        "upper case are allowed: use genobird.genome.sequence.normalise first"
    )


class _TrainingText:
    """Checked and cut sentences; keeps an error that SentencePiece would turn into its own."""

    def __init__(self, sentences: Iterable[str]) -> None:
        self._sentences = sentences
        self.bp = 0
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[str]:
        # One sentence a base: the single bases are learnt though the text may lack one.
        yield from ALPHABET
        try:
            for index, sentence in enumerate(self._sentences):
                check_letters(sentence, f"sentence {index}")
                self.bp += len(sentence)
                for start in range(0, len(sentence), TRAIN_BP):
                    yield sentence[start : start + TRAIN_BP]
        except Exception as error:
            self.error = error
            raise


def _batches(sequences: Sequence[str]) -> Iterator[tuple[list[int], list[str]]]:
    """Cut sequences into segments; group them, `_CALL_SEGMENTS` a call."""
    owners: list[int] = []
    segments: list[str] = []
    for index, sequence in enumerate(sequences):
        for start in range(0, len(sequence), SEGMENT_BP):
            owners.append(index)
            segments.append(sequence[start : start + SEGMENT_BP])
            if len(segments) == _CALL_SEGMENTS:
                yield owners, segments
                owners, segments = [], []
    yield owners, segments


def _check_pieces(pieces: tuple[str, ...], where: str) -> None:
    bases = pieces[N_SPECIAL:]
    right = pieces[:N_SPECIAL] == SPECIALS and set(ALPHABET) <= set(bases)
    if not right or set("".join(bases)) != set(ALPHABET) or len(pieces) > MAX_VOCAB:
        raise InputError(
            f"{where} is a SentencePiece model of another vocabulary: ids 0 to 4 have to be "
            f"{' '.join(SPECIALS)}, the others strings over {ALPHABET}; {REMEDY}"
        )


def _check_settings(kind: str, vocab_size: int, max_piece: int, threads: int) -> None:
    if kind not in ("bpe", "unigram"):
        raise UsageError(f"tokenizer kind {kind!r} found; choose bpe or unigram")
    for found, low, high, what in (
        (vocab_size, MIN_VOCAB, MAX_VOCAB, "pieces in the vocabulary"),
        (max_piece, 1, MAX_PIECE, "bp in the longest piece"),
        (threads, 1, 1_024, "threads"),
    ):
        if not low <= found <= high:
            raise UsageError(f"{found:,} {what} found; choose {low:,} to {high:,}")


def _training_error(error: RuntimeError, kind: str, vocab_size: int, bp: int) -> UsageError:
    limit = re.search(r"<= (\d+)", str(error))
    if limit is None:
        return UsageError(
            f"SentencePiece could not train on {bp:,} bp: {' '.join(str(error).split())}"
        )
    return UsageError(
        f"{bp:,} bp of text are too small for a {kind} vocabulary of {vocab_size:,}: they give "
        f"{int(limit.group(1)):,} pieces at most; give more text or a smaller vocabulary"
    )
