"""What a table head predicts: values in the units of a user's table, or classes.

Such a head is trained on standardised values, or gives one logit a class. What it predicts is kept
with it, so that scores come in the units of the table that it was trained on.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from genobird.config import Strict

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

MARK: Final = "table|"
"""How the columns of a table head begin in tables of scores."""
LONGEST_BP: Final = 16_200
"""Most bases around a place that are read: those that a region is cut out with."""


class Objective(StrEnum):
    """What a table head is trained for."""

    regression = "regression"
    classes = "classes"


class Targets(Strict):
    """What O outputs of a head are, and how their regions are read."""

    names: tuple[str, ...] = Field(min_length=1)
    """Of the columns that are predicted, or of the classes, [O]."""
    column: str = ""
    """That holds the classes; empty for regression."""
    objective: Objective = Objective.regression
    """Regression, or classes that exclude each other."""
    means: tuple[float, ...] = ()
    """Of the values in training, [O]; none for classes."""
    scales: tuple[float, ...] = ()
    """Their standard deviations, [O]; none for classes."""
    signal: bool = False
    """Whether the values are the log1p of a mean signal."""
    stranded: bool = False
    """Whether regions are read along their strand, where they have one."""
    window_bp: int = Field(2_000, ge=2, le=LONGEST_BP)
    """Bases that are encoded around a region's midpoint."""

    @model_validator(mode="after")
    def _complete(self) -> Targets:
        wanted = 0 if self.is_classes else len(self.names)
        if not len(self.means) == len(self.scales) == wanted:
            raise ValueError(f"{len(self.means)} means and {len(self.scales)} scales found")
        if not (np.isfinite(self.means).all() and np.isfinite(self.scales).all()):
            raise ValueError("means and scales are finite")
        return self

    @property
    def is_classes(self) -> bool:
        """Whether the outputs are classes."""
        return self.objective is Objective.classes

    @property
    def columns(self) -> list[str]:
        """Columns in tables of scores: `table|activity`, or one per class, `table|state=active`."""
        kind = f"{self.column}=" if self.is_classes else ""
        return [f"{MARK}{kind}{name}" for name in self.names]

    def standardised(self, values: Doubles) -> Floats:
        """Return what a head is trained on, [N, O]; numbers of classes stay as they are."""
        if self.is_classes:
            return values.astype(np.float32)
        means, scales = np.array(self.means), np.array(self.scales)
        standardised: Floats = ((values - means) / scales).astype(np.float32)
        return standardised

    def values(self, logits: NDArray[Any]) -> Floats:
        """Return values in the units given, or probabilities of the classes, [N, O]."""
        found: Doubles = logits.astype(np.float64)
        if self.is_classes:
            odds = np.exp(found - found.max(axis=1, keepdims=True))
            found = odds / odds.sum(axis=1, keepdims=True)
        else:
            found = found * np.array(self.scales) + np.array(self.means)
        return found.astype(np.float32)
