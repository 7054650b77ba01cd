"""Kills, interrupts, full disks and damaged inputs, met by real processes."""

from __future__ import annotations

import gzip
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGINT, SIGKILL
from typing import Any

import pytest

from genobird.runs import partial_of
from tests.processes import Command, Hit
from tests.scoring.stubs import records, short_genome, write_vcf

RECORDS = 120
SEED = 20261123

Files = dict[str, bytes]
Start = Callable[..., Command]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with what the runs read."""
    folder = tmp_path_factory.mktemp("made")
    lines = records(RECORDS)
    write_vcf(folder / "in.vcf", lines)
    write_vcf(folder / "few.vcf", lines[::4])
    write_vcf(
        folder / "nine.vcf", lines[:36]
    )  # chunks; the last is the fifth of one of two workers
    rng = random.Random(SEED)
    notes = (f"NOTE={rng.randbytes(8_000).hex()}" for _ in lines)
    wide = [line.replace("AC=7", note) for line, note in zip(lines[:60], notes, strict=False)]
    write_vcf(folder / "wide.vcf", wide)
    packed = gzip.compress((folder / "in.vcf").read_bytes())
    (folder / "in.vcf.gz").write_bytes(packed)
    regions = (line.split("\t") for line in lines[::4])
    bed = "".join(f"{contig}\t{int(at) - 1}\t{at}\t{name}\n" for contig, at, name, *_ in regions)
    (folder / "in.bed").write_text(bed)
    short_genome(folder)
    return folder


@pytest.fixture
def start(made, tiny_checkpoint, tmp_path, monkeypatch) -> Iterator[Start]:
    """Start a command on outputs in the current folder, which is empty at first."""
    here = tmp_path / "here"
    here.mkdir()
    # Names are relative, so that the command in the header is the same for all.
    monkeypatch.chdir(here)
    (tmp_path / "model").symlink_to(tiny_checkpoint)
    (tmp_path / "made").symlink_to(made)
    options = ["--fasta", "../made/short.fa", "--model", "../model", "--device", "cpu"]

    def begin(verb: str, source: str, *more: object, **how: Any) -> Command:
        words = [verb, source, *options, "--threads", 1, *more]
        return Command(*words, log=tmp_path / "log", **how)

    return begin


VARIANTS = ("variants", "../made/in.vcf", "-o", "out.vcf.gz", "--table", "out.parquet")
SCORE = ("score", "../made/in.bed", "-o", "out.tsv.gz")
FEW = ("variants", "../made/few.vcf", "-o", "out.bcf", "--table", "out.tsv")


@pytest.fixture(scope="module")
def known() -> dict[tuple[object, ...], Files]:
    """The files of each undisturbed run, by its words."""
    return {}


@pytest.fixture
def undisturbed(start, known) -> Callable[..., Files]:
    """The files of a run that nothing happens to."""

    def files(*words: object) -> Files:
        if words not in known:
            known[words] = finished(start(*words))
        return known[words]

    return files


def finished(command: Command) -> Files:
    """The files of a run that ends well, which are taken away."""
    code, text = command.wait()
    assert code == 0, text
    return taken()


def taken() -> Files:
    """All files in the current folder, which are removed."""
    files = {path.name: path.read_bytes() for path in Path.cwd().iterdir()}
    for name in files:
        Path(name).unlink()
    return files


def assert_resumable(output: str, *others: str) -> None:
    """No output has its name, and the journal is there."""
    assert partial_of(output).exists()
    for name in (output, *others):
        assert not Path(name).exists()


def assert_one_error(text: str, message: str) -> None:
    errors = [line for line in text.splitlines() if "error" in line.lower()]
    assert len(errors) == 1, text
    assert errors[0].startswith("genobird: error: ")
    assert message in errors[0]
    assert "Traceback" not in text


@pytest.mark.parametrize("words", [FEW, SCORE], ids=["variants", "score"])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(start, words):
    """With the model itself, on one thread, so that its numbers do not vary."""
    whole = start(*words, stub=False, counts=True)
    expected = finished(whole)
    rng = random.Random(SEED)
    killed = 0
    for _ in range(5):
        hit = Hit("call", int(rng.uniform(0.2, 0.95) * whole.calls))
        code, text = start(*words, "--resume", stub=False, hit=hit).wait()
        assert code in (0, -SIGKILL), text
        killed += code != 0
        if code == 0:
            assert taken() == expected
    assert killed
    assert finished(start(*words, "--resume", stub=False)) == expected


def test_killed_after_every_few_chunks_it_still_advances(start, undisturbed):
    expected = undisturbed(*VARIANTS)
    sizes = [0]
    while True:
        code, text = start(*VARIANTS, "--resume", hit=Hit("chunk", 8)).wait()
        if code == 0:
            break
        assert code == -SIGKILL, text
        assert_resumable("out.vcf.gz", "out.parquet")
        sizes.append(partial_of("out.vcf.gz").stat().st_size)
        assert sizes[-1] > sizes[-2]
    assert len(sizes) > 3
    assert taken() == expected


@pytest.mark.parametrize("moment", [1, 1.5, 2, 2.5, 3, 3.5])
def test_killed_while_outputs_get_their_names_it_ends_with_the_same_bytes(
    start, undisturbed, moment
):
    expected = undisturbed(*VARIANTS)
    code, text = start(*VARIANTS, hit=Hit("name", moment)).wait()
    assert code == -SIGKILL, text
    assert finished(start(*VARIANTS, "--resume")) == expected


def test_an_interrupt_leaves_a_state_to_go_on_from(start, undisturbed):
    expected = undisturbed(*VARIANTS)
    code, text = start(*VARIANTS, hit=Hit("chunk", 6, SIGINT)).wait()
    assert code == 130, text
    assert_one_error(text, "interrupted")
    assert "out.vcf.gz.partial keeps what is done; the same command with --resume" in text
    assert [path.name for path in Path.cwd().iterdir()] == ["out.vcf.gz.partial"]
    code, text = start(*VARIANTS).wait()
    assert code == 2
    assert_one_error(text, "pass --resume to go on from there, or --force to begin anew")
    assert_resumable("out.vcf.gz", "out.parquet")
    assert finished(start(*VARIANTS, "--resume")) == expected


@pytest.mark.parametrize(
    ("sent", "to", "code", "message"),
    [
        (SIGKILL, os.getpid, 1, "a worker process has ended (SIGKILL)"),
        (SIGINT, os.getppid, 130, "interrupted"),
        (SIGKILL, os.getppid, -SIGKILL, ""),
    ],
    ids=["worker-killed", "interrupted", "killed"],
)
def test_processes_leave_a_state_to_go_on_from(start, undisturbed, sent, to, code, message):
    words = ("variants", "../made/nine.vcf", "-o", "out.vcf.gz", "--table", "out.parquet")
    expected = undisturbed(*words)
    stopped = start(*words, "--processes", 2, hit=Hit("chunk", 5, sent, to)).wait()
    assert stopped[0] == code, stopped
    if message:
        assert_one_error(stopped[1], message)
    assert_resumable("out.vcf.gz", "out.parquet")
    # At once: a worker that outlives the run by a moment holds none of its locks.
    assert finished(start(*words, "--resume")) == expected


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        (VARIANTS, 90_000),
        (SCORE, 15_000),
        # Large records, little to score: the VCF itself becomes too large.
        (("variants", "../made/wide.vcf", "-o", "out.vcf.gz"), 200_000),
        (("variants", "../made/wide.vcf", "-o", "out.vcf"), 200_000),
    ],
    ids=["journal", "score", "vcf.gz", "vcf"],
)
def test_a_full_disk_leaves_a_state_to_go_on_from(start, undisturbed, words, limit):
    expected = undisturbed(*words)
    output = words[3]
    code, text = start(*words, limit=limit).wait()
    assert code == 1, text
    assert_one_error(text, "; check space and permissions")
    assert " cannot be written: File too large" in text or "BGZFile write failed" in text
    assert [path.name for path in Path.cwd().iterdir()] == [f"{output}.partial"]
    assert finished(start(*words, "--resume")) == expected


def test_an_input_that_is_cut_short_loses_no_work(start, undisturbed, made):
    words = ("variants", "in.vcf.gz", "-o", "out.vcf.gz", "--table", "out.tsv")
    packed = (made / "in.vcf.gz").read_bytes()
    Path("in.vcf.gz").write_bytes(packed)
    expected = undisturbed(*words)
    Path("in.vcf.gz").write_bytes(packed[:-500])
    code, text = start(*words).wait()
    assert code == 1, text
    assert_one_error(text, "in.vcf.gz is cut short")
    assert_resumable("out.vcf.gz", "out.tsv")
    Path("in.vcf.gz").write_bytes(packed)
    assert finished(start(*words, "--resume")) == expected


@pytest.mark.parametrize("verb", ["score", "variants"])
def test_a_folder_that_cannot_be_written_is_refused_before_work(start, verb):
    source, output = ("in.bed", "/sys/out.tsv") if verb == "score" else ("in.vcf", "/sys/out.vcf")
    code, text = start(verb, f"../made/{source}", "-o", output, "--model", "none").wait()
    assert code == 1
    assert_one_error(text, f"{output} cannot be written")


def test_shards_that_were_killed_merge_to_the_run_over_all(start, undisturbed):
    words = ("variants", "../made/in.vcf", "--features", "TF")
    whole = undisturbed(*words, "-o", "out.vcf.gz", "--table", "out.tsv")
    for shard in (1, 2):
        run = (*words, "-o", f"{shard}.vcf.gz", "--table", f"{shard}.parquet")
        code, text = start(*run, "--shard", f"{shard}/2", hit=Hit("chunk", 6)).wait()
        assert code == -SIGKILL, text
        assert_resumable(f"{shard}.vcf.gz", f"{shard}.parquet")
        code, text = start(*run, "--shard", f"{shard}/2", "--resume").wait()
        assert code == 0, text
    log = Path("log")
    for output in ("out.vcf.gz", "out.tsv"):
        ending = "vcf.gz" if output == "out.vcf.gz" else "parquet"
        merge = ("variants", "merge", f"1.{ending}", f"2.{ending}", "-o", output)
        assert Command(*merge, log=log).wait()[0] == 0, log.read_text()
    assert Path("out.tsv").read_bytes() == whole["out.tsv"]
    lines, expected = (
        [line for line in gzip.decompress(data).splitlines() if b"Command=" not in line]
        for data in (Path("out.vcf.gz").read_bytes(), whole["out.vcf.gz"])
    )
    assert lines == expected
