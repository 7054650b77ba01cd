"""How the effects of variants are computed, and which of their scores are reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import model_validator

from genobird.config import COMMAS, MOST_SEED, Settings, flag_of, option
from genobird.errors import UsageError, quoted

if TYPE_CHECKING:
    from genobird.genome.chain import ChainFile

PROBABILITY, DIFF, LOGFOLD, MAGNITUDE = "probability", "diff", "logfold", "magnitude"
SCORES: Final = (PROBABILITY, DIFF, LOGFOLD, MAGNITUDE)

SHIFT_BP: Final = 128
"""Bases between neighbouring window offsets."""
_MOST_SHIFTS, _MOST_SEGMENTATIONS, _WIDEST_GRID = 15, 64, 1_024


SHIFTS: Final = option(
    f"Window offsets over which all but GB_LLR is averaged, {SHIFT_BP} bp apart.", default=1
)
SEGMENTATIONS: Final = option(
    "Ways to cut the sequence into tokens over which GB_LLR is averaged; with 1, the tokenizer's "
    "own, it has no standard error.",
    default=2,
)
GRID: Final = option(
    "Centre windows on the nearest multiple of BP, so that neighbouring variants share the window "
    "of REF: faster where variants are dense; 0 centres on each variant.",
    "--window-grid",
    metavar="BP",
    default=0,
)
ONE_WINDOW: Final = option(
    "Read promoters in the window of the chromatin profiles, or in one of their own: more work, "
    "and promoter scores move a little.",
    "--one-window/--two-windows",
    default=True,
)


class EffectSettings(Settings):
    """How effects are computed; the same settings give the same scores.

    Raises:
        UsageError: a value is out of range, or a score is unknown.
    """

    shifts: int = SHIFTS
    segmentations: int = SEGMENTATIONS
    seed: int = option("Seed of the segmentations.", default=0)
    grid: int = GRID
    one_window: bool = ONE_WINDOW
    scores: Annotated[tuple[str, ...], COMMAS] = option(
        "Further columns of the table (--table or --report, or a table as output), separated by "
        f"commas: {', '.join(SCORES)}.",
        default=(),
    )
    embedding: bool = option(
        "Add the distance between hidden states of REF and ALT.", default=False
    )
    phred: bool = option(
        "Add GB_PHRED, the E-value as -10 log10.", default=False
    )  # computed from another key, it is no part of what identifies a run

    @model_validator(mode="after")
    def _require_allowed(self) -> Self:
        for what, found, low, high in (
            ("shifts", self.shifts, 1, _MOST_SHIFTS),
            ("segmentations", self.segmentations, 1, _MOST_SEGMENTATIONS),
            ("seed", self.seed, 0, MOST_SEED),
            ("window grid", self.grid, 0, _WIDEST_GRID),
        ):
            if not low <= found <= high:
                raise UsageError(f"{what} {found} found; {low} to {high} are allowed")
        unknown = [name for name in self.scores if name not in SCORES]
        if unknown:
            raise UsageError(f"score {unknown[0]!r} is unknown; allowed: {', '.join(SCORES)}")
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """What decides scores, by option."""
        values = self.model_dump(mode="json", exclude={"phred"})
        fields = type(self).model_fields
        return {flag_of(name, fields[name]): value for name, value in values.items()}

    @property
    def is_centred(self) -> bool:
        """Whether each window is centred on its variant."""
        return self.shifts == 1 and self.grid == 0

    @property
    def farthest(self) -> int:
        """Largest distance of a variant from the middle of its window, in bp."""
        return SHIFT_BP * (self.shifts - 1) // 2 + self.grid // 2

    def offsets(self, position: int) -> list[int]:
        """Return how far from the middle of each window a 0-based position lies, in bp."""
        off_grid = (position + self.grid // 2) % self.grid - self.grid // 2 if self.grid else 0
        return [off_grid + SHIFT_BP * (2 * k - self.shifts + 1) // 2 for k in range(self.shifts)]


DEFAULT: Final = EffectSettings.model_construct()  # unchecked, so that to import it costs nothing


class RefMismatch(StrEnum):
    """What to do with an ALT whose REF is not the genome's."""

    FLAG = "flag"
    """Leave it unscored, with its status."""
    SKIP = "skip"
    """Leave its record out of the table, and untouched in the VCF."""
    SWAP = "swap"
    """Where ALT is the genome's, score it with the roles swapped; the status stays."""
    ERROR = "error"
    """Stop."""


def policy_of(text: str) -> RefMismatch:
    """Read the policy for REF mismatches; UsageError for an unknown one."""
    try:
        return RefMismatch(text)
    except ValueError:
        allowed = ", ".join(RefMismatch)
        raise UsageError(f"ref mismatch policy {text!r} is unknown; allowed: {allowed}") from None


@dataclass(frozen=True, slots=True)
class ScanSettings:
    """How variants are put onto the genome, and what is scored of them.

    Raises:
        UsageError: an unknown policy for REF mismatches, or something else as `effects`.
    """

    ref_mismatch: str = RefMismatch.FLAG.value
    """`flag`, `skip`, `swap` or `error`, see `RefMismatch`."""
    features: Sequence[str] | None = None
    """Columns, names or classes of the chromatin head that are reported, and compete for GB_TOP;
    None is all."""
    liftover: Path | str | ChainFile | None = None
    """UCSC chain file from the assembly of the variants to the genome's."""
    ignore_build: bool = False
    """Warn of another assembly instead of raising."""
    effects: EffectSettings = DEFAULT
    genes: Path | str | None = None
    """GTF, GFF3 or BED of genes, of which the nearest start is told; see `genome.starts`."""

    def __post_init__(self) -> None:
        policy_of(self.ref_mismatch)
        if not isinstance(self.effects, EffectSettings):
            raise UsageError(
                f"{quoted(self.effects)} is given as settings; give genobird.EffectSettings(...)"
            )

    @property
    def policy(self) -> RefMismatch:
        """The policy for REF mismatches."""
        return RefMismatch(self.ref_mismatch)


PLAIN: Final = ScanSettings()
