"""Variant tables in the formats of two older tools, from the scores of `screen_variants`.

    kipoi-veff2   one TSV: #CHROM POS ID REF ALT, then MODEL/LABEL/SCORE
    Selene        one TSV a score: chrom pos name ref alt strand ref_match contains_unk, then
                  features

Both speak of chromatin features in probabilities; here these are the calibrated ones. There is a
row an ALT, in the order of the file, and what cannot be scored has empty cells.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from genobird.errors import UsageError
from genobird.genome.build import SAMPLE, place_on
from genobird.genome.fasta import Genome
from genobird.genome.variant import Status
from genobird.genome.vcf import Record, VcfReader
from genobird.heads import POSITIVE_WEIGHT
from genobird.scoring.alleles import FLANK, alleles_of
from genobird.scoring.scorer import CHROMATIN_FLANK, Scorer, opened
from genobird.scoring.settings import DIFF, PROBABILITY, EffectSettings
from genobird.scoring.table import TableWriter, clean_text, in_chunks
from genobird.scoring.variants import effect_table, require_contigs

Known = TypeVar("Known")
Doubles = NDArray[np.float64]
Score = Callable[["Part"], Doubles]
Progress = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Part:
    """ALTs that were scored together.

    Attributes:
        table: rows of `screen_variants`, with the `ID` of their records.
        features: columns of the chromatin features.
        unknown: whether the window of each ALT has N.
    """

    table: pd.DataFrame
    features: Sequence[str]
    unknown: NDArray[np.bool_]

    def of(self, part: str) -> Doubles:
        """Return one column of each feature, [n, F]; NaN where nothing was scored."""
        columns = [f"{name}|{part}" for name in self.features]
        return self.table[columns].to_numpy(np.float64)


_SHIFT = np.log(POSITIVE_WEIGHT)  # from raw logits to those of calibrated probabilities
_SETTINGS = EffectSettings(scores=(PROBABILITY, DIFF))

KIPOI_SCORES: Mapping[str, Score] = {
    "diff": lambda part: part.of("diff"),
    "logit": lambda part: part.of("delta"),
    "ref": lambda part: part.of("ref_p"),
    "alt": lambda part: part.of("alt_p"),
    "logit_ref": lambda part: part.of("ref") - _SHIFT,
    "logit_alt": lambda part: part.of("alt") - _SHIFT,
    "deepsea_effect": lambda part: np.abs(part.of("diff") * part.of("delta")),
}
SELENE_SCORES: Mapping[str, Mapping[str, Score]] = {
    "abs_diffs": {"abs_diffs": lambda part: np.abs(part.of("diff"))},
    "diffs": {"diffs": KIPOI_SCORES["diff"]},
    "logits": {"logits": KIPOI_SCORES["logit"]},
    "predictions": {
        "ref_predictions": KIPOI_SCORES["ref"],
        "alt_predictions": KIPOI_SCORES["alt"],
    },
}
"""Scores by name, each with the files that it makes."""

KIPOI_KEYS = ("#CHROM", "POS", "ID", "REF", "ALT")
SELENE_KEYS = ("chrom", "pos", "name", "ref", "alt", "strand", "ref_match", "contains_unk")

_NOT_FOUND = {Status.REF_MISMATCH.value, Status.NO_CONTIG.value, Status.OUT_OF_BOUNDS.value}


def write_kipoi(
    scorer: Scorer,
    source: Path | str,
    fasta: Path | str | Genome,
    output: Path | str,
    *,
    prefix: str,
    scores: Sequence[str] = ("diff",),
    force: bool = False,
    progress: Progress | None = None,
) -> Counter[str]:
    """Write the table of kipoi-veff2.

    A label is the feature's name with `_` for `|`. Features of the same name keep it, as there.

    Args:
        scorer: a model with a chromatin head.
        source: VCF or BCF, or `-`.
        fasta: the genome.
        output: `.tsv`, `.tsv.gz` or `-`.
        prefix: how the columns call the model.
        scores: names of `KIPOI_SCORES`.
        force: replace an existing output.
        progress: called with the number of new records.

    Returns:
        How many ALTs have each status.

    Raises:
        UsageError: an unknown score, a model without chromatin head, or the output exists.
        VcfError, AssemblyError: the variants cannot be read, or are of another assembly.
        OutputError: the output cannot be written.
    """
    functions = choose(scores, KIPOI_SCORES)
    scorer = _chromatin_only(scorer)
    labels = [str(name).replace("|", "_") for name in scorer.checkpoint.features["name"]]
    columns = [*KIPOI_KEYS, *(f"{prefix}/{at}/{score}" for score in functions for at in labels)]
    counts: Counter[str] = Counter()
    with opened(fasta) as genome, TableWriter(output, force=force) as writer:
        for part in _parts(scorer, source, genome, counts, progress):
            keys = part.table[["chrom", "pos", "ID", "ref", "alt"]]
            values = [function(part) for function in functions.values()]
            writer.write(_frame(keys, values, columns))
    return counts


def write_selene(
    scorer: Scorer,
    source: Path | str,
    fasta: Path | str | Genome,
    folder: Path,
    *,
    scores: Sequence[str] = ("diffs",),
    force: bool = False,
    progress: Progress | None = None,
) -> tuple[Counter[str], list[Path]]:
    """Write the tables of Selene's variant effect prediction, `FOLDER/STEM_SCORE.tsv`.

    Every ALT has its row; there, those off the genome are in a file of their own. `strand` is
    always `+`, as both strands are averaged; `ref_match` says whether the genome has REF there,
    `contains_unk` whether there is N in the window.

    Args:
        scorer: a model with a chromatin head.
        source: VCF or BCF, or `-`.
        fasta: the genome.
        folder: where the tables go; it is made if missing.
        scores: names of `SELENE_SCORES`.
        force: replace existing outputs.
        progress: called with the number of new records.

    Returns:
        How many ALTs have each status, and the files.

    Raises:
        UsageError, VcfError, AssemblyError, OutputError: see `write_kipoi`.
    """
    chosen = choose(scores, SELENE_SCORES)
    functions = {name: score for files in chosen.values() for name, score in files.items()}
    scorer = _chromatin_only(scorer)
    stem = "variants" if str(source) == "-" else _stem(Path(source))
    counts: Counter[str] = Counter()
    columns = [*SELENE_KEYS, *scorer.features]
    folder.mkdir(exist_ok=True)
    paths = {name: folder / f"{stem}_{name}.tsv" for name in functions}
    with opened(fasta) as genome, ExitStack() as stack:
        writers = {
            name: stack.enter_context(TableWriter(path, force=force))
            for name, path in paths.items()
        }
        for part in _parts(scorer, source, genome, counts, progress):
            keys = part.table[["chrom", "pos", "ID", "ref", "alt"]].assign(
                strand="+",
                ref_match=~part.table["status"].isin(_NOT_FOUND),
                contains_unk=part.unknown,
            )
            for name, function in functions.items():
                writers[name].write(_frame(keys, [function(part)], columns))
    return counts, list(paths.values())


def choose(wanted: Sequence[str], known: Mapping[str, Known]) -> dict[str, Known]:
    """Return the scores of these names, each once.

    Raises:
        UsageError: one is unknown.
    """
    for name in wanted:
        if name not in known:
            raise UsageError(f"score {name!r} is unknown; allowed are {', '.join(known)}")
    return {name: known[name] for name in wanted}


def _parts(
    scorer: Scorer,
    source: Path | str,
    genome: Genome,
    counts: Counter[str],
    progress: Progress | None,
) -> Iterator[Part]:
    """Yield scored records, at least one part, and count the statuses of their ALTs."""
    with VcfReader(source) as reader:
        first = [record.variants() for record in reader.peek(SAMPLE)]
        locator = place_on(genome, FLANK, reader.name, reader.header, first)
        for records in in_chunks(reader, scorer.chunk):
            alleles = [a for r in records for a in alleles_of(r.number, r.variants())]
            table = effect_table(scorer, alleles, locator, settings=_SETTINGS)
            counts.update(table["status"])
            yield _part(scorer, table, records, genome)
            if progress is not None:
                progress(len(records))
        require_contigs(counts, genome)
        if not counts:
            yield _part(scorer, effect_table(scorer, [], locator, settings=_SETTINGS), [], genome)


def _part(scorer: Scorer, table: pd.DataFrame, records: Sequence[Record], genome: Genome) -> Part:
    names = {record.number: clean_text(record.columns[2]) for record in records}
    unknown = [
        _has_n(genome, contig, pos - 1, status)
        for contig, pos, status in zip(table["chrom"], table["pos"], table["status"], strict=True)
    ]
    keyed = table.assign(ID=[names[record] for record in table["record"]])
    return Part(keyed, scorer.features, np.array(unknown, np.bool_))


def _has_n(genome: Genome, contig: str, position: int, status: str) -> bool:
    if status in (Status.NO_CONTIG.value, Status.OUT_OF_BOUNDS.value):
        return False
    text, _ = genome.fetch_clipped(contig, position - CHROMATIN_FLANK, position + CHROMATIN_FLANK)
    return "N" in text


def _frame(keys: pd.DataFrame, values: Sequence[Doubles], columns: Sequence[str]) -> pd.DataFrame:
    table = pd.concat([keys, *(pd.DataFrame(block) for block in values)], axis=1)
    return table.set_axis(list(columns), axis=1)


def _chromatin_only(scorer: Scorer) -> Scorer:
    """Return a scorer of the same model that does not spend time on its other heads."""
    if scorer.checkpoint.chromatin is None:
        raise UsageError("the model has no chromatin head; choose another model")
    only = copy.copy(scorer)
    only.checkpoint = replace(scorer.checkpoint, promoter=None, mlm=None)
    return only


def _stem(path: Path) -> str:
    for ending in (".gz", ".bgz", ".vcf", ".bcf"):
        path = path.with_name(path.name.removesuffix(ending))
    return path.name
