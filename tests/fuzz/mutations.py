"""Damage: what editors, scripts, broken disks and strangers do to a file."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

NUMBERS = (
    b"-1",
    b"0",
    b"1" * 25,
    b"9" * 5_000,
    "²".encode(),
    b"NaN",
    b"inf",
    b"1e9",
    b"1_0",
    b"2.5",
)
WORDS = (
    b"", b" ", b".", b"*", b"-", b"+", b"<DEL>", b"A,C", b"A,,C", b",", b";", b"=", b"|", b"#",
    b">", b"%3B", b"\xff\xfe", b"\0", b'"', b"'", b'=HYPERLINK("a")', b"$\\frac$", b"$$", b"<b>",
    b"NA", b"ACGTN" * 300, b"A[chr1:5[", b"a" * 140_000, b"chr1:1-5", "é".encode(), b"\r",
    b"\x1f\x8b",
)  # fmt: skip
VALUES = (
    None, True, -1, 0, 1.5, 1_000_000, 10**9, 2**63, 2**70, 1e300, "", "text", [], {}, [[]],
    {"a": 1},
)  # fmt: skip
_FIELDS = re.compile(rb"[^\t\n ,;:=|]+")

Way = Callable[[bytes, random.Random], bytes]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Damage a file in one to four ways."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_WAYS)(data, rng)
    return rng.choice(_PACKED)(data) if rng.random() < 0.1 else data


def mutated_json(text: str, rng: random.Random) -> str:
    """Put another value in one place of a JSON file, or damage its text."""
    if rng.random() < 0.3:
        return mutated(text.encode(), rng).decode("utf-8", "replace")
    root = {"root": json.loads(text)}
    place: Any = root
    while True:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        inner = place[key]
        if not (isinstance(inner, dict | list) and inner) or rng.random() < 0.1:
            break
        place = inner
    if isinstance(place, dict) and rng.random() < 0.2:
        del place[key]
        place["unknown"] = inner
    else:
        place[key] = rng.choice(VALUES)
    return json.dumps(root.get("root"))


def mutated_frame(frame: pd.DataFrame, rng: random.Random) -> pd.DataFrame:
    """Change a column of a table: its values, its type, its name; or leave out columns or rows."""
    frame = frame.copy()
    name = rng.choice(list(frame.columns))
    way = rng.randrange(7)
    if way == 0:
        return frame.drop(columns=name)
    if way == 1:
        names = {"", "x", "status", "chrom", "a|delta"} - {*frame.columns}
        return frame.rename(columns={name: rng.choice(sorted(names))})
    if way == 2:
        return frame.iloc[: rng.choice((0, 1))]
    if way == 3:
        frame[name] = rng.choice((np.nan, "text", "", -1, 2**62, 1e300, np.inf, True))
    elif way == 4:
        frame[name] = frame[name].astype(str)
    else:
        values = frame[name].astype(object)
        values.iloc[rng.randrange(len(values))] = rng.choice((None, "text", "", -1, 2**62, np.inf))
        kinds = {type(value) for value in values}
        frame[name] = values if kinds <= {str, type(None)} else pd.to_numeric(values, "coerce")
        if way == 5 and str in kinds:
            frame[name] = values.astype(str)
    return frame


def _field(data: bytes, rng: random.Random) -> bytes:
    fields = list(_FIELDS.finditer(data))
    if not fields:
        return data
    found = rng.choice(fields)
    new = rng.choice(NUMBERS if found.group().isdigit() and rng.random() < 0.7 else WORDS)
    return data[: found.start()] + new + data[found.end() :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    first = rng.randrange(len(data) + 1)
    return data[:first] + data[first + rng.choice((1, 2, 10, 100, len(data))) :]


def _double(data: bytes, rng: random.Random) -> bytes:
    first = rng.randrange(len(data) + 1)
    return data[:first] + data[first : first + 200] * rng.choice((2, 3, 50)) + data[first:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    first = rng.randrange(len(data) + 1)
    return data[:first] + rng.choice((rng.randbytes(3), b"\t", b"\n", *WORDS)) + data[first:]


def _flip(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(min(len(found), rng.choice((1, 5)))):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def _lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    way = rng.randrange(4)
    if way == 0:
        lines[one], lines[other] = lines[other], lines[one]
    elif way == 1:
        lines[one] = rng.choice((b"", b"\t" * 9, b"   ", b"#", b"##", b">", lines[other]))
    elif way == 2:
        del lines[one]
    else:
        lines[one] = b"\t".join(
            lines[one].split(b"\t")[rng.choice((0, 1)) : rng.choice((3, 5, 99))]
        )
    return b"\n".join(lines)


def _ends(data: bytes, rng: random.Random) -> bytes:
    old, new = rng.choice(((b"\n", b"\r\n"), (b"\n", b"\r"), (b"\t", b" "), (b"\t", b",")))
    return data.replace(old, new)


_WAYS: tuple[Way, ...] = (_field, _field, _field, _cut, _double, _insert, _flip, _lines, _ends)
_PACKED: tuple[Callable[[bytes], bytes], ...] = (
    gzip.compress,
    lambda data: gzip.compress(data)[:-9],
    lambda data: b"\xef\xbb\xbf" + data,
    lambda data: data.decode("latin-1").encode("utf-16"),
)
