"""EPDnew -> labelled 8,000-bp windows: promoters, and one negative for each.

A window is -5000..+3000 around the TSS along the strand: 8,000 bp with the TSS base at offset 5000.
On the plus strand that is [tss - 5000, tss + 3000), on the minus strand the reverse complement of
[tss - 2999, tss + 5001). A window must lie wholly in one interval of the split; one that leaves its
contig or holds over 5 % N is dropped and counted. The table is one Parquet file:

    chrom start end strand name label split group sequence

`group` is the megabase of the anchor (the TSS base, or the base in its place), so that overlapping
windows can be kept together. Four kinds of negatives:

    genomic     a random window of the same part of the split, random strand, no known TSS in it or
                within 2 kb of it (so none within 5 kb of the anchor), GC content as the promoter's
                (to one per cent where the genome has such a place, else the nearest drawn)
    substitute  the promoter with 12 of 20 pieces replaced by random bases (DeePromoter, BigBird)
    shuffle     the promoter with 12 of 20 pieces permuted among their places (GENA-LM)
    scan        every 2,000 bp of the held-out parts a window as `genomic` asks for, of any GC
                content: what somebody meets who looks for promoters in a genome

`substitute` and `shuffle` stay on their promoter's side of the split and share bases with it. Draws
depend on (seed, promoter name); `genomic` also keeps away from the negatives of promoters before.
A scan has no training part and dozens of negatives for a promoter: models that were trained on
another kind are measured on it. With `genomic` negatives, `scanned` windows of the training part's
own scan, drawn at random, may be added to these, for a GC-matched window is not what a scan meets.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from genobird.errors import BedError, UsageError
from genobird.files import refuse_existing
from genobird.genome.interval import Interval, read_bed
from genobird.genome.sequence import n_fraction, reverse_complement
from pipelines import backgrounds, grch37, manifest, steps
from pipelines.manifest import Splits

logger = logging.getLogger(__name__)

UPSTREAM = 5000
DOWNSTREAM = 3000
WINDOW = UPSTREAM + DOWNSTREAM
MAX_N_FRACTION = 0.05
SCAN_STEP = 2000
GROUP_BP = 1_000_000
HELD_OUT = ("validation", "test")
PIECES = 20
REPLACED = 12


def substitute(sequence: str, rng: np.random.Generator) -> str:
    """Replace 12 of 20 equal pieces by uniform random bases."""
    pieces = _pieces(sequence)
    chosen = rng.choice(PIECES, size=REPLACED, replace=False)
    pieces[chosen] = rng.choice(np.frombuffer(b"ACGT", dtype=np.uint8), (REPLACED, pieces.shape[1]))
    return pieces.tobytes().decode("ascii")


def shuffle(sequence: str, rng: np.random.Generator) -> str:
    """Permute 12 of 20 equal pieces among their places."""
    pieces = _pieces(sequence)
    chosen = rng.choice(PIECES, size=REPLACED, replace=False)
    pieces[chosen] = pieces[rng.permutation(chosen)]
    return pieces.tobytes().decode("ascii")


def _pieces(sequence: str) -> npt.NDArray[np.uint8]:
    """[20, len / 20], a copy."""
    if len(sequence) % PIECES:
        raise UsageError(f"a window of {len(sequence)} bp cannot be cut into {PIECES} equal pieces")
    return np.frombuffer(sequence.encode("ascii"), dtype=np.uint8).reshape(PIECES, -1).copy()


class Negatives(StrEnum):
    """How a negative is made."""

    GENOMIC = "genomic"
    SUBSTITUTE = "substitute"
    SHUFFLE = "shuffle"
    SCAN = "scan"


@dataclass(frozen=True)
class Row:
    """One window. Coordinates are 0-based half-open; the sequence runs along the strand."""

    chrom: str
    start: int
    end: int
    strand: str
    name: str
    label: int
    split: str
    group: str
    sequence: str


def window(anchor: int, strand: str) -> tuple[int, int]:
    """Return [start, end) of the 8,000 bp that hold base `anchor` at offset 5000 of the strand."""
    if strand == "-":
        return anchor - DOWNSTREAM + 1, anchor + UPSTREAM + 1
    return anchor - UPSTREAM, anchor + DOWNSTREAM


def generator(seed: int, name: str) -> np.random.Generator:
    """Random draws of one promoter, independent of all others and of their order."""
    key = hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def _oriented(genome_text: str, strand: str) -> str:
    return reverse_complement(genome_text) if strand == "-" else genome_text


def positives(
    promoters: Sequence[Interval], sequences: Mapping[str, str], splits: Splits
) -> tuple[list[Row], Counter[str]]:
    """Cut the window of each promoter, an interval of one base, the TSS, with a strand.

    Returns:
        Windows in the order of contig and position, and how many promoters were dropped, by reason.

    Raises:
        BedError: a promoter is no single base or has no strand, or two have one name.
    """
    rows: list[Row] = []
    dropped: Counter[str] = Counter()
    names: set[str] = set()
    places: set[tuple[str, int, str]] = set()
    for promoter in sorted(promoters):
        if promoter.length != 1 or promoter.strand not in "+-":
            raise BedError(
                f"promoter {promoter.name or promoter} covers {promoter.length} bp on strand "
                f"{promoter.strand}; a TSS is one base with strand + or -"
            )
        if promoter.name in names:
            raise BedError(f"two promoters are named {promoter.name!r}; names must be unique")
        names.add(promoter.name)
        chrom, tss, strand = promoter.contig, promoter.start, promoter.strand
        text = sequences.get(chrom)
        if text is None:
            dropped["contig without sequence or outside the split"] += 1
            continue
        start, end = window(tss, strand)
        if start < 0 or end > len(text):
            dropped["window leaves the contig"] += 1
            continue
        place = splits.of(chrom, start, end)
        if place is None:
            dropped["window not wholly in one part of the split"] += 1
            continue
        if n_fraction(text[start:end]) > MAX_N_FRACTION:
            dropped["more than 5 % N"] += 1
            continue
        if (chrom, tss, strand) in places:
            dropped["same TSS as another promoter"] += 1
            continue
        places.add((chrom, tss, strand))
        sequence = _oriented(text[start:end], strand)
        group = f"{chrom}:{tss // GROUP_BP}"
        rows.append(Row(chrom, start, end, strand, promoter.name, 1, place[0], group, sequence))
    return rows, dropped


def derived(rows: Sequence[Row], kind: Negatives, seed: int) -> list[Row]:
    """Make one `substitute` or `shuffle` negative from each promoter window."""
    change = {Negatives.SUBSTITUTE: substitute, Negatives.SHUFFLE: shuffle}[kind]
    return [
        replace(
            row,
            name=f"{row.name}|{kind}",
            label=0,
            sequence=change(row.sequence, generator(seed, row.name)),
        )
        for row in rows
    ]


def genomic(
    rows: Sequence[Row],
    sequences: Mapping[str, str],
    splits: Splits,
    tss: Mapping[str, Sequence[tuple[int, int]]],
    seed: int,
) -> tuple[list[Row], int]:
    """Find a GC-matched window for each promoter window, in the intervals of its part of the split.

    None holds a base of the intervals `tss` of its contig, 0-based half-open.

    Returns:
        One negative a promoter, in order, and how many differ by more than one per cent GC.

    Raises:
        UsageError: a part of the split has no room for so many negatives.
    """
    contigs = _contigs(sequences, tss)
    negatives: list[Row] = []
    unmatched = 0
    taken: dict[str, list[int]] = {name: [] for name in contigs}
    for row in rows:
        rng = generator(seed, row.name)
        intervals = [i for i in splits.parts[row.split] if i.contig in contigs]
        gc = backgrounds.gc_fraction(row.sequence)
        found = backgrounds.draw(contigs, intervals, taken, gc, rng)
        if found is None:
            raise UsageError(
                f"no room for another negative in {', '.join(map(str, intervals))}; "
                "give more sequence or use --negatives shuffle"
            )
        contig, start, matched = found
        unmatched += not matched
        taken[contig].append(start)
        name = f"{row.name}|{Negatives.GENOMIC}"
        negatives.append(_negative(name, contig, start, row.split, sequences[contig], rng))
    return negatives, unmatched


def scan(
    sequences: Mapping[str, str],
    splits: Splits,
    tss: Mapping[str, Sequence[tuple[int, int]]],
    seed: int,
    parts: Sequence[str] = HELD_OUT,
    most: int | None = None,
) -> list[Row]:
    """Cut windows without TSS, every 2,000 bp of parts of the split, each on a random strand.

    Args:
        sequences: of each contig.
        splits: has the parts.
        tss: intervals of each contig of which no window holds a base, 0-based half-open.
        seed: of all draws.
        parts: what is scanned, in this order.
        most: so many windows, drawn at random, where there are more; None is all.

    Raises:
        UsageError: there is no such window.
    """
    contigs = _contigs(sequences, tss)
    places: list[tuple[str, str, int]] = []
    for part in parts:
        for contig, start, end in ((i.contig, i.start, i.end) for i in splits.parts[part]):
            if contig not in contigs:
                continue
            starts = np.arange(start, min(end, len(sequences[contig])) - WINDOW + 1, SCAN_STEP)
            free = starts[contigs[contig].eligible(starts)].tolist()
            places += [(part, contig, place) for place in free]
    if not places:
        where = ", ".join(str(i) for part in parts for i in splits.parts[part])
        raise UsageError(f"no window of {WINDOW} bp in {where} is free of start sites")
    if most is not None and most < len(places):
        drawn = generator(seed, Negatives.SCAN).choice(len(places), most, replace=False)
        places = [places[row] for row in np.sort(drawn)]
    rows: list[Row] = []
    for part, contig, place in places:
        name = f"{contig}:{place + 1}|{Negatives.SCAN}"
        rng = generator(seed, name)
        rows.append(_negative(name, contig, place, part, sequences[contig], rng))
    return rows


def _contigs(
    sequences: Mapping[str, str], tss: Mapping[str, Sequence[tuple[int, int]]]
) -> dict[str, backgrounds.Contig]:
    return {
        name: backgrounds.Contig.of(text, tss.get(name, ())) for name, text in sequences.items()
    }


def _negative(
    name: str, contig: str, start: int, part: str, sequence: str, rng: np.random.Generator
) -> Row:
    """Cut the window from `start` on, on a random strand."""
    strand = "+-"[int(rng.integers(2))]
    anchor = start + (UPSTREAM if strand == "+" else DOWNSTREAM - 1)
    text = _oriented(sequence[start : start + WINDOW], strand)
    group = f"{contig}:{anchor // GROUP_BP}"
    return Row(contig, start, start + WINDOW, strand, name, 0, part, group, text)


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """The table of windows, one row each."""
    columns = list(Row.__dataclass_fields__)
    return pd.DataFrame([[getattr(row, c) for c in columns] for row in rows], columns=columns)


def build(
    promoters: Sequence[Interval],
    contigs: Mapping[str, grch37.Contig],
    splits: Splits,
    negatives: Negatives = Negatives.GENOMIC,
    exclude: Mapping[str, Sequence[tuple[int, int]]] | None = None,
    seed: int = 0,
    scanned: int = 0,
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Cut promoter windows and make a negative for each, or the negatives of a scan.

    Args:
        promoters: intervals of one base, the TSS, with a strand.
        contigs: the sequence, by the names that promoters and splits use.
        splits: which intervals are for training, validation and test.
        negatives: the kind of negatives.
        exclude: further TSS that a genomic negative must not hold, by contig.
        seed: of all draws.
        scanned: windows of a scan of the training part that are added to genomic negatives.

    Returns:
        The table, each promoter followed by its negative (a scan: all promoters, then all
        negatives), then those of the training part's scan, and counts of what was kept and dropped.

    Raises:
        BedError: a promoter is no single base with a strand.
        UsageError: no promoter has a window, there is no room for the negatives, or `scanned` is
            asked for beside others than genomic ones.
        OutOfBoundsError: an interval of the split ends after its contig.
    """
    if scanned and negatives is not Negatives.GENOMIC:
        raise UsageError(f"scanned windows are added to genomic negatives, not to {negatives} ones")
    splits.refuse_outside({name: contig.length for name, contig in contigs.items()})
    sequences = {name: contig.sequence() for name, contig in contigs.items()}
    rows, dropped = positives(promoters, sequences, splits)
    if not rows:
        raise UsageError(
            f"none of {len(promoters)} promoters has a window on {', '.join(contigs)}; "
            "are promoters, genome and split of one assembly?"
        )
    counts = {"promoters": len(promoters), "kept": len(rows), **dict(sorted(dropped.items()))}
    tss = {name: list((exclude or {}).get(name, ())) for name in contigs}
    for promoter in promoters:
        if promoter.contig in tss:
            tss[promoter.contig].append((promoter.start, promoter.end))
    if negatives is Negatives.SCAN:
        found = [row for row in rows if row.split in HELD_OUT]
        return frame([*found, *scan(sequences, splits, tss, seed)]), counts
    if negatives is Negatives.GENOMIC:
        others, counts["negatives without GC match"] = genomic(rows, sequences, splits, tss, seed)
    else:
        others = derived(rows, negatives, seed)
    table = [row for pair in zip(rows, others, strict=True) for row in pair]
    if scanned:
        windows = scan(sequences, splits, tss, seed, ["train"], scanned)
        counts[f"scanned windows, of {scanned:,} asked for"] = len(windows)
        table += windows
    return frame(table), counts


def write(
    table: pd.DataFrame, path: Path, facts: Mapping[str, object], force: bool = False
) -> None:
    """Write the table as Parquet with `facts` as JSON in its metadata, under the key `genobird`.

    Raises:
        UsageError: `path` exists and `force` is not set.
    """
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.replace_schema_metadata({"genobird": json.dumps(facts, sort_keys=True)})
    with steps.new_file(path, force) as part:
        pq.write_table(arrow, part, compression="zstd")


def main(
    bed: Annotated[Path, typer.Option(help="EPDnew promoters: BED, one base each, with strand.")],
    fasta: steps.Fastas,
    output: Annotated[Path, typer.Option(help="Parquet file to write.")],
    negatives: Annotated[Negatives, typer.Option(help="Kind of negatives.")] = Negatives.GENOMIC,
    exclude: Annotated[
        list[Path] | None,
        typer.Option(
            help="Further TSS (BED or table) that genomic negatives and a scan stay away from."
        ),
    ] = None,
    splits: steps.SplitName = "available",
    splits_file: steps.SplitsFile = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the negatives.")] = 0,
    scanned: Annotated[
        int, typer.Option(min=0, help="Windows of a scan of the training part to add to genomic.")
    ] = 0,
    force: steps.Force = False,
) -> None:
    """Cut 8,000-bp windows around promoters and make negatives."""
    refuse_existing(output, force)
    split = manifest.load_splits(splits, splits_file)
    promoters = list(read_bed(steps.require(bed)))
    places = backgrounds.read_all(exclude or [])
    with grch37.locate(fasta, split.contigs) as contigs:
        table, counts = build(promoters, contigs, split, negatives, places, seed, scanned)
    facts = {
        "version": steps.FORMAT_VERSION,
        "split": split.name,
        "negatives": negatives.value,
        "seed": seed,
        "scanned": scanned,
        "counts": counts,
        "sources": {p.name: steps.sha256(p) for p in [bed, *fasta, *(exclude or [])]},
    }
    write(table, output, facts, force)
    for what, count in counts.items():
        logger.info("%s: %d", what, count)
    for part in split.parts:
        labels = table["label"][table["split"] == part]
        logger.info("%s: %d windows, %d of them promoters", part, len(labels), labels.sum())


if __name__ == "__main__":
    steps.run(main)
