"""n-gram models on token shards: bits for every base of held-out sequence.

Both models read what the masked language model was trained on, one pass of it (a second pass would
count everything twice): the tokens themselves, or the bases that they stand for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genobird.baselines.ngram import NgramSettings, Text, ngram_bits
from genobird.bits_per_base import BaseBits, extent, token_spans
from genobird.errors import InputError
from genobird.genome.sequence import ALPHABET
from genobird.peaks import Cover
from genobird.shards import Shards
from genobird.tokenizer import BEYOND, Tokenizer

logger = logging.getLogger(__name__)

Unit = Literal["bases", "tokens"]
_N = ALPHABET.index("N")


class SequenceText(NamedTuple):
    """A text and where its runs lie on the genome.

    Attributes:
        text: symbols in runs, T of them.
        widths: bases of each symbol, [T].
        contigs: of each run, [R].
        starts: first base of each run, 0-based, [R].
    """

    text: Text
    widths: NDArray[np.uint8]
    contigs: list[str]
    starts: list[int]

    @property
    def run_bp(self) -> NDArray[np.int64]:
        """Bases of each run, [R]."""
        return np.add.reduceat(self.widths, self.text.firsts, dtype=np.int64)


def read_text(shards: Shards, tokenizer: Tokenizer, unit: Unit) -> SequenceText:
    """Read the first pass over the forward strand; a run ends where bases were left out.

    Raises:
        ShardError: the shards were made with another tokenizer.
        InputError: they hold nothing.
    """
    shards.require(tokenizer, "the one given")
    lengths = tokenizer.lengths.astype(np.uint8)
    symbols: list[NDArray[np.integer]] = []
    firsts, contigs, starts = [], [], []
    count, here = 0, ("", -1)
    for contig, start, end, ids in _stretches(shards, lengths):
        part = ids
        if unit == "bases":
            spelt = tokenizer.bases[ids]
            part = spelt[spelt != BEYOND]
        if here != (contig, start):
            firsts.append(count)
            contigs.append(contig)
            starts.append(start)
        symbols.append(part)
        count += len(part)
        here = (contig, end)
    if not symbols:
        raise InputError(f"{shards.path} holds no sequence of the forward strand")
    joined = np.concatenate(symbols)
    alphabet = len(ALPHABET) if unit == "bases" else tokenizer.vocab_size
    widths = np.ones(count, np.uint8) if unit == "bases" else lengths[joined]
    return SequenceText(Text(joined, np.array(firsts), alphabet), widths, contigs, starts)


def _stretches(
    shards: Shards, lengths: NDArray[np.uint8]
) -> Iterator[tuple[str, int, int, NDArray[np.uint16]]]:
    """Yield contig, first base, base after the last and tokens of stretches without a gap."""
    for number, document in enumerate(shards.documents):
        first_pass = shards.index.files[document.file].pass_index == 0
        if not first_pass or b"-" in shards.rows(number)["strand"]:
            continue
        ids = shards.document(number)
        contig, begins, ends = token_spans(shards, number, lengths)
        breaks = [0, *(np.flatnonzero(begins[1:] != ends[:-1]) + 1).tolist(), len(ids)]
        for first, last in pairwise(breaks):
            yield contig, int(begins[first]), int(ends[last - 1]), ids[first:last]


def predict_sequence(
    train: Shards, test: Shards, tokenizer: Tokenizer, unit: Unit, settings: NgramSettings
) -> tuple[BaseBits, dict[str, Any]]:
    """Train an n-gram model and predict every base of other shards.

    Args:
        train: what is counted.
        test: what is predicted.
        tokenizer: made both.
        unit: what a symbol is; the bits of a token are spread evenly over its bases.
        settings: shape of the model.

    Returns:
        Bits of each base, and what is worth keeping: sizes and bits per base over all of `test`.

    Raises:
        ShardError: shards that were made with another tokenizer.
        InputError: both hold the same bases of the genome, or one holds nothing.
    """
    _refuse_shared_bases(train, test, tokenizer)
    known = read_text(train, tokenizer, unit)
    asked = read_text(test, tokenizer, unit)
    bits = ngram_bits(known.text, asked.text, settings)
    has_n = np.arange(len(ALPHABET)) == _N
    if unit == "tokens":
        has_n = (tokenizer.bases == _N).any(axis=1)
    plain = ~has_n[asked.text.symbols]
    facts = {
        **settings.model_dump(mode="json"),
        "unit": unit,
        "symbols": len(known.text.symbols),
        "bits_per_base": round(float(bits.sum() / asked.widths.sum()), 5),
        "bits_per_base_no_n": round(float(bits[plain].sum() / asked.widths[plain].sum()), 5),
    }
    logger.info("n-grams of %d %s: %s bits per base", settings.order, unit, facts["bits_per_base"])
    spread = np.repeat(bits / asked.widths, asked.widths).astype(np.float32)
    contigs = np.array(asked.contigs, dtype=np.str_)
    return BaseBits(contigs, np.array(asked.starts), asked.run_bp, spread), facts


def open_shards(train: Path, test: Path) -> tuple[Shards, Shards]:
    """Open training and held-out shards.

    Raises:
        InputError: held-out shards of several passes, of which only the first would have bits.
    """
    known, asked = Shards.open(train), Shards.open(test)
    passes = asked.index.settings.passes
    if passes > 1:
        raise InputError(
            f"{test} holds {passes} passes and n-gram models answer for one; make the held-out "
            "corpus again with `genobird corpus --set passes=1`, then its shards"
        )
    return known, asked


def _refuse_shared_bases(train: Shards, test: Shards, tokenizer: Tokenizer) -> None:
    """Compare every document of `test`, in any pass, with every one of `train`."""
    for shards in (train, test):
        shards.require(tokenizer, "the one given")
    taken = Cover(extent(train, number, tokenizer.lengths) for number in range(len(train)))
    for number in range(len(test)):
        asked = extent(test, number, tokenizer.lengths)
        if taken.touches(asked.contig, asked.start, asked.end):
            raise InputError(
                f"{test.path} holds {asked.contig}:{asked.start + 1:,}-{asked.end:,} and "
                f"{train.path} a part of it; held-out shards share no base with those that are "
                "trained on"
            )
