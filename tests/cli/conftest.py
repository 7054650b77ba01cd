"""How commands are run in this process, and what most of them are given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from genobird.cli import main

HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command; return exit code, standard output and standard error."""

    def command(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def told(run: Run) -> Callable[..., str]:
    """Run a command that ends with `code`; return what it wrote, of a failed one to stderr."""

    def command(*words: object, code: int = 0) -> str:
        found, out, err = run(*words)
        assert found == code, err
        return err if code else out

    return command


@pytest.fixture
def options(tiny_genome_path: Path, tiny_checkpoint: Path) -> list[str]:
    return ["--fasta", str(tiny_genome_path), "--model", str(tiny_checkpoint), "--device", "cpu"]


@pytest.fixture
def vcf(tmp_path: Path, tiny_contigs: dict[str, str]) -> Path:
    """One record, with an ALT that is none and one that is scored."""
    path = tmp_path / "in.vcf"
    ref = tiny_contigs["chr1"][20_000]
    path.write_text(f"{HEADER}chr1\t20001\trs77\t{ref}\t*,{'AC'[ref == 'A']}\t.\t.\t.\n")
    return path
