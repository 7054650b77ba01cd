"""Making a background: draw variants from a VCF, score them, sketch their effects.

It is a scan (`scan`) like any other, with a journal beside the output. Effects go row by row to a
file, so that memory does not grow with the number of variants.
"""

from __future__ import annotations

import copy
import hashlib
import heapq
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genobird import __version__
from genobird.columns import LLR, outputs_in
from genobird.errors import AssemblyError, ContigError, UsageError, counted
from genobird.files import ARRAYS, check_output, file_sha256, write_all, writing
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.genome.streams import STDIN, require_file
from genobird.genome.variant import Status, Variant
from genobird.runs import FRESH, Start, may_replace
from genobird.scoring.alleles import VariantSource, opened_variants
from genobird.scoring.background import Background, settings_facts
from genobird.scoring.effects import screen
from genobird.scoring.journal import kept
from genobird.scoring.scan import Batch, VariantScan
from genobird.scoring.scorer import Scorer, opened
from genobird.scoring.settings import DEFAULT, EffectSettings, ScanSettings

logger = logging.getLogger(__name__)


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
    start: Start = FRESH,
) -> Background:
    """Score variants and write the sketches of their effects, `.npz`.

    Sources are a file of variants, see `screen_variants`, or several that count as one, but not
    standard input: they are read twice. With a limit, so many of the ALTs that can be scored are
    drawn, each as likely as any other. Variants that touch what is excluded are left out. Progress
    is called with the number of new variants.

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
    check_output(output, ARRAYS, may_replace(output, start))
    if limit is not None and limit < 1:
        raise UsageError(f"limit {limit} found; 1 or more are allowed")
    facts: dict[str, Any] = {
        "model": scorer.model_hash,
        "source": ", ".join(file.name for file in files),
        "source_sha256": ", ".join(file_sha256(require_file(file)) for file in files),
        "limit": limit,
        "seed": seed,
        "exclude": [str(interval) for interval in exclude],
    }
    alone = copy.copy(scorer)
    alone.background = None  # what is ranked is not ranked among others
    with ExitStack() as stack:
        genome = stack.enter_context(opened(fasta))
        outputs = outputs_in(screen(alone, [], genome).columns)
        drawn = ((variant,) for variant in _draw(files, genome, limit, seed, exclude))
        source = VariantSource.of_rows("the draw", drawn)
        deltas = [f"{name}|delta" for name in outputs]
        scan = VariantScan(alone, source, genome, ScanSettings(effects=settings), columns=deltas)
        asked = {**facts, "exclude": _digest(facts["exclude"])}  # a BED may have many lines
        journal = stack.enter_context(kept([output], {**asked, **scan.identity}, start))
        with closing(_Rows(output, len(outputs))) as rows:
            scan.run([rows.write, lambda batch: start.progress(len(batch.loci))], journal)
            facts |= {**settings_facts(settings), "version": __version__, "command": start.command}
            background = Background.of(rows.complete(), outputs, _summed(scorer, outputs), **facts)
        journal.seal()
        background.save(output)
    return background


def _digest(texts: Sequence[str]) -> str:
    """Return 16 letters of the sha256 of texts, or that there are none."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16] if texts else "none"


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
) -> Iterator[Variant]:
    """Yield the ALTs to score, in file order; memory is that of `limit` ALTs."""
    left_out = [_on(genome, interval) for interval in exclude]

    def eligible() -> Iterator[Variant]:
        for source in sources:
            with opened_variants(source) as alleles:
                locator = alleles.locator(genome)
                for allele in alleles:
                    if locator.find(allele.variant).status is not Status.OK:
                        continue
                    if not any(_touches(allele.variant, place, genome) for place in left_out):
                        yield allele.variant

    if limit is None:
        return eligible()
    # The smallest of random numbers, one per ALT, are a draw without replacement.
    random = np.random.Generator(np.random.Philox(seed))
    numbered = ((random.random(), place, one) for place, one in enumerate(eligible()))
    drawn = heapq.nsmallest(limit, numbered, key=lambda item: item[:2])
    return (variant for _, _, variant in sorted(drawn, key=lambda item: item[1]))


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
    """Effects of variants, row by row in a file without a name, beside the output; D to a row.

    Raises:
        OutputError: nothing can be written there.
    """

    def __init__(self, output: Path, width: int) -> None:
        self._output, self._width = output, width
        self._count = self._left_out = 0
        with writing(output):
            self._file = tempfile.TemporaryFile(dir=output.parent, buffering=0)  # noqa: SIM115

    def write(self, batch: Batch) -> None:
        """Append the rows of a batch that miss no effect."""
        deltas = batch.table.to_numpy("<f4")
        whole = np.isfinite(deltas).all(axis=1)
        with writing(self._output):
            write_all(self._file, deltas[whole].tobytes())
        self._count += int(whole.sum())
        self._left_out += int((~whole).sum())

    def complete(self) -> NDArray[np.float32]:
        """Return the rows, [n, D]; they stay on disk."""
        if self._left_out:
            logger.info("%s left out for lack of an effect", counted(self._left_out, "variant"))
        if not self._count:
            return np.zeros((0, self._width), np.float32)
        return np.memmap(self._file, "<f4", mode="r", shape=(self._count, self._width))

    def close(self) -> None:
        """Drop the file."""
        self._file.close()
