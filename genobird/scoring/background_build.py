"""Making a background: draw variants from a VCF, score them, sketch their effects.

Effects go row by row to a folder beside the output, so that memory does not grow with the number of
variants, and a run that was killed goes on where it was. The folder goes when the output is there:

    background.npz.partial/facts.json   what the rows are effects of
    background.npz.partial/rows.f32     ALT - REF of each variant drawn, [drawn, outputs]
"""

from __future__ import annotations

import heapq
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genobird import __version__
from genobird.errors import AssemblyError, BackgroundError, ContigError, OutputError, UsageError
from genobird.files import file_sha256, locked, write_text
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.genome.streams import STDIN, require_file
from genobird.genome.variant import Status, Variant
from genobird.scoring.alleles import Allele, opened_alleles
from genobird.scoring.background import Background, check_background, settings_facts
from genobird.scoring.effects import LLR
from genobird.scoring.scorer import Scorer, opened
from genobird.scoring.settings import DEFAULT, EffectSettings
from genobird.scoring.table import in_chunks
from genobird.scoring.variants import effect_table

logger = logging.getLogger(__name__)

_FACTS, _ROWS = "facts.json", "rows.f32"
# Rows that are read from the file at a time.
_PART = 4096


def build_background(
    scorer: Scorer,
    sources: Path | str | Sequence[Path | str],
    fasta: Path | str | Genome,
    output: Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    exclude: Sequence[Interval] = (),
    settings: EffectSettings = DEFAULT,
    resume: bool = False,
    force: bool = False,
    command: str = "",
    progress: Callable[[int], None] | None = None,
) -> Background:
    """Score variants and write the sketches of their effects.

    Args:
        scorer: the model.
        sources: a file of variants, see `screen_variants`, or several that count as one; not
            standard input, which cannot be read twice.
        fasta: the genome.
        output: a name ending in `.npz`.
        limit: draw so many of the ALTs that can be scored, each as likely as any other; None takes
            all of them.
        seed: of the draw.
        exclude: leave out variants that touch these intervals.
        settings: how effects are computed.
        resume: go on with an unfinished run of the same model, file and options.
        force: replace an existing output, and an unfinished run.
        command: command line for the facts of the background.
        progress: called with the number of new variants; first with those that were there.

    Raises:
        UsageError: wrong arguments, the output or an unfinished run exists, or a run to resume is
            another.
        VcfError, TableError: the variants cannot be read.
        AssemblyError: they are of another assembly.
        BackgroundError: none of them can be scored.
        OutputError: the output cannot be written.
    """
    files = [Path(one) for one in ([sources] if isinstance(sources, Path | str) else sources)]
    if not files or STDIN in map(str, files):
        raise UsageError("a background needs a VCF file, not standard input: it is read twice")
    check_background(output, force)
    if limit is not None and limit < 1:
        raise UsageError(f"limit {limit} found; 1 or more are allowed")
    facts: dict[str, Any] = {
        "model": scorer.model_hash,
        "source": ", ".join(file.name for file in files),
        "source_sha256": ", ".join(file_sha256(require_file(file)) for file in files),
        "limit": limit,
        "seed": seed,
        "exclude": [str(interval) for interval in exclude],
        **settings_facts(settings),
    }
    with locked(output), opened(fasta) as genome:
        outputs = _outputs(scorer, genome)
        rows = _Rows(output, {**facts, "outputs": outputs}, len(outputs))
        rows.open(resume=resume, force=force, chunk=scorer.chunk)
        if progress is not None:
            progress(rows.done)
        alleles = _draw(files, genome, limit, seed, exclude)
        for part in in_chunks(islice(alleles, rows.done, None), scorer.chunk):
            table = effect_table(scorer, part, genome, settings=settings)
            rows.append(table[[f"{name}|delta" for name in outputs]].to_numpy(np.float32))
            if progress is not None:
                progress(len(part))
        facts |= {"version": __version__, "command": command}
        background = Background.of(rows.complete(), outputs, _summed(scorer, outputs), **facts)
        background.save(output)
        rows.remove()
    return background


def _outputs(scorer: Scorer, genome: Genome) -> list[str]:
    columns = effect_table(scorer, [], genome).columns
    return [name.removesuffix("|delta") for name in columns if name.endswith("|delta")]


def _summed(scorer: Scorer, outputs: Sequence[str]) -> list[int]:
    """Return the places of the outputs that make the E-value: the chromatin features, if any."""
    features = set(scorer.features)
    chosen = [place for place, name in enumerate(outputs) if name in features]
    others = [place for place, name in enumerate(outputs) if name != LLR]
    return chosen or others or list(range(len(outputs)))


def _draw(
    sources: Sequence[Path],
    genome: Genome,
    limit: int | None,
    seed: int,
    exclude: Sequence[Interval],
) -> Iterator[Allele]:
    """Yield the ALTs to score, in file order; memory is that of `limit` ALTs."""
    left_out = [_on(genome, interval) for interval in exclude]

    def eligible() -> Iterator[Allele]:
        for source in sources:
            with opened_alleles(source) as alleles:
                locator = alleles.locator(genome)
                for allele in alleles:
                    if locator.find(allele.variant).status is not Status.OK:
                        continue
                    if not any(_touches(allele.variant, place, genome) for place in left_out):
                        yield allele

    if limit is None:
        return eligible()
    # The smallest of random numbers, one an ALT, are a draw without replacement.
    random = np.random.Generator(np.random.Philox(seed))
    numbered = ((random.random(), place, allele) for place, allele in enumerate(eligible()))
    drawn = heapq.nsmallest(limit, numbered, key=lambda item: item[:2])
    return (allele for _, _, allele in sorted(drawn, key=lambda item: item[1]))


def _touches(variant: Variant, place: Interval, genome: Genome) -> bool:
    if not (variant.position < place.end and place.start < variant.end):
        return False
    return genome.resolve(variant.contig) == place.contig


def _on(genome: Genome, interval: Interval) -> Interval:
    try:
        return Interval(genome.resolve(interval.contig), interval.start, interval.end)
    except (AssemblyError, ContigError) as error:
        raise UsageError(f"cannot leave out {interval}: {error}") from error


class _Rows:
    """Effects on disk, appended chunk by chunk."""

    def __init__(self, output: Path, facts: dict[str, Any], width: int) -> None:
        self._folder = output.with_name(f"{output.name}.partial")
        self._output = output
        self._facts = facts
        self._width = width
        self.done = 0

    def open(self, *, resume: bool, force: bool, chunk: int) -> None:
        """Find or make the folder; `done` whole chunks of rows are there already."""
        folder = self._folder
        if folder.is_symlink() or (folder / _ROWS).is_symlink():
            raise UsageError(f"{folder} is a link, or holds one; move it away")
        if folder.exists() and not resume:
            if not force:
                raise UsageError(
                    f"an unfinished run lies in {folder}; pass --resume to go on with it or "
                    "--force to begin anew"
                )
            self.remove()
        try:
            if not (folder / _FACTS).is_file():
                self.remove()
                folder.mkdir()
                (folder / _ROWS).touch()
                write_text(folder / _FACTS, json.dumps(self._facts))
                return
            try:
                found = dict(json.loads((folder / _FACTS).read_text() or "{}"))
            except (TypeError, ValueError):
                found = {}
            other = [key for key in self._facts if found.get(key) != self._facts[key]]
            if other:
                raise UsageError(
                    f"the unfinished run in {folder} differs in {', '.join(other)}; "
                    "pass --force to begin anew"
                )
            path = folder / _ROWS
            whole = path.stat().st_size // (4 * self._width)
            self.done = whole // chunk * chunk  # so that chunks are cut where they were
            with path.open("r+b") as file:
                file.truncate(self.done * 4 * self._width)
        except OSError as error:
            raise self._unwritable(error) from error

    def append(self, deltas: NDArray[np.float32]) -> None:
        """Write rows [m, D]."""
        try:
            with (self._folder / _ROWS).open("ab") as file:
                file.write(np.ascontiguousarray(deltas, "<f4").tobytes())
        except OSError as error:
            raise self._unwritable(error) from error

    def complete(self) -> NDArray[np.float32]:
        """Return the rows without a missing effect, [n, D]; the file stays on disk."""
        path = self._folder / _ROWS
        if path.stat().st_size == 0:
            raise BackgroundError(
                "no variant of the background can be scored; is it of another assembly?"
            )
        rows = np.memmap(path, "<f4", mode="r").reshape(-1, self._width)
        kept = np.concatenate(
            [
                np.isfinite(rows[first : first + _PART]).all(axis=1)
                for first in range(0, len(rows), _PART)
            ]
        )
        if kept.all():
            return rows
        logger.info("%d variants miss an effect and are left out", int((~kept).sum()))
        return self._without(rows, kept)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _without(self, rows: NDArray[np.float32], kept: NDArray[np.bool_]) -> NDArray[np.float32]:
        path = self._folder / f"complete.{_ROWS}"
        try:
            with path.open("wb") as file:
                for first in range(0, len(rows), _PART):
                    part = slice(first, first + _PART)
                    file.write(rows[part][kept[part]].tobytes())
        except OSError as error:
            raise self._unwritable(error) from error
        if not kept.any():
            return np.zeros((0, self._width), np.float32)
        return np.memmap(path, "<f4", mode="r").reshape(-1, self._width)

    def _unwritable(self, error: OSError) -> OutputError:
        reason = error.strerror or str(error)
        return OutputError(
            f"{self._output} cannot be written: {reason}; check space and permissions, "
            "then pass --resume"
        )
