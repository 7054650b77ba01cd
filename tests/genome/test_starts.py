from __future__ import annotations

import gzip

import pytest

from genobird.errors import AssemblyError, BedError, TableError, UsageError
from genobird.genome.fasta import Genome
from genobird.genome.starts import Start, Starts, read_starts

GTF = """#!genome-build GRCh37
1\thavana\tgene\t1001\t2000\t.\t+\t.\tgene_id "ENSG1"; gene_name "FIRST";
1\thavana\ttranscript\t1101\t2000\t.\t+\t.\tgene_id "ENSG1"; gene_name "FIRST";
1\thavana\texon\tx\ty\t.\t+\t.\tgene_id "ENSG1";
1\thavana\tgene\t3001\t4000\t.\t-\t.\tgene_id "ENSG2";
hs37d5\thavana\tgene\t1\t2\t.\t+\t.\tgene_id "ENSG3";
"""
GFF = """##gff-version 3
chr1\trefseq\tgene\t1001\t2000\t.\t+\t.\tID=gene1;Name=FIRST;gene_biotype=x
chr1\trefseq\tmRNA\t3001\t4000\t.\t-\t.\tID=rna2;gene=SECOND
"""
BED = "chr1\t1000\t2000\tFIRST\t0\t+\nchr1\t3000\t4000\tSECOND\t0\t-\n"


@pytest.fixture
def genome(tiny_genome_path):
    with Genome(tiny_genome_path) as genome:
        yield genome


@pytest.mark.parametrize(
    ("name", "text", "second"),
    [("g.gtf", GTF, "ENSG2"), ("g.gff3.gz", GFF, "SECOND"), ("g.bed", BED, "SECOND")],
    ids=["gtf", "gff3", "bed"],
)
def test_a_start_is_the_5_prime_end_of_its_gene(tmp_path, genome, name, text, second):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    found = list(read_starts(path))
    assert (found[0].position, found[0].strand, found[0].gene) == (1000, "+", "FIRST")
    assert Start("chr1", 3999, "-", second) in [one._replace(contig="chr1") for one in found]

    starts = Starts(path, genome)
    assert starts.nearest("chr1", 0) == ("FIRST", -1000)
    assert starts.nearest("chr1", 1000) == ("FIRST", 0)
    assert starts.nearest("chr1", 3900) == (second, 99)
    assert starts.nearest("chr1", 50_000) == (second, -46_001)
    assert starts.nearest("chr2", 5) is None


def test_of_two_starts_as_near_the_smaller_position_and_then_the_first_name_is_told(
    tmp_path, genome
):
    rows = [(90, "b", "+"), (90, "a", "+"), (110, "c", "-")]
    lines = [f"chr1\t{at}\t{at + 1}\t{name}\t0\t{strand}\n" for at, name, strand in rows]
    (tmp_path / "g.bed").write_text("".join(lines))
    starts = Starts(tmp_path / "g.bed", genome)
    assert starts.nearest("chr1", 100) == ("a", 10)
    assert starts.nearest("chr1", 101) == ("c", 9)


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("g.gtf", "chr1\tx\tgene\t-5\t9\t.\t+\t.\tID=a\n", TableError, "line 1 is no gene; needed"),
        (
            "g.gtf",
            f"chr1\tx\tgene\t{'9' * 30}\t9\t.\t+\t.\tID=a\n",
            TableError,
            "line 1 is no gene",
        ),
        ("g.gtf", "chr1 gene 5 9\n", TableError, "line 1 is no gene"),
        ("g.gtf", "# nothing\n", TableError, "has no start of a gene; give a GTF, GFF3 or BED"),
        ("g.bed", "chr1\tx\ty\n", BedError, "line 1"),
        ("g.bed", "chrUn\t1\t2\tA\t0\t+\n", AssemblyError, "no gene of .* lies on a contig of"),
    ],
)
def test_what_is_no_gene_file_is_refused(tmp_path, genome, name, text, error, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=message):
        Starts(tmp_path / name, genome)
    with pytest.raises(UsageError, match="lost"):
        Starts(tmp_path / "lost.gtf", genome)
