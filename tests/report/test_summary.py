from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genobird.errors import TableError, UsageError
from genobird.report.summary import (
    read_facts,
    read_pieces,
    summarise_regions,
    summarise_variants,
    summary_of,
)


def regions(promoter: list[float], names: list[str] | None = None) -> pd.DataFrame:
    count = len(promoter)
    return pd.DataFrame(
        {
            "chrom": ["chr1"] * count,
            "start": np.arange(count) * 1000,
            "end": np.arange(count) * 1000 + 1,
            "name": names or [f"r{row}" for row in range(count)],
            "strand": ["+"] * count,
            "status": ["NO_CONTIG" if np.isnan(value) else "OK" for value in promoter],
            "promoter": promoter,
            "K562|CTCF|None": np.linspace(0, 1, count),
        }
    )


def variants(deltas: list[list[float]], **more: object) -> pd.DataFrame:
    count = len(deltas)
    keys = {
        "chrom": ["chr1"] * count,
        "pos": np.arange(count) + 1,
        "ref": ["A"] * count,
        "alt": ["C"] * count,
        "record": np.arange(count),
        "allele": [1] * count,
        "status": ["REF_MISMATCH" if np.isnan(row).any() else "OK" for row in deltas],
        "promoter|delta": [9.0] * count,
        "llr|delta": [-8.0] * count,
    }
    values = np.array(deltas, np.float64).reshape(count, -1)
    features = {f"f{place}|delta": column for place, column in enumerate(values.T)}
    return pd.DataFrame({**keys, **features, **more})


@settings(max_examples=40)
@given(
    st.lists(st.floats(0, 1) | st.just(float("nan")), min_size=1, max_size=30),
    st.integers(1, 7),
    st.integers(1, 9),
)
def test_pieces_of_any_size_give_the_summary_of_the_whole(promoter, size, top):
    table = regions(promoter)
    whole = summarise_regions([table], top)
    pieces = (table.iloc[first : first + size] for first in range(0, len(table), size))
    parts = summarise_regions(pieces, top)
    pd.testing.assert_frame_equal(parts.top, whole.top, check_dtype=False)
    assert parts.statuses == whole.statuses
    assert parts.total == len(table)
    np.testing.assert_array_equal(parts.promoter, whole.promoter)


def test_the_best_regions_come_first_and_unscored_ones_are_only_counted():
    summary = summarise_regions([regions([0.2, float("nan"), 0.9, 0.5])], top=2)
    assert summary.top["name"].tolist() == ["r2", "r3"]
    assert summary.statuses == {"OK": 3, "NO_CONTIG": 1}
    assert (summary.scored, summary.total) == (3, 4)
    assert summary.features == ["K562|CTCF|None"]


def test_regions_named_background_are_kept_apart():
    summary = summarise_regions([regions([0.1, 0.8], ["background_1", "TERT"])])
    assert summary.background.tolist() == [0.1]
    assert summary.promoter.tolist() == [0.8]


def test_a_model_without_promoter_head_leaves_regions_in_their_order():
    summary = summarise_regions([regions([0.1, 0.8, 0.3]).drop(columns="promoter")])
    assert summary.top["name"].tolist() == ["r0", "r1", "r2"]
    assert len(summary.promoter) == 0


def test_a_variant_is_shown_by_the_chromatin_feature_that_differs_most():
    summary = summarise_variants([variants([[0.1, -0.3], [2.0, 0.1], [np.nan, np.nan]])])
    assert summary.top["feature"].tolist() == ["f0", "f1"]
    assert summary.top["delta"].tolist() == [2.0, -0.3]
    assert summary.top["promoter"].tolist() == [9.0, 9.0]
    assert summary.top["llr"].tolist() == [-8.0, -8.0]
    assert summary.statuses == {"OK": 2, "REF_MISMATCH": 1}


def test_without_chromatin_features_the_promoter_stands_in():
    summary = summarise_variants([variants([[]]).assign(status="OK")])
    assert summary.top["feature"].tolist() == ["promoter"]
    assert summary.top["delta"].tolist() == [9.0]


def test_the_features_that_differ_most_are_kept_in_their_order():
    deltas = [[0.1, -0.3, 0.2, 0.05, -0.6, 0.4, 0.0]]
    parts = {f"f{n}|ref": [n] for n in range(7)} | {"f4|quantile": [0.9]}
    [effects] = summarise_variants([variants(deltas, **parts)]).top["effects"]
    assert [effect.name for effect in effects] == ["f4", "f5", "f1", "f2", "f0"]
    assert [effect.delta for effect in effects] == [-0.6, 0.4, -0.3, 0.2, 0.1]
    assert effects[0].ref == 4
    assert effects[0].quantile == 0.9
    assert np.isnan([effects[0].alt, effects[1].quantile]).all()


def test_small_e_values_come_first_and_large_effects_among_equal_ones():
    table = variants([[0.1], [0.9], [0.5], [3.0]]).assign(evalue=[0.01, 0.2, 0.01, np.nan])
    summary = summarise_variants([table.iloc[:1], table.iloc[1:]])
    assert summary.top["record"].tolist() == [2, 0, 1, 3]


@given(st.lists(st.floats(1e-9, 1) | st.just(float("nan")), min_size=1, max_size=40))
def test_e_values_are_counted_at_and_below_each_threshold(evalues):
    table = variants([[1.0]] * len(evalues)).assign(evalue=evalues)
    rarity = summarise_variants(
        [table.iloc[:7], table.iloc[7:]] if len(evalues) > 7 else [table]
    ).rarity
    known = np.array([value for value in evalues if value == value])
    assert rarity.total == len(known)
    for threshold, count in zip(rarity.thresholds, rarity.counts, strict=True):
        assert count == (known <= threshold).sum()
    assert summarise_variants([variants([[1.0]])]).rarity is None


def test_places_that_variants_were_lifted_to_are_kept():
    lifted = {"lifted_chrom": ["chr2"], "lifted_pos": [7], "lifted_strand": ["-"]}
    row = summarise_variants([variants([[1.0]], **lifted)]).top.iloc[0]
    assert [row[name] for name in lifted] == ["chr2", 7, "-"]


def test_identifiers_are_kept_where_the_table_has_them():
    assert summarise_variants([variants([[1.0]], id="rs1")]).top["id"].tolist() == ["rs1"]
    assert summarise_variants([variants([[1.0]])]).top["id"].tolist() == [""]


@pytest.mark.parametrize("missing", ["chrom", "status"])
def test_a_table_of_another_kind_is_refused(missing):
    with pytest.raises(TableError, match=f"region table has no column {missing}; give the table"):
        summarise_regions([regions([0.5]).drop(columns=missing)])
    with pytest.raises(TableError, match=f"variant table has no column {missing}; give the table"):
        summarise_variants([variants([[0.5]]).drop(columns=missing)])
    bare = variants([[0.5]]).drop(columns=["f0|delta", "promoter|delta", "llr|delta"])
    with pytest.raises(TableError, match=r"no column <feature>\|delta"):
        summarise_variants([bare])


@pytest.mark.parametrize("end", ["tsv", "parquet"])
@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("start", np.nan, "start is empty, a whole number is needed; give the table of"),
        ("start", "chr1", "start is chr1, a whole number is needed"),
        ("start", "1_0", "start is 1_0, a whole number is needed"),
        ("start", 1.5, r"start is 1\.5, a whole number is needed"),
        ("end", -1, "end is -1, a whole number is needed"),
        ("end", 0, "end is 0, a place from start on is needed"),
        ("end", "9" * 5000, "end is (9|inf).*, a whole number is needed"),
        ("chrom", "", "chrom is empty, a text is needed"),
        ("status", "", "status is empty, one of OK NO_CONTIG .* is needed"),
        ("status", "PASS", "status is PASS, one of OK NO_CONTIG .* is needed"),
        ("status", "REF_MISMATCH", "status is REF_MISMATCH, one of OK NO_CONTIG .* is needed"),
        ("strand", "forward", "strand is forward, one of . - . is needed"),
        ("promoter", "high", "promoter is high, a probability is needed"),
        ("promoter", "\N{FULLWIDTH DIGIT ONE}", "promoter is \N{FULLWIDTH DIGIT ONE}, a probab"),
        ("promoter", 1.5, r"promoter is 1\.5, a probability is needed"),
        ("promoter", float("inf"), "promoter is inf, a probability is needed"),
        ("K562|CTCF|None", "high", r"K562\|CTCF\|None is high, a probability is needed"),
    ],
)
def test_a_value_that_no_region_has_is_one_line(tmp_path, end, column, value, message):
    table = regions([0.1, 0.2, 0.3]).astype({column: object})
    table.loc[1, column] = value
    with pytest.raises(TableError, match=f"^row 2 of the table: {message}") as caught:
        summarise_regions(pieces_of(table, tmp_path / f"t.{end}"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("end", ["tsv", "parquet"])
@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("pos", "x", "pos is x, a whole number is needed"),
        ("pos", 0, "pos is 0, a place from 1 on is needed"),
        ("pos", 1e30, r"pos is 1e\+30, a whole number is needed"),
        ("record", np.nan, "record is empty, a whole number is needed"),
        ("ref", "", "ref is empty, a text is needed"),
        ("status", "AMBIGUOUS", "status is AMBIGUOUS, one of OK REF_MISMATCH .* is needed"),
        ("alt", "", "alt is empty, a text is needed"),
        ("f0|delta", "x", r"f0\|delta is x, a number is needed"),
        ("f0|delta", 1e39, r"f0\|delta is 1e\+39, a number is needed"),
        ("f0|quantile", "x", r"f0\|quantile is x, a number is needed"),
        ("llr|delta", "x", r"llr\|delta is x, a number is needed"),
        ("llr|se", "x", r"llr\|se is x, a number is needed"),
        ("evalue", "x", "evalue is x, an E-value is needed"),
        ("evalue", 2.5, r"evalue is 2\.5, an E-value is needed"),
    ],
)
def test_a_value_that_no_variant_has_is_one_line(tmp_path, end, column, value, message):
    more = {"evalue": 0.5, "llr|se": 0.1, "f0|quantile": 0.9}
    table = variants([[1.0], [2.0], [3.0]], **more).astype({column: object})
    table.loc[1, column] = value
    with pytest.raises(TableError, match=f"^row 2 of the table: {message}") as caught:
        summarise_variants(pieces_of(table, tmp_path / f"t.{end}"))
    assert "\n" not in str(caught.value)


def pieces_of(table: pd.DataFrame, path: Path) -> Iterator[pd.DataFrame]:
    """Write a table, where Parquet allows for it with its column of mixed types, and read it."""
    if path.suffix == ".tsv":
        table.to_csv(path, sep="\t", index=False)
    else:
        mixed = table.columns[table.map(type).nunique() > 1]
        filled = table[mixed].map(lambda value: "" if value != value else str(value))
        table.assign(**filled).to_parquet(path)
    return read_pieces(path)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("pos", pd.to_datetime(["2020-01-01"] * 2), "pos is 2020-01-01 .*, a whole number is"),
        ("f0|delta", pd.to_timedelta([1, 2], "h"), r"f0\|delta is 0 days 01.*, a number is needed"),
        ("id", [["rs1", "rs2"], []], "id is .*, a text is needed"),
        ("flags", [["A", "B"], []], "flags is .*, a text is needed"),
        ("ref", [["A", "C"], []], "ref is .*, a text is needed"),
        ("f0|delta", [[1.0, 2.0], []], r"f0\|delta is .*, a number is needed"),
    ],
)
def test_what_is_neither_text_nor_number_is_refused(tmp_path, column, values, message):
    table = variants([[1.0], [2.0]], id="", flags="")
    table.assign(**{column: values}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(TableError, match=f"^row 1 of the table: {message}"):
        summarise_variants(read_pieces(tmp_path / "t.parquet"))


def test_a_cell_may_be_empty_but_not_missing(tmp_path):
    table = regions([float("nan")] * 5_000).assign(name='"a\t"\n"b', status="OK")
    table.iloc[:, -1] = np.nan
    whole = table.to_csv(sep="\t", index=False) + "\n \r\n"
    (tmp_path / "t.tsv").write_text(whole)
    assert summary_of(tmp_path / "t.tsv", summarise_regions).total == 5_000
    short = whole.replace("\t4500000\t4500001\t", "\t4500000\t")
    (tmp_path / "t.tsv").write_text(short)
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(short.encode()))
    for name in ("t.tsv", "t.tsv.gz"):
        message = rf"{name} cannot be read as a table: row 4,501 has 7 of 8 cells; give the"
        with pytest.raises(TableError, match=message):
            list(read_pieces(tmp_path / name))


def test_two_columns_of_one_name_are_refused_in_files(tmp_path):
    (tmp_path / "t.tsv").write_text("NA\tnull\tx\tx\n1\t2\t3\t4\n")
    pq.write_table(pa.table([[1], [2]], ["x", "x"]), tmp_path / "t.parquet")
    for name in ("t.tsv", "t.parquet"):
        with pytest.raises(TableError, match=f"{name} cannot be .* it has two columns 'x'; give"):
            next(read_pieces(tmp_path / name))


def test_errors_of_a_file_name_it_once(tmp_path):
    path = tmp_path / "t.tsv"
    for text, message in (
        ("chrom\tx\nchr1\t1\n", f"{path}, heading: the region table has no column start;"),
        (
            regions([2.0]).to_csv(sep="\t", index=False),
            f"{path}, row 1 of the table: promoter is 2",
        ),
        ("a\tb\n1\n", f"{path} cannot be read as a table: row 1 has 1 of 2 cells;"),
        ("a\tb\n1\t\0\n", f"{path}, line 2 holds a NUL byte;"),
    ):
        path.write_text(text)
        with pytest.raises(TableError) as caught:
            summary_of(path, summarise_regions)
        assert str(caught.value).startswith(message)
        assert str(caught.value).count(str(path)) == 1


def test_what_is_wrong_is_found_in_any_piece(tmp_path):
    table = regions([0.5] * 5_000).astype({"start": object})
    table.loc[4_500, "start"] = "x"
    with pytest.raises(TableError, match=r"^row 4,501 of the table: start is x"):
        summarise_regions(pieces_of(table, tmp_path / "t.tsv"))


def test_rows_that_were_not_scored_may_lack_everything_but_a_status():
    table = regions([float("nan"), 0.5]).astype({"start": object, "chrom": object})
    table.loc[0, ["chrom", "start", "end", "name"]] = None
    assert summarise_regions([table]).top["name"].tolist() == ["r1"]


def test_a_column_that_is_there_twice_is_refused():
    table = regions([0.5])
    with pytest.raises(TableError, match="region table has two columns promoter"):
        summarise_regions([pd.concat([table, table[["promoter"]]], axis=1)])


def test_tsv_and_parquet_read_alike(tmp_path):
    table = regions([0.1, float("nan")], ["NA", ""])
    table.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    tsv, parquet = (pd.concat(read_pieces(tmp_path / f"t.{end}")) for end in ("tsv", "parquet"))
    pd.testing.assert_frame_equal(tsv.fillna({"name": ""}), parquet, check_dtype=False)


def test_files_that_are_no_tables_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"none\.tsv does not exist"):
        next(read_pieces(tmp_path / "none.tsv"))
    (tmp_path / "bad.parquet").write_text("no parquet")
    with pytest.raises(TableError, match=r"bad\.parquet cannot be read as a table"):
        next(read_pieces(tmp_path / "bad.parquet"))
    (tmp_path / "empty.tsv").write_text("")
    with pytest.raises(TableError, match=r"empty\.tsv cannot be read as a table: it is empty;"):
        next(read_pieces(tmp_path / "empty.tsv"))
    (tmp_path / "a.vcf.gz").write_bytes(gzip.compress(b"##fileformat=VCFv4.2\n#CHROM\tPOS\n"))
    with pytest.raises(TableError, match=r"a\.vcf\.gz is a VCF, a report needs the table; give"):
        next(read_pieces(tmp_path / "a.vcf.gz"))
    (tmp_path / "shifted.tsv").write_text("a\tb\n1\t2\t3\n")
    with pytest.raises(TableError, match="its rows have more cells than its heading; give the"):
        next(read_pieces(tmp_path / "shifted.tsv"))
    whole = regions([0.5, 0.2]).to_csv(sep="\t", index=False)
    (tmp_path / "cut.tsv").write_text(whole[:-3])
    with pytest.raises(TableError, match=r"cut\.tsv is cut short: its last row has no end;"):
        list(read_pieces(tmp_path / "cut.tsv"))
    (tmp_path / "cut.tsv.gz").write_bytes(gzip.compress(b"a\tb\n" * 99_999)[:-20])
    with pytest.raises(TableError, match=r"cut\.tsv\.gz cannot be read as a table"):
        list(read_pieces(tmp_path / "cut.tsv.gz"))
    (tmp_path / "latin.tsv").write_bytes(b"chrom\tname\nchr1\t\xe9\n")
    with pytest.raises(TableError, match=r"latin\.tsv cannot be read as a table: 'utf-8' codec"):
        next(read_pieces(tmp_path / "latin.tsv"))
    (tmp_path / "ragged.tsv").write_text("a\tb\n1\t2\n1\t2\t3\n")
    with pytest.raises(TableError, match=r"a table: Expected 2 fields in line 3, saw 3; give the"):
        next(read_pieces(tmp_path / "ragged.tsv"))


def test_facts_come_from_the_metadata_of_parquet(tmp_path):
    table = pa.table({"a": [1]}).replace_schema_metadata({"genobird.model": "abc", "other": "x"})
    pq.write_table(table, tmp_path / "t.parquet")
    assert read_facts(tmp_path / "t.parquet") == {"model": "abc"}
    assert read_facts(tmp_path / "t.tsv") == {}
