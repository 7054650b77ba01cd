from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

import genobird
from genobird.report.plots import along_contig, below, figure_of, histogram, panels, short, svg

HOSTILE = [r"$\frac$", "a$$b", "$", r"\frac{1}{2}$x^2$", '" id="x', "#0405f6", "font: 9px a; b"]


def texts_of(figure: str) -> list[str]:
    return ["".join(text.itertext()).strip() for text in ElementTree.fromstring(figure).iter(TEXT)]


TEXT = "{http://www.w3.org/2000/svg}text"


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("user", [{}, {"text.usetex": True, "axes.formatter.use_mathtext": True}])
def test_names_are_text_whatever_they_hold(name, user):
    with mpl.rc_context(user):
        figures = [
            along_contig([1_000_000, 5_000_000], [0.5, -0.5], [name, ""], name),
            histogram({name: np.array([0.1, 0.9])}, name),
            panels({name: {name: ([0, 1], [0, 1])}}, x=name, y=name),
        ]
    assert {name, f"{name}, Mb"} <= set(texts_of(figures[0]))
    assert {name, f"{name} (2)"} <= set(texts_of(figures[1]))
    assert texts_of(figures[2]).count(name) == 4  # title, both axes, legend


@pytest.mark.parametrize("name", ["_hidden", "_", "染色体", "\N{ZERO WIDTH SPACE}\x07"])
def test_names_that_matplotlib_hides_or_cannot_draw_are_shown(name):
    figure = panels({"": {name: ([0, 1], [0, 1]), "b": ([0, 1], [1, 0])}}, x="x", y="y")
    assert {short(name), "b"} <= set(texts_of(figure))


def test_a_long_name_is_short_in_figures():
    name = "rs" + "x" * 200_000 + "end"
    figure = along_contig([1, 5_000_000], [0.5, -0.5], [name, ""], name)
    assert len(figure) < 50_000
    assert max(map(len, texts_of(figure))) <= 60


def test_a_short_name_stays_and_a_long_one_keeps_both_ends():
    assert short("rs1 x") == "rs1 x"
    assert short("a" * 60) == "a" * 60
    assert short("a" * 60 + "b", 6) == "aaa\N{HORIZONTAL ELLIPSIS}ab"
    assert short("a\tb\ud800") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"


def test_powers_of_ten_are_plain_numbers():
    figure = below(np.array([1.0, 0.1, 0.01]), np.array([4000, 300, 20]), 4000)
    assert {"1", "0.1", "0.01", "100", "1000"} <= set(texts_of(figure))
    assert "$" not in figure


def test_every_figure_is_drawn_and_saved_in_one_place():
    # Elsewhere a name could be mathtext. The picture of a pattern of attention holds no names, and
    # the axes for notebooks are drawn under the same settings.
    root = Path(genobird.__file__).parent
    ways = re.compile(r"\bFigure\(|savefig|pyplot|print_figure")
    found = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if ways.search(path.read_text())
    }
    assert found == {"report/plots.py", "report/axes.py", "attention/layout.py"}


def test_an_open_figure_is_literal_for_any_text():
    with figure_of(2, 1) as figure:
        figure.subplots().set_xticks([0], ["$x$"])
        assert "$x$" in texts_of(svg(figure, "ticks"))
