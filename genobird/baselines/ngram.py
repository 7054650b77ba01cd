"""Smoothed n-gram language models over bases or tokens, on sorted arrays.

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

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from genobird.errors import InputError, UsageError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Codes = NDArray[Any]
"""Numbers of n-grams, uint32 or int64: the last symbol is the lowest digit."""

_CHUNK = 1 << 18  # symbols at a time, so that they stay in the processor's cache


class NgramSettings(BaseModel):
    """Shape of an n-gram model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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


def ngram_bits(train: Text, test: Text, settings: NgramSettings) -> Floats:
    """Train on one text and predict another from left to right.

    Args:
        train: what is counted.
        test: what is predicted, each symbol from those before it in its run.
        settings: shape of the model.

    Returns:
        -log2 p of each symbol of `test`, [T].

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
    bits: Floats = -np.log2(p)
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
    grams: Codes, asked: Codes, size: int, shorter: Floats, settings: NgramSettings
) -> Floats:
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
    result: Floats = kept[inverse] + freed[inverse] * shorter
    return result


def _discount(counts: Ints) -> float:
    """Ney's estimate from how many n-grams occur once and twice; a half where none occurs once."""
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return once / (once + 2 * twice) if once else 0.5
