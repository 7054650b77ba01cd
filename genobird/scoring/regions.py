"""Regions of a genome, or whole sequences, to tables of probabilities and bigWig tracks.

A region stands for its midpoint: the chromatin window is centred on it, and the promoter window
has it, or the likeliest base near it, as transcription start, along the region's strand; a region
of one base is the start itself. Without a strand both are scored and the larger is reported. A
window is clipped at the ends of the contig, never padded.

Tracks have the probability of each 200-bp bin. Bins lie on the grid of the training labels, bin i
is [200 i, 200 i + 200), so that the value of a place does not depend on the regions that it was
asked for with. Each bin is scored as a region of its own: it gets the number that the table would
give it.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import starmap
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import pandas as pd

from genobird import __version__
from genobird.columns import REGION_KEYS, REGION_LIFTED
from genobird.files import Draft, check_folder, writing
from genobird.genome.chain import ChainFile
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval, RegionStatus, joined
from genobird.genome.locus import require_on_genome, warn_of_training
from genobird.heads import POSITIVE_WEIGHT, probabilities
from genobird.inference import Floats
from genobird.names import require
from genobird.runs import FRESH, Progress, Start, ignore, may_replace
from genobird.scoring.alleles import chain_file
from genobird.scoring.inputs import Regions, Sequences, named_sequences, read_regions
from genobird.scoring.journal import NO_JOURNAL, Journal, identity_of, kept
from genobird.scoring.scorer import Scorer, opened
from genobird.scoring.sites import Outputs, Site, sequence_site, sites_of
from genobird.scoring.table import TableWriter, clean_text, in_chunks, text_column
from genobird.scoring.workers import Workers

logger = logging.getLogger(__name__)
BIN_BP: Final = 200
ENDING: Final = ".bw"
_UNSAFE = re.compile(r"[^\w.+-]+")


def score_regions(
    scorer: Scorer,
    regions: Regions,
    fasta: Path | str | Genome,
    *,
    strict: bool = False,
    features: Sequence[str] | None = None,
    liftover: Path | str | ChainFile | None = None,
) -> pd.DataFrame:
    """Score regions.

    Args:
        scorer: the model.
        regions: BED file, frame with columns `chrom start end` and perhaps `name strand` (0-based
            half-open) or a dict of such columns, or a list: of intervals, of 1-based strings such
            as `chr20:1,001-2,000`, of rows as tuples, dicts or arrays; one alone is a list of one.
        fasta: the genome.
        strict: raise for a region on an unknown contig or beyond its end, before scoring.
        features: columns, names or classes of the chromatin head; None is all.
        liftover: UCSC chain file from the assembly of the regions to the genome's.

    Returns:
        One row per region, in input order: `chrom start end name strand status flags` (with
        `liftover` also `lifted_chrom lifted_start lifted_end lifted_strand`), `promoter` and one
        column per chromatin feature, calibrated probabilities, and one per target of a table head;
        NaN where the status is not OK.

    Raises:
        BedError, TableError, UsageError: the regions cannot be read.
        AssemblyError: the chain file leads to another assembly.
        ContigError, OutOfBoundsError: with `strict`.
    """
    intervals = read_regions(regions)
    chain = chain_file(liftover)
    with opened(fasta) as genome:
        warn_of_training(scorer.checkpoint.provenance, genome)
        if strict:
            require_on_genome(intervals, genome, chain)
        sites = sites_of(intervals, genome, chain)
        frames = site_frames(scorer, sites, features, lifted=chain is not None)
        return pd.concat(frames, ignore_index=True)


def score_sequences(
    scorer: Scorer, sequences: Sequences, *, features: Sequence[str] | None = None
) -> pd.DataFrame:
    """Score sequences around their midpoints; rows as `score_regions`.

    Args:
        scorer: the model.
        sequences: strings, or `Seq` or `SeqRecord` of Biopython, in a list, an array, a Series or
            a dict; one alone is a list of one. Those of a dict or a Series are named by their keys,
            records by their id, others by their number.
        features: columns, names or classes of the chromatin head; None is all.

    Raises:
        SequenceError: letters that are no DNA, or an empty sequence.
        UsageError: something is no sequence.
    """
    sites = starmap(sequence_site, named_sequences(sequences))
    return pd.concat(site_frames(scorer, sites, features), ignore_index=True)


def embed_regions(scorer: Scorer, regions: Regions, fasta: Path | str | Genome) -> pd.DataFrame:
    """Return what the encoder makes of regions: hidden states in the window that is scored.

    Args:
        scorer: the model.
        regions: see `score_regions`.
        fasta: the genome.

    Returns:
        One row per region, in input order: the keys of `score_regions`, then `state0` and so on,
        the mean over the tokens that the chromatin head reads around the midpoint and over both
        strands; NaN where the status is not OK.

    Raises:
        BedError, TableError, UsageError: the regions cannot be read.
    """
    with opened(fasta) as genome:
        sites = list(sites_of(read_regions(regions), genome))
    scored = [site for site in sites if site.status is RegionStatus.OK]
    places = [[site.centre] for site in scored]
    _, states = scorer.profiles([site.text for site in scored], places, states=True)
    return _table(sites, [f"state{i}" for i in range(states.shape[1])], states)


def write_regions(
    scorer: Scorer,
    sites: Iterable[Site],
    output: Path | str,
    features: Sequence[str] | None = None,
    *,
    lifted: bool = False,
    start: Start = FRESH,
) -> Counter[str]:
    """Score sites and write the table of `score_regions` as it grows.

    Until the output (`.parquet`, `.tsv`, `.tsv.gz` or `-`) is complete, what is scored is kept in
    `<output>.partial`; see `journal`. Progress is called with the number of new rows.

    Returns:
        How many sites have each status.

    Raises:
        AssemblyError, SequenceError, UsageError, OutputError: see `site_frames`; or the output.
    """
    scorer.select_features(features)
    replace = may_replace(output, start)
    meta = {"version": __version__, "model": scorer.model_hash, "command": start.command}
    counts: Counter[str] = Counter()
    with (
        kept([output], identity_of(scorer, features), start) as journal,
        TableWriter(output, force=replace, meta=meta) as writer,
    ):
        for frame in site_frames(scorer, sites, features, lifted=lifted, journal=journal):
            writer.write(frame)
            counts.update(frame["status"])
            start.progress(len(frame))
        writer.finish()
        journal.seal()
    return counts


def site_frames(
    scorer: Scorer,
    sites: Iterable[Site],
    features: Sequence[str] | None = None,
    *,
    lifted: bool = False,
    chunk: int | None = None,
    journal: Journal = NO_JOURNAL,
) -> Iterator[pd.DataFrame]:
    """Yield the rows of successive sites, at least one frame; memory is that of a chunk.

    What `journal` holds is not scored again. With `lifted` there are columns of where sites lie.
    """
    score = partial(_frame, Outputs.of(scorer, features))
    is_empty = True
    with Workers(score, journal.processes) as workers:
        begun = (
            (journal.begin(number, map(str, part), partial(workers.begin, part)), part)
            for number, part in enumerate(in_chunks(sites, chunk or scorer.chunk))
        )
        for scored, part in workers.ahead(begun):
            yield _with_lifted(scored(), part) if lifted else scored()
            is_empty = False
    if is_empty:
        yield _with_lifted(score([]), []) if lifted else score([])


def _with_lifted(frame: pd.DataFrame, sites: Sequence[Site]) -> pd.DataFrame:
    places = [site.lifted for site in sites]
    columns = (
        [place and place.contig for place in places],
        pd.Series([place and place.start for place in places], dtype="Int64"),
        pd.Series([place and place.end for place in places], dtype="Int64"),
        [place and place.strand for place in places],
    )
    lifted = pd.DataFrame(dict(zip(REGION_LIFTED, columns, strict=True)))
    keys = len(REGION_KEYS)
    return pd.concat([frame.iloc[:, :keys], lifted, frame.iloc[:, keys:]], axis=1)


def _frame(outputs: Outputs, sites: Sequence[Site]) -> pd.DataFrame:
    scored = [site for site in sites if site.status is RegionStatus.OK]
    promoter, features, targets = outputs.parts(outputs.at(scored))
    chromatin = probabilities(features, POSITIVE_WEIGHT)
    found: Any = probabilities(promoter), chromatin, targets
    return _table(sites, outputs.names, np.concatenate(found, axis=1, dtype=np.float32))


def _table(sites: Sequence[Site], names: list[str], found: Floats) -> pd.DataFrame:
    """Return keys and values of sites; `found` has a row for each whose status is OK."""
    values = np.full((len(sites), len(names)), np.nan, np.float32)
    values[[site.status is RegionStatus.OK for site in sites]] = found
    intervals = [site.interval for site in sites]
    keys = {
        "chrom": text_column([clean_text(interval.contig) for interval in intervals]),
        "start": np.array([interval.start for interval in intervals], np.int64),
        "end": np.array([interval.end for interval in intervals], np.int64),
        "name": text_column([clean_text(interval.name) for interval in intervals]),
        "strand": text_column([interval.strand for interval in intervals]),
        "status": text_column([site.status.value for site in sites]),
        "flags": text_column([site.flags for site in sites]),
    }
    return pd.concat([pd.DataFrame(keys), pd.DataFrame(values, columns=names)], axis=1)


def bins_of(intervals: Iterable[Interval], genome: Genome) -> Iterator[Interval]:
    """Yield the bins that touch any of the intervals, each once, in the genome's order.

    The last bin of a contig may be shorter. What lies off the genome is left out.
    """
    found: list[Interval] = []
    for interval in intervals:
        contig = genome.find(interval.contig)
        if contig is None:
            continue
        end = min(max(interval.end, interval.start + 1), genome.length(contig))
        if interval.start < end:
            first, stop = interval.start // BIN_BP, -(-end // BIN_BP)
            found.append(Interval(contig, first * BIN_BP, stop * BIN_BP))
    for one in joined(found, genome.contigs):
        for at in range(one.start, one.end, BIN_BP):
            yield Interval(one.contig, at, min(at + BIN_BP, genome.length(one.contig)))


def write_tracks(
    scorer: Scorer,
    bins: Iterable[Interval],
    genome: Genome,
    folder: Path,
    *,
    features: Sequence[str] | None = None,
    force: bool = False,
    progress: Progress = ignore,
) -> list[Path]:
    """Score bins (see `bins_of`) and write a bigWig file per output, such as `promoter.bw`.

    The promoter track has the larger probability of both strands. A bin that cannot be scored has
    no value. All contigs of the genome go into the header; the folder is made if missing.

    Returns:
        The files; one of an output without any value is not made.

    Raises:
        UsageError: pyBigWig is not installed, or a file exists.
        OutputError: a file cannot be written.
    """
    backend = require_backend()
    names = Outputs.of(scorer, features).names
    paths = track_paths(folder, names)
    check_folder(folder, paths.values(), force)
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        tracks = {
            name: stack.enter_context(_Track(backend, path, genome.contigs))
            for name, path in paths.items()
        }
        for frame in site_frames(scorer, sites_of(bins, genome), features):
            for name, track in tracks.items():
                track.write(frame, name)
            progress(len(frame))
    return [path for path in paths.values() if path.exists()]


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
    """Return pyBigWig; UsageError where it is not installed."""
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
            with writing(self._path, (OSError, RuntimeError)):
                if self._file is not None:
                    self._file.close()
            if kind is None and self._file is not None:
                self._draft.publish()
            elif kind is None:
                logger.warning("%s is not written: no bin of it could be scored", self._path)
        finally:
            self._draft.discard()

    def write(self, frame: pd.DataFrame, name: str) -> None:
        """Append the bins of a frame that have a value; they come in order."""
        found = frame[frame[name].notna()]
        if found.empty:
            return
        with writing(self._path, (OSError, RuntimeError)):
            if self._file is None:
                self._file = self._backend.open(str(self._draft.part), "w")
                self._file.addHeader(self._contigs)
            self._file.addEntries(
                found["chrom"].tolist(),
                found["start"].tolist(),
                ends=found["end"].tolist(),
                values=found[name].tolist(),
            )
