"""Figures of a report, as SVG text that takes its colours from the page it stands in.

Enters numbers, leaves one `<svg>` element. Colours are the CSS variables `--accent`, `--muted` and
`--base-a` to `--base-t`, and `currentColor`, so that a figure follows the light or dark theme of
the page.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

# Stand-ins that no figure uses otherwise; the page's own colours take their place in the SVG.
INK, ACCENT, MUTED = "#010203", "#0405f6", "#070809"
BASES = {"A": "#0a0b01", "C": "#0a0b02", "G": "#0a0b03", "T": "#0a0b04"}
_COLOURS = {
    INK: "currentColor",
    ACCENT: "var(--accent)",
    MUTED: "var(--muted)",
    **{colour: f"var(--base-{base.lower()})" for base, colour in BASES.items()},
}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "genobird",
    "font.size": 9,
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


def histogram(groups: Mapping[str, NDArray[np.float64]], label: str, bins: int = 20) -> str:
    """Draw how probabilities spread from 0 to 1.

    Args:
        groups: Name of a group -> its probabilities; one or two groups.
        label: What the horizontal axis shows.
        bins: Bars from 0 to 1.
    """
    with figure_of(7.2, 2.5) as figure:
        axes = figure.subplots()
        edges = np.linspace(0, 1, bins + 1)
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
    """Draw how many alleles have an E-value of at most each threshold, and how many chance gives.

    Args:
        thresholds: E-values, falling from 1.
        counts: alleles at or below each.
        total: alleles with an E-value.
    """
    with figure_of(7.2, 2.8) as figure:
        axes = figure.subplots()
        shown = counts > 0
        expected = thresholds * total
        axes.plot(thresholds, expected, color=MUTED, linewidth=1.4, label="expected of background")
        axes.plot(
            thresholds[shown], counts[shown], ".-", color=ACCENT, linewidth=1.6, label="found"
        )
        axes.set(xscale="log", yscale="log", xlabel="E-value", ylabel="alleles at or below")
        axes.set_xlim(1.2, thresholds.min() / 1.2)
        axes.set_ylim(bottom=0.5)
        axes.legend(loc="upper right")
    return svg(figure, "Alleles with small E-values, found and expected")


def along_contig(
    positions: Sequence[int], deltas: Sequence[float], names: Sequence[str], contig: str
) -> str:
    """Draw effects of variants at their places on one contig.

    Args:
        positions: 1-based.
        deltas: Logit differences, ALT minus REF.
        names: Written beside a variant, where there is room; the first ones come first.
        contig: Name of the contig.
    """
    with figure_of(7.2, 2.6) as figure:
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
        axes.set(xlabel=f"{contig}, Mb", ylabel="ALT minus REF, logit")
    return svg(figure, f"Effects of variants along {contig}")


@contextmanager
def figure_of(width: float, height: float) -> Iterator[Figure]:
    """Open a figure in the style of the page; sizes in inches of 9-point text."""
    with mpl.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def svg(figure: Figure, title: str) -> str:
    """Return a figure as one `<svg>` element that can stand beside others in a page."""
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'font: ([\d.]+px) [^;"]*', r"font-size: \1", text)
    text = re.sub(r'font-family: [^;"]*', "font-family: inherit", text)
    for colour, variable in _COLOURS.items():
        text = text.replace(colour, variable)
    # Names must be unique in the page; those of groups are used by nobody.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    mark = hashlib.sha256(f"{title}{text}".encode()).hexdigest()[:8]
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>svg{mark}-", text)
    # The page sets the width, the view box the proportions.
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
