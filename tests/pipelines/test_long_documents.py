"""Pages of a manual become a table, and their chapters are told from a part of their tokens."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from genobird.errors import InputError
from pipelines import long_documents

PAGE = '<nav>skipped</nav><div role="main" class="document"><p>{}</p></div><footer>skipped</footer>'
WORDS = {"birds": "wren dove crane", "maths": "field group ring"}


@pytest.fixture
def manual(tmp_path):
    """Two chapters of ten pages, which share most words."""
    rng = np.random.default_rng(0)
    for chapter, own in WORDS.items():
        (tmp_path / chapter / "more").mkdir(parents=True)
        for number in range(30):
            words = rng.choice([*own.split(), "the", "of", "and", "in", "is", "to", "it"], size=120)
            path = tmp_path / chapter / "more" / f"{number}.html"
            path.write_text(PAGE.format(f"<b>{number} &amp;</b> " + " ".join(words)))
    return tmp_path


def table(manual):
    output = manual / "pages.parquet"
    chapters = [f"--chapter={chapter}" for chapter in WORDS]
    result = CliRunner().invoke(
        long_documents.app, ["pages", str(manual), *chapters, "--output", str(output)]
    )
    assert result.exit_code == 0, result.output
    return output


def test_pages_are_read_without_their_tags_and_each_is_in_one_part(manual):
    read = pd.read_parquet(table(manual))
    assert read.columns.tolist() == ["chapter", "page", "part", "text"]
    assert read.groupby("chapter").size().to_dict() == {"birds": 30, "maths": 30}
    assert {*read.part} == {"train", "validation", "test"}
    first = read.iloc[0]
    assert first.page == "birds/more/0.html"
    assert first.text.startswith("0 & ")
    assert "skipped" not in first.text
    with pytest.raises(InputError, match="has no pages of Sphinx"):
        list(long_documents.read_chapter(manual, "none"))


@pytest.mark.parametrize("context", [32, 64])
def test_chapters_are_told_by_both_models(manual, monkeypatch, context):
    monkeypatch.setattr(long_documents, "LONGEST", 64)
    output = manual / "found.json"
    arguments = [str(table(manual)), "--context", str(context), "--tokens", "3200"]
    result = CliRunner().invoke(
        long_documents.app, ["tell", *arguments, "--part", "test", "--output", str(output)]
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(output.read_text())["rows"]
    assert [row["model"] for row in rows] == ["TF-IDF", "BigBird"]
    for row in rows:
        assert row["context"] == context
        assert row["pieces"] > 0.9
        assert row["pieces"] == row["beginning"] or context < 64


def test_stretches_of_a_page_hold_all_of_its_tokens():
    one = pd.DataFrame({"ids": [np.arange(10, dtype=np.uint16)], "label": [1]})
    cut = list(long_documents.all_stretches(one, 4))
    assert np.array_equal(np.concatenate([ids for ids, _ in cut]), np.arange(10))
    assert {label for _, label in cut} == {1}
