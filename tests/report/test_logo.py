from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from genobird.errors import OutputError, TableError, UsageError
from genobird.report.logo import COLOURS, Strip, draw_logo, letters, pair, strips_of

SVG = "{http://www.w3.org/2000/svg}"


def table_of(
    bases: str, outputs: tuple[str, ...] = ("promoter",), first: int = 101
) -> pd.DataFrame:
    rows = [
        ("chr1", first + at, ref, alt, output, at + "ACGT".index(alt) / 10)
        for at, ref in enumerate(bases)
        for alt in "ACGT"
        if alt != ref
        for output in outputs
    ]
    return pd.DataFrame(rows, columns=["chrom", "pos", "ref", "alt", "output", "delta"])


def strip_of(bases: str, heights: list[float]) -> Strip:
    own = np.array([[found == base for base in "ACGT"] for found in bases])
    return Strip(bases, np.where(own, 0, -np.array(heights)[:, None]).astype(np.float32))


@given(st.text("ACGT", min_size=1, max_size=30))
def test_a_table_becomes_one_strip_an_output(bases):
    strips = strips_of(table_of(bases, ("promoter", "K562|CTCF|None")))
    assert list(strips) == ["promoter", "K562|CTCF|None"]
    strip = strips["K562|CTCF|None"]
    assert strip.bases == bases
    for at, found in enumerate(bases):
        expected = [0 if base == found else at + i / 10 for i, base in enumerate("ACGT")]
        np.testing.assert_allclose(strip.deltas[at], expected, atol=1e-5)
        assert strip.heights[at] == pytest.approx(-sum(expected) / 3, abs=1e-5)


def test_a_base_whose_changes_lower_the_output_stands_above_the_line():
    strip = strip_of("AC", [1.5, -0.5])
    np.testing.assert_allclose(strip.heights, [1.5, -0.5])


@settings(max_examples=20)
@given(
    st.text("ACGT", min_size=1, max_size=12),
    st.lists(st.floats(-3, 3).filter(lambda x: abs(x) > 1e-3), min_size=12, max_size=12),
)
def test_letters_fill_their_places_to_their_heights(bases, heights):
    strip = strip_of(bases, heights[: len(bases)])
    axes = Figure().subplots()
    letters(axes, strip, COLOURS)
    assert len(axes.patches) == len(bases)
    for at, (patch, base, height) in enumerate(
        zip(axes.patches, bases, strip.heights, strict=True)
    ):
        box = patch.get_path().get_extents()
        assert (box.y0, box.y1) == pytest.approx((min(0, height), max(0, height)), abs=1e-4)
        assert at - 0.5 < box.x0 < box.x1 < at + 0.5
        assert to_hex(patch.get_facecolor()) == COLOURS[base]


def test_a_logo_in_svg_is_well_formed_and_names_outputs_and_places(tmp_path):
    path = tmp_path / "logo.svg"
    table = table_of("ACGTACGTAC", ("promoter", "K562|CTCF|None")).assign(ref_logit=-1.234)
    draw_logo(table, path)
    root = ElementTree.parse(path).getroot()
    assert root.tag == f"{SVG}svg"
    texts = "".join(root.itertext())
    for part in (
        "promoter   REF logit -1.23",
        "K562|CTCF|None   REF",
        "chr1, 1-based",
        "104",
        "ALT - REF",
    ):
        assert part in texts
    assert "value" not in texts
    draw_logo(table.replace("promoter", "table|a"), path, force=True)
    texts = "".join(ElementTree.parse(path).getroot().itertext())
    for part in ("table|a   REF value -1.23", "importance (value)", "ALT - REF, value"):
        assert part in texts
    draw_logo(table, path, force=True)
    again = tmp_path / "again.svg"
    draw_logo(table, again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_names_of_a_logo_are_text_and_short(tmp_path, kind):
    table = table_of("ACG", (r"$\frac$", "x" * 200_000)).assign(chrom="a$$b")
    draw_logo(table, tmp_path / f"logo.{kind}")
    if kind == "svg":
        texts = "".join(ElementTree.parse(tmp_path / "logo.svg").getroot().itertext())
        assert r"$\frac$" in texts
        assert "a$$b, 1-based" in texts
        assert len(texts) < 10_000


@pytest.mark.parametrize("length", [1, 3, 700])
def test_a_logo_of_any_length_can_be_drawn(tmp_path, length):
    draw_logo(table_of(("ACGT" * 200)[:length]), tmp_path / "logo.png")
    assert (tmp_path / "logo.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_but_zeros_can_be_drawn(tmp_path):
    draw_logo(table_of("ACG").assign(delta=0.0), tmp_path / "logo.svg")
    assert pair([strip_of("ACG", [0, 0, 0])], "nothing").startswith("<svg ")


def test_a_file_that_exists_and_unknown_kinds_are_refused(tmp_path):
    path = tmp_path / "logo.svg"
    path.write_text("old")
    with pytest.raises(UsageError, match=r"logo\.svg exists; choose another name or pass --force"):
        draw_logo(table_of("AC"), path)
    assert path.read_text() == "old"
    draw_logo(table_of("AC"), path, force=True)
    assert path.read_text() != "old"
    with pytest.raises(UsageError, match=r"unknown ending; allowed are \.svg, \.png"):
        draw_logo(table_of("AC"), tmp_path / "logo.jpg")
    with pytest.raises(UsageError, match="is no file in an existing folder"):
        draw_logo(table_of("AC"), tmp_path / "none" / "logo.svg")


def test_a_logo_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OutputError, match="cannot be written: No space left on device"):
        draw_logo(table_of("AC"), tmp_path / "logo.svg")
    assert not list(tmp_path.iterdir())


def test_tables_of_another_kind_are_refused(tmp_path):
    with pytest.raises(TableError, match="has no column output; give its long form"):
        strips_of(table_of("AC").drop(columns="output"))
    with pytest.raises(TableError, match="of promoter lacks changes of some bases"):
        strips_of(table_of("ACG").iloc[:-1])
    with pytest.raises(TableError, match="of promoter lacks changes of some bases"):
        strips_of(table_of("ACG").query("pos != 102"))


def test_a_pair_of_alleles_is_drawn_in_the_colours_of_the_page():
    ref, alt = strip_of("ACGTT", [1, 2, 3, 1, 0.5]), strip_of("ACATT", [1, 0, -1, 1, 0.5])
    strips = [Strip(s.bases, s.deltas, label, (2, 3)) for s, label in ((ref, "REF"), (alt, "ALT"))]
    figure = pair(strips, "rs<1>")
    root = ElementTree.fromstring(figure)
    assert root.get("aria-label") == "rs<1>"
    assert {"REF", "ALT"} <= {text.strip() for text in root.itertext()}
    for base in "acgt":
        assert f"var(--base-{base})" in figure
    assert not re.search(r"#[0-9a-f]{6}\b", figure)
