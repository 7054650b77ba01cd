from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genobird.scoring.frame_bytes import is_scored, pack_frame, unpack_frame

FLOATS = st.floats(width=32, allow_nan=True)


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    """Columns of every type that scores have, mixed, of the same number of rows."""
    rows = draw(st.integers(0, 5))

    def several(values: st.SearchStrategy[object]) -> list[object]:
        return draw(st.lists(values, min_size=rows, max_size=rows))

    kinds = {
        "text": lambda: pd.Series(several(st.text(max_size=4)), dtype="str"),
        "gaps": lambda: pd.Series(several(st.none() | st.text(max_size=4)), dtype="str"),
        "none": lambda: pd.Series([None] * rows, dtype=object),
        "int": lambda: np.array(several(st.integers(-9, 2**40)), np.int64),
        "Int": lambda: pd.array(several(st.none() | st.integers(-9, 2**40)), "Int64"),
        "flag": lambda: np.array(several(st.booleans()), bool),
        "single": lambda: np.array(several(FLOATS), np.float32),
        "double": lambda: np.array(several(st.floats()), np.float64),
    }
    order = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, max_size=12))
    return pd.DataFrame({f"{kind}|{place}": kinds[kind]() for place, kind in enumerate(order)})


@settings(max_examples=60)
@given(frame=frames())
def test_a_frame_comes_back_as_it_was(frame):
    pd.testing.assert_frame_equal(unpack_frame(pack_frame(frame)), frame, check_exact=True)


def test_hundreds_of_columns_cost_little_more_than_their_floats():
    values = np.arange(16 * 700, dtype=np.float32).reshape(16, 700)
    frame = pd.DataFrame(values, columns=[f"cell|mark|{place}|delta" for place in range(700)])
    frame.insert(0, "chrom", "chr20")
    assert len(pack_frame(frame)) < 1.25 * values.nbytes


@pytest.mark.parametrize(
    ("values", "scored"),
    [([np.nan, np.nan], False), ([np.nan, 0.5], True), ([], False), ([np.inf, np.nan], False)],
)
def test_scored_is_a_frame_with_a_number_in_a_float_column(values, scored):
    numbers = np.arange(len(values), dtype=np.int64)
    frame = pd.DataFrame({"pos": numbers, "a|delta": np.array(values, np.float32)})
    assert is_scored(frame) == scored
    assert not is_scored(frame[["pos"]])
