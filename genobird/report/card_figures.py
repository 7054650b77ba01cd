"""What the sections of a model card share: names, verdicts, calibration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from genobird.report.markdown import listed, number, shown, table
from genobird.report.names import name_of

Facts = Mapping[str, Any]

FIGURES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "f1": "F1 at 0.5",
    "brier": "Brier score",
}
LOWER_IS_BETTER = {"brier", "bits_per_base"}


def verdicts(comparisons: Iterable[tuple[str, str, Facts, str]]) -> Iterable[str]:
    """One sentence a baseline and outcome: where the transformer wins, loses, or neither."""
    outcomes: dict[str, dict[str, list[str]]] = {}
    for what, name, difference, figure in comparisons:
        low, high = difference["low"], difference["high"]
        if low is None or high is None:
            continue
        if figure in LOWER_IS_BETTER:
            low, high = -high, -low
        outcome = "wins" if low > 0 else "loses" if high < 0 else "draws"
        outcomes.setdefault(name, {}).setdefault(outcome, []).append(
            f"{what} ({shown(difference, signed=True)})"
        )
    for name, by_outcome in outcomes.items():
        sentences = []
        if lost := by_outcome.get("loses"):
            sentences.append(f"**The transformer loses to the {name_of(name)}** in {listed(lost)}.")
        if won := by_outcome.get("wins"):
            sentences.append(f"The transformer beats the {name_of(name)} in {listed(won)}.")
        if drawn := by_outcome.get("draws"):
            sentences.append(
                f"No difference from the {name_of(name)} can be shown in {listed(drawn)}."
            )
        yield " ".join(sentences)
    if outcomes:
        yield "In brackets: transformer minus baseline on the same windows, with its interval."


def calibration(result: Facts, title: str) -> Iterable[str]:
    """Say how right the probabilities are: each model's error, the transformer's reliability."""
    rows = []
    named = {"transformer": result, **{name_of(n): b for n, b in result["baselines"].items()}}
    for name, facts in named.items():
        found = facts["calibration"]
        shares = [number(found[key]) for key in ("predicted_share", "observed_share")]
        rows.append([name, number(found["error"]), *shares])
    yield f"### {title}"
    yield table(["model", "expected calibration error", "predicted share", "observed share"], rows)
    yield "Reliability of the transformer's probabilities:"
    cells = [
        [
            f"{row['low']:.1f} to {row['high']:.1f}",
            f"{row['count']:,}",
            number(row["predicted"]),
            number(row["observed"]),
        ]
        for row in result["calibration"]["table"]
    ]
    yield table(["probability", "labels", "predicted", "observed"], cells)


def interval_text(groups: int, settings: Facts) -> str:
    """Say how the intervals were made."""
    return (
        f"In square brackets: 95 % bootstrap intervals, {settings['resamples']} resamples of "
        f"{groups} stretches of {settings['group_bp'] / 1000:g} kb."
    )
