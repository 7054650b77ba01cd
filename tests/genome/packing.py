"""Write a text in each of the ways that the readers unpack."""

from __future__ import annotations

import gzip
from pathlib import Path

import pysam

KINDS = ("plain", "gzip", "bgzf")


def pack(text: bytes, path: Path, kind: str) -> Path:
    if kind == "gzip":
        path.write_bytes(gzip.compress(text, 1))
    elif kind == "bgzf":
        with pysam.BGZFile(str(path), "wb") as file:
            file.write(text)
    else:
        path.write_bytes(text)
    return path
