from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genobird.errors import ShardError, UsageError
from genobird.scoring.shard import Shard, ShardNote, require_shardable


@given(count=st.integers(1, 50), chunk=st.integers(0, 10_000))
def test_each_chunk_belongs_to_one_shard(count, chunk):
    shards = [Shard(index, count) for index in range(1, count + 1)]
    assert sum(shard.takes(chunk) for shard in shards) == 1
    assert [Shard.parse(str(shard)) for shard in shards] == shards


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "-1/4", "1/2/3", ""])
def test_a_shard_that_does_not_exist_is_refused(text):
    with pytest.raises(UsageError, match=r"shard '?[-\w/]*'? found; give i/n"):
        Shard.parse(text)


def test_a_note_comes_back_as_it_was_on_one_line():
    note = ShardNote(Shard(2, 3), 16, {"model": "0123", "features": 'a"b\n', "chunk": 16})
    assert "\n" not in note.text()
    assert ShardNote.read(note.text(), Path("2.vcf.gz")) == note


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
        ShardNote.read(text, Path("2.vcf.gz"))


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
        require_shardable(*arguments)


def test_a_vcf_and_a_parquet_file_can_be_a_shard():
    require_shardable("01", "in.vcf", "o.vcf.bgz", "o.parquet")
