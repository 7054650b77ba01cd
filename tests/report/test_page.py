from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from genobird.errors import OutputError, UsageError
from genobird.genome.variant import Status
from genobird.report.page import (
    STATUSES,
    allele,
    auroc,
    difference,
    feature_label,
    probability,
    region_text,
    render,
    report,
    write,
)
from genobird.report.plots import along_contig, histogram
from genobird.report.summary import RegionSummary, summarise_regions, summarise_variants
from genobird.scoring.regions import RegionStatus


@pytest.fixture
def region_table():
    count = 12
    return pd.DataFrame(
        {
            "chrom": ["chr20"] * count,
            "start": np.arange(count) * 1000,
            "end": np.arange(count) * 1000 + 1,
            "name": [f"<gene{row}>" if row % 2 else f"background_{row}" for row in range(count)],
            "strand": ["-"] * count,
            "status": ["OK"] * (count - 1) + ["OUT_OF_BOUNDS"],
            "promoter": [*np.linspace(0, 1, count - 1), np.nan],
            "K562|CTCF|None#338": [*np.linspace(1, 0, count - 1), np.nan],
        }
    )


@pytest.fixture
def variant_table():
    count = 8
    return pd.DataFrame(
        {
            "chrom": ["chr20"] * count,
            "pos": np.arange(count) * 5000 + 1234,
            "ref": ["A"] * count,
            "alt": ["C" * 40] * count,
            "record": np.arange(count),
            "allele": [1] * count,
            "status": ["OK"] * (count - 1) + ["REF_MISMATCH"],
            "promoter|delta": [0.5] * count,
            "K562|CTCF|None#338|delta": [*np.linspace(-2, 1, count - 1), np.nan],
            "id": [f"rs{row}" for row in range(count)],
        }
    )


def test_the_page_tells_what_was_found(region_table, variant_table):
    page = render(
        summarise_regions([region_table]),
        summarise_variants([variant_table]),
        {"model": "abc123", "command": "genobird demo --output 'a & b'"},
    )
    for text in (
        "12</b><span>regions, 11 scored",
        "8</b><span>alternative alleles, 7 scored",
        "&lt;gene9&gt;",
        "chr20:9,001 \N{MINUS SIGN}",
        "chr20:1,234 A&gt;CCCCCCCCCCCC... (40 bp)",
        "\N{MINUS SIGN}2.00",
        "K562 CTCF #338",
        "rs0",
        STATUSES["REF_MISMATCH"],
        STATUSES["OUT_OF_BOUNDS"],
        "abc123",
        "&#39;a &amp; b&#39;",
    ):
        assert text in page, text
    assert "<gene9>" not in page


@pytest.mark.parametrize("part", ["regions", "variants"])
def test_a_page_of_one_table_has_nothing_of_the_other(part, region_table, variant_table):
    regions = summarise_regions([region_table]) if part == "regions" else None
    variants = summarise_variants([variant_table]) if part == "variants" else None
    page = render(regions, variants, {})
    assert ('id="promoters"' in page) == (part == "regions")
    assert ('id="variants"' in page) == (part == "variants")
    assert 'id="origin"' not in page


def test_a_page_of_nothing_scored_can_be_made(region_table, variant_table):
    nothing = region_table.assign(status="NO_CONTIG", promoter=np.nan)
    page = render(
        summarise_regions([nothing]),
        summarise_variants([variant_table.assign(status="SYMBOLIC")]),
        {},
    )
    assert "No allele was scored" in page
    assert "regions, 0 scored" in page


def test_every_status_is_explained():
    assert set(STATUSES) == {status.value for status in (*RegionStatus, *Status)}


@pytest.mark.parametrize(
    "figure",
    [
        histogram({"one": np.array([0.0, 0.5, 1.0]), "two": np.array([0.2])}, "a < b"),
        along_contig([1, 5_000_000], [0.5, -0.5], ["rs<1>", ""], "chr<20>"),
    ],
    ids=["histogram", "along"],
)
def test_figures_are_svg_in_the_colours_of_the_page(figure):
    root = ElementTree.fromstring(figure)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(--accent)" in figure
    assert not re.search(r"#[0-9a-f]{6}", figure)
    assert "font-family: 'DejaVu" not in figure


def test_figures_are_the_same_each_time():
    values = {"one": np.array([0.1, 0.9])}
    assert histogram(values, "p") == histogram(values, "p")


def test_auroc_counts_pairs_in_the_right_order():
    def area(known: list[float], background: list[float]) -> float | None:
        empty = pd.DataFrame()
        return auroc(RegionSummary({}, np.array(known), np.array(background), empty, []))

    assert area([0.9, 0.8], [0.1, 0.2]) == 1
    assert area([0.1], [0.9]) == 0
    assert area([0.5, 0.9], [0.5, 0.1]) == 0.875
    assert area([], [0.5]) is None


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("GM12878|DNase|None", "GM12878 DNase"),
        ("K562|CTCF|None#338", "K562 CTCF #338"),
        ("A549|GR|DEX_100nM", "A549 GR DEX_100nM"),
        ("my track", "my track"),
    ],
)
def test_features_are_written_short(name, label):
    assert feature_label(name) == label


def test_numbers_are_written_for_people():
    assert [probability(value) for value in (0.0, 1e-5, 0.5)] == ["0.000", "< 0.001", "0.500"]
    assert probability(float("nan")) == difference(float("nan")) == "\N{EN DASH}"
    assert difference(1.234) == "+1.23"
    assert allele("ACGT") == "ACGT"


def test_places_are_written_1_based():
    row = {"chrom": "chr20", "start": 999, "end": 2000, "strand": "+"}
    assert region_text(row) == "chr20:1,000-2,000 +"
    assert region_text({**row, "end": 1000, "strand": "."}) == "chr20:1,000"


def test_a_report_of_tables_on_disk_names_them(tmp_path, region_table, variant_table):
    region_table.to_csv(tmp_path / "r.tsv", sep="\t", index=False)
    variant_table.to_parquet(tmp_path / "v.parquet")
    output = tmp_path / "report.html"
    report(output, regions=tmp_path / "r.tsv", variants=tmp_path / "v.parquet")
    assert "v.parquet" in output.read_text()
    with pytest.raises(UsageError, match="exists; choose another name or pass --force"):
        report(output, regions=tmp_path / "r.tsv")
    report(output, regions=tmp_path / "r.tsv", force=True)
    assert "v.parquet" not in output.read_text()


def test_a_report_of_no_table_is_refused(tmp_path):
    with pytest.raises(UsageError, match="needs a region table, a variant table or both"):
        report(tmp_path / "report.html")


def test_a_report_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(OutputError, match="cannot be written: No such file"):
        write(tmp_path / "none" / "report.html", "")
    assert not list(tmp_path.iterdir())
