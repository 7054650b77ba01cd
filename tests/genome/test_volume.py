"""Memory does not grow with the number of records."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pysam
import pytest

RECORDS = 100_000
# What one part of a file needs may be asked for twice; all records in memory would take 100 MB.
SLACK_MB = 16

PROGRAM = r"""
import json, re, sys
from genobird.genome.fasta import Genome
from genobird.genome.vcf_writer import InfoField, annotated_copy
from genobird.genome.locus import Locator
from genobird.genome.vcf import VcfReader

source, fasta, output = sys.argv[1:]
INFO = [InfoField("GB_STATUS", "x", "String", "."), InfoField("GB_LLR", "x")]

count = 0
with (
    Genome(fasta) as genome,
    VcfReader(source) as reader,
    annotated_copy(reader, output, INFO, genome=genome) as writer,
):
    locator = Locator(genome, 8_000)
    for count, record in enumerate(reader, start=1):
        statuses = [locator.find(variant).status for variant in record.variants()]
        writer.write(record, {"GB_STATUS": statuses, "GB_LLR": [0.125] * len(record.alts)})
# ru_maxrss would be that of the process that started this one, if it was larger.
peak = int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) / 1024
print(json.dumps({"records": count, "peak_mb": peak}))
"""


def write_records(path: Path, sequence: str, count: int) -> None:
    with pysam.BGZFile(str(path), "wb") as file:
        file.write(b"##fileformat=VCFv4.2\n##contig=<ID=chr1,length=60000>\n")
        file.write(b"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ts1\ts2\n")
        for number in range(count):
            at = number * (len(sequence) - 9) // count
            ref = sequence[at : at + 1 + number % 3]
            alts = ("ACGT"["ACGT".index(ref[0]) - 1], "C,<DEL>", "*")[number % 3]
            columns = ["chr1", str(at + 1), f"rs{number}", ref, alts, "29.5", "PASS", "AC=1;DP=30"]
            file.write(("\t".join([*columns, "GT:DP", "0|1:12", "./.:."]) + "\n").encode())


def measured(folder: Path, fasta: Path, sequence: str, count: int) -> dict[str, float]:
    source, output = folder / f"{count}.vcf.gz", folder / f"{count}.out.vcf.gz"
    write_records(source, sequence, count)
    command = [sys.executable, "-c", PROGRAM, str(source), str(fasta), str(output)]
    run = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    facts: dict[str, float] = json.loads(run.stdout)
    with pysam.VariantFile(str(output)) as file:
        assert sum(1 for _ in file.fetch("chr1", 59_000, 60_000)) > count // 100
    return facts


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from the system")
def test_a_hundred_thousand_records_need_no_more_memory_than_a_few(
    tmp_path: Path, tiny_genome_path: Path, tiny_contigs: dict[str, str]
) -> None:
    few, many = (
        measured(tmp_path, tiny_genome_path, tiny_contigs["chr1"], count)
        for count in (RECORDS // 20, RECORDS)
    )
    assert many["records"] == RECORDS
    assert many["peak_mb"] < few["peak_mb"] + SLACK_MB
