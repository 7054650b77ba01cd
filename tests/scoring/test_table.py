from __future__ import annotations

import gzip
import io
import sys
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genobird.errors import OutputError, UsageError
from genobird.scoring import table
from genobird.scoring.table import TableWriter, clean_text, in_chunks

FRAME = pd.DataFrame(
    {
        "chrom": ["chr1", "chr2"],
        "start": np.array([1, 2], np.int64),
        "promoter": np.array([0.123456789, np.nan], np.float32),
    }
)
TSV = "chrom\tstart\tpromoter\nchr1\t1\t0.123457\nchr2\t2\t\n"


def test_frames_become_one_table_with_six_digits_and_empty_cells(tmp_path):
    path = tmp_path / "a.tsv"
    with TableWriter(path) as writer:
        writer.write(FRAME[:1])
        writer.write(FRAME[1:])
    assert path.read_text() == TSV
    assert writer.rows == 2


def test_a_packed_table_has_the_same_bytes_each_time(tmp_path):
    for name in ("a.tsv.gz", "b.tsv.gz"):
        with TableWriter(tmp_path / name) as writer:
            writer.write(FRAME)
    assert gzip.decompress((tmp_path / "a.tsv.gz").read_bytes()).decode() == TSV
    assert (tmp_path / "a.tsv.gz").read_bytes() == (tmp_path / "b.tsv.gz").read_bytes()


def test_parquet_keeps_types_and_carries_facts(tmp_path):
    path = tmp_path / "a.parquet"
    with TableWriter(path, meta={"model": "0123"}) as writer:
        writer.write(FRAME[:1])
        writer.write(FRAME[1:])
    back = pd.read_parquet(path)
    pd.testing.assert_frame_equal(back, FRAME)
    assert pq.read_schema(path).metadata[b"genobird.model"] == b"0123"


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 40), max_size=6))
@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz", "a.parquet"])
def test_the_bytes_do_not_depend_on_the_frames_that_the_rows_came_in(tmp_path, name, cuts):
    rows = pd.DataFrame(
        {
            "chrom": [f"chr{n % 3}" for n in range(40)],
            "x": np.arange(40, dtype=np.float32) / 7,
            "lifted": pd.array([n if n % 4 else None for n in range(40)], "Int64"),
        }
    )
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "_GROUP_CELLS", 3 * 15)
        for frames in ([rows], [rows[a:b] for a, b in pairwise([0, *sorted(cuts), 40])]):
            with TableWriter(tmp_path / name, force=True) as writer:
                for frame in frames:
                    writer.write(frame)
            made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]


def test_parquet_comes_in_groups_of_rows_of_one_size(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "_GROUP_CELLS", 3 * 4)
    with TableWriter(tmp_path / "a.parquet") as writer:
        for _ in range(5):
            writer.write(FRAME)
    file = pq.ParquetFile(tmp_path / "a.parquet")
    groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert groups == [4, 4, 2]


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz", "a.parquet"])
def test_a_finished_table_only_lacks_its_name(tmp_path, name):
    with TableWriter(tmp_path / name) as writer:
        writer.write(FRAME)
        writer.finish()
        (hidden,) = tmp_path.glob(f".{name}.*.tmp/{name}")
        finished = hidden.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == finished


@pytest.mark.parametrize("name", ["a.tsv", "a.parquet"])
def test_a_table_without_rows_has_its_columns(tmp_path, name):
    with TableWriter(tmp_path / name) as writer:
        writer.write(pd.DataFrame({"chrom": [], "start": np.array([], np.int64)}))
    read = pd.read_parquet if name.endswith("parquet") else lambda p: pd.read_csv(p, sep="\t")
    back = read(tmp_path / name)
    assert list(back.columns) == ["chrom", "start"]
    assert back.empty


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz", "a.parquet"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interruption_leaves_nothing_or_what_was_there(tmp_path, name, error):
    path = tmp_path / name
    with pytest.raises(error), TableWriter(path) as writer:  # noqa: PT012
        writer.write(FRAME)
        raise error
    assert list(tmp_path.iterdir()) == []
    path.write_text("old")
    with pytest.raises(error), TableWriter(path, force=True) as writer:
        raise error
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_the_name_appears_only_when_the_table_is_complete(tmp_path):
    with TableWriter(tmp_path / "a.tsv") as writer:
        writer.write(FRAME)
        assert not (tmp_path / "a.tsv").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["a.tsv"]


def test_an_existing_output_is_replaced_only_by_force(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("old")
    with pytest.raises(UsageError, match="exists; choose another name or pass --force"):
        TableWriter(path)
    with TableWriter(path, force=True) as writer:
        writer.write(FRAME)
    assert path.read_text() == TSV


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.xlsx", r"unknown ending; allowed are \.tsv, \.tsv\.gz, \.parquet and -"),
        ("missing/a.tsv", "make the folder"),
    ],
)
def test_an_impossible_output_is_refused(tmp_path, name, message):
    with pytest.raises(UsageError, match=message):
        TableWriter(tmp_path / name)


def test_a_folder_that_cannot_be_written_is_refused_before_work():
    # Not even the superuser makes a file there.
    with pytest.raises(OutputError, match=r"/sys/a\.tsv cannot be written: .*; check space"):
        TableWriter("/sys/a.tsv")


def test_an_output_that_cannot_be_opened_or_written_is_an_output_error(tmp_path, monkeypatch):
    with pytest.raises(OutputError, match="name too long"):
        TableWriter(tmp_path / f"{'a' * 252}.tsv")
    monkeypatch.setattr(TableWriter, "_write_tsv", _full_disk)
    with pytest.raises(OutputError, match="No space left"), TableWriter(tmp_path / "a.tsv") as w:
        w.write(FRAME)
    assert list(tmp_path.iterdir()) == []


def _full_disk(writer: TableWriter, frame: pd.DataFrame) -> None:
    raise OSError(28, "No space left on device")


def test_a_dash_is_standard_output_and_stays_open(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw))
    with TableWriter("-") as writer:
        writer.write(FRAME)
    assert raw.getvalue().decode() == TSV
    assert not raw.closed


def test_chunks_keep_order_and_lose_nothing():
    assert list(in_chunks(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(in_chunks([], 2)) == []


def test_bytes_that_are_no_text_are_replaced():
    assert clean_text(b"caf\xe9".decode("utf-8", "surrogateescape")) == "caf\ufffd"
