"""Variant tables in the formats of two older tools, from the scores of `screen_variants`.

    kipoi-veff2   one TSV: #CHROM POS ID REF ALT, then MODEL/LABEL/SCORE
    Selene        one TSV per score: chrom pos name ref alt strand ref_match contains_unk, then
                  features

Both speak of chromatin features in probabilities; here these are the calibrated ones. There is a
row per ALT, in the order of the file, and what cannot be scored has empty cells.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from genobird.errors import UsageError
from genobird.genome.fasta import Genome
from genobird.genome.variant import Status
from genobird.genome.vcf import VcfReader
from genobird.heads import POSITIVE_WEIGHT
from genobird.runs import Progress, ignore
from genobird.scoring.alleles import VariantSource
from genobird.scoring.scan import Batch, VariantScan
from genobird.scoring.scorer import Scorer, opened
from genobird.scoring.settings import DIFF, PROBABILITY, EffectSettings, ScanSettings
from genobird.scoring.table import TableWriter, clean_text
from genobird.scoring.windows import CHROMATIN_FLANK

Known = TypeVar("Known")
Doubles = NDArray[np.float64]
Values = Callable[[str], Doubles]
"""Returns one column of each feature, by its part, [n, F]; NaN where nothing was scored."""
Score = Callable[[Values], Doubles]
Tables = Mapping[Path | str, tuple[list[str], list[Score]]]
"""By the file of each table, its columns and the scores that it has of every feature."""
Keys = Callable[[pd.DataFrame, Genome], pd.DataFrame]
"""Returns the first columns of rows of `screen_variants`, with the `ID` of their records."""

_SHIFT = np.log(POSITIVE_WEIGHT)  # from raw logits to those of calibrated probabilities
_SETTINGS = ScanSettings(effects=EffectSettings(scores=(PROBABILITY, DIFF)))

KIPOI_SCORES: Mapping[str, Score] = {
    "diff": lambda of: of("diff"),
    "logit": lambda of: of("delta"),
    "ref": lambda of: of("ref_p"),
    "alt": lambda of: of("alt_p"),
    "logit_ref": lambda of: of("ref") - _SHIFT,
    "logit_alt": lambda of: of("alt") - _SHIFT,
    "deepsea_effect": lambda of: np.abs(of("diff") * of("delta")),
}
SELENE_SCORES: Mapping[str, Mapping[str, Score]] = {
    "abs_diffs": {"abs_diffs": lambda of: np.abs(of("diff"))},
    "diffs": {"diffs": KIPOI_SCORES["diff"]},
    "logits": {"logits": KIPOI_SCORES["logit"]},
    "predictions": {"ref_predictions": KIPOI_SCORES["ref"], "alt_predictions": KIPOI_SCORES["alt"]},
}
"""Scores by name, each with the files that it makes."""

_KEYS = ["chrom", "pos", "ID", "ref", "alt"]
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
    progress: Progress = ignore,
) -> Counter[str]:
    """Write the table of kipoi-veff2, `.tsv`, `.tsv.gz` or `-`, for a VCF or BCF, or `-`.

    Columns call the model `prefix`, and have the scores that are named, of `KIPOI_SCORES`. A label
    is the feature's name with `_` for `|`. Features of the same name keep it, as there.

    Returns:
        How many ALTs have each status.

    Raises:
        UsageError: an unknown score, a model without chromatin head, or the output exists.
        VcfError, AssemblyError: the variants cannot be read, or are of another assembly.
        OutputError: the output cannot be written.
    """
    functions = choose(scores, KIPOI_SCORES)
    _require_chromatin(scorer)
    labels = [str(name).replace("|", "_") for name in scorer.checkpoint.features["name"]]
    columns = [*KIPOI_KEYS, *(f"{prefix}/{at}/{score}" for score in functions for at in labels)]
    tables = {output: (columns, list(functions.values()))}
    return _write(scorer, source, fasta, tables, lambda table, _: table[_KEYS], force, progress)


def write_selene(
    scorer: Scorer,
    source: Path | str,
    fasta: Path | str | Genome,
    folder: Path,
    *,
    scores: Sequence[str] = ("diffs",),
    force: bool = False,
    progress: Progress = ignore,
) -> tuple[Counter[str], list[Path]]:
    """Write the tables of Selene's variant effect prediction, `FOLDER/STEM_SCORE.tsv`.

    Scores are those of `SELENE_SCORES`. Every ALT has its row; there, those off the genome are in a
    file of their own. `strand` is always `+`, as both strands are averaged; `ref_match` says
    whether the genome has REF there, `contains_unk` whether there is N in the window.

    Returns:
        How many ALTs have each status, and the files.

    Raises:
        UsageError, VcfError, AssemblyError, OutputError: see `write_kipoi`.
    """
    chosen = choose(scores, SELENE_SCORES)
    functions = {name: score for files in chosen.values() for name, score in files.items()}
    stem = "variants" if str(source) == "-" else _stem(Path(source))
    columns = [*SELENE_KEYS, *scorer.features]
    _require_chromatin(scorer)
    folder.mkdir(exist_ok=True)
    tables: Tables = {
        folder / f"{stem}_{name}.tsv": (columns, [function]) for name, function in functions.items()
    }

    def keys(table: pd.DataFrame, genome: Genome) -> pd.DataFrame:
        places = zip(table["chrom"], table["pos"], table["status"], strict=True)
        unknown = [_has_n(genome, contig, pos - 1, status) for contig, pos, status in places]
        return table[_KEYS].assign(
            strand="+",
            ref_match=~table["status"].isin(_NOT_FOUND),
            contains_unk=np.array(unknown, np.bool_),
        )

    counts = _write(scorer, source, fasta, tables, keys, force, progress)
    return counts, [Path(path) for path in tables]


def choose(wanted: Sequence[str], known: Mapping[str, Known]) -> dict[str, Known]:
    """Return the scores of these names, each once; UsageError for an unknown one."""
    for name in wanted:
        if name not in known:
            raise UsageError(f"score {name!r} is unknown; allowed are {', '.join(known)}")
    return {name: known[name] for name in wanted}


def _write(
    scorer: Scorer,
    source: Path | str,
    fasta: Path | str | Genome,
    tables: Tables,
    keys: Keys,
    force: bool,
    progress: Progress,
) -> Counter[str]:
    """Score the variants of a VCF and write these tables, whose first columns are the keys."""
    with opened(fasta) as genome, ExitStack() as stack:
        writers = {path: stack.enter_context(TableWriter(path, force=force)) for path in tables}
        reader = stack.enter_context(VcfReader(source))
        scan = VariantScan(_only_chromatin(scorer), VariantSource.of_vcf(reader), genome, _SETTINGS)

        def write(batch: Batch) -> None:
            names = {record.number: clean_text(record.columns[2]) for record in batch.records}
            rows = batch.table.assign(ID=[names[record] for record in batch.table["record"]])
            first = keys(rows, genome)

            def values(part: str) -> Doubles:
                columns = [f"{name}|{part}" for name in scorer.features]
                return rows[columns].to_numpy(np.float64)

            for path, (columns, functions) in tables.items():
                blocks = [pd.DataFrame(function(values)) for function in functions]
                writers[path].write(pd.concat([first, *blocks], axis=1).set_axis(columns, axis=1))
            progress(len(batch.records))

        return scan.run([write])


def _has_n(genome: Genome, contig: str, position: int, status: str) -> bool:
    if status in (Status.NO_CONTIG.value, Status.OUT_OF_BOUNDS.value):
        return False
    text, _ = genome.fetch_clipped(contig, position - CHROMATIN_FLANK, position + CHROMATIN_FLANK)
    return "N" in text


def _require_chromatin(scorer: Scorer) -> None:
    """Refuse a model without chromatin head by a UsageError."""
    if scorer.checkpoint.chromatin is None:
        raise UsageError("the model has no chromatin head; choose another model")


def _only_chromatin(scorer: Scorer) -> Scorer:
    """Return a scorer of the same model without its other heads, and without a background."""
    only = copy.copy(scorer)
    only.checkpoint = replace(scorer.checkpoint, promoter=None, mlm=None)
    only.background = None
    return only


def _stem(path: Path) -> str:
    for ending in (".gz", ".bgz", ".vcf", ".bcf"):
        path = path.with_name(path.name.removesuffix(ending))
    return path.name
