"""Sequences given in Python, as text with a name: strings, and what Biopython makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd
from Bio.Seq import MutableSeq, Seq, UndefinedSequenceError

from genobird.errors import SequenceError, UsageError, quoted

Sequences = Any
"""A list, array, Series or dict of sequences; or one sequence, which is a list of one.

A sequence is a string, bytes, a `Seq`, or a record that holds one of these, such as a `SeqRecord`.
"""

_HINT = "give strings, Seq or SeqRecord of Biopython, or a list or dict of these"
# What records call their sequence and their name: those of Biopython, pyfaidx and pysam.
_TEXTS, _NAMES = ("seq", "sequence"), ("id", "name")


def named_sequences(sequences: Sequences) -> Iterator[tuple[str, str]]:
    """Yield name and text of each sequence.

    A dict and a Series name them by their keys, a record by its id; others are numbered from 0.

    Raises:
        UsageError: there is something else.
        SequenceError: a sequence of Biopython has a length alone.
    """
    if _text(sequences) is not None:
        sequences = [sequences]
    if isinstance(sequences, pd.DataFrame) or not isinstance(sequences, Iterable):
        raise UsageError(f"{quoted(sequences)} is given as sequences; {_HINT}")
    keyed = isinstance(sequences, Mapping | pd.Series)
    items: Any = sequences
    for key, item in items.items() if keyed else enumerate(items):
        text = _text(item)
        if text is None:
            raise UsageError(f"{quoted(item)} is given as sequence {key}; {_HINT}")
        yield str(key if keyed else _first(item, _NAMES, key)), text


def _text(item: object) -> str | None:
    held = item if isinstance(item, str | bytes) else _first(item, _TEXTS, item)
    if isinstance(held, bytes):
        return held.decode("latin-1")
    try:
        return str(held) if isinstance(held, str | Seq | MutableSeq) else None
    except UndefinedSequenceError:
        raise SequenceError(f"{quoted(held)} has a length, but no letters; read it whole") from None


def _first(item: object, names: Iterable[str], default: object) -> object:
    """Return the first of these attributes that is there."""
    return next((getattr(item, name) for name in names if hasattr(item, name)), default)
