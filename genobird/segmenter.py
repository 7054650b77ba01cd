"""What cuts DNA into pieces: SentencePiece, or the merges of a `tokenizer.json` behind its methods.

A SentencePiece model joins any two pieces that make a third; merges name the two. What was trained
with merges is segmented otherwise by SentencePiece, so it is read by the package that wrote it,
`tokenizers`, which comes with `genobird[hf]`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import sentencepiece

from genobird.errors import InputError, UsageError

REMEDY = "train one with `genobird tokenizer train`"


def segmenter(model: bytes, specials: Sequence[str], alphabet: str, where: str) -> Any:
    """Return what the bytes of a model hold, `Merges` or a SentencePieceProcessor.

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
    return processor


class Merges:
    """A BPE model of the `tokenizers` package, its ids put in the order of `Tokenizer`.

    Special pieces come first, then those spelled in the alphabet, in their order. Pieces of other
    letters, which DNA never makes, get no id. A letter that the model lacks (N, as a rule) becomes
    a piece, which is the model's [UNK].

    Attributes:
        pieces: the vocabulary in our order.
        theirs: the model's own id of each piece.
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
        ids: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        lacking = [letter for letter in alphabet if letter not in ids]
        missing = [piece for piece in specials if piece not in ids] + lacking[:-1]
        if missing:
            raise InputError(f"{where} lacks the pieces {' '.join(missing)}; it is not for DNA")
        spelled = [piece for piece in sorted(ids, key=ids.__getitem__) if set(piece) <= {*alphabet}]
        self.pieces = (*specials, *spelled, *lacking)
        self.theirs = [ids[specials[1] if piece in lacking else piece] for piece in self.pieces]
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

    def GetScore(self, ids: Sequence[int]) -> list[float]:
        """Return scores that SentencePiece gives to BPE: minus the rank."""
        return [-float(rank) for rank in range(len(ids))]

    def encode(
        self, segments: str | Sequence[str], out_type: type[int] = int, num_threads: int = 1
    ) -> Any:
        """Segment one sequence, list[int], or several, list[list[int]], as SentencePiece does."""
        if isinstance(segments, str):
            return self.encode([segments])[0]
        found = [self._tokenizer.encode(text, add_special_tokens=False).ids for text in segments]
        return [self._ours[ids].tolist() for ids in found]

    def SampleEncodeAsIds(self, *_args: object, **_settings: object) -> list[int]:
        """Refuse: its draws could not be repeated."""
        raise UsageError("merges cannot be sampled with a seed; use a SentencePiece tokenizer")
