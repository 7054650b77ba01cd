from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from genobird.checkpoint import CONFIG, FEATURES, PROVENANCE, TOKENIZER, WEIGHTS, Checkpoint
from genobird.errors import GenobirdError
from genobird.files import file_sha256
from genobird.genome.chain import ChainFile
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval, read_bed
from genobird.genome.locus import require_on_genome, warn_of_training
from genobird.report.page import report
from genobird.runs import Start, partial_of
from genobird.scoring import scan
from genobird.scoring.journal import kept
from genobird.scoring.scorer import Scorer, load
from tests.fuzz.mutations import mutated, mutated_frame, mutated_json
from tests.scoring.calls import annotate_variants, list_variants
from tests.scoring.stubs import SHORT_CONTIGS, Screen, records, short_genome, stub_screen, write_vcf

SECONDS = float(os.environ.get("GENOBIRD_FUZZ_SECONDS", "0"))
MOST_TEXT = 2_000

pytestmark = [pytest.mark.timeout(1200 + 2 * SECONDS)]


@dataclass
class Place:
    """Where files are made and read, and with what."""

    folder: Path
    genome: Path
    scorer: Scorer

    def fresh(self) -> Path:
        """Return an empty folder."""
        path = self.folder / "fresh"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path


@pytest.fixture(scope="module")
def scorer(tiny_checkpoint) -> Scorer:
    return load(tiny_checkpoint, "cpu", threads=1)


@pytest.fixture
def place(scorer, tmp_path, monkeypatch) -> Place:
    stub_screen(monkeypatch)
    monkeypatch.setattr(scan, "screen", Screen())
    return Place(tmp_path, short_genome(tmp_path), scorer)


def campaign(name: str, examples: int, attempt: Callable[[random.Random], None]) -> None:
    """Try so many examples, or for so many seconds; no error may escape but genobird's own.

    Args:
        name: of the kind; together with the number of an example it is the seed.
        examples: how many are tried.
        attempt: makes an example and reads it.
    """
    ends = time.monotonic() + SECONDS
    tried, refused, escaped = 0, 0, Counter[str]()
    while tried < examples or (SECONDS and time.monotonic() < ends):
        try:
            attempt(random.Random(f"{name} {tried}"))
        except GenobirdError as error:
            refused += 1
            if "\n" in str(error) or len(str(error)) > MOST_TEXT:
                escaped[f"a message of {len(str(error))} characters, example {tried}"] += 1
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in frames if "genobird" in frame.filename]
            at = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "the test"
            key = f"{type(error).__name__} at {at}"
            known = next((one for one in escaped if one.startswith(key)), None)
            escaped[known or f"{key}, example {tried}: {str(error)[:200]}"] += 1
        tried += 1
    found = f"{name}: {tried:,} tried, {refused:,} refused, {escaped.total():,} failed"
    sys.stdout.write(f"\n{found}\n")
    assert not escaped, "\n".join(f"{count} x {key}" for key, count in escaped.items())


def test_vcf(place: Place) -> None:
    seed = write_vcf(place.folder / "seed.vcf", records(40)).read_bytes()

    def attempt(rng: random.Random) -> None:
        folder = place.fresh()
        (folder / "in.vcf").write_bytes(mutated(seed, rng))
        output = folder / rng.choice(("out.vcf", "out.vcf", "out.vcf.gz", "out.bcf"))
        table = folder / rng.choice(("out.tsv", "out.parquet"))
        source = folder / "in.vcf"
        annotate_variants(place.scorer, source, place.genome, output, table=table)

    campaign("vcf", 60, attempt)


@pytest.mark.parametrize("separator", ["\t", ","])
def test_table_of_variants(place: Place, separator: str) -> None:
    rows = [line.split("\t") for line in records(30)]
    lines = [("chrom", "pos", "ref", "alt"), *((r[0], r[1], r[3], f'"{r[4]}"') for r in rows)]
    seed = "".join(f"{separator.join(line)}\n" for line in lines).encode()

    def attempt(rng: random.Random) -> None:
        folder = place.fresh()
        (folder / "in.tsv").write_bytes(mutated(seed, rng))
        list_variants(place.scorer, folder / "in.tsv", place.genome, folder / "out.tsv")

    campaign(f"table separated by {separator!r}", 60, attempt)


def test_bed(place: Place) -> None:
    rows = [line.split("\t") for line in records(30)]
    seed = "".join(f"{r[0]}\t{int(r[1]) - 1}\t{r[1]}\t{r[2]}\t0\t+\n" for r in rows).encode()

    def attempt(rng: random.Random) -> None:
        path = place.fresh() / "in.bed"
        path.write_bytes(b"track name=a\n" + mutated(seed, rng))
        with Genome(place.genome) as genome:
            intervals = list(read_bed(path))
            require_on_genome(intervals, genome)
            for interval in intervals:
                genome.fetch(interval)

    campaign("bed", 150, attempt)


def test_fasta(place: Place) -> None:
    seed = place.genome.read_bytes()
    with Genome(place.genome) as genome:
        genome.fetch(Interval("c0", 0, 1))
    index = Path(f"{place.genome}.fai").read_bytes()

    def attempt(rng: random.Random) -> None:
        path = place.fresh() / "in.fa"
        which = rng.random()
        path.write_bytes(seed if which < 0.4 else mutated(seed, rng))
        if which < 0.6:
            Path(f"{path}.fai").write_bytes(mutated(index, rng))
        with Genome(path) as genome:
            for contig, length in genome.contigs.items():
                genome.fetch_clipped(contig, length - 5, length + 5)
            for _, bases in genome.stream():
                assert bases.isascii()

    campaign("fasta", 60, attempt)


def test_chain(place: Place) -> None:
    lines = []
    for number, (name, bases) in enumerate(SHORT_CONTIGS.items()):
        size = len(bases)
        lines += [f"chain 9 {name} {size} + 0 {size} {name} {size + 5} + 5 {size + 5} {number}"]
        lines += ["100 5 5", f"{size - 105}", ""]
    seed = "\n".join(lines).encode()

    def attempt(rng: random.Random) -> None:
        path = place.fresh() / "in.chain"
        path.write_bytes(mutated(seed, rng))
        chains = ChainFile(path)
        for name in (*SHORT_CONTIGS, *chains.source_lengths):
            contig = chains.resolve(name)
            if contig is not None:
                chains.places(contig, 90, 120, 0.5)

    campaign("chain", 150, attempt)


def test_model_directory(place: Place, tiny_checkpoint: Path) -> None:
    def attempt(rng: random.Random) -> None:
        path = place.fresh() / "model"
        shutil.copytree(tiny_checkpoint, path)
        name = rng.choice((CONFIG, CONFIG, CONFIG, FEATURES, PROVENANCE, WEIGHTS, TOKENIZER))
        if name in (CONFIG, PROVENANCE):
            (path / name).write_text(mutated_json((path / name).read_text(), rng))
        elif name == WEIGHTS:
            data = (path / name).read_bytes()
            (path / name).write_bytes(mutated(data[:4_000], rng) + data[4_000:])
        else:
            (path / name).write_bytes(mutated((path / name).read_bytes(), rng))
        if name != PROVENANCE:
            facts = json.loads((path / PROVENANCE).read_text())
            facts["sha256"][name] = file_sha256(path / name)
            (path / PROVENANCE).write_text(json.dumps(facts))
        checkpoint = Checkpoint.load(path)
        found = Scorer(checkpoint, device="cpu")
        found.select_features(None)
        with Genome(place.genome) as genome:
            warn_of_training(checkpoint.provenance, genome)

    campaign("model directory", 40, attempt)


@pytest.mark.parametrize("kind", ["variants", "regions"])
def test_report_table(place: Place, kind: str) -> None:
    if kind == "variants":
        source, output = place.folder / "seed.vcf", place.folder / "seed.out.vcf"
        write_vcf(source, records(24))
        table = place.folder / "seed.tsv"
        annotate_variants(place.scorer, source, place.genome, output, table=table)
        frame = pd.read_csv(table, sep="\t")
    else:
        rows = [line.split("\t") for line in records(24)]
        frame = pd.DataFrame(
            {
                "chrom": [row[0] for row in rows],
                "start": [int(row[1]) - 1 for row in rows],
                "end": [int(row[1]) for row in rows],
                "name": [row[2] for row in rows],
                "strand": "+",
                "status": "OK",
                "promoter": [number / 24 for number in range(24)],
                "A|DNase|None": 0.5,
            }
        )

    def attempt(rng: random.Random) -> None:
        folder = place.fresh()
        path = folder / rng.choice(("in.tsv", "in.parquet"))
        if path.suffix == ".parquet":
            mutated_frame(frame, rng).to_parquet(path)
        else:
            path.write_bytes(mutated(frame.to_csv(sep="\t", index=False).encode(), rng))
        report(folder / "out.html", **{kind: path})  # type: ignore[arg-type]

    campaign(f"report of {kind}", 4, attempt)


def test_journal(place: Place) -> None:
    identity = {"model": "0123", "genome": "abcd"}
    output = place.folder / "out.tsv"

    def run(path: Path, stop: bool) -> None:
        with kept([path], identity, Start(resume=True)) as journal:
            for number in range(4):
                frame = pd.DataFrame({"chrom": ["c0"], "a|delta": [number + 0.5]})
                found = journal.begin(number, [str(number)], lambda made=frame: lambda: made)()
                pd.testing.assert_frame_equal(found, frame)
            if stop:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(output, stop=True)
    seed = partial_of(output).read_bytes()

    def attempt(rng: random.Random) -> None:
        path = place.fresh() / "out.tsv"
        partial_of(path).write_bytes(mutated(seed, rng))
        run(path, stop=False)

    campaign("journal", 60, attempt)
