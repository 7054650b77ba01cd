"""Background: how large effects are in a set of variants, and where one of them lies among it.

Of each output the sizes |ALT - REF| of the background variants are kept as a sketch: the largest
one by one, the others at ranks that grow by a constant factor, so that the share of variants beyond
a size is known to a few per cent however small it is. A file holds about 200 numbers per output.

For one ALT, with n variants in the background:

    tail      of an output: (1 + how many have an effect of at least that size) / (n + 1)
    quantile  of an output: 1 - tail
    surprise  of an ALT: mean of -ln tail over its outputs, -ln of their geometric mean (Zhou &
              Troyanskaya 2015 take that mean of their E-values)
    evalue    of an ALT: the tail of its surprise among those of the background's own variants
"""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from genobird.columns import EVALUE, LLR, PROMOTER, QUANTILE
from genobird.errors import BackgroundError, UsageError
from genobird.files import Draft

if TYPE_CHECKING:
    from genobird.scoring.scorer import Scorer
    from genobird.scoring.settings import EffectSettings

logger = logging.getLogger(__name__)

FORMAT: Final = 1
FILE: Final = "background.npz"
"""Name of a model's own background, in its directory."""
MODEL, NONE = "model", "none"

SIZE: Final = 200
"""Most values that are kept of one distribution."""
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError, zipfile.BadZipFile)
_TOP = 64  # of them those that are kept one by one

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sketch:
    """Several distributions of the same number of values, each as values at chosen ranks."""

    count: int
    """Values in each distribution."""
    ranks: NDArray[np.int64]
    """How many values are at least as large as the kept ones, [Q]; from 1 to `count`."""
    values: Doubles
    """Values of each distribution at these ranks, [D, Q], falling."""

    @classmethod
    def of(cls, columns: Iterable[NDArray[Any]], count: int) -> Sketch:
        """Make a sketch of D distributions of `count` finite values each."""
        ranks = ranks_of(count)
        kept = [np.sort(column)[count - ranks] for column in columns]
        return cls(count, ranks, np.array(kept, np.float64).reshape(len(kept), len(ranks)))

    def at_least(self, place: int, values: NDArray[Any]) -> NDArray[np.int64]:
        """Return how many values of one distribution are at least as large as each of these.

        At a kept value, above the largest and below the smallest that is exact; in between it is
        interpolated and rounded down.
        """
        kept = self.values[place]
        above = np.searchsorted(-kept, -values.astype(np.float64), side="right")
        upper, lower = np.maximum(above - 1, 0), np.minimum(above, len(kept) - 1)
        gap = kept[upper] - kept[lower]
        with np.errstate(invalid="ignore"):
            part = np.where(gap > 0, (kept[upper] - values) / np.where(gap > 0, gap, 1.0), 0.0)
        between = self.ranks[upper] + part * (self.ranks[lower] - self.ranks[upper])
        below = np.maximum(self.ranks[lower] - 1, self.ranks[upper])
        counts = np.minimum(np.nan_to_num(between).astype(np.int64), below)
        return np.where(above == 0, 0, np.where(above == len(kept), self.count, counts))


def ranks_of(count: int) -> NDArray[np.int64]:
    """Return the ranks that are kept of `count` values, rising from 1 to `count`."""
    if count <= SIZE:
        return np.arange(1, count + 1)
    spread = np.geomspace(_TOP, count, SIZE - _TOP + 1).round().astype(np.int64)
    return np.unique(np.concatenate([np.arange(1, _TOP), spread]))


@dataclass(frozen=True, slots=True)
class Background:
    """Sketches of a model's effects in a set of variants."""

    outputs: tuple[str, ...]
    """Names of the outputs, as before `|delta` in the table of variants."""
    summed: tuple[int, ...]
    """Places in `outputs` of those that the surprise is the mean of."""
    sizes: Sketch
    """Sketch of |ALT - REF| of each output."""
    surprises: Sketch
    """Sketch of the surprise; the only distribution in it."""
    facts: dict[str, Any]
    """`model` (hash), `version`, `source`, `source_sha256`, `limit`, `seed`, `exclude`, `command`,
    and those of `settings_facts`."""

    @classmethod
    def of(
        cls,
        deltas: NDArray[np.float32],
        outputs: Sequence[str],
        summed: Sequence[int],
        **facts: Any,
    ) -> Background:
        """Make the background of n variants, none of whose effects is missing.

        Args:
            deltas: ALT - REF, [n, D]; may be a file mapped to memory.
            outputs: names of the D outputs.
            summed: places of those that the surprise is the mean of.
            facts: see `Background`.

        Raises:
            BackgroundError: there are no variants.
        """
        count = len(deltas)
        if count == 0:
            raise BackgroundError(
                "no variant of the background could be scored; is it of another assembly?"
            )
        columns = (np.abs(deltas[:, place]) for place in range(len(outputs)))
        sizes = Sketch.of(columns, count)
        # A variant is ranked among the others alone: one that is new has not been among them.
        surprises = [
            -np.log(_beyond(sizes, deltas[first : first + 4096], summed) / count).mean(axis=1)
            for first in range(0, count, 4096)
        ]
        made = Sketch.of([np.concatenate(surprises)], count)
        return cls(tuple(outputs), tuple(summed), sizes, made, facts)

    @property
    def count(self) -> int:
        """Number n of variants."""
        return self.sizes.count

    @property
    def model(self) -> str:
        """Hash of the model that scored them."""
        return str(self.facts["model"])

    @property
    def hash(self) -> str:
        """First 12 letters of a sha256 of what decides ranks."""
        digest = hashlib.sha256(json.dumps([self.model, self.outputs, self.summed]).encode())
        for part in (self.sizes, self.surprises):
            digest.update(part.ranks.astype("<i8").tobytes() + part.values.astype("<f8").tobytes())
        return digest.hexdigest()[:12]

    def tails(self, deltas: NDArray[Any]) -> Doubles:
        """Return the tail of each effect, [m, D] for [m, D], from 1 / (n + 1) to 1; NaN of NaN."""
        beyond = _beyond(self.sizes, deltas, range(len(self.outputs)))
        return np.where(np.isnan(deltas), np.nan, (1 + beyond) / (self.count + 1))

    def evalues(self, tails: Doubles) -> Doubles:
        """Return the E-value of each ALT, [m], from the tails of all outputs, [m, D].

        NaN where a tail that counts is missing.
        """
        surprise = -np.log(tails[:, list(self.summed)]).mean(axis=1)
        beyond = self.surprises.at_least(0, surprise)
        return np.where(np.isnan(surprise), np.nan, (1 + beyond) / (self.count + 1))

    def rank(self, table: pd.DataFrame, hidden: Collection[str] = ()) -> pd.DataFrame:
        """Return a table of variants with `evalue` after the keys, a quantile after each delta.

        Args:
            table: with `NAME|delta` of every output of the background.
            hidden: outputs that count for the E-value but whose columns are left out.
        """
        deltas = table.reindex(columns=[f"{name}|delta" for name in self.outputs])
        tails = self.tails(deltas.to_numpy(np.float32))
        quantiles = dict(zip(self.outputs, (1 - tails).T.astype(np.float32), strict=True))
        columns: dict[str, Any] = {}
        scored = False
        for column in table.columns:
            name, _, part = column.rpartition("|")
            if name and not scored:
                scored = True
                columns[EVALUE] = self.evalues(tails).astype(np.float32)
            if name in hidden:
                continue
            columns[column] = table[column]
            if part == "delta" and name in quantiles:
                columns[f"{name}|{QUANTILE}"] = quantiles[name]
        return pd.DataFrame(columns)

    def sizes_beyond(self, shares: Sequence[float]) -> Doubles:
        """Return of each output the |ALT - REF| that a share of the variants reaches, [D, shares].

        Interpolated; a share below 1 / n gives the largest.
        """
        ranks = np.clip(np.array(shares) * self.count, 1, self.count)
        kept = self.sizes
        return np.array([np.interp(ranks, kept.ranks, values) for values in kept.values])

    def save(self, path: Path) -> None:
        """Write the file; the same facts, the same bytes.

        Raises:
            OutputError: it cannot be written.
        """
        facts = {
            "format": FORMAT,
            "outputs": self.outputs,
            "summed": self.summed,
            "count": self.count,
            **self.facts,
        }
        with Draft(path) as part, part.open("wb") as file:
            np.savez_compressed(
                file,
                facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
                ranks=self.sizes.ranks,
                sizes=self.sizes.values.astype(np.float32),
                surprises=self.surprises.values[0],
            )

    @classmethod
    def load(cls, path: Path | str) -> Background:
        """Read a file.

        Raises:
            UsageError: there is no such file.
            BackgroundError: it is no background, or damaged.
        """
        path = Path(path)
        if not path.is_file():
            raise UsageError(f"there is no background {path}; make one: genobird background build")
        if not zipfile.is_zipfile(path):
            raise BackgroundError(
                f"{path} is no usable background: it is no whole .npz file; give the file of "
                "genobird background build, or make it again"
            )
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                facts = json.loads(arrays["facts"].tobytes())
                ranks, sizes, surprises = (arrays[k] for k in ("ranks", "sizes", "surprises"))
            if facts.pop("format") != FORMAT:
                raise ValueError("a newer genobird wrote it")
            count, outputs = int(facts.pop("count")), tuple(facts.pop("outputs"))
            summed = tuple(facts.pop("summed"))
            if sizes.shape != (len(outputs), len(ranks)) or surprises.shape != ranks.shape:
                raise ValueError("its parts do not fit each other")
            if len(ranks) != len(ranks_of(count)) or "model" not in facts:
                raise ValueError("it is incomplete")
            both = [Sketch(count, ranks, x.astype(np.float64)) for x in (sizes, surprises[None])]
            return cls(outputs, summed, both[0], both[1], facts)
        except _DAMAGE as error:
            raise BackgroundError(
                f"{path} is no usable background: {error}; make it again: genobird background build"
            ) from error


def _beyond(sizes: Sketch, deltas: NDArray[Any], places: Iterable[int]) -> NDArray[np.int64]:
    """Return how many background effects are at least as large as each, [m, places]."""
    counts = [sizes.at_least(place, np.abs(deltas[:, place])) for place in places]
    return np.stack(counts, axis=1)


def background_of(scorer: Scorer, choice: Background | Path | str = MODEL) -> Background | None:
    """Return the background to compare with.

    Args:
        scorer: the model that scores.
        choice: a background, its file, `model` for that in the model's directory (None where there
            is none) or `none`.

    Raises:
        UsageError: there is no such file.
        BackgroundError: it is damaged, or of another model.
    """
    if isinstance(choice, Background):
        found = choice
    elif str(choice) == NONE:
        return None
    elif str(choice) == MODEL:
        folder = scorer.checkpoint.directory
        if folder is None or not (folder / FILE).is_file():
            return None
        found = Background.load(folder / FILE)
    else:
        found = Background.load(choice)
    if found.model != scorer.model_hash:
        raise BackgroundError(
            f"the background is of model {found.model or 'unsaved'}, the scores are of model "
            f"{scorer.model_hash or 'unsaved'}: they cannot be compared; make one with genobird "
            "background build, or go without: --background none"
        )
    return found


def settings_facts(settings: EffectSettings) -> dict[str, int]:
    """Return the settings that decide how large effects are."""
    names = ("shifts", "grid", "segmentations", "one_window")
    return {name: int(getattr(settings, name)) for name in names}


def warn_of_settings(background: Background | None, settings: EffectSettings) -> None:
    """Warn where effects are computed in another way than those of the background."""
    if background is None:
        return
    wanted = settings_facts(settings)
    found = {"one_window": 0} | background.facts  # older files do not name it
    others = {name: found[name] for name, n in wanted.items() if found.get(name, n) != n}
    outputs = set(background.outputs)
    if PROMOTER not in outputs or outputs <= {PROMOTER, LLR}:
        others.pop("one_window", None)  # there are no two heads to share it
    if not others:
        return
    moved = "quantiles and E-values are"
    # Nothing but these depends on how a sequence is cut, and on the promoter's window.
    alone = {"segmentations": LLR, "one_window": PROMOTER}
    summed = {background.outputs[place] for place in background.summed}
    if set(others) <= set(alone) and not summed & {alone[name] for name in others}:
        names = [f"{alone[name]}|{QUANTILE}" for name in others]
        moved = f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'}"
    windows = {0: "two windows", 1: "one window"}
    told = [windows[n] if name == "one_window" else f"{name} {n}" for name, n in others.items()]
    logger.warning(
        "the background was made with %s: %s a little off; build one with the settings of this run",
        ", ".join(told),
        moved,
    )
