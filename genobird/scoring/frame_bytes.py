"""A frame of scores as bytes and back, with every type of column as it was.

Columns of floats, of which there are hundreds, become one matrix; Arrow keeps the others.
"""

from __future__ import annotations

import io
import json
import zlib
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray


def pack_frame(frame: pd.DataFrame) -> bytes:
    """Return a frame as bytes; its index is dropped."""
    floats, others = _places(frame)
    names = {"columns": list(map(str, frame.columns)), "floats": floats, "others": others}
    rest = io.BytesIO()
    table = pa.Table.from_pandas(frame.iloc[:, others], preserve_index=False)
    with pa.ipc.new_stream(rest, table.schema) as stream:
        stream.write_table(table)
    arrays: dict[str, Any] = {
        "names": _bytes(zlib.compress(json.dumps(names).encode())),
        "rest": _bytes(rest.getvalue()),
        **{kind: frame.iloc[:, places].to_numpy() for kind, places in floats.items()},
    }
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


def unpack_frame(data: bytes) -> pd.DataFrame:
    """Return the frame of `pack_frame`."""
    arrays = np.load(io.BytesIO(data), allow_pickle=False)
    names = json.loads(zlib.decompress(arrays["names"].tobytes()))
    rest: pd.DataFrame = pa.ipc.open_stream(arrays["rest"].tobytes()).read_all().to_pandas()
    parts = [rest.set_axis(names["others"], axis=1)] if names["others"] else []
    for kind, places in names["floats"].items():
        parts.append(pd.DataFrame(arrays[kind], columns=places))
    return pd.concat(parts, axis=1).sort_index(axis=1).set_axis(names["columns"], axis=1)


def is_scored(frame: pd.DataFrame) -> bool:
    """Tell whether a column of floats has a value."""
    floats, _ = _places(frame)
    return any(np.isfinite(frame.iloc[:, places]).any(axis=None) for places in floats.values())


def _places(frame: pd.DataFrame) -> tuple[dict[str, list[int]], list[int]]:
    """Return the places of the columns of each type of float, and of all other columns."""
    floats: dict[str, list[int]] = {}
    others: list[int] = []
    for place, kind in enumerate(frame.dtypes):
        is_float = isinstance(kind, np.dtype) and kind.kind == "f"
        (floats.setdefault(kind.str, []) if is_float else others).append(place)
    return floats, others


def _bytes(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)
