from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from genobird.errors import UsageError
from genobird.genome.interval import RegionStatus
from genobird.genome.variant import Status
from genobird.report.page import (
    FLAGS,
    STATUSES,
    allele,
    auroc,
    difference,
    environment,
    evalue,
    feature_label,
    fine,
    probability,
    region_text,
    render,
    report,
)
from genobird.report.plots import _LINES, ACCENT, along_contig, below, histogram
from genobird.report.summary import RegionSummary, summarise_regions, summarise_variants


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


def test_flags_stand_beside_the_places_and_are_counted_and_explained(region_table, variant_table):
    flagged = [table.assign(flags=["", "EDGE"] * (len(table) // 2)) for table in (
        region_table, variant_table
    )]  # fmt: skip
    page = render(summarise_regions(flagged[:1]), summarise_variants(flagged[1:]), {})
    regions, variants = 5, 3  # half of them; the last of each is not scored
    assert page.count("<small>EDGE</small>") == regions + 2 * variants  # these in detail too
    row = (
        f'<td>flag <code>EDGE</code></td><td class="n">{regions}</td><td class="n">{variants}</td>'
    )
    assert f'{row}<td class="text">{FLAGS["EDGE"]}</td>' in page
    assert "EDGE" not in render(summarise_regions([region_table]), None, {})


def test_a_region_table_may_tell_where_regions_were_lifted_to(region_table):
    lifted = {"lifted_chrom": "chr2", "lifted_start": 5, "lifted_end": 9, "lifted_strand": "+"}
    summary = summarise_regions([region_table.assign(flags="", **lifted)])
    assert summary.features == summarise_regions([region_table]).features


@pytest.mark.parametrize("part", ["regions", "variants"])
def test_a_page_of_one_table_has_nothing_of_the_other(part, region_table, variant_table):
    regions = summarise_regions([region_table]) if part == "regions" else None
    variants = summarise_variants([variant_table]) if part == "variants" else None
    page = render(regions, variants, {})
    assert ('id="promoters"' in page) == (part == "regions")
    assert ('id="variants"' in page) == (part == "variants")
    assert ("<b>Difference</b>" in page) == (part == "variants")
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
        below(np.array([1.0, 0.1, 0.01]), np.array([40, 3, 0]), 40),
    ],
    ids=["histogram", "along", "below"],
)
def test_figures_are_svg_in_the_colours_of_the_page(figure):
    root = ElementTree.fromstring(figure)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(--accent)" in figure
    assert not re.search(r"#[0-9a-f]{6}", figure)
    assert "font-family: 'DejaVu" not in figure


def luminance(colour):
    parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_is_drawn_stands_out_from_the_page(theme):
    """By 3 to 1, as WCAG asks of graphics; text by 4.5 to 1."""
    source, _, _ = environment().loader.get_source(environment(), "base.html.j2")
    light, dark = source.split("prefers-color-scheme: dark")
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light if theme == "light" else dark))
    drawn = {f"line {n}": colour for n, colour in enumerate(_LINES) if colour != ACCENT}
    drawn |= {name: colours[name] for name in colours if name.startswith(("base-", "muted"))}
    wanted = dict.fromkeys(drawn, 3.0) | dict.fromkeys(("ink", "soft", "accent"), 4.5)
    for name, least in wanted.items():
        for ground in ("page", "card"):
            pair = sorted(luminance((drawn | colours)[one]) + 0.05 for one in (name, ground))
            assert pair[1] / pair[0] >= least, (name, ground)


def test_figures_are_the_same_each_time():
    values = {"one": np.array([0.1, 0.9])}
    assert histogram(values, "p") == histogram(values, "p")


def test_several_figures_stand_in_one_page_without_sharing_a_name():
    figures = [
        histogram({"one": np.array([0.1, 0.9])}, "p"),
        along_contig([1, 5_000_000], [0.5, -0.5], ["", ""], "chr20"),
        along_contig([1, 5_000_000], [0.5, -0.4], ["", ""], "chr20"),
    ]
    names = [name for figure in figures for name in re.findall(r'(?<= id=")[^"]+', figure)]
    assert len(names) == len(set(names)) > 5
    for figure in figures:
        used = re.findall(r'(?:href="|url\()#([^")]+)', figure)
        assert used
        assert set(used) <= set(re.findall(r'(?<= id=")[^"]+', figure))


def test_the_first_variants_are_shown_in_detail_with_probabilities(ranked_table):
    summary = summarise_variants([ranked_table])
    page = render(None, summary, {})
    first = page.split('id="variant-1"')[1].split("</article>")[0]
    assert "rs2 chr20:11,234" in first
    assert "E-value 0.003" in first
    row = ranked_table.iloc[2]
    for name, label in (("HeLa-S3|DNase|None", "HeLa-S3 DNase"), ("K562|GR|DEX", "K562 GR DEX")):
        assert label in first
        for part in ("ref", "alt"):
            share = 1 / (1 + 8 * np.exp(-row[f"{name}|{part}"]))  # positives counted eight times
            assert f">{fine(share)}<" in first
        assert f">{difference(row[f'{name}|delta'])}<" in first
        assert f">{probability(row[f'{name}|quantile'])}<" in first
    assert page.count('<article class="card"') == 7
    assert 'href="#variant-7"' in page


def test_e_values_are_set_against_what_the_background_gives(ranked_table, variant_table):
    page = render(None, summarise_variants([ranked_table]), {})
    assert 'id="background"' in page
    assert "2</b><span>with E-value up to 0.01" in page
    assert "in the background, 0.07 would be" in page
    assert "<b>E-value</b>" in page
    assert "<b>Quantile</b>" in page
    single = render(None, summarise_variants([ranked_table.iloc[[2]]]), {})
    assert 'id="background"' not in single  # nothing to set one allele against
    assert "<b>E-value</b>" in single
    plain = render(None, summarise_variants([variant_table]), {})
    assert 'id="background"' not in plain
    assert "E-value" not in plain
    assert "Quantile" not in plain


def test_logos_stand_with_their_variants(ranked_table):
    summary = summarise_variants([ranked_table])
    page = render(None, summary, {}, logos={(3, 1): "<svg>logo of rs3</svg>"})
    cards = page.split('<article class="card"')
    assert ["logo of rs3" in card for card in cards] == [False, False, True] + [False] * 5
    assert "<b>Logos</b>" in page
    assert "<b>Logos</b>" not in render(None, summary, {})


def test_a_variant_without_a_logo_has_its_curve(ranked_table):
    summary = summarise_variants([ranked_table])
    page = render(
        None, summary, {}, logos={(2, 1): None}, curves={(3, 1): "<svg>locus of rs3</svg>"}
    )
    cards = page.split('<article class="card"')[1:]
    assert ["locus of rs3" in card for card in cards[:3]] == [False, True, False]
    assert ["The logo is still" in card for card in cards[:3]] == [True, False, False]
    assert "<b>Curves</b>" in page
    assert "<b>Curves</b>" not in render(None, summary, {})


def test_a_logo_of_the_other_strand_says_that_it_reads_as_the_input(ranked_table):
    lifted = {"lifted_chrom": "chr1", "lifted_pos": 9, "lifted_strand": list("+-+-+-+-")}
    summary = summarise_variants([ranked_table.assign(**lifted)])
    logos = {(record, 1): "<svg>logo</svg>" for record in (2, 3)}
    page = render(None, summary, {}, logos=logos)
    assert page.count("along the strand of the input") == 1


def test_the_llr_is_named_and_shows_its_standard_error(ranked_table):
    table = ranked_table.assign(**{"llr|delta": -1.234, "llr|se": 0.456})
    page = render(None, summarise_variants([table]), {})
    value = "\N{MINUS SIGN}1.23 \N{PLUS-MINUS SIGN} 0.46"
    assert '<th class="n">LLR (nats)</th>' in page
    assert page.count(f'data-name="LLR">{value}</td>') == 7
    assert page.count(f"LLR {value} nats") == 7
    assert "log-likelihood ratio" in page
    bare = render(None, summarise_variants([table.drop(columns="llr|se")]), {})
    assert f"LLR {value[:5]} nats" in bare
    assert "LLR" not in render(None, summarise_variants([ranked_table]), {})


def test_names_of_a_page_are_text_and_short(region_table, variant_table):
    hostile = "$\\frac$<script>alert(1)</script>\N{RIGHT-TO-LEFT OVERRIDE}" + "x" * 200_000
    page = render(
        summarise_regions([region_table.assign(name=hostile, chrom=hostile)]),
        summarise_variants([variant_table.assign(id=hostile, chrom=hostile)]),
        {"command": hostile},
    )
    assert len(page) < 200_000
    assert "$\\frac$&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page


def test_a_title_says_what_the_page_is_about(region_table, variant_table):
    regions, variants = summarise_regions([region_table]), summarise_variants([variant_table])
    assert "<h1>Regions and variants scored" in render(regions, variants, {})
    assert "<h1>Variants scored" in render(None, variants, {})
    assert "<h1>Mine" in render(regions, None, {}, "Mine")


def test_auroc_counts_pairs_in_the_right_order():
    def area(known: list[float], background: list[float]) -> float | None:
        empty = pd.DataFrame()
        return auroc(RegionSummary({}, {}, np.array(known), np.array(background), empty, []))

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
    assert [fine(value) for value in (0.0, 0.00012345, 0.0123)] == ["0.000", "0.00012", "0.012"]
    assert allele("ACGT") == "ACGT"
    assert [evalue(value) for value in (1.0, 0.0312, 1e-5, float("nan"))] == [
        *("1", "0.031", "1e-05", "\N{EN DASH}")
    ]


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


def test_a_report_takes_names_from_the_table(tmp_path, ranked_table):
    ranked_table.to_parquet(tmp_path / "v.parquet")
    report(tmp_path / "report.html", variants=tmp_path / "v.parquet")
    page = (tmp_path / "report.html").read_text()
    assert "rs2 chr20:11,234" in page
    assert '<td class="id">rs2</td>' in page


def test_the_page_stands_before_its_logos_and_gains_them_one_by_one(tmp_path, ranked_table):
    ranked_table.to_parquet(tmp_path / "v.parquet")
    output, seen = tmp_path / "report.html", []

    def draw(rows):
        for key in zip(rows["record"], rows["allele"], strict=True):
            page = output.read_text()
            seen.append((int(key[0]), page.count("<svg>logo"), page.count("still being computed")))
            yield key, f"<svg>logo of {key[0]}</svg>"

    def trace(rows):
        yield from ((key, "") for key in zip(rows["record"], rows["allele"], strict=True))

    asked = {"logos": 3, "draw": draw, "curves": 5, "trace": trace}
    report(output, variants=tmp_path / "v.parquet", **asked)
    assert seen == [(2, 0, 3), (3, 1, 2), (6, 2, 1)]
    cards = output.read_text().split('<article class="card"')[1:]
    drawn = [f"logo of {record}" in card for record, card in zip((2, 3, 6), cards, strict=False)]
    assert drawn == [True] * 3
    assert "still being computed" not in output.read_text()


def test_a_run_that_ends_before_its_logos_leaves_a_page_that_says_so(tmp_path, ranked_table):
    ranked_table.to_parquet(tmp_path / "v.parquet")

    def draw(rows):
        yield (2, 1), "<svg>logo of 2</svg>"
        raise KeyboardInterrupt

    output = tmp_path / "report.html"
    with pytest.raises(KeyboardInterrupt):
        report(output, variants=tmp_path / "v.parquet", logos=2, draw=draw)
    page = output.read_text()
    assert "<svg>logo of 2</svg>" in page
    assert page.count("If the run has ended, it was stopped before.") == 1


def test_a_report_of_no_table_is_refused(tmp_path):
    with pytest.raises(UsageError, match="needs a region table, a variant table or both"):
        report(tmp_path / "report.html")
    with pytest.raises(UsageError, match=r"report\.pdf has an unknown ending.*\.html, \.htm"):
        report(tmp_path / "report.pdf", variants=tmp_path / "v.tsv")
    with pytest.raises(UsageError, match="is no file in an existing folder"):
        report(tmp_path / "none" / "report.html", variants=tmp_path / "v.tsv")
