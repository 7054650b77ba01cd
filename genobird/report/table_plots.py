"""Curves and scatter plots of the tables' page, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from genobird.report.plots import ACCENT, INK, MUTED, figure_of, svg

Line = tuple[Sequence[float], Sequence[float]]

# Middle tones that can be told apart on a light and on a dark page; the first is the page's own.
_COLOURS = (ACCENT, "#c2571a", "#7b5fb3", "#3f8f4f", "#b0892a", "#b34a6e", "#4a7fb5", "#808080")


def panels(
    parts: Mapping[str, Mapping[str, Line]],
    *,
    x: str,
    y: str,
    diagonal: bool = False,
    unit: bool = True,
    markers: bool = False,
) -> str:
    """Draw panels of lines side by side, with one legend.

    Args:
        parts: title of a panel -> name of a line -> its points; the same names in every panel.
        x: what the horizontal axes show.
        y: what the vertical axes show.
        diagonal: draw y = x.
        unit: both axes go from 0 to 1.
        markers: mark the points.
    """
    names = list(dict.fromkeys(name for lines in parts.values() for name in lines))
    with figure_of(min(9.0, 1.4 + 2.7 * len(parts)) if len(parts) > 1 else 5.4, 3.3) as figure:
        grid = figure.subplots(1, len(parts), squeeze=False, sharey=True)
        for axes, (title, lines) in zip(grid[0], parts.items(), strict=True):
            if diagonal:
                axes.plot((0, 1), (0, 1), color=MUTED, linewidth=0.8, zorder=0)
            for name, (across, up) in lines.items():
                place = names.index(name)
                axes.plot(
                    across, up, color=_COLOURS[place % len(_COLOURS)], label=name,
                    linewidth=1.8 if place == 0 else 1.1, marker="o" if markers else None,
                    markersize=3, linestyle="-" if place < len(_COLOURS) else "--",
                )  # fmt: skip
            axes.set(title=title, xlabel=x)
            if unit:
                axes.set(xlim=(0, 1), ylim=(0, 1.02))
        grid[0][0].set_ylabel(y)
        handles: dict[str, Any] = {
            n: h for axes in grid[0] for h, n in zip(*_legend(axes), strict=True)
        }
        figure.legend(
            [handles[n] for n in names], names, loc="outside lower center",
            ncols=2 if len(parts) == 1 else min(len(names), 4),
        )  # fmt: skip
    return svg(figure, f"{y} against {x}: {', '.join(parts)}")


def scatter(groups: Mapping[str, Line], *, x: str, y: str) -> str:
    """Draw points of 0 to 1 against each other, with the diagonal.

    Args:
        groups: name of a group -> its points.
        x: what the horizontal axis shows.
        y: what the vertical axis shows.
    """
    with figure_of(4.6, 4.6) as figure:
        axes = figure.subplots()
        low = min(0.5, *(float(np.min(values)) for line in groups.values() for values in line))
        axes.plot((low, 1), (low, 1), color=INK, linewidth=0.6, zorder=0)
        for place, (name, (across, up)) in enumerate(groups.items()):
            axes.plot(
                across, up, "o", color=_COLOURS[place % len(_COLOURS)], markersize=3, alpha=0.7,
                label=f"{name} ({len(across)})",
            )  # fmt: skip
        axes.set(xlabel=x, ylabel=y, aspect="equal")
        axes.legend(loc="upper left")
    return svg(figure, f"{y} against {x}")


def _legend(axes: Axes) -> tuple[list[object], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    return list(handles), [str(label) for label in labels]
