"""Records a second through VCF where nothing is scored, beside `bcftools view` and pysam.

    python -m tests.benchmarks.bench_vcf sites.vcf.gz chr20.fa.gz --times 4

From the sites a VCF is made none of whose records can be scored: a wrong REF, an ALT `*` and no
ALT, in turn. All ways read that text, and write text and BGZF; genobird alone makes an index. CPU
time of one thread; the model is loaded before. The first way is the unit of the last column.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pysam

from genobird.genome.fasta import Genome
from genobird.genome.vcf import VcfReader
from genobird.scoring.scorer import Scorer, load
from genobird.scoring.settings import ScanSettings
from genobird.scoring.variant_vcf import annotate_variants
from tests.benchmarks.bench_variants import row, say
from tests.benchmarks.timing import cpu_name

HEAD = ("way", "output", "records a second", "times as slow")
OTHER = dict(zip("ACGTN", "CGTAA", strict=True))
Way = Callable[[Path, Path], object]


def unscored(source: Path, target: Path, times: int) -> int:
    """Write each record of a VCF several times, so that none can be scored; return their number."""
    count = 0
    with VcfReader(source) as reader, target.open("w") as file:
        file.writelines(f"{line}\n" for line in reader.header)
        for record in reader:
            chrom, pos, name, ref, _, *rest = record.columns
            wrong = OTHER.get(ref[0].upper(), "A")
            kinds = ((wrong, OTHER[wrong]), (ref, "*"), (ref, "."))
            for _ in range(times):
                cells = (chrom, pos, name, *kinds[count % 3], *rest, record.info)
                file.write("\t".join(cells) + f"{record.rest}\n")
                count += 1
    return count


def genobird(scorer: Scorer, genome: Genome) -> Way:
    return lambda source, target: annotate_variants(
        scorer, source, genome, target, settings=ScanSettings(ignore_build=True)
    )


def bcftools(source: Path, target: Path) -> None:
    kind = "z" if target.suffix == ".gz" else "v"
    command = ["bcftools", "view", "--no-version", f"-O{kind}", "-o", str(target), str(source)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def pysam_loop(source: Path, target: Path) -> None:
    mode = "wz" if target.suffix == ".gz" else "w"
    with (
        pysam.VariantFile(str(source)) as records,
        pysam.VariantFile(str(target), mode, header=records.header) as output,
    ):
        for record in records:
            output.write(record)


def cpu_time() -> float:
    """CPU seconds of this process and of those that it waited for."""
    used = [resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vcf", type=Path)
    parser.add_argument("fasta", type=Path)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--times", type=int, default=1, help="how often the sites are repeated")
    asked = parser.parse_args(arguments)
    scorer = load(asked.model, "cpu", threads=1)
    with Genome(asked.fasta) as genome, tempfile.TemporaryDirectory() as folder:
        genome.sha256()  # reads the whole file once, however many records there are
        ways: dict[str, Way] = {
            **({"bcftools view": bcftools} if shutil.which("bcftools") else {}),
            "pysam, records read and written": pysam_loop,
            "genobird variants": genobird(scorer, genome),
        }
        source = Path(folder) / "unscored.vcf"
        count = unscored(asked.vcf, source, asked.times)
        say(f"{count:,} records of {asked.vcf.name}, none scored, {cpu_name()}\n")
        row(*HEAD)
        say("|---" * len(HEAD) + "|")
        for ending in (".vcf", ".vcf.gz"):
            unit = 0.0
            for number, (name, way) in enumerate(ways.items()):
                began = cpu_time()
                way(source, Path(folder) / f"{number}{ending}")
                seconds = cpu_time() - began
                unit = unit or seconds
                row(name, ending, f"{count / seconds:,.0f}", f"{seconds / unit:.1f}")


if __name__ == "__main__":
    main()
