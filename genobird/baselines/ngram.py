"""Smoothed n-gram language models over bases or tokens of shards, on sorted arrays.

They read what the masked language model was trained on, one pass of it (a second pass would count
everything twice): the tokens themselves, or the bases that they stand for. What leaves are bits for
every base of held-out sequence.

Both smoothings mix an n-gram's share with the model that is one symbol shorter:

- `kneser_ney` (interpolated, Chen and Goodman 1999, section 3.2) lowers every count by a discount
  and gives what is freed to the shorter model, which counts in how many contexts an n-gram occurs,
  not how often. It is made for large alphabets, such as tokens.
- `dirichlet` adds `strength` occurrences, spread as the shorter model says. It is for bases: every
  short context occurs after each of them, so that contexts of contexts say nothing, and no discount
  is right for rare and frequent n-grams alike.

The table of n-grams is an array of numbers, sorted; it exists one order at a time and is never
written. The paper's row (table 5) is SRILM on the same kind of text.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from genobird.bits_per_base import BaseBits, extent, token_spans
from genobird.config import Strict
from genobird.errors import InputError, UsageError
from genobird.genome.sequence import ALPHABET
from genobird.peaks import Cover
from genobird.shards import Shards
from genobird.tokenizer import BEYOND, Tokenizer

logger = logging.getLogger(__name__)

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
Codes = NDArray[Any]
"""Numbers of n-grams, uint32 or int64: the last symbol is the lowest digit."""

_CHUNK = 1 << 18  # symbols at a time, so that they stay in the processor's cache
_N = ALPHABET.index("N")
Unit = Literal["bases", "tokens"]


class NgramSettings(Strict):
    """Shape of an n-gram model."""

    order: int = Field(ge=1, description="Symbols of an n-gram, the predicted one included.")
    smoothing: Literal["kneser_ney", "dirichlet"] = Field(description="How orders are mixed.")
    strength: float = Field(
        16.0, gt=0, description="Occurrences that the shorter model counts as, with dirichlet."
    )


@dataclass(frozen=True, eq=False)
class Text:
    """Symbols in runs; an n-gram never reaches over the start of a run.

    Attributes:
        symbols: 0 to V - 1, all runs end to end, [T].
        firsts: offset of each run's first symbol, ascending from 0, int64 [R].
        alphabet: number of symbols, V.
    """

    symbols: NDArray[np.integer]
    firsts: Ints
    alphabet: int


def ngram_bits(train: Text, test: Text, settings: NgramSettings) -> Doubles:
    """Train on one text and predict another from left to right.

    Each symbol is predicted from those before it in its run: -log2 p, [T].

    Raises:
        UsageError: n-grams of so many symbols have no numbers of 64 bits.
        InputError: there is nothing to count, or the alphabets differ.
    """
    size = train.alphabet
    if size != test.alphabet or not len(train.symbols):
        raise InputError(
            f"{len(train.symbols)} symbols of an alphabet of {size} to count, "
            f"{test.alphabet} to predict; both texts are of one alphabet"
        )
    if size**settings.order >= 2**62:
        most = int(62 / np.log2(size))
        raise UsageError(f"order {settings.order} of {size} symbols; at most {most} is possible")
    p = np.full(len(test.symbols), 1 / size)
    asked: Codes = np.empty(0, dtype=np.uint32)
    counted = asked
    for order in range(1, settings.order + 1):
        asked, counted = _longer(asked, test, order), _longer(counted, train, order)
        if settings.smoothing == "kneser_ney" and order < settings.order:
            longer = _longer(counted, train, order + 1)
            grams = _continuations(_grams(longer, train, order + 1), size**order)
        else:
            grams = _grams(counted, train, order)
        rows = _whole(test, order)
        p[rows] = _interpolate(grams, asked[rows], size, p[rows], settings)
    bits: Doubles = -np.log2(p)
    return bits


def _longer(codes: Codes, text: Text, order: int) -> Codes:
    """Number the n-grams that end at each symbol, given those that are one symbol shorter.

    Numbers of 32 bits serve as long as they can: they are sorted five times as fast.
    """
    kind = np.dtype(np.uint32 if text.alphabet**order <= 2**32 else np.int64)
    back, scale = order - 1, kind.type(text.alphabet ** (order - 1))
    found: Codes = np.zeros(len(text.symbols), dtype=kind)
    found[: len(codes)] = codes
    for first in range(back, len(found), _CHUNK):
        part = slice(first, first + _CHUNK)
        found[part] += (
            text.symbols[first - back : first - back + _CHUNK].astype(kind)[: len(found) - first]
            * scale
        )
    return found


def _whole(text: Text, order: int) -> NDArray[np.bool_]:
    """Say which symbols have `order - 1` others before them in their run, [T]."""
    whole = np.ones(len(text.symbols), dtype=bool)
    for first in text.firsts:
        whole[first : first + order - 1] = False
    return whole


def _grams(codes: Codes, text: Text, order: int) -> Codes:
    """Return the n-grams of a text, sorted, with repeats."""
    found: Codes = codes[_whole(text, order)]
    found.sort()
    return found


def _continuations(longer: Codes, modulus: int) -> Codes:
    """Return the n-grams without their first symbol, one for each distinct longer n-gram."""
    distinct: Codes = longer[np.flatnonzero(_is_new(longer))] % modulus
    distinct.sort()
    return distinct


def _is_new(grams: Codes) -> NDArray[np.bool_]:
    new = np.ones(len(grams), dtype=bool)
    np.not_equal(grams[1:], grams[:-1], out=new[1:])
    return new


def _interpolate(
    grams: Codes, asked: Codes, size: int, shorter: Doubles, settings: NgramSettings
) -> Doubles:
    """Return p of the n-grams asked for, given p of the model that is one symbol shorter."""
    if not len(grams):
        return shorter
    firsts = np.append(np.flatnonzero(_is_new(grams)), len(grams))
    known = grams[firsts[:-1]]  # each once; number i occurs firsts[i + 1] - firsts[i] times
    keys, inverse = np.unique(asked, return_inverse=True)
    begins = keys - keys % size  # of the context's n-grams
    low, high = np.searchsorted(known, begins), np.searchsorted(known, begins + (size - 1), "right")
    place = np.searchsorted(known, keys)
    found = np.append(known, 0)[place] == keys
    found &= place < len(known)
    count = np.where(found, firsts[np.minimum(place + 1, len(known))] - firsts[place], 0)
    total = firsts[high] - firsts[low]
    if settings.smoothing == "dirichlet":
        kept = count / (total + settings.strength)
        freed = settings.strength / (total + settings.strength)
    else:
        discount = _discount(np.diff(firsts))
        kept = np.maximum(count - discount, 0) / np.maximum(total, 1)
        freed = np.where(total > 0, discount * (high - low) / np.maximum(total, 1), 1.0)
    result: Doubles = kept[inverse] + freed[inverse] * shorter
    return result


def _discount(counts: Ints) -> float:
    """Ney's estimate from how many n-grams occur once and twice; a half where none occurs once."""
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return once / (once + 2 * twice) if once else 0.5


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
    """Count one text and predict every base of another; the tokenizer made both.

    The bits of a token are spread evenly over its bases.

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
