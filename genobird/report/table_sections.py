"""What the sections of the tables' page are made of, and what they share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from genobird.report.markdown import shown

Facts = Mapping[str, Any]

MODEL = "BigBird"


@dataclass(frozen=True)
class Grid:
    """A table of text; `folded` shows its caption alone until it is opened."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure and what it shows."""

    svg: str
    caption: str


@dataclass
class Section:
    """One table of the paper.

    Attributes:
        anchor: its name in links.
        title: heading.
        text: paragraphs.
        grids: tables.
        pictures: figures.
        facts: what it was made with, name -> JSON.
    """

    anchor: str
    title: str
    text: list[str]
    grids: list[Grid] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)


def interval_text(evaluation: Facts, found: Facts) -> str:
    """Say how the intervals were made."""
    settings = evaluation["settings"]
    return (
        f"95 % bootstrap intervals: {settings['resamples']} resamples (seed {settings['seed']}) of "
        f"{found['groups']} stretches of {settings['group_bp'] / 1000:g} kb of the "
        f"{evaluation['split']} part. They say how figures vary along the genome, not between "
        "training runs."
    )


def provenance(evaluation: Facts, prefix: str = "") -> dict[str, str]:
    """Return settings, training and data of an evaluation as JSON."""
    keys = ("genobird", "command", "model_sha256", "settings", "encoder", "training", "data")
    return {
        f"{prefix}{key}": json.dumps(evaluation[key], indent=1) for key in keys if key in evaluation
    }


def signed(interval: Mapping[str, float | None]) -> str:
    """Write a difference behind a figure."""
    return f"; {shown(interval, signed=True)}"
