from __future__ import annotations

import itertools
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pysam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genobird.errors import ShardError, UsageError, VcfError
from genobird.scoring.parts import Part, PartNote, merge, require_part_outputs
from tests.scoring.calls import annotate_variants
from tests.scoring.stubs import records, stub_screen, write_vcf


@given(count=st.integers(1, 50), chunk=st.integers(0, 10_000))
def test_each_chunk_belongs_to_one_shard(count, chunk):
    shards = [Part(index, count) for index in range(1, count + 1)]
    assert sum(shard.takes(chunk) for shard in shards) == 1
    assert [Part.parse(str(shard)) for shard in shards] == shards


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "-1/4", "1/2/3", ""])
def test_a_shard_that_does_not_exist_is_refused(text):
    with pytest.raises(UsageError, match=r"shard '?[-\w/]*'? found; give i/n"):
        Part.parse(text)


def test_a_note_comes_back_as_it_was_on_one_line():
    note = PartNote(Part(2, 3), 16, {"model": "0123", "features": 'a"b\n', "chunk": 16})
    assert "\n" not in note.text()
    assert PartNote.read(note.text(), Path("2.vcf.gz")) == note


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"shard": {"index": 3, "count": 2}, "chunk": 16, "run": {}}',
        '{"shard": {"index": 1}, "chunk": 16, "run": {}}',
        '{"shard": {"index": 1, "count": 2}, "chunk": "x", "run": {}}',
    ],
)
def test_a_damaged_note_is_refused(text):
    with pytest.raises(ShardError, match=r"2\.vcf\.gz: the note on its shard is damaged .*again"):
        PartNote.read(text, Path("2.vcf.gz"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "in.vcf", "o.vcf.gz", None), "never saved has no shards"),
        (("01", "-", "o.vcf.gz", None), "a shard cannot read standard input"),
        (("01", "in.vcf", "o.vcf", None), r"o\.vcf cannot be a shard; write \.vcf\.gz"),
        (("01", "in.vcf", "o.vcf.gz", "o.tsv"), r"o\.tsv cannot be a shard; write \.parquet"),
    ],
)
def test_what_cannot_be_a_shard_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        require_part_outputs(*arguments)


def test_a_vcf_and_a_parquet_file_can_be_a_shard():
    require_part_outputs("01", "in.vcf", "o.vcf.bgz", "o.parquet")


CHUNK = 4


@pytest.fixture(autouse=True)
def screen(monkeypatch, scorer):
    monkeypatch.setattr(scorer, "chunk", CHUNK)
    return stub_screen(monkeypatch)


@pytest.fixture
def run(scorer, short, tmp_path):
    """Score `count` records as `name`, all of them or a shard; return VCF and table."""

    def score(
        name: str, count: int, shard: str | None = None, ending: str = ".vcf.gz", **options: str
    ) -> tuple[Path, Path]:
        source = write_vcf(tmp_path / f"in{count}.vcf", records(count))
        output, table = tmp_path / f"{name}{ending}", tmp_path / f"{name}.parquet"
        part = None if shard is None else Part.parse(shard)
        annotate_variants(scorer, source, short, output, table=table, part=part, **options)
        return output, table

    def shards(count: int, total: int, **options: str) -> tuple[list[Path], list[Path]]:
        made = [
            run(f"s{index}", count, f"{index}/{total}", **options) for index in range(1, total + 1)
        ]
        return [vcf for vcf, _ in made], [table for _, table in made]

    run = score
    run.shards = shards
    return run


# Empty, one chunk, a whole number of chunks, one short of it, one more; fewer chunks than shards;
# a hundred shards, three of them with a second chunk.
@pytest.mark.parametrize(
    ("count", "total"),
    [(0, 2), (3, 3), (24, 3), (23, 3), (25, 3), (40, 1), (9, 5), (410, 100)],
)
def test_merged_shards_are_byte_for_byte_the_run_over_all(run, tmp_path, count, total):
    whole, table = run("whole", count)
    vcfs, tables = run.shards(count, total)
    merged, merged_table = tmp_path / "m.vcf.gz", tmp_path / "m.parquet"
    counts = merge(vcfs[::-1], merged)
    assert merged.read_bytes() == whole.read_bytes()
    assert Path(f"{merged}.tbi").read_bytes() == Path(f"{whole}.tbi").read_bytes()
    assert merge(tables[::-1], merged_table) == counts
    assert merged_table.read_bytes() == table.read_bytes()
    assert counts == pd.read_parquet(table)["status"].value_counts().to_dict()


@pytest.mark.parametrize("ending", [".vcf", ".bcf"])
def test_merge_writes_the_formats_that_a_shard_cannot_have(run, tmp_path, ending):
    whole, _ = run("whole", 25, ending=ending)
    vcfs, _ = run.shards(25, 3)
    merge(vcfs, tmp_path / f"m{ending}")
    assert (tmp_path / f"m{ending}").read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("ending", [".tsv", ".tsv.gz"])
def test_a_merged_table_in_text_has_the_same_bytes_too(scorer, short, run, tmp_path, ending):
    _, tables = run.shards(25, 3)
    merge(tables, tmp_path / f"m{ending}")
    annotate_variants(
        scorer, tmp_path / "in25.vcf", short, tmp_path / "w.vcf", table=tmp_path / f"w{ending}"
    )
    assert (tmp_path / f"m{ending}").read_bytes() == (tmp_path / f"w{ending}").read_bytes()


def test_row_groups_of_a_table_do_not_depend_on_shards(run, tmp_path, monkeypatch):
    monkeypatch.setattr("genobird.scoring.table._GROUP_CELLS", 300)
    monkeypatch.setattr("genobird.scoring.parts._ROWS", 12)
    _, table = run("whole", 61)
    _, tables = run.shards(61, 3)
    merge(tables, tmp_path / "m.parquet")
    assert pq.ParquetFile(table).num_row_groups > 3
    assert (tmp_path / "m.parquet").read_bytes() == table.read_bytes()


@pytest.mark.parametrize("policy", ["skip", "swap"])
def test_records_that_are_skipped_or_swapped_merge_like_others(run, tmp_path, policy):
    whole, table = run("whole", 25, ref_mismatch=policy)
    vcfs, tables = run.shards(25, 3, ref_mismatch=policy)
    counts = merge(vcfs, tmp_path / "m.vcf.gz")
    assert (tmp_path / "m.vcf.gz").read_bytes() == whole.read_bytes()
    assert merge(tables, tmp_path / "m.parquet") == counts
    assert (tmp_path / "m.parquet").read_bytes() == table.read_bytes()


def test_the_work_is_dealt_out_and_none_is_done_twice(run, screen):
    run("whole", 48)
    whole, screen.scored = screen.scored, 0
    by_shard = []
    for index in (1, 2, 3):
        run(f"s{index}", 48, f"{index}/3")
        by_shard.append(screen.scored - sum(by_shard))
    assert sum(by_shard) == whole > 0
    assert max(by_shard) - min(by_shard) <= CHUNK


def test_a_shard_is_a_readable_vcf_of_its_records(run):
    (_, second, _), _ = run.shards(25, 3)
    with pysam.VariantFile(str(second)) as file:
        names = [record.id for record in file]
    assert names == [f"rs{n}" for n in (*range(4, 8), *range(16, 20))]


def test_commands_of_shards_and_merge_are_both_kept(run, tmp_path):
    whole, _ = run("whole", 9, command="genobird variants in.vcf")
    vcfs, tables = run.shards(9, 2, command="genobird variants in.vcf --shard i/2")
    merge(vcfs, tmp_path / "m.vcf.gz", command="genobird variants merge")
    lines, expected = (
        pysam.BGZFile(str(path), "rb").read().decode().splitlines()
        for path in (tmp_path / "m.vcf.gz", whole)
    )
    added = [line for line in lines if line not in expected]
    assert added == [
        "##genobirdCommand=genobird variants in.vcf --shard i/2",
        "##genobirdMergeCommand=genobird variants merge",
    ]
    assert [line for line in expected if line not in lines] == [
        "##genobirdCommand=genobird variants in.vcf"
    ]
    merge(tables, tmp_path / "m.parquet", command="genobird variants merge")
    metadata = pq.read_schema(tmp_path / "m.parquet").metadata
    assert metadata[b"genobird.command"] == b"genobird variants in.vcf --shard i/2"
    assert metadata[b"genobird.mergecommand"] == b"genobird variants merge"
    assert b"genobird.shard" not in metadata


@pytest.mark.parametrize("kind", [0, 1])
def test_each_shard_has_to_be_there_once(run, tmp_path, kind):
    made = run.shards(25, 3)[kind]
    output = tmp_path / f"m{made[0].name.removeprefix('s1')}"
    for some in itertools.combinations(made, 2):
        missing = {"1", "2", "3"} - {path.name[1] for path in some}
        with pytest.raises(ShardError, match=f"2 of 3 shards found; missing: {missing.pop()};"):
            merge(some, output)
    with pytest.raises(ShardError, match=r"s1\..* and .*s1\..* are both shard 1/3; give each once"):
        merge([*made, made[0]], output)
    assert not output.exists()


@pytest.mark.parametrize("kind", [0, 1])
def test_shards_of_different_runs_are_refused_with_what_differs(run, tmp_path, kind):
    made = run.shards(25, 2)[kind]
    output = tmp_path / f"m{made[0].name.removeprefix('s1')}"
    for name, options, message in (
        ("other", {"count": 24}, r"input \w+, there \w+"),
        ("other", {"count": 25, "ref_mismatch": "skip"}, "--ref-mismatch skip, there flag"),
        ("other", {"count": 25, "features": ["TF"]}, "--features TF, there all"),
        ("other", {"count": 25, "shard": "2/3"}, "shards 3, there 2"),
    ):
        other = run(name, **({"shard": "2/2"} | options), force=True)[kind]
        with pytest.raises(ShardError, match=rf"is of another run than .*s1\..* \(.*{message}"):
            merge([made[0], other], output)
    assert not output.exists()


def test_what_is_no_shard_is_refused(run, tmp_path):
    whole, table = run("whole", 9)
    with pytest.raises(ShardError, match=r"whole\.vcf\.gz is no shard; make shards with"):
        merge([whole], tmp_path / "m.vcf.gz")
    with pytest.raises(ShardError, match=r"whole\.parquet is no shard; make shards with"):
        merge([table], tmp_path / "m.parquet")
    for shards, found in [
        ([whole, table], "VCFs and tables are given together"),
        ([tmp_path / "in9.vcf"], r"in9\.vcf is no shard"),
        ([], "no shard is given"),
    ]:
        with pytest.raises(UsageError, match=rf"{found}; give all \.vcf\.gz or all \.parquet"):
            merge(shards, tmp_path / "m.vcf.gz")
    with pytest.raises(UsageError, match="does not exist"):
        merge([tmp_path / "s1.vcf.gz"], tmp_path / "m.vcf.gz")


def test_a_shard_that_is_cut_short_is_noticed(run, tmp_path):
    vcfs, tables = run.shards(25, 2)
    for path in (vcfs[1], tables[1]):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) - 28])
    with pytest.raises(VcfError, match=r"s2\.vcf\.gz is cut short"):
        merge(vcfs, tmp_path / "m.vcf.gz")
    with pytest.raises(ShardError, match=r"s2\.parquet is damaged: .*; make the shard again"):
        merge(tables, tmp_path / "m.parquet")
    assert not list(tmp_path.glob("*m.*"))


def test_a_shard_without_some_of_its_records_is_noticed(run, tmp_path):
    vcfs, _ = run.shards(25, 2)
    with pysam.BGZFile(str(vcfs[0]), "rb") as file:
        lines = file.read().splitlines(keepends=True)
    with pysam.BGZFile(str(vcfs[0]), "wb") as file:
        file.write(b"".join(lines[:-6]))
    with pytest.raises(ShardError, match=r"s2\.vcf\.gz has more records than the other shards"):
        merge(vcfs, tmp_path / "m.vcf.gz")


def test_an_existing_output_needs_force(run, tmp_path):
    vcfs, _ = run.shards(9, 2)
    output = tmp_path / "m.vcf.gz"
    output.write_text("old")
    with pytest.raises(UsageError, match="exists; choose another name or pass --force"):
        merge(vcfs, output)
    merge(vcfs, output, force=True)
    assert output.read_bytes() != b"old"
