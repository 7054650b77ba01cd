"""What commands write, as text that can be compared: on one machine exactly, else but for rounding.

Hashes, versions, dates, times and folders are replaced by names: they change without a meaning.
Binary files are described: tables by types and rows, tensors and arrays by shape, sum and size.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pyBigWig
import pysam
from safetensors.numpy import load_file

import genobird

ABSOLUTE, RELATIVE = 1e-4, 1e-3
"""How far a number may be from the recorded one on another machine."""

# Names of files that are not looked into.
BINARY = {".ckpt", ".csi", ".fai", ".gzi", ".model", ".npy", ".png", ".svg", ".tbi"}
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.\d+(?:[eE][-+]?\d+)?|\d+[eE]-\d+)(?![\w.])")
NUMBERS = re.compile(r"\[\s+(?:[-+.\deE]+,\s+)*[-+.\deE]+\s+\]")
VOLATILE = [
    (re.compile(r"(?<!\d\.)\b[0-9a-f]{12}(?:[0-9a-f]{28}(?:[0-9a-f]{24})?)?\b"), "<hash>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:[-+]\d\d:\d\d|Z)?)?"),
     "<date>"),
    (re.compile(rf"\b{re.escape(genobird.__version__)}(?![\w.]*\d)"), "<version>"),
    (re.compile(r'("(?:\w*_)?(?:seconds|minutes)": )[\d.e-]+'), r"\1<time>"),
    (re.compile(r"\b[\d,]+(?:\.\d+)? (?:s|min|h|(?:steps|tokens|bases)/s|GB)\b"), "<time>"),
]  # fmt: skip


def transcript(folder: Path, streams: dict[str, str]) -> list[str]:
    """The lines of the streams and of every file in a folder but `in`."""
    lines = []
    for name, text in streams.items():
        lines += [f"== {name}", *text.splitlines()] if text else []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] != "in" and path.is_file():
            shown = re.sub(r"tfevents\..*", "tfevents", name.as_posix())
            lines += [f"== {shown}", *_described(path)]
    text = NUMBERS.sub(lambda found: re.sub(r"\s+", " ", found[0]), "\n".join(lines))
    return [_steady(line, folder) for line in text.splitlines()]


def differences(
    expected: list[str], found: list[str], exact: bool, absolute: float = ABSOLUTE
) -> Iterator[str]:
    """Lines that differ: in text, or in a number by more than rounding (`exact`: in anything)."""
    where = ""
    for number, (old, new) in enumerate(zip_longest(expected, found), start=1):
        if old is not None and old.startswith("== "):
            where = old.removeprefix("== ")
        if old != new and (exact or old is None or new is None or not _close(old, new, absolute)):
            yield f"{number} ({where})\n- {old}\n+ {new}"


def _close(old: str, new: str, absolute: float) -> bool:
    pairs = zip(NUMBER.findall(old), NUMBER.findall(new), strict=False)
    return NUMBER.sub("#", old) == NUMBER.sub("#", new) and all(
        _near(a, b, absolute) for a, b in pairs
    )


def _near(old: str, new: str, absolute: float) -> bool:
    one, other = float(old), float(new)
    # What was rounded to two or three digits may have been rounded the other way.
    digits = len(old.partition(".")[2])
    last = 1.01 * 10.0**-digits if "e" not in old.lower() and digits > 1 else 0.0
    return abs(one - other) <= absolute + RELATIVE * abs(one) + last


def _steady(line: str, folder: Path) -> str:
    for path, name in ((str((folder / "in").resolve()), "in"), (str(folder), "<folder>")):
        line = line.replace(path, name)
    line = line.replace("\N{MINUS SIGN}", "-")  # of pages, which may turn to a plus by rounding
    for pattern, name in VOLATILE:
        line = pattern.sub(name, line)
    return line


def _described(path: Path) -> list[str]:
    if path.suffix in BINARY or "tfevents" in path.name:
        return []
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes()).decode().splitlines()
    describe = {
        ".bcf": _bcf, ".bw": _bigwig, ".html": _html, ".json": _json, ".npz": _npz,
        ".parquet": _parquet, ".safetensors": _tensors,
    }.get(path.suffix)  # fmt: skip
    if path.name == "metrics.csv":
        return _metrics(path)
    return path.read_text().splitlines() if describe is None else describe(path)


def _metrics(path: Path) -> list[str]:
    """What a training logs, without its speed."""
    table = pd.read_csv(path)
    kept = [name for name in table.columns if not name.startswith("speed/")]
    return str(table[kept].to_csv(index=False)).splitlines()


def _bcf(path: Path) -> list[str]:
    with pysam.VariantFile(str(path)) as file:
        return [*str(file.header).splitlines(), *(str(record).rstrip("\n") for record in file)]


def _bigwig(path: Path) -> list[str]:
    with pyBigWig.open(str(path)) as file:
        contigs = file.chroms()
        rows = [(name, *row) for name in contigs for row in file.intervals(name) or ()]
    return [str(contigs), *("\t".join(map(str, row)) for row in rows)]


def _html(path: Path) -> list[str]:
    """The text that a reader sees, without that of figures."""

    class Text(HTMLParser):
        hidden = 0
        lines: list[str]

        def handle_starttag(self, tag: str, attributes: object) -> None:
            self.hidden += tag in ("style", "svg")

        def handle_endtag(self, tag: str) -> None:
            self.hidden -= tag in ("style", "svg")

        def handle_data(self, data: str) -> None:
            self.lines += [] if self.hidden else data.strip().splitlines()

    page = Text()
    page.lines = []
    page.feed(path.read_text())
    return page.lines


def _json(path: Path) -> list[str]:
    return json.dumps(json.loads(path.read_text()), indent=1, ensure_ascii=False).splitlines()


def _npz(path: Path) -> list[str]:
    with np.load(path) as arrays:
        return [_array(name, arrays[name]) for name in sorted(arrays.files)]


def _parquet(path: Path) -> list[str]:
    table = pq.read_table(path)
    facts = dict(sorted((table.schema.metadata or {}).items()))
    facts.pop(b"pandas", None)
    types = [f"{field.name}: {field.type}" for field in table.schema]
    notes = [f"{key.decode()}={value.decode()}" for key, value in facts.items()]
    return [*types, *notes, *table.to_pandas().to_csv(sep="\t", index=False).splitlines()]


def _tensors(path: Path) -> list[str]:
    return [_array(name, array) for name, array in sorted(load_file(path).items())]


def _array(name: str, array: np.ndarray) -> str:
    shown = f"{name}: {array.dtype} {list(array.shape)}"
    if array.dtype.kind not in "fiub" or not array.size:
        return f"{shown} {array.tolist()}" if array.size < 50 else shown
    values = array.astype(np.float64)
    size = np.sqrt(np.mean(values**2))
    return f"{shown} mean {float(values.mean()):.6f} rms {float(size):.6f}"
