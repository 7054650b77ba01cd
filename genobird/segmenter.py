"""What cuts DNA into pieces: SentencePiece, or the merges of a `tokenizer.json` behind its methods.

A SentencePiece model joins any two pieces that make a third; merges name the two. What was trained
with merges is segmented otherwise by SentencePiece, so it is read by the package that wrote it,
`tokenizers`, which comes with `genobird[hf]`. Vocabularies of others have other ids and more
pieces; `Renumbered` puts them in our order.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sentencepiece

from genobird.errors import InputError, UsageError

REMEDY = "train one with `genobird tokenizer train`"
# The names that Google's vocabularies have for pieces of ours.
_GOOGLE = {"[PAD]": "<pad>", "[UNK]": "<unk>"}
# ModelProto.normalizer_spec.add_dummy_prefix = false; of a field that comes twice, the last counts.
_NO_PREFIX = b"\x1a\x02\x18\x00"


def segmenter(model: bytes, specials: Sequence[str], alphabet: str, where: str) -> Any:
    """Return what the bytes of a model hold: `Merges`, a SentencePieceProcessor, or `Foreign`.

    Arguments and errors are those of `Merges`.
    """
    if model.startswith(b"{"):
        return Merges(model, specials, alphabet, where)
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except (RuntimeError, ValueError) as error:
        found = f"{where} ({len(model):,} bytes)"
        raise InputError(f"{found} is not a SentencePiece model; {REMEDY}") from error
    pieces = processor.IdToPiece(list(range(processor.GetPieceSize())))
    if pieces[: len(specials)] == [*specials] or not {*_GOOGLE.values()} <= {*pieces}:
        return processor
    processor.LoadFromSerializedProto(model + _NO_PREFIX)
    return Foreign(processor, specials, alphabet, where)


class Renumbered(ABC):
    """The vocabulary of others, its ids put in the order of `Tokenizer`.

    Special pieces come first, then those spelled in the alphabet, in their order. Pieces of other
    letters, which DNA never makes, get no id. A letter that the vocabulary lacks (N, as a rule)
    becomes a piece, which is its piece for the unknown.

    Attributes:
        pieces: the vocabulary in our order.
        theirs: the model's own id of each piece.
    """

    def __init__(
        self, ids: Mapping[str, int], specials: Sequence[str], alphabet: str, where: str
    ) -> None:
        """Number the pieces.

        Args:
            ids: of all pieces of the model.
            specials: special pieces in the order of our ids; the second stands for the unknown.
            alphabet: letters of sequences.
            where: the model's name in error messages.

        Raises:
            InputError: it lacks pieces, or does not spell DNA.
        """
        named = {name: name if name in ids else _GOOGLE.get(name, name) for name in specials}
        self.lacking = [letter for letter in alphabet if letter not in ids]
        missing = [name for name in specials if named[name] not in ids] + self.lacking[:-1]
        if missing:
            raise InputError(f"{where} lacks the pieces {' '.join(missing)}; it is not for DNA")
        spelled = [piece for piece in sorted(ids, key=ids.__getitem__) if set(piece) <= {*alphabet}]
        self.pieces = (*specials, *spelled, *self.lacking)
        named |= dict.fromkeys(self.lacking, named[specials[1]])
        self.theirs = [ids[named.get(piece, piece)] for piece in self.pieces]
        self._ours = np.full(max(ids.values()) + 1, -1)
        # A lacking letter has the id of [UNK] and wins it: sequences hold nothing else unknown.
        self._ours[self.theirs] = np.arange(len(self.pieces))
        rng = np.random.Generator(np.random.Philox(0))
        text = "".join(rng.choice(list(alphabet), size=2_000))
        if "".join(self.IdToPiece(self.encode([text])[0])) != text:
            raise InputError(f"{where}: its pieces do not spell the DNA that they are made from")

    def GetPieceSize(self) -> int:
        """Return the number of ids."""
        return len(self.pieces)

    def IdToPiece(self, ids: Sequence[int]) -> list[str]:
        """Return the pieces of ids."""
        return [self.pieces[index] for index in ids]

    def encode(
        self, segments: str | Sequence[str], out_type: type[int] = int, num_threads: int = 1
    ) -> Any:
        """Segment one sequence, list[int], or several, list[list[int]], as SentencePiece does."""
        if isinstance(segments, str):
            return self.encode([segments])[0]
        return [self._ours[self._cut(text)].tolist() for text in segments]

    @abstractmethod
    def _cut(self, text: str) -> list[int]:
        """Segment a sequence into the model's own ids."""


class Foreign(Renumbered):
    """A SentencePiece model with Google's special pieces (`spiece.model`).

    A sequence is no word: the mark of a word's beginning is not put before it.
    """

    def __init__(self, processor: Any, specials: Sequence[str], alphabet: str, where: str) -> None:
        """Number the pieces of a processor; see `Renumbered`."""
        self._processor = processor
        pieces = processor.IdToPiece(list(range(processor.GetPieceSize())))
        super().__init__({p: i for i, p in enumerate(pieces)}, specials, alphabet, where)

    def GetScore(self, ids: Sequence[int]) -> list[float]:
        """Return log-probabilities (unigram), or minus the rank of each piece (BPE)."""
        scores = self._processor.GetScore([self.theirs[index] for index in ids])
        is_bpe = all(score == round(score) for score in scores)
        return [-float(rank) for rank in range(len(ids))] if is_bpe else scores

    def SampleEncodeAsIds(self, segment: str, **settings: Any) -> list[int]:
        """Draw one segmentation of many, as SentencePiece does."""
        found = self._processor.SampleEncodeAsIds(segment, **settings)
        return self._ours[found].tolist()  # type: ignore[no-any-return]

    def _cut(self, text: str) -> list[int]:
        if not self.lacking:
            return self._processor.encode(text, out_type=int)  # type: ignore[no-any-return]
        # A run of what is unknown would become one piece.
        runs = re.split(f"({self.lacking[0]})", text)
        return [index for run in runs for index in self._processor.encode(run, out_type=int)]


class Merges(Renumbered):
    """A BPE model of the `tokenizers` package; it segments without fusing what is unknown.

    Attributes:
        merges: pairs of pieces, in the order in which they are joined.
    """

    def __init__(self, model: bytes, specials: Sequence[str], alphabet: str, where: str) -> None:
        """Read a `tokenizer.json`.

        Args:
            model: its bytes.
            specials: special pieces in the order of our ids; the second stands for the unknown.
            alphabet: letters of sequences.
            where: its name in error messages.

        Raises:
            InputError: no BPE model, one without the special pieces, or not for DNA.
            UsageError: the package `tokenizers` is missing.
        """
        try:
            import tokenizers
        except ImportError as error:
            remedy = "install tokenizers with pip install 'genobird[hf]'"
            raise UsageError(f"{where} holds merges, which tokenizers reads; {remedy}") from error
        try:
            settings = json.loads(model) | {"truncation": None, "padding": None}
            settings["model"] |= {"fuse_unk": False, "dropout": None}
            merges = settings["model"]["merges"]  # "A C" in older files, ["A", "C"] in newer ones
            self.merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in merges]
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(settings))
        except Exception as error:  # tokenizers raises bare exceptions
            raise InputError(f"{where} is no tokenizer.json of a BPE model ({error!r})") from error
        ids = self._tokenizer.get_vocab(with_added_tokens=True)
        super().__init__(ids, specials, alphabet, where)

    def GetScore(self, ids: Sequence[int]) -> list[float]:
        """Return scores that SentencePiece gives to BPE: minus the rank."""
        return [-float(rank) for rank in range(len(ids))]

    def SampleEncodeAsIds(self, *_args: object, **_settings: object) -> list[int]:
        """Refuse: its draws could not be repeated."""
        raise UsageError("merges cannot be sampled with a seed; use a SentencePiece tokenizer")

    def _cut(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids
