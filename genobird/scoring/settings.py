"""How the effects of variants are computed, and which of their scores are reported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from genobird.errors import UsageError

PROBABILITY, DIFF, LOGFOLD, MAGNITUDE = "probability", "diff", "logfold", "magnitude"
SCORES: Final = (PROBABILITY, DIFF, LOGFOLD, MAGNITUDE)

SHIFT_BP: Final = 128
"""Bases between neighbouring window offsets."""
_MOST_SHIFTS, _MOST_SEGMENTATIONS, _WIDEST_GRID = 15, 64, 1_024


@dataclass(frozen=True, slots=True)
class EffectSettings:
    """How effects are computed; the same settings give the same scores.

    Raises:
        UsageError: a value is out of range, or a score is unknown.
    """

    shifts: int = 1
    """Windows that logits are averaged over, `SHIFT_BP` apart, the middle one at the variant."""
    segmentations: int = 2
    """Ways to cut each sequence into tokens that the masked-LM score is averaged over; 1 is the
    tokenizer's own alone, without a standard error."""
    seed: int = 0
    """Key of the draw of the other segmentations."""
    grid: int = 0
    """Windows are centred on the nearest multiple of so many bases, so that neighbouring variants
    share that of REF; 0 centres them on the variant itself."""
    scores: tuple[str, ...] = ()
    """Further scores of each promoter and chromatin output, of `SCORES`."""
    embedding: bool = False
    """Whether the distance between the hidden states of REF and ALT is computed."""

    def __post_init__(self) -> None:
        for what, found, low, high in (
            ("shifts", self.shifts, 1, _MOST_SHIFTS),
            ("segmentations", self.segmentations, 1, _MOST_SEGMENTATIONS),
            ("seed", self.seed, 0, 2**63 - 1),
            ("grid", self.grid, 0, _WIDEST_GRID),
        ):
            if not low <= found <= high:
                raise UsageError(f"{what} {found} found; {low} to {high} are allowed")
        unknown = [name for name in self.scores if name not in SCORES]
        if unknown:
            raise UsageError(f"score {unknown[0]!r} is unknown; allowed: {', '.join(SCORES)}")

    def offsets(self, position: int) -> list[int]:
        """Return how far from the middle of each window a variant lies, in bp.

        Args:
            position: its first base, 0-based.
        """
        off_grid = (position + self.grid // 2) % self.grid - self.grid // 2 if self.grid else 0
        return [off_grid + SHIFT_BP * (2 * k - self.shifts + 1) // 2 for k in range(self.shifts)]


DEFAULT: Final = EffectSettings()
