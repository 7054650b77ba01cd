"""What `bench_attention.py` found, as a Markdown table and as a plot."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Row:
    """One measurement; times in microseconds for the whole batch and one layer."""

    way: str
    tokens: int
    batch: int
    dtype: str
    passes: str
    time: float
    per_sequence: float
    tflops: float
    roofline: float | None
    peak_mb: float | None


def table(rows: list[Row]) -> str:
    """Markdown: a line a measurement, with the ratio to ours."""
    mine = {(r.tokens, r.batch, r.dtype, r.passes): r.time for r in rows if r.way == "ours"}
    lines = [
        "| tokens | batch | dtype | passes | way | us a sequence | TFLOP/s | roofline | peak MB "
        "| / ours |",
        "|--:|--:|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for r in rows:
        base = mine.get((r.tokens, r.batch, r.dtype, r.passes))
        share = "" if r.roofline is None else f"{r.roofline:.0%}"
        peak = "" if r.peak_mb is None else f"{r.peak_mb:.0f}"
        ratio = "" if base is None else f"{r.time / base:.2f}"
        lines.append(
            f"| {r.tokens} | {r.batch} | {r.dtype} | {r.passes} | {r.way} | {r.per_sequence:.1f} "
            f"| {r.tflops:.3g} | {share} | {peak} | {ratio} |"
        )
    return "\n".join(lines) + "\n"


def draw_plot(rows: list[Row], title: str, path: Path) -> None:
    """Time over ours against length, both logarithmic: forward beside forward + backward."""
    if importlib.util.find_spec("matplotlib") is None:
        print("no plot: matplotlib is not installed; --plot-only draws it elsewhere from the JSON")
        return
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    dtype = "bfloat16" if any(r.roofline for r in rows) else rows[0].dtype
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for ax, passes in zip(axes, ("forward", "forward + backward"), strict=True):
        chosen = [r for r in rows if r.passes == passes and r.dtype == dtype]
        largest = {
            n: max(r.batch for r in chosen if r.tokens == n) for n in {r.tokens for r in chosen}
        }
        chosen = [r for r in chosen if r.batch == largest[r.tokens]]
        mine = {r.tokens: r.time for r in chosen if r.way == "ours"}
        for way in dict.fromkeys(r.way for r in chosen):
            points = [(r.tokens, r.time / mine[r.tokens]) for r in chosen if r.way == way]
            ax.plot(*zip(*points, strict=True), marker="o", label=way)
        ax.set(xscale="log", yscale="log", xlabel="tokens a sequence", title=f"{passes}, {dtype}")
        ax.set_xticks(sorted(mine), [str(n) for n in sorted(mine)], minor=False)
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("time / ours")
    axes[0].legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    print(f"wrote {path}")
