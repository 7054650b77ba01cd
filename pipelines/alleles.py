"""Public tests of variant scores: pairs of alleles of which one is known to bind or to be open.

    ctcf-pairs    alleles of 100 bp, the bound one first: the CTCF features must prefer it
    dsqtl-pairs   alleles of 100 bp, the more accessible one first: GM12878's DNase must prefer it
    ctcf-asb      SNPs with allele-specific CTCF and others nearby: AUROC of the change's size
    raqtl         reporter QTLs of K562: sign of the change of K562's DNase against the measured one
    cagi          reporter constructs of lymphoblastoid cells: Spearman with the measured skew

All are tests: nothing is trained or chosen by them. Where a test has no sequence but the alleles',
these are given to the model as they are. The best match of a factor's matrix is the rival to beat.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from scipy.stats import spearmanr

from genobird.datasets import stretches
from genobird.files import refuse_existing
from genobird.genome.fasta import Genome
from genobird.genome.sequence import NO_BASE, base_codes
from genobird.motifs import Motif, best_of_each, read_motifs
from genobird.tasks.metrics import Bootstrap, Ranking, Statistic, mean_of
from genobird.tasks.metrics import correlation as correlation_of
from pipelines import steps
from pipelines.cagi import alleles, read_variants
from pipelines.motif_effects import (
    FLANK,
    RESAMPLES,
    STRETCH_BP,
    Baselines,
    Model,
    Rival,
    load_predictor,
)

logger = logging.getLogger(__name__)

Doubles = NDArray[np.float64]
Predict = Callable[[Sequence[str], Sequence[int]], Doubles]
"""Sequences and the base of each that a bin is centred on, to logits [S, F]."""
Figure = dict[str, float | None]
"""`point` between `low` and `high`, and the number `n`."""


def columns(features: Sequence[str], *, cell: str = "", target: str = "") -> list[int]:
    """Return places of features `cell|target|treatment` of a cell and a target; empty is any."""
    split = [name.split("|") for name in features]
    return [
        place
        for place, (found_cell, found_target, *_) in enumerate(split)
        if cell in ("", found_cell) and target in ("", found_target)
    ]


def deltas(predict: Predict, pairs: Sequence[tuple[str, str, int]]) -> Doubles:
    """Return logits of the second allele minus those of the first, [n, F].

    A pair is the sequences of both alleles, and the place of the allele in them.
    """
    texts = [text for pair in pairs for text in pair[:2]]
    places = [place for *_, place in pairs for _ in range(2)]
    logits = predict(texts, places)
    change: Doubles = logits[1::2].astype(np.float64) - logits[::2]
    return change


def matrix_scan(motif: Motif) -> Predict:
    """Return what predicts the best match of a matrix on either strand, in bits, [S, 1]."""

    def predict(sequences: Sequence[str], places: Sequence[int]) -> Doubles:
        width = max(map(len, sequences))
        codes = np.full((len(sequences), width), NO_BASE, dtype=np.uint8)
        for row, sequence in enumerate(sequences):
            codes[row, : len(sequence)] = base_codes(sequence)
        both = [scores.max(axis=1) for scores in motif.scan(codes)]
        best: Doubles = np.maximum(*both)[:, None]
        return best

    return predict


def read_pairs(path: Path) -> tuple[list[tuple[str, str, int]], list[str]]:
    """Read pairs of alleles, the preferred one first, with the middle; and the group of each.

    Names as `chr1.846446` tell the stretch of the genome; else each pair is its own group.
    """
    table = steps.read_table(path, [], comment="#")
    names, first, second = (table.iloc[:, column] for column in range(3))
    places = names.astype(str).str.extract(r"^(chr\w+)\.(\d+)$")
    pairs = [(a, b, len(a) // 2) for a, b in zip(first, second, strict=True)]
    if places.isna().any(axis=None):
        return pairs, list(map(str, names))
    return pairs, stretches(places[0], places[1].astype(int), STRETCH_BP).tolist()


class Located:
    """Sequence around placed SNPs: from contigs where they are at hand, else from placed sites."""

    def __init__(self, genomes: Sequence[Path], sites: Path) -> None:
        self.contigs = {name: genome for genome in map(Genome, genomes) for name in genome.contigs}
        table = steps.read_table(sites, ["chrom", "start", "end", "sequence"], comment="#")
        self.sites = {str(name): rows.sort_values("start") for name, rows in table.groupby("chrom")}

    def alleles(self, chrom: str, at: int, ref: str, alt: str) -> tuple[str, str, int] | None:
        """Return the sequences of REF and ALT and the place; `at` is REF's first base, 0-based.

        None where REF is not found, or an allele is not of bases alone.
        """
        if not set(ref + alt) <= set("ACGTN"):
            return None
        for text, start in self._around(chrom, at):
            place = at - start
            if text[place : place + len(ref)] == ref:
                return text, text[:place] + alt + text[place + len(ref) :], place
        return None

    def _around(self, chrom: str, at: int) -> Iterator[tuple[str, int]]:
        genome = self.contigs.get(chrom)
        if genome is not None:
            yield genome.fetch_clipped(chrom, at - FLANK, at + FLANK)
        sites = self.sites.get(chrom)
        if sites is not None:
            found = sites[(sites["start"] <= at) & (sites["end"] > at)]
            middle = (found["start"] + found["end"]) / 2
            nearest = found.loc[(middle - at).abs().sort_values().index[:1]]
            starts, texts = nearest["start"].tolist(), nearest["sequence"].str.upper().tolist()
            yield from zip(texts, starts, strict=True)

    def read(self, path: Path) -> tuple[pd.DataFrame, list[tuple[str, str, int]], list[str]]:
        """Return the rows of a table of SNPs whose sequence is known, their alleles and groups."""
        table = steps.read_table(path, ["chrom", "pos1", "ref", "alt"], comment="#")
        table = table[table["sequence_here"] != "."]
        rows = zip(table["chrom"], table["pos1"], table["ref"], table["alt"], strict=True)
        found = [self.alleles(str(c), int(at) - 1, str(ref), str(alt)) for c, at, ref, alt in rows]
        table = table[[row is not None for row in found]].reset_index(drop=True)
        groups = stretches(table["chrom"], table["pos1"], STRETCH_BP).tolist()
        return table, [row for row in found if row is not None], groups


def _figure(statistic: Statistic, groups: Sequence[str]) -> Figure:
    return {**Bootstrap(groups, RESAMPLES).interval(statistic), "n": len(groups)}


def preferred(change: Doubles, groups: Sequence[str]) -> Figure:
    """Return the share of pairs whose first allele has the larger logit; a draw counts half."""
    mean = change.mean(axis=1)
    return _figure(mean_of(np.where(mean < 0, 1.0, np.where(mean > 0, 0.0, 0.5))), groups)


def detection(change: Doubles, hits: NDArray[np.bool_], groups: Sequence[str]) -> Figure:
    """Return the AUROC of hits by the size of the mean change."""
    sizes = np.abs(change.mean(axis=1)).astype(np.float32)
    return _figure(Ranking.of(hits.astype(np.uint8), sizes).auroc, groups)


def agreement(change: Doubles, measured: Doubles, groups: Sequence[str]) -> Figure:
    """Return how often the mean change has the sign of the measured one."""
    same = np.sign(change.mean(axis=1)) == np.sign(measured)
    return _figure(mean_of(same), groups)


def correlation(change: Doubles, measured: Doubles, groups: Sequence[str]) -> Figure:
    """Return Spearman's correlation of the mean change with the measured one."""
    return _figure(correlation_of(spearmanr, change.mean(axis=1), measured), groups)


def run(
    predict: Predict, features: Sequence[str], folder: Path, located: Located
) -> dict[str, Figure]:
    """Run all tests that a model has features for, by the variant files of a folder."""
    ctcf = columns(features, target="CTCF")
    dnase = columns(features, target="DNase")
    lymphoblast = columns(features, cell="GM12878", target="DNase")
    k562 = columns(features, cell="K562", target="DNase")
    found: dict[str, Figure] = {}
    pairs, groups = read_pairs(folder / "ctcf_allele_pairs_100bp.tsv.gz")
    found["ctcf-pairs"] = preferred(deltas(predict, pairs)[:, ctcf], groups)
    pairs, groups = read_pairs(folder / "dsqtl_lcl_allele_pairs_100bp.tsv.gz")
    found["dsqtl-pairs"] = preferred(deltas(predict, pairs)[:, lymphoblast], groups)
    table, pairs, groups = located.read(folder / "ctcf_allele_specific.gm12878.tsv.gz")
    hits = table["asb"].to_numpy() == 1
    found["ctcf-asb"] = detection(deltas(predict, pairs)[:, ctcf], hits, groups)
    table, pairs, groups = located.read(folder / "raqtl_k562.tsv.gz")
    measured = table["log2_alt_ref"].to_numpy(np.float64)
    found["raqtl"] = agreement(deltas(predict, pairs)[:, k562], measured, groups)
    table, constructs = read_variants(folder / "cagi4_eqtl_mpra_train.csv.gz")
    active = np.flatnonzero(table["Regulatory_Hit"].to_numpy() == 1)
    texts, places = alleles([constructs[row] for row in active])
    logits = predict(texts, places).astype(np.float64)
    table = table.iloc[active]
    measured = table["LogSkew.Comb"].to_numpy(np.float64)
    groups = stretches(table["chr"], table["pos"], STRETCH_BP).tolist()
    found["cagi"] = correlation((logits[1::2] - logits[::2])[:, dnase], measured, groups)
    return found


def run_scan(motif: Motif, folder: Path, located: Located) -> dict[str, Figure]:
    """Run the tests of a factor with its matrix alone."""
    predict = matrix_scan(motif)
    bound, ends = read_pairs(folder / "ctcf_allele_pairs_100bp.tsv.gz")
    table, pairs, groups = located.read(folder / "ctcf_allele_specific.gm12878.tsv.gz")
    near = [
        (a[max(0, p - 50) : p + 50], b[max(0, p - 50) : p + 50], min(p, 50)) for a, b, p in pairs
    ]
    return {
        "ctcf-pairs": preferred(deltas(predict, bound), ends),
        "ctcf-asb": detection(deltas(predict, near), table["asb"].to_numpy() == 1, groups),
    }


def main(
    data: Annotated[Path, typer.Option(help="Folder of the variant files.")],
    fasta: steps.Fastas,
    sites: Annotated[Path, typer.Option(help="Placed sites with their sequence.")],
    motifs: Annotated[Path, typer.Option(help="Matrices (JASPAR); CTCF's is the rival.")],
    output: steps.OutputJson,
    model: Model = None,
    baselines: Baselines = None,
    rival: Rival = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    force: steps.Force = False,
) -> None:
    """Test the variant scores of a model on public pairs of alleles."""
    refuse_existing(output, force)
    located = Located(fasta, sites)
    asked = load_predictor(model, baselines, rival, threads)

    def predict(sequences: Sequence[str], places: Sequence[int]) -> Doubles:
        return asked.logits(sequences, places).astype(np.float64)

    report: dict[str, Any] = {
        "model": asked.name,
        "tests": run(predict, asked.names, data, located),
        "matrix scan": run_scan(best_of_each(read_motifs(motifs))["CTCF"], data, located),
    }
    steps.write(output, json.dumps(report, indent=1) + "\n", force)
    for who in ("tests", "matrix scan"):
        for name, found in report[who].items():
            figures = (found[key] for key in ("point", "low", "high", "n"))
            logger.info("%s, %s: %.3f [%.3f, %.3f], n = %d", who, name, *figures)


if __name__ == "__main__":
    steps.run(main)
