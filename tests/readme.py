"""The examples of the README: run where a user would run them, and written anew.

    python -m tests.readme            # what differs from README.md
    python -m tests.readme --write    # puts the present output into README.md

A block behind `<!-- run -->` is run; in one behind `<!-- output -->` the lines behind each `$ ...`
are what that command writes to standard output. The files are cut from the bundled demo.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pysam

from genobird.demo import GENOME, REGIONS, VARIANTS, bundled
from genobird.genome.fasta import Genome

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PROGRAMS = Path(sys.executable).parent
CHAIN = ROOT.parent / "shared" / "data" / "liftover" / "hg38ToHg19.over.chain.gz"
OUTPUT = re.compile(r"(?<=<!-- output -->\n```console\n)(.*?)(?=```)", re.DOTALL)
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
SECONDS = re.compile(r'"seconds": [\d.]+')

# rs2012397 where GRCh38 has it, and a place that GRCh37 does not have.
HG38 = ("chr20\t56356950\trs2012397\tT\tA", "chr20\t64400000\t.\tG\tA")
# One record of each kind that a call set may hold.
KINDS = (
    "chr20\t54932006\trs2012397\tT\tA,*",
    "chr20\t54968735\t.\tG\t<DEL>",
    "chr20\t55046052\t.\tT\tC",
    "chr20\t55197741\t.\tC\t.",
    "chr21\t9411239\t.\tG\tA",
)


def make_folder(folder: Path) -> None:
    """Make the files that the README speaks of."""
    for ending in ("", ".fai", ".gzi"):
        (folder / f"hg19.fa.gz{ending}").write_bytes(bundled(f"{GENOME}{ending}").read_bytes())
    bed = bundled(REGIONS).read_text().splitlines(keepends=True)
    (folder / "regions.bed").write_text("".join(bed[:2]))
    vcf = bundled(VARIANTS).read_text().splitlines(keepends=True)
    header = [line for line in vcf if line.startswith("#")]
    (folder / "calls.vcf").write_text("".join(vcf[: len(header) + 2]))
    for name, rows in (("hg38.vcf", HG38), ("big.vcf", KINDS)):
        lines = ["##fileformat=VCFv4.2\n", header[-1], *(f"{row}\t.\t.\t.\n" for row in rows)]
        (folder / name).write_text("".join(lines))
    for name in ("hg38.vcf", "big.vcf"):
        pysam.tabix_compress(str(folder / name), str(folder / f"{name}.gz"))
        (folder / name).unlink()
    if CHAIN.exists():
        shutil.copyfile(CHAIN, folder / CHAIN.name)
    with Genome(folder / "hg19.fa.gz") as genome:
        bases, _ = genome.fetch_clipped("chr20", 55_000_000, 55_003_000)
    (folder / "sequences.fa").write_text(f">one\n{bases}\n")


def run(command: Sequence[str], folder: Path, programs: Path = PROGRAMS) -> str:
    """Run a command with genobird on the PATH and return its standard output."""
    path = os.pathsep.join(map(str, (programs, PROGRAMS, os.environ["PATH"])))
    result = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    if result.returncode != 0:
        raise RuntimeError(f"{command}: {result.stderr}")
    return result.stdout


def blocks() -> list[str]:
    """Return the blocks of the README that have output."""
    return OUTPUT.findall(README.read_text(encoding="utf-8"))


def renewed(block: str, folder: Path, programs: Path = PROGRAMS) -> str:
    """Return a block with the present output of its commands."""
    made = ""
    for line in block.splitlines(keepends=True):
        if line.startswith("$ "):
            made += line + run(["bash", "-o", "pipefail", "-c", line[2:]], folder, programs)
    return made


def can_run(block: str) -> bool:
    """Tell whether the files of a block are there; chain files are no part of the project."""
    return CHAIN.name not in block or CHAIN.exists()


def same(one: str, other: str) -> bool:
    """Tell whether outputs are the same but for rounding and time."""
    one, other = (SECONDS.sub("", text) for text in (one, other))
    numbers = zip(NUMBER.findall(one), NUMBER.findall(other), strict=False)
    close = (abs(float(a) - float(b)) <= 0.001 + 0.01 * abs(float(a)) for a, b in numbers)
    return NUMBER.sub("", one) == NUMBER.sub("", other) and all(close)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the output into README.md")
    asked = parser.parse_args(arguments)
    text = README.read_text(encoding="utf-8")
    differs = False
    with tempfile.TemporaryDirectory() as name:
        make_folder(Path(name))
        for block in filter(can_run, blocks()):
            made = renewed(block, Path(name))
            if not same(block, made):
                differs = True
                sys.stdout.write(f"--- README.md\n{block}--- now\n{made}")
                text = text.replace(block, made)
    if asked.write and differs:
        README.write_text(text, encoding="utf-8")
    return int(differs and not asked.write)


if __name__ == "__main__":
    sys.exit(main())
