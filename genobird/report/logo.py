"""Sequence logos of saturation mutagenesis, and heat maps.

A letter stands at each base, as high as the base matters: minus the mean of the three deltas. A
letter above the line supports the output: other bases there lower it. One below, upside down, holds
it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from logomaker import Glyph
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from genobird.columns import VARIANT
from genobird.errors import TableError
from genobird.files import PICTURES, Draft, check_output
from genobird.genome.sequence import reverse_complement
from genobird.report.plots import ACCENT, INK, MUTED, figure_of, save, svg
from genobird.report.plots import BASES as PAGE_COLOURS
from genobird.targets import MARK

COLOURS = {"A": "#1b8a4b", "C": "#2a5fa5", "G": "#d98e04", "T": "#c2313b"}
COLUMNS = (*VARIANT, "output", "delta")

_WIDEST = 60.0  # inches; more letters than fit are drawn smaller
_FONT = "DejaVu Sans"  # comes with matplotlib


@dataclass(frozen=True, eq=False)
class Strip:
    """Bases side by side, each with the effects of the bases that could stand in its place."""

    bases: str
    """L letters of A, C, G and T."""
    deltas: NDArray[np.float32]
    """Logit differences, [L, 4], in the order A, C, G, T; 0 for the base that is there."""
    label: str = ""
    """What the strip is, written beside it."""
    mark: tuple[int, int] = (0, 0)
    """Bases that are marked, half-open."""

    @property
    def heights(self) -> NDArray[np.float64]:
        """How much each base matters, [L]: minus the mean of its three deltas."""
        heights: NDArray[np.float64] = -self.deltas.astype(np.float64).sum(axis=1) / 3
        return heights

    def turned(self) -> Strip:
        """Return the strip as the other strand reads it."""
        bases, (begin, end) = reverse_complement(self.bases), self.mark
        mark = len(bases) - end, len(bases) - begin
        return replace(self, bases=bases, deltas=self.deltas[::-1, ::-1], mark=mark)


def draw_logo(table: pd.DataFrame, path: Path, *, force: bool = False) -> None:
    """Draw a logo and a heat map of each output of a long mutagenesis table, `.svg` or `.png`.

    Raises:
        UsageError: another ending, or a file that exists.
        TableError: it is no such table.
        OutputError: the file cannot be written.
    """
    check_output(path, PICTURES, force)
    strips = strips_of(table)
    with Draft(path) as part:
        _draw(strips, table, part, path.suffix[1:])


def strips_of(table: pd.DataFrame) -> dict[str, Strip]:
    """Return a strip of each output of a mutagenesis table in the long form.

    Raises:
        TableError: a column is missing, or a base has not its three changes.
    """
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise TableError(
            f"the mutagenesis table has no column {missing[0]}; give its long form, with "
            f"{' '.join(COLUMNS)}"
        )
    strips = {}
    for output, rows in table.groupby("output", sort=False):
        refs = rows.groupby("pos")["ref"].first()
        turned = rows.pivot(index="pos", columns="alt", values="delta").reindex(
            columns=list("ACGT")
        )
        own = pd.get_dummies(refs).reindex(columns=list("ACGT"), fill_value=False).to_numpy()
        if (turned.isna().to_numpy() != own).any() or (np.diff(refs.index.to_numpy()) != 1).any():
            raise TableError(
                f"the mutagenesis table of {output} lacks changes of some bases; give a whole table"
            )
        strips[str(output)] = Strip("".join(refs), turned.fillna(0.0).to_numpy(np.float32))
    return strips


def pair(strips: Sequence[Strip], title: str, unit: str = "logit") -> str:
    """Draw logos of alleles one below the other, on one scale, in the colours of a page."""
    with figure_of(4.2, 0.95 * len(strips)) as figure:
        draw_alleles(np.atleast_1d(figure.subplots(len(strips))), strips, PAGE_COLOURS)
        figure.supylabel(unit, fontsize=8)
        return svg(figure, title)


def unit_of(output: str) -> str:
    """Return what the numbers of an output are; a table head has units of its own."""
    return "value" if output.startswith(MARK) else "logit"


def draw_alleles(grid: Iterable[Axes], strips: Sequence[Strip], colours: Mapping[str, str]) -> None:
    """Draw logos of alleles on axes, one each, on one scale."""
    limits = _limits(strips)
    longest = max(len(strip.bases) for strip in strips)
    for axes, strip in zip(grid, strips, strict=True):
        begin, end = strip.mark
        if end > begin:
            axes.axvspan(begin - 0.5, end - 0.5, color=MUTED, alpha=0.3, linewidth=0)
        letters(axes, strip, colours)
        axes.axhline(0, color=INK, linewidth=0.5)
        axes.set(xlim=(-0.5, longest - 0.5), ylim=limits, xticks=[])
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.tick_params(axis="y", labelsize=7, length=2)
        axes.set_ylabel(strip.label, rotation=0, ha="right", va="center", color=ACCENT)
        axes.spines["bottom"].set_visible(False)


def _limits(strips: Sequence[Strip]) -> tuple[float, float]:
    """Return a scale for the heights of strips, with room around them."""
    heights = np.concatenate([strip.heights for strip in strips])
    low, high = min(0.0, heights.min()), max(0.0, heights.max())
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room


def letters(axes: Axes, strip: Strip, colours: Mapping[str, str]) -> None:
    """Draw the letters of a strip, each centred on its number, from 0; below 0 upside down."""
    for at, (base, height) in enumerate(zip(strip.bases, strip.heights, strict=True)):
        Glyph(
            at,
            base,
            floor=min(height, 0.0),
            ceiling=max(height, 0.0),
            flip=bool(height < 0),
            ax=axes,
            width=0.92,
            color=colours[base],
            font_name=_FONT,
        )


def _draw(strips: Mapping[str, Strip], table: pd.DataFrame, file: Path, kind: str) -> None:
    first, contig = int(table["pos"].min()), str(table["chrom"].iloc[0])
    length = len(next(iter(strips.values())).bases)
    width = float(np.clip(0.13 * length + 2.4, 7.0, _WIDEST))
    with figure_of(width, 2.35 * len(strips) + 0.5, {"font.size": 8}) as figure:
        grid = figure.subplots(
            2 * len(strips), 1, sharex=True, squeeze=False, height_ratios=[3, 2] * len(strips)
        )
        for (output, strip), axes in zip(strips.items(), grid[:, 0].reshape(-1, 2), strict=True):
            unit = unit_of(output)
            _logo_axes(axes[0], strip, _title(table, output, unit), unit)
            image = _heat_axes(axes[1], strip)
            bar = figure.colorbar(
                image, ax=list(axes), pad=0.01, fraction=min(0.04, 0.3 / width), aspect=14
            )
            bar.set_label(f"ALT - REF, {unit}")
            bar.outline.set_linewidth(0.5)
        last = grid[-1, 0]
        at = _ticks(first, length, most=max(3, int(width)))
        last.set_xticks([position - first for position in at], [f"{position:,}" for position in at])
        last.set_xlabel(f"{contig}, 1-based")
        save(figure, file, kind)


def _title(table: pd.DataFrame, output: str, unit: str) -> str:
    if "ref_logit" not in table:
        return output
    value = table.loc[table["output"] == output, "ref_logit"].iloc[0]
    return f"{output}   REF {unit} {value:+.2f}"


def _ticks(first: int, length: int, most: int) -> list[int]:
    """Return round positions among `length` from `first` on, at most about `most`."""
    steps = (factor * 10**power for power in range(6) for factor in (1, 2, 5))
    step = next(step for step in steps if length / step <= most)
    return list(range(-(-first // step) * step, first + length, step))


def _logo_axes(axes: Axes, strip: Strip, title: str, unit: str) -> None:
    letters(axes, strip, COLOURS)
    axes.axhline(0, color="#555555", linewidth=0.5)
    axes.set(xlim=(-0.5, len(strip.bases) - 0.5), ylim=_limits([strip]))
    axes.set_ylabel(f"importance ({unit})")
    axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(axis="x", length=0, labelbottom=False)


def _heat_axes(axes: Axes, strip: Strip) -> Any:
    own = np.array([[found == base for base in "ACGT"] for found in strip.bases])
    values = np.where(own, np.nan, strip.deltas).T  # [4, L]
    limit = float(np.abs(strip.deltas).max()) or 1.0
    colours = mpl.colormaps["RdBu_r"].with_extremes(bad="#cbc8bf")
    extent = (-0.5, len(strip.bases) - 0.5, 3.5, -0.5)
    image = axes.imshow(
        values,
        cmap=colours,
        vmin=-limit,
        vmax=limit,
        aspect="auto",
        interpolation="nearest",
        extent=extent,
    )
    axes.set_yticks(range(4), list("ACGT"))
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    return image
