"""Figures of a page, as SVG text that takes its colours from the page it stands in.

Enters numbers and names, leaves one `<svg>` element. Colours are the CSS variables `--accent`,
`--muted` and `--base-a` to `--base-t`, and `currentColor`, so that a figure follows the light or
dark theme of the page.

Names come from a user's files. `figure_of` and `save` are the only way to a drawing: there every
text is literal, never mathtext or TeX, and short.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

Line = tuple[Sequence[float], Sequence[float]]

# Stand-ins that no figure uses otherwise; the page's own colours take their place in the SVG.
INK, ACCENT, MUTED = "#010203", "#0405f6", "#070809"
BASES = {"A": "#0a0b01", "C": "#0a0b02", "G": "#0a0b03", "T": "#0a0b04"}
_COLOURS = {
    INK: "currentColor",
    ACCENT: "var(--accent)",
    MUTED: "var(--muted)",
    **{colour: f"var(--base-{base.lower()})" for base, colour in BASES.items()},
}
# Middle tones that can be told apart on a light and on a dark page; the first is the page's own.
_LINES = (ACCENT, "#c2571a", "#7b5fb3", "#3f8f4f", "#b0892a", "#b34a6e", "#4a7fb5", "#808080")

_SVG = "http://www.w3.org/2000/svg"
LITERAL: dict[Any, Any] = {
    "text.parse_math": False,
    "text.usetex": False,
    "axes.formatter.use_mathtext": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "genobird",
}
"""Texts are drawn as they are."""
PAGE: dict[Any, Any] = {
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
}
"""The look of figures in a page."""


def short(text: str, most: int = 60) -> str:
    """Return a name that fits: the middle of a long one left out, unprintable letters replaced."""
    if len(text) > most:
        tail = most // 3
        text = f"{text[: most - tail - 1]}\N{HORIZONTAL ELLIPSIS}{text[-tail:]}"
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@contextmanager
def figure_of(width: float, height: float, style: Mapping[Any, Any] = PAGE) -> Iterator[Figure]:
    """Open a figure to draw and save before it closes; sizes in inches."""
    with mpl.rc_context({**LITERAL, **style}):
        yield Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, file: Path | IO[bytes], kind: str) -> None:
    """Write an open figure as `svg` or `png`, its texts short, to the same bytes each time."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(short(text.get_text()))
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box; in SVG the reader's own font has it.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(file, format=kind, dpi=150, metadata=metadata)


def svg(figure: Figure, title: str) -> str:
    """Return an open figure as one `<svg>` element that can stand beside others in a page.

    The title is read to those who do not see the figure.
    """
    file, title = io.BytesIO(), short(title, 240)
    save(figure, file, "svg")
    root = ElementTree.fromstring(file.getvalue())
    for metadata in root.findall("{*}metadata"):
        root.remove(metadata)
    # Names must be unique in the page; those of groups are used by nobody.
    mark = f"svg{hashlib.sha256(title.encode() + file.getvalue()).hexdigest()[:8]}-"
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        if element.tag == "g":
            attributes.pop("id", None)
        element.attrib.clear()
        element.attrib.update({k: _of_page(k, v, mark) for k, v in attributes.items()})
    for size in ("width", "height"):  # the page sets the width, the view box the proportions
        del root.attrib[size]
    root.attrib |= {"xmlns": _SVG, "role": "img", "aria-label": title}
    return ElementTree.tostring(root, encoding="unicode")


def _of_page(name: str, value: str, mark: str) -> str:
    """Return the value of an attribute with a name of its own, and the page's fonts and colours."""
    if name == "id":
        return mark + value
    if name == "href":
        return f"#{mark}{value[1:]}"
    value = value.replace("url(#", f"url(#{mark}")
    value = re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", value)
    value = re.sub(r"font-family: [^;]*", "font-family: inherit", value)
    for colour, variable in _COLOURS.items():
        value = value.replace(colour, variable)
    return value


def histogram(groups: Mapping[str, NDArray[np.float64]], label: str) -> str:
    """Draw how the probabilities of one or two groups spread from 0 to 1."""
    with figure_of(6.0, 2.5) as figure:
        axes = figure.subplots()
        edges = np.linspace(0, 1, 21)
        width = (edges[1] - edges[0]) / len(groups)
        for place, (name, values) in enumerate(groups.items()):
            counts, _ = np.histogram(values, edges)
            axes.bar(
                edges[:-1] + width * (place + 0.5),
                counts,
                width * 0.86,
                color=(ACCENT, MUTED)[place % 2],
                label=f"{name} ({len(values):,})",
            )
        axes.set(xlim=(0, 1), xlabel=label, ylabel="regions")
        axes.locator_params(axis="y", integer=True, nbins=5)
        axes.legend(loc="upper center")
        return svg(figure, f"Histogram: {label}")


def below(thresholds: NDArray[np.float64], counts: NDArray[np.int64], total: int) -> str:
    """Draw how many alleles have E-values up to falling thresholds, and how many chance gives."""
    with figure_of(6.0, 2.8) as figure:
        axes = figure.subplots()
        shown = counts > 0
        expected = thresholds * total
        axes.plot(thresholds, expected, color=MUTED, linewidth=1.4, label="expected of background")
        axes.plot(
            thresholds[shown], counts[shown], ".-", color=ACCENT, linewidth=1.6, label="found"
        )
        axes.set(xscale="log", yscale="log", xlabel="E-value", ylabel="alleles at or below")
        for axis in (axes.xaxis, axes.yaxis):  # the default ones write mathtext
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())
        axes.set_xlim(1.2, thresholds.min() / 1.2)
        axes.set_ylim(bottom=0.5)
        axes.legend(loc="upper right")
        return svg(figure, "Alleles with small E-values, found and expected")


def along_contig(
    positions: Sequence[int],
    deltas: Sequence[float],
    names: Sequence[str],
    contig: str,
    unit: str = "logit",
) -> str:
    """Draw effects of variants, ALT minus REF, at their 1-based places on one contig.

    Names are written beside variants, where there is room; the first ones come first.
    """
    with figure_of(6.0, 2.6) as figure:
        axes = figure.subplots()
        at = np.asarray(positions, np.float64) / 1e6
        axes.vlines(at, 0, deltas, colors=ACCENT, linewidth=1)
        axes.plot(at, deltas, "o", color=ACCENT, markersize=3.5)
        axes.axhline(0, color=INK, linewidth=0.6)
        room = 0.16 * max(float(np.ptp(at)), 1e-6)
        written: list[tuple[float, bool]] = []
        for x, y, name in zip(at, deltas, names, strict=True):
            crowded = any(abs(x - other) < room and (y >= 0) == up for other, up in written)
            if not name or crowded:
                continue
            written.append((x, y >= 0))
            axes.annotate(
                name,
                (x, y),
                xytext=(0, 5 if y >= 0 else -11),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axes.margins(y=0.2)
        axes.set(xlabel=f"{contig}, Mb", ylabel=f"ALT minus REF, {unit}")
        return svg(figure, f"Effects of variants along {contig}")


def panels(
    parts: Mapping[str, Mapping[str, Line]],
    *,
    x: str,
    y: str,
    diagonal: bool = False,
    unit: bool = True,
    markers: bool = False,
    shaded: tuple[float, float] | None = None,
) -> str:
    """Draw panels of the same lines side by side, with one legend; `unit` axes go from 0 to 1.

    A stretch of the x axis may be shaded.
    """
    handles: dict[str, Artist] = {}
    names = list(dict.fromkeys(name for lines in parts.values() for name in lines))
    with figure_of(min(9.0, 1.4 + 2.7 * len(parts)) if len(parts) > 1 else 5.4, 3.3) as figure:
        grid = figure.subplots(1, len(parts), squeeze=False, sharey=True)
        for axes, (title, lines) in zip(grid[0], parts.items(), strict=True):
            if diagonal:
                axes.plot((0, 1), (0, 1), color=MUTED, linewidth=0.8, zorder=0)
            if shaded:
                axes.axvspan(*shaded, color=MUTED, alpha=0.3, linewidth=0)
            for name, (across, up) in lines.items():
                place = names.index(name)
                [handles[name]] = axes.plot(
                    across,
                    up,
                    color=_LINES[place % len(_LINES)],
                    linestyle="-" if place < len(_LINES) else "--",
                    linewidth=1.8 if place == 0 else 1.1,
                    marker="o" if markers else None,
                    markersize=3,
                )
            axes.set(title=title, xlabel=x)
            if unit:
                axes.set(xlim=(0, 1), ylim=(0, 1.02))
        grid[0][0].set_ylabel(y)
        columns = 2 if len(parts) == 1 else min(len(handles), 4)
        artists, labels = list(handles.values()), list(handles)
        figure.legend(artists, labels, loc="outside lower center", ncols=columns)
        return svg(figure, f"{y} against {x}: {', '.join(parts)}; lines: {', '.join(names)}")


def scatter(groups: Mapping[str, Line], *, x: str, y: str) -> str:
    """Draw groups of points of 0 to 1 against each other, with the diagonal."""
    with figure_of(4.6, 4.6) as figure:
        axes = figure.subplots()
        low = min(0.5, *(float(np.min(values)) for line in groups.values() for values in line))
        axes.plot((low, 1), (low, 1), color=INK, linewidth=0.6, zorder=0)
        for place, (name, (across, up)) in enumerate(groups.items()):
            axes.plot(
                across,
                up,
                "o",
                color=_LINES[place % len(_LINES)],
                markersize=3,
                alpha=0.7,
                label=f"{name} ({len(across)})",
            )
        axes.set(xlabel=x, ylabel=y, aspect="equal")
        axes.legend(loc="upper left")
        return svg(figure, f"{y} against {x}")
