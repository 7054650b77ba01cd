from __future__ import annotations

import gzip
import math
from pathlib import Path

import pysam
import pysam.bcftools
import pytest

from genobird.cli import main
from genobird.errors import OutOfBoundsError
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.genome.vcf import VcfReader
from genobird.scoring.alleles import all_snvs, union
from tests.cli.conftest import HEADER
from tests.processes import Command, Hit


@pytest.fixture(scope="module")
def options(tiny_genome_path, tiny_checkpoint, tiny_contigs, tmp_path_factory) -> list[str]:
    """Genome, model and a background of a few variants."""
    folder = tmp_path_factory.mktemp("background")
    bases = tiny_contigs["chr2"]
    lines = (
        f"chr2\t{place + 1}\t.\t{bases[place]}\t{'AC'[bases[place] == 'A']}\t.\t.\t.\n"
        for place in range(9_000, 21_000, 2_000)
    )
    (folder / "common.vcf").write_text(HEADER + "".join(lines))
    made = ["--fasta", str(tiny_genome_path), "--model", str(tiny_checkpoint)]
    made += ["--device", "cpu", "--threads", "1"]
    output = str(folder / "out.npz")
    words = ["background", "build", str(folder / "common.vcf"), "-o", output, "--quiet"]
    assert main([*words, *made]) == 0
    return [*made, "--background", output]


def test_every_snv_of_regions_is_a_record_that_others_are_annotated_by(
    options, tmp_path, tiny_contigs, capsys
):
    bed, output = tmp_path / "in.bed", tmp_path / "db.vcf.gz"
    bed.write_text("chr2\t9\t11\n1\t20001\t20003\nchr1\t20000\t20002\n")
    assert main(["build-db", str(bed), *options, "-o", str(output)]) == 0
    told = capsys.readouterr()
    assert "15 SNVs in " in told.err
    with pysam.VariantFile(str(output)) as file:
        found = list(file)
        assert sum(1 for _ in file.fetch("chr2")) == 6
    expected = [
        (contig, place + 1, tiny_contigs[contig][place], alt)
        for contig, first, end in (("chr1", 20_000, 20_003), ("chr2", 9, 11))
        for place in range(first, end)
        for alt in "ACGT"
        if alt != tiny_contigs[contig][place]
    ]
    assert [(one.chrom, one.pos, one.ref, one.alts[0]) for one in found] == expected
    for one in found:
        (rank,), (phred,) = one.info["GB_EVALUE"], one.info["GB_PHRED"]
        assert phred == pytest.approx(-10 * math.log10(rank), abs=1e-3)
    mine = tmp_path / "mine.vcf"
    contig, pos, ref, alt = expected[1]
    mine.write_text(f"{HEADER}{contig}\t{pos}\t.\t{ref}\t{alt}\t.\t.\t.\n")
    pysam.tabix_index(str(mine), preset="vcf")
    annotated = pysam.bcftools.annotate("-a", str(output), "-c", "INFO/GB_PHRED", f"{mine}.gz")
    assert annotated.splitlines()[-1].endswith(f"GB_PHRED={found[1].info['GB_PHRED'][0]:g}")
    vep, _, *stanza = told.out.splitlines()
    assert vep.startswith(f"vep --custom file={output},short_name=genobird,format=vcf,type=exact,")
    assert "GB_PHRED%" in vep
    assert stanza[:2] == ["[[annotation]]", f'file = "{output}"']


def test_a_killed_run_goes_on_to_the_same_bytes(options, tmp_path):
    output, log = tmp_path / "db.vcf.gz", tmp_path / "log"
    words = ["build-db", "chr1:20,001-20,004", *options, "-o", output]
    assert Command(*words, log=log).wait()[0] == 0
    whole = output.read_bytes()
    assert gzip.decompress(whole).count(b"\nchr1\t") == 12
    output.unlink()
    assert Command(*words, log=log, hit=Hit("chunk", 3)).wait()[0] == -9
    assert not output.exists()
    assert Path(f"{output}.partial").exists()
    assert Command(*words, "--resume", log=log).wait()[0] == 0
    assert output.read_bytes() == whole


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["-o", "-"], "output - has an unknown ending; allowed are .vcf.gz"),
        (["-o", "db.vcf"], "unknown ending"),
        (["-o", "db.vcf.gz", "--background", "none"], "no background to rank among"),
    ],
)
def test_what_makes_no_database_is_misuse(more, told, options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["build-db", "chr1:20,001-20,004", *options, *more]) == 2
    assert told in capsys.readouterr().err


def test_intervals_are_joined_in_the_order_of_the_genome_and_n_has_no_snv(tiny_genome_path):
    with Genome(tiny_genome_path) as genome:
        several = [Interval(*one) for one in (("2", 5, 9), ("chr1", 8, 9), ("chr1", 2, 8))]
        assert union(several, genome) == [Interval("chr1", 2, 9), Interval("chr2", 5, 9)]
        with pytest.raises(OutOfBoundsError, match=r"^chr2:6-30,001 ends .* is the region from "):
            union([Interval("chr2", 5, 30_001)], genome)
        with VcfReader(all_snvs([Interval("chrN", 298, 302)], genome, "here")) as reader:
            assert [record.position for record in reader] == [300] * 3 + [301] * 3
