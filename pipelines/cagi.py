"""Expression-modulating variants of CAGI4: measured effects of alleles beside predicted ones.

Tewhey et al. (2016) put 150 bp around variants before a reporter gene, once with each allele, and
counted transcripts in lymphoblastoid cells: `LogSkew.Comb` is the log2 ratio of ALT to REF,
`emVar_Hit` says where it is significant, `Regulatory_Hit` where the construct is active at all.
The variants are for evaluation alone; nothing is trained on them. Two placements:

    construct  the 150 bp as they were measured, without anything around them
    genome     the same with their genome around them, as `genobird variants` sees a variant;
               only where a FASTA file holds the construct at its place

Asked are the chromatin features (bin centred on the variant, strands averaged), the promoter head
(variant as transcription start, on the strand where it is larger for either allele) and the masked
language model; each gives ALT minus REF. Which summary of them serves best is chosen where it is
not measured: variants are divided into folds by stretch of the genome, and the score of a fold is
the candidate that does best on all other folds, so the figure of the scores so put together has not
seen its own choice. Candidates are brought to one scale without looking at any measurement, and a
value that is missing (NaN) is 0, no effect, wherever it is measured.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from scipy.stats import spearmanr

from genobird.baselines.network_models import NetworkModel
from genobird.baselines.train import load_baselines
from genobird.checkpoint import Checkpoint
from genobird.datasets import stretches
from genobird.errors import ContigError, InputError, TableError
from genobird.files import Kind, refuse_existing
from genobird.genome.fasta import Genome
from genobird.genome.sequence import normalise, reverse_complement
from genobird.report.evaluation import shown
from genobird.report.evaluation import table as markdown_table
from genobird.scoring.likelihood import AllelePair, log_likelihoods
from genobird.scoring.scorer import load
from genobird.tasks.metrics import Bootstrap, Ranking, Statistic, correlation
from pipelines import steps

logger = logging.getLogger(__name__)

GROUP_BP = 1_000_000
REPORT, PAGE = "cagi.json", "cagi.md"
KIND = Kind("comparison with measured effects", REPORT, (REPORT, PAGE), '"results"')
_CHUNK = 256  # variants at a time
FLANK = 8_100
"""Bases of genome on each side of the variant, as for a variant of a VCF."""
_SEARCH = 300  # bases around the stated place in which a construct is looked for
COLUMNS = (
    *("ID", "chr", "pos", "ref_sequence", "alt_sequence"),
    *("LogSkew.Comb", "emVar_Hit", "Regulatory_Hit"),
)

Doubles = NDArray[np.float64]
Scores = Mapping[str, Doubles]
"""Candidate -> one value per variant, [N]."""
Figure = Callable[[Doubles, Doubles], Statistic]
"""Scores [N] and measurements [N] to a number, by how often each variant counts."""

FOLDS = 5
FEWEST_GROUPS = 2 * FOLDS
"""With fewer, folds are too unequal to choose by."""


def spearman(scores: Doubles, measured: Doubles) -> Statistic:
    """Rank correlation of scores and measurements; NaN where one of them is constant."""
    return correlation(spearmanr, scores, measured)


def auroc(scores: Doubles, measured: Doubles) -> Statistic:
    """AUROC of scores for measurements that are 0 or 1; NaN where one class is missing."""
    return Ranking.of(measured, scores).auroc


def folds(groups: NDArray[np.str_], seed: int) -> NDArray[np.int64]:
    """Return the fold of each variant, [N]: whole groups, about as many groups in each fold.

    Variants are not counted: a large group makes a large fold.
    """
    names, members = np.unique(groups, return_inverse=True)
    rng = np.random.Generator(np.random.Philox(seed))
    fold_of = rng.permutation(len(names)) % FOLDS
    return np.asarray(fold_of[members], dtype=np.int64)


def scaled(candidates: Scores) -> dict[str, Doubles]:
    """Divide each candidate by its root mean square; what is missing (NaN) becomes 0."""
    found = {}
    for name, values in candidates.items():
        known = np.nan_to_num(values)
        size = float(np.sqrt(np.mean(known**2)))
        found[name] = known / size if size > 0 else known
    return found


def put_together(
    candidates: Scores, measured: Doubles, figure: Figure, fold: NDArray[np.int64]
) -> tuple[Doubles, list[str]]:
    """Score each fold with the candidate whose figure is largest on the others.

    Candidates are on one scale and without NaN (`scaled`); all arrays are [N].

    Returns:
        The scores, [N], and the candidate that each fold was given.

    Raises:
        InputError: a fold that leaves nothing to choose by.
    """
    joined = np.zeros(len(measured))
    chosen = []
    for number in range(FOLDS):
        mine = fold == number
        rest = np.flatnonzero(~mine)
        ones = np.ones(len(rest))
        found = {n: figure(v[rest], measured[rest])(ones) for n, v in candidates.items()}
        found = {name: value for name, value in found.items() if not np.isnan(value)}
        if not found:
            raise InputError(f"{len(rest)} variants in {FOLDS - 1} folds leave no score defined")
        best = max(found, key=lambda name: found[name])
        joined[mine] = candidates[best][mine]
        chosen.append(best)
    return joined, chosen


def compare(
    models: Mapping[str, Scores],
    measured: Doubles,
    figure: Figure,
    groups: NDArray[np.str_],
    *,
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    """Measure the candidates of each model, and the nested choice among them.

    Args:
        models: candidates by model, a missing value NaN, which counts as 0; the differences are
            those of the first one.
        measured: what they shall predict, [N].
        figure: larger is better.
        groups: stretch of the genome of each variant, [N]; folds and resamples hold whole ones.
        seed: of folds and resamples.
        resamples: of the bootstrap.

    Returns:
        By model `candidates`, each a figure with its interval (chosen by nothing, but the best of
        them is too good to be true), `nested`, that of the scores put together, `chosen`, which
        candidate how many folds got, and `difference`, first model minus this one, nested.
    """
    fold, bootstrap = folds(groups, seed), Bootstrap(groups, resamples, seed, digits=5)
    report: dict[str, Any] = {}
    nested: dict[str, Statistic] = {}
    for model, given in models.items():
        candidates = scaled(given)
        joined, chosen = put_together(candidates, measured, figure, fold)
        nested[model] = figure(joined, measured)
        report[model] = {
            "candidates": {
                name: bootstrap.interval(figure(values, measured))
                for name, values in candidates.items()
            },
            "nested": bootstrap.interval(nested[model]),
            "chosen": dict(Counter(chosen).most_common()),
        }
    first, *others = models
    for model in others:
        report[model]["difference"] = bootstrap.difference(nested[first], nested[model])
    return report


class Construct(AllelePair):
    """Two sequences as they were measured."""

    @classmethod
    def of(cls, ref: str, alt: str) -> Construct:
        """Find the allele: what is left between the longest common head and tail."""
        most = min(len(ref), len(alt))
        head = next((i for i in range(most) if ref[i] != alt[i]), most)
        tail = next((i for i in range(most - head) if ref[-1 - i] != alt[-1 - i]), most - head)
        return cls(ref, alt, (head, len(ref) - tail), (head, len(alt) - tail))

    def inside(self, left: str, right: str) -> Construct:
        """Return the construct with sequence on both sides."""
        (a, b), (c, d), n = self.ref_span, self.alt_span, len(left)
        return Construct(
            left + self.ref + right, left + self.alt + right, (a + n, b + n), (c + n, d + n)
        )


def read_variants(path: Path) -> tuple[pd.DataFrame, list[Construct]]:
    """Read the table and the constructs of its variants; `-` stands for bases that are deleted.

    Raises:
        UsageError: there is no such file.
        TableError: a column is missing, or a value is.
        SequenceError: a construct is no DNA.
    """
    table = steps.read_table(path, COLUMNS, ",")[list(COLUMNS)]
    empty = table.columns[table.isna().any()]
    if len(empty):
        raise TableError(f"{path}: column {empty[0]} has empty cells")
    constructs = [
        Construct.of(*(normalise(text.replace("-", ""), f"{name} in {path}") for text in pair))
        for name, *pair in zip(
            table["ID"], table["ref_sequence"], table["alt_sequence"], strict=True
        )
    ]
    return table, constructs


def in_genome(
    table: pd.DataFrame, constructs: Sequence[Construct], genome: Genome
) -> list[Construct | None]:
    """Put the genome around constructs; None where it does not hold the construct at its place."""
    placed: list[Construct | None] = []
    for contig, pos, construct in zip(table["chr"], table["pos"], constructs, strict=True):
        try:
            text, start = genome.fetch_clipped(str(contig), int(pos) - _SEARCH, int(pos) + _SEARCH)
        except ContigError:
            placed.append(None)
            continue
        at = text.find(construct.ref)
        if at < 0 or "N" in construct.ref:
            placed.append(None)
            continue
        variant = start + at + construct.ref_span[0]
        left, _ = genome.fetch_clipped(str(contig), variant - FLANK, start + at)
        right, _ = genome.fetch_clipped(
            str(contig), start + at + len(construct.ref), variant + FLANK
        )
        placed.append(construct.inside(left, right))
    return placed


def gc_change(constructs: Sequence[Construct]) -> Doubles:
    """Change of the GC content of each construct, ALT minus REF, [N]."""

    def share(text: str) -> float:
        return (text.count("G") + text.count("C")) / len(text)

    return np.array([share(c.alt) - share(c.ref) for c in constructs])


def alleles(part: Sequence[Construct]) -> tuple[list[str], list[int]]:
    """Return REF and ALT of each construct in turn, and the first base of the allele in each."""
    texts = [text for c in part for text in (c.ref, c.alt)]
    places = [
        min(span[0], len(text) - 1)
        for c in part
        for text, span in ((c.ref, c.ref_span), (c.alt, c.alt_span))
    ]
    return texts, places


def model_candidates(
    model: Path, constructs: Sequence[Construct], device: str = "auto", threads: int | None = None
) -> tuple[dict[str, Doubles], dict[str, Doubles]]:
    """Score constructs with a model; return its signed candidates and those of size, [N] each."""
    scorer = load(model, device, threads=threads)
    checkpoint = scorer.checkpoint
    kinds = checkpoint.features["class"].to_numpy(dtype=str)

    def deltas(part: Sequence[Construct]) -> dict[str, Doubles]:
        texts, places = alleles(part)
        found: dict[str, Doubles] = {}
        if checkpoint.chromatin is not None:
            logits = scorer.chromatin_logits(texts, places).astype(np.float64)
            found["features"] = logits[1::2] - logits[::2]
        if checkpoint.promoter is not None:
            turned = [len(text) - 1 - at for text, at in zip(texts, places, strict=True)]
            reverse = [reverse_complement(text) for text in texts]
            along = (texts, places), (reverse, turned)
            strands = np.stack([scorer.promoter_logits(*asked, near=True) for asked in along])
            strands = strands.reshape(2, -1, 2)  # [strand, n, allele]
            best = strands.max(axis=2).argmax(axis=0)
            logits = strands[best, np.arange(len(part))].astype(np.float64)
            found["promoter"] = logits[:, 1] - logits[:, 0]
        if checkpoint.mlm is not None:
            both, _ = log_likelihoods(scorer, part)
            found["llr"] = (both[:, 1] - both[:, 0]).astype(np.float64)
        return found

    return _candidates(_in_chunks(constructs, deltas), kinds)


def baseline_candidates(
    baselines: Path, constructs: Sequence[Construct], kinds: NDArray[np.str_]
) -> dict[str, tuple[dict[str, Doubles], dict[str, Doubles]]]:
    """Score constructs with each convolutional baseline; beyond a construct they see no bases.

    Raises:
        InputError: the baselines have other features than the model.
    """
    found = {}
    for name, fitted in load_baselines(baselines, "chromatin").items():
        if not isinstance(fitted, NetworkModel):
            continue
        outputs = fitted.network.outputs
        if outputs != len(kinds):
            raise InputError(
                f"{name} in {baselines} has {outputs} features, the model {len(kinds)}; "
                "train both on one dataset"
            )

        def deltas(part: Sequence[Construct], asked: NetworkModel = fitted) -> dict[str, Doubles]:
            logits = asked.predict_places(*alleles(part))
            return {"features": (logits[1::2] - logits[::2]).astype(np.float64)}

        found[name] = _candidates(_in_chunks(constructs, deltas), kinds)
    return found


def evaluate(
    table: pd.DataFrame,
    signed: Mapping[str, Scores],
    sizes: Mapping[str, Scores],
    *,
    seed: int = 0,
    resamples: int = 500,
) -> dict[str, Any]:
    """Compare candidates with the measurements of N variants, all and those of active constructs.

    By model, `signed` shall follow the skew, and `sizes` shall tell expression-modulating variants
    from others. The seed is that of folds and resamples.
    """
    groups = stretches(table["chr"], table["pos"], GROUP_BP)
    active = table["Regulatory_Hit"].to_numpy() == 1
    report: dict[str, Any] = {}
    for where, rows in (("all", np.arange(len(table))), ("active", np.flatnonzero(active))):
        hits = int(table["emVar_Hit"].iloc[rows].sum())
        part: dict[str, Any] = {"variants": len(rows), "hits": hits}
        for what, models, column, figure in (
            ("skew", signed, "LogSkew.Comb", spearman),
            ("hits", sizes, "emVar_Hit", auroc),
        ):
            measured = table[column].to_numpy(np.float64)[rows]
            if len(set(measured)) < 2 or len(set(groups[rows])) < FEWEST_GROUPS:
                continue  # nothing to choose by
            chosen = {
                model: {name: values[rows] for name, values in scores.items()}
                for model, scores in models.items()
            }
            key = {"skew": "spearman", "hits": "auroc"}[what]
            part[key] = compare(
                chosen, measured, figure, groups[rows], seed=seed, resamples=resamples
            )
        report[where] = part
    return report


def _in_chunks(
    constructs: Sequence[Construct], deltas: Callable[[Sequence[Construct]], dict[str, Doubles]]
) -> dict[str, Doubles]:
    parts = []
    for first in range(0, len(constructs), _CHUNK):
        parts.append(deltas(constructs[first : first + _CHUNK]))
        logger.info("scored %d of %d", min(first + _CHUNK, len(constructs)), len(constructs))
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _candidates(
    deltas: Mapping[str, Doubles], kinds: NDArray[np.str_]
) -> tuple[dict[str, Doubles], dict[str, Doubles]]:
    """Return candidates with a sign, and of size."""
    signed: dict[str, Doubles] = {}
    sizes: dict[str, Doubles] = {}
    if "features" in deltas:
        of_features = deltas["features"]
        largest = np.abs(of_features).argmax(axis=1)
        signed["largest delta"] = of_features[np.arange(len(largest)), largest]
        signed["mean delta"] = of_features.mean(axis=1)
        sizes["max |delta|"] = np.abs(of_features).max(axis=1)
        sizes["sum of |delta|"] = np.abs(of_features).sum(axis=1)
        for kind in dict.fromkeys(kinds.tolist()):
            mine = of_features[:, kinds == kind]
            signed[f"mean delta of {kind}"] = mine.mean(axis=1)
            sizes[f"mean |delta| of {kind}"] = np.abs(mine).mean(axis=1)
    for key, name in (("promoter", "promoter delta"), ("llr", "LLR")):
        if key in deltas:
            signed[name] = deltas[key]
            sizes[f"|{name}|"] = np.abs(deltas[key])
    return signed, sizes


TITLES = {
    "construct": "Constructs as they were measured",
    "genome": "Constructs with their genome around them",
    "genome_as_construct": "The same constructs as they were measured",
}


def markdown(report: Mapping[str, Any]) -> str:
    """Write the comparison as Markdown."""
    lines = ["# Expression-modulating variants (CAGI4)"]
    for placement, populations in report["results"].items():
        for where, part in populations.items():
            kind = "all variants" if where == "all" else "active constructs alone"
            lines += ["", f"## {TITLES[placement]}: {kind}", ""]
            lines.append(
                f"{part['variants']:,} variants, {part['hits']} of them expression-modulating."
            )
            for figure, title in (("spearman", "Spearman with the skew"), ("auroc", "AUROC")):
                if figure in part:
                    lines += ["", *_rows(part[figure], title)]
    return "\n".join(lines) + "\n"


def _rows(models: Mapping[str, Any], title: str) -> list[str]:
    rows = [
        [
            model,
            shown(found["nested"]),
            "" if "difference" not in found else shown(found["difference"], signed=True),
            ", ".join(f"{name} ({count})" for name, count in found["chosen"].items()),
        ]
        for model, found in models.items()
    ]
    header = [title, "nested", "genobird minus this", "chosen (folds)"]
    each = [
        [model, name, shown(value)]
        for model, found in models.items()
        for name, value in found["candidates"].items()
    ]
    listing = markdown_table(["model", "candidate", title], each)
    return [markdown_table(header, rows), "", listing]


def main(
    variants: Annotated[Path, typer.Option(help="cagi4_eqtl_mpra_train.csv.gz.")],
    model: steps.ModelFolder,
    output: Annotated[Path, typer.Option(help="Directory for cagi.json and cagi.md.")],
    baselines: Annotated[Path | None, typer.Option(help="Directory of trained baselines.")] = None,
    fasta: Annotated[
        list[Path] | None, typer.Option(help="Genome around the constructs; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of folds and resamples.")] = 0,
    resamples: Annotated[int, typer.Option(min=1, help="Resamples of the bootstrap.")] = 500,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    force: steps.Force = False,
) -> None:
    """Compare predicted effects of variants with measured ones."""
    refuse_existing(output, force, KIND)
    table, constructs = read_variants(variants)
    checkpoint = Checkpoint.load(model)
    kinds = checkpoint.features["class"].to_numpy(dtype=str)

    def compared(rows: NDArray[np.int64], placed: Sequence[Construct]) -> dict[str, Any]:
        both = {"genobird": model_candidates(model, placed, device, threads)}
        if baselines is not None:
            both |= baseline_candidates(baselines, placed, kinds)
        change = gc_change(placed)
        both["GC change"] = {"GC change": change}, {"|GC change|": np.abs(change)}
        signed, sizes = ({m: pair[i] for m, pair in both.items()} for i in (0, 1))
        return evaluate(
            table.iloc[rows].reset_index(drop=True), signed, sizes, seed=seed, resamples=resamples
        )

    results: dict[str, Any] = {"construct": compared(np.arange(len(table)), constructs)}
    placed: list[Construct | None] = [None] * len(table)
    for path in fasta or ():
        with Genome(steps.require(path)) as genome:
            found = in_genome(table, constructs, genome)
        placed = [old or new for old, new in zip(placed, found, strict=True)]
    rows = np.array([row for row, construct in enumerate(placed) if construct], dtype=np.int64)
    if len(rows):
        wide = [construct for construct in placed if construct]
        results["genome"] = compared(rows, wide)
        results["genome_as_construct"] = compared(rows, [constructs[row] for row in rows])
    report = {
        "version": steps.FORMAT_VERSION,
        "model": checkpoint.hash,
        "sources": {path.name: steps.sha256(path) for path in [variants, *(fasta or [])]},
        "seed": seed,
        "resamples": resamples,
        "results": results,
    }
    with steps.new_directory(output, force, KIND) as folder:
        (folder / REPORT).write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
        (folder / PAGE).write_text(markdown(report))
    for placement, populations in results.items():
        for where, part in populations.items():
            for figure in ("spearman", "auroc"):
                for name, found in part.get(figure, {}).items():
                    logger.info(
                        "%s, %s: %s %s %s", placement, where, name, figure, shown(found["nested"])
                    )


if __name__ == "__main__":
    steps.run(main)
