"""bigWig tracks of outputs over regions: the probability of each 200-bp bin.

Bins lie on the grid of the training labels, bin i is [200 i, 200 i + 200), so that the value of a
place does not depend on the regions that it was asked for with. Each bin is scored as a region of
its own, by `regions.region_frames`: it gets the number that the table would give it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pandas as pd

from genobird.errors import AssemblyError, ContigError
from genobird.files import Draft, check_folder, unwritable
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.names import require
from genobird.scoring.effects import PROMOTER
from genobird.scoring.regions import region_frames
from genobird.scoring.scorer import Scorer

logger = logging.getLogger(__name__)

BIN_BP: Final = 200
ENDING: Final = ".bw"

_UNSAFE = re.compile(r"[^\w.+-]+")


def bins_of(intervals: Iterable[Interval], genome: Genome) -> Iterator[Interval]:
    """Yield the bins that touch any of the intervals, each once, in the genome's order.

    The last bin of a contig may be shorter. What lies off the genome is left out.
    """
    wanted: dict[str, list[tuple[int, int]]] = {}
    for interval in intervals:
        try:
            contig = genome.resolve(interval.contig)
        except (AssemblyError, ContigError):
            continue
        end = min(max(interval.end, interval.start + 1), genome.length(contig))
        if interval.start < end:
            first = interval.start // BIN_BP
            wanted.setdefault(contig, []).append((first, -(-end // BIN_BP)))
    for contig, length in genome.contigs.items():
        reached = 0
        for first, stop in sorted(wanted.get(contig, ())):
            for at in range(max(first, reached), stop):
                yield Interval(contig, at * BIN_BP, min((at + 1) * BIN_BP, length))
            reached = max(reached, stop)


def write_tracks(
    scorer: Scorer,
    bins: Iterable[Interval],
    genome: Genome,
    folder: Path,
    *,
    features: Sequence[str] | None = None,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[Path]:
    """Score bins and write one bigWig file per output: `promoter.bw`, `K562_CTCF_None.bw`.

    The promoter track has the larger probability of both strands. A bin that cannot be scored has
    no value.

    Args:
        scorer: the model.
        bins: see `bins_of`.
        genome: where they lie; all of its contigs go into the header.
        folder: where the files go; it is made if missing.
        features: columns, names or classes of the chromatin head; None is all.
        force: replace existing files.
        progress: called with the number of new bins.

    Returns:
        The files; one of an output without any value is not made.

    Raises:
        UsageError: pyBigWig is not installed, or a file exists.
        OutputError: a file cannot be written.
    """
    backend = require_backend()
    names = outputs_of(scorer, features)
    paths = track_paths(folder, names)
    check_folder(folder, paths.values(), force)
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        tracks = {
            name: stack.enter_context(_Track(backend, path, genome.contigs))
            for name, path in paths.items()
        }
        for frame in region_frames(scorer, bins, genome, features):
            for name, track in tracks.items():
                track.write(frame, name)
            if progress is not None:
                progress(len(frame))
    return [path for path in paths.values() if path.exists()]


def outputs_of(scorer: Scorer, features: Sequence[str] | None) -> list[str]:
    """Return the outputs of a region table, in order."""
    promoter = [PROMOTER] if scorer.checkpoint.promoter is not None else []
    chosen = [scorer.features[place] for place in scorer.select_features(features)]
    return promoter + chosen + scorer.targets


def track_paths(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Return the file of each output; characters that a shell would not like become `_`."""
    paths: dict[str, Path] = {}
    for name in names:
        stem = _UNSAFE.sub("_", name).strip("_") or "track"
        taken = set(paths.values())
        tries = (f"{stem}{mark}{ENDING}" for mark in ("", *(f"_{n}" for n in range(2, 2_000))))
        paths[name] = next(folder / one for one in tries if folder / one not in taken)
    return paths


def require_backend() -> ModuleType:
    """Return pyBigWig.

    Raises:
        UsageError: it is not installed.
    """
    backend: ModuleType = require("pyBigWig", "a bigWig file")
    return backend


class _Track:
    """One bigWig file, a draft until it is complete; none without a value."""

    def __init__(self, backend: ModuleType, path: Path, contigs: Mapping[str, int]) -> None:
        self._backend = backend
        self._path = path
        self._contigs = list(contigs.items())
        self._draft = Draft(path)
        self._file: Any = None

    def __enter__(self) -> _Track:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._file is not None:
                self._file.close()
                if kind is None:
                    self._draft.publish()
            elif kind is None:
                logger.warning("%s is not written: no bin of it could be scored", self._path)
        except (OSError, RuntimeError) as error:
            raise unwritable(self._path, error) from error
        finally:
            self._draft.discard()

    def write(self, frame: pd.DataFrame, name: str) -> None:
        """Append the bins of a frame that have a value; they come in order."""
        found = frame[frame[name].notna()]
        if found.empty:
            return
        try:
            if self._file is None:
                self._file = self._backend.open(str(self._draft.part), "w")
                self._file.addHeader(self._contigs)
            self._file.addEntries(
                found["chrom"].tolist(),
                found["start"].tolist(),
                ends=found["end"].tolist(),
                values=found[name].tolist(),
            )
        except (OSError, RuntimeError) as error:
            raise unwritable(self._path, error) from error
