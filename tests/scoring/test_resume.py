"""Resume inside one process: every input, many records, and what may change between runs."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from genobird.errors import AssemblyError, UsageError
from genobird.genome.fasta import Genome
from genobird.runs import ignore, partial_of
from genobird.scoring.settings import EffectSettings
from tests.scoring.calls import annotate_variants
from tests.scoring.stubs import records, stub_screen, write_vcf

SLACK_MB = 24


class Stop(Exception):
    pass


@pytest.fixture
def screen(monkeypatch, scorer):
    monkeypatch.setattr(scorer, "chunk", 4)
    return stub_screen(monkeypatch)


@pytest.fixture
def source(tmp_path) -> Path:
    return write_vcf(tmp_path / "in.vcf", records(60))


def stop_after(chunks: int) -> Callable[[int], None]:
    left = chunks

    def progress(_: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Stop

    return progress


@pytest.fixture
def run(scorer, short, tmp_path, screen, source):
    """Annotate into `out.vcf.gz` and `out.tsv`; return both files and how many ALTs it scored."""

    def annotate(stop: int | None = None, **options: object) -> tuple[bytes, bytes, int]:
        output, table = tmp_path / "out.vcf.gz", tmp_path / "out.tsv"
        before = screen.scored
        progress = ignore if stop is None else stop_after(stop)
        arguments = {"source": source, "table": table, "progress": progress} | options
        read = arguments.pop("source")
        annotate_variants(scorer, read, short, output, **arguments)
        return output.read_bytes(), table.read_bytes(), screen.scored - before

    return annotate


@pytest.mark.parametrize("stop", [1, 7, 15])
def test_only_what_is_missing_is_scored(run, stop):
    vcf, table, whole = run()
    with pytest.raises(Stop):
        run(stop, force=True)
    again_vcf, again_table, rest = run(resume=True, force=True)
    assert (again_vcf, again_table) == (vcf, table)
    assert rest < whole
    assert (rest == 0) == (stop == 15)


def test_standard_input_can_be_resumed(run, source, monkeypatch):
    vcf, table, _ = run()

    def pipe() -> None:
        raw = io.BytesIO(source.read_bytes())
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw))

    pipe()
    with pytest.raises(Stop):
        run(5, source="-", force=True)
    pipe()
    again_vcf, again_table, _ = run(source="-", resume=True, force=True)
    assert (again_vcf, again_table) == (vcf, table)


def test_what_changes_no_score_may_change(run, tmp_path):
    with pytest.raises(Stop):
        run(5)
    _, _, rest = run(resume=True, table=tmp_path / "out.tsv", ref_mismatch="skip")
    assert 0 < rest < run(force=True)[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": ["TF"]}, r"\(--features TF, before all\)"),
        ({"ref_mismatch": "swap"}, r"\(--ref-mismatch swap, before flag, skip or error\)"),
        (
            {"effects": EffectSettings(shifts=4, grid=64, one_window=False, scores=("diff",))},
            r"\(--shifts 4, before 1; --window-grid 64, before 0; --one-window no, before yes; "
            r"--scores diff, before none\)",
        ),
    ],
)
def test_what_changes_scores_may_not(run, change, message):
    with pytest.raises(Stop):
        run(5)
    with pytest.raises(UsageError, match=message):
        run(resume=True, **change)


def test_another_genome_or_input_is_refused(run, scorer, tmp_path, source, short):
    with pytest.raises(Stop):
        run(5)
    lines = records(60)
    write_vcf(source, [lines[1], *lines[1:]])
    with pytest.raises(UsageError, match="a run over another input"):
        run(resume=True)
    write_vcf(source, lines)
    copy = tmp_path / "other.fa"
    copy.write_text(short.path.read_text().replace("ACGT", "ACGA", 1))
    with Genome(copy) as other, pytest.raises(UsageError, match=r"genome \w+, before \w+"):
        annotate_variants(scorer, source, other, tmp_path / "out.vcf.gz", resume=True)


def test_a_wrong_ref_that_stops_a_run_loses_nothing(run, source, screen, monkeypatch):
    calls = 0

    def wrong(*arguments: object) -> pd.DataFrame:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise AssemblyError("REF A is C")
        return screen(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("genobird.scoring.scan.screen", wrong)
        with pytest.raises(AssemblyError):
            run(ref_mismatch="error")
    _, _, rest = run(resume=True, ref_mismatch="flag")
    assert 0 < rest < run(force=True)[2]


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory in use is read from the system")
@pytest.mark.parametrize("count", [100_000])
def test_a_hundred_thousand_records_are_annotated_and_resumed_in_constant_memory(
    scorer, short, screen, tmp_path, monkeypatch, count
):
    monkeypatch.setattr(scorer, "chunk", 500)
    # Rows wait for their row group, whose size is constant too.
    monkeypatch.setattr("genobird.scoring.table._GROUP_CELLS", 1 << 17)
    source = write_vcf(tmp_path / "many.vcf", records(count))
    used: list[float] = []
    done, last = 0, count * 3 // 4

    def watch(number: int) -> None:
        nonlocal done
        done += number
        used.append(resident_mb())
        if done == last:
            raise Stop

    output, table = tmp_path / "out.vcf.gz", tmp_path / "out.parquet"
    both = {"table": table, "progress": watch}
    with pytest.raises(Stop):
        annotate_variants(scorer, source, short, output, **both)
    journal = partial_of(output).stat().st_size
    done, last = 0, -1
    annotate_variants(scorer, source, short, output, resume=True, **both)
    assert done == count
    settled = used[len(used) // 10]
    print(  # noqa: T201
        f"{count} records: {settled:.0f} MB after a tenth, at most {max(used):.0f} MB; "
        f"journal of {journal / 2**20:.1f} MB"
    )
    assert max(used) < settled + SLACK_MB
