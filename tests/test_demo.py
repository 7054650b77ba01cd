from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from importlib import resources

import pandas as pd
import pysam
import pytest

from genobird import demo, doctor
from genobird.cli import main
from genobird.errors import UsageError
from genobird.files import check_folder
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval, read_bed
from genobird.genome.vcf import VcfReader

ORIGINAL = demo.bundled


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Six regions and three variants of the bundled ones, so that the demo takes seconds."""
    folder = tmp_path / "bundled"
    folder.mkdir()
    for name in (demo.GENOME, f"{demo.GENOME}.fai", f"{demo.GENOME}.gzi"):
        shutil.copy(ORIGINAL(name), folder / name)
    bed = ORIGINAL(demo.REGIONS).read_text().splitlines()
    (folder / demo.REGIONS).write_text("\n".join(bed[:6]) + "\n")
    vcf = ORIGINAL(demo.VARIANTS).read_text().splitlines()
    (folder / demo.VARIANTS).write_text("\n".join(vcf[:7]) + "\n")
    monkeypatch.setattr(demo, "bundled", lambda name: folder / name)
    return tmp_path


def run(output, model, *more):
    return main(["demo", "--output", str(output), "--model", str(model), "--device", "cpu", *more])


def test_the_demo_writes_its_files_and_says_what_it_found(small, tiny_checkpoint, capsys):
    output = small / "out"
    assert run(output, tiny_checkpoint) == 0
    assert {path.name for path in output.iterdir()} == set(demo.FILES)
    said = capsys.readouterr().out
    for name in demo.FILES:
        assert str(output / name) in said
    assert "FAM210B_1" in said
    assert re.search(r"rs\d+ +chr20:\d+ [ACGT]>[ACGT] ", said)
    assert "6 of 6 regions, 3 of 3 alleles" in said

    regions = pd.read_csv(output / "regions.tsv", sep="\t")
    assert list(regions["name"])[:2] == ["FAM210B_1", "AURKA_1"]
    assert (regions["status"] == "OK").all()
    assert pd.read_parquet(output / "variants.parquet")["pos"].tolist()[0] == 54_932_006
    with pysam.VariantFile(str(output / "variants.vcf.gz")) as file:
        first = next(file.fetch("chr20", 54_932_005, 54_932_006))
        assert first.id == "rs2012397"
        assert first.info["GB_STATUS"] == ("OK",)


def test_the_report_of_the_demo_stands_alone(small, tiny_checkpoint):
    assert run(small / "out", tiny_checkpoint, "--quiet") == 0
    page = (small / "out" / "report.html").read_text()
    assert "rs2012397" in page
    assert "GRCh37" in page

    class Links(HTMLParser):
        found: list[str]

        def handle_starttag(self, tag, attributes):
            self.found += [tag] if tag in ("script", "link", "img", "iframe") else []
            for name, value in attributes:
                outside = name in ("src", "href", "xlink:href") and not str(value).startswith("#")
                self.found += [f"{name}={value}"] if outside else []

    links = Links()
    links.found = []
    links.feed(page)
    assert links.found == []


def test_the_demo_twice_gives_the_same_tables(small, tiny_checkpoint):
    for name in ("one", "two"):
        assert run(small / name, tiny_checkpoint, "--quiet") == 0
    tsv, parquet = ("regions.tsv", "variants.parquet")
    assert (small / "one" / tsv).read_bytes() == (small / "two" / tsv).read_bytes()
    pd.testing.assert_frame_equal(
        pd.read_parquet(small / "one" / parquet), pd.read_parquet(small / "two" / parquet)
    )


def test_force_replaces_results_and_leaves_other_files(small, tiny_checkpoint, capsys):
    output = small / "out"
    output.mkdir()
    (output / "notes.txt").write_text("mine\n")
    (output / "regions.tsv").write_text("old\n")
    assert run(output, tiny_checkpoint) == 2
    assert (output / "regions.tsv").read_text() == "old\n"
    assert run(output, tiny_checkpoint, "--force") == 0
    assert (output / "notes.txt").read_text() == "mine\n"
    assert (output / "regions.tsv").read_text() != "old\n"


def test_a_demo_that_fails_leaves_nothing(small, tiny_checkpoint, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo, "render", full)
    before = sorted(small.rglob("*"))
    assert run(small / "out", tiny_checkpoint) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"genobird: error: .*out cannot be written: No space left on .*", error)
    assert sorted(small.rglob("*")) == before


def test_a_file_is_no_place_for_the_demo(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match=r"out is a file, and output .* needs a folder"):
        check_folder(tmp_path / "out", force=True)


def test_bundled_regions_and_variants_lie_in_the_bundled_sequence():
    with Genome(ORIGINAL(demo.GENOME)) as genome:
        for region in read_bed(ORIGINAL(demo.REGIONS)):
            text, _ = genome.fetch_clipped(region.contig, *region.window(8_100, 8_100))
            assert "N" not in text
        with VcfReader(ORIGINAL(demo.VARIANTS)) as reader:
            for record in reader:
                end = record.position + len(record.ref)
                at = Interval(record.contig, record.position, end)
                assert genome.fetch(at) == record.ref


def test_doctor_compares_with_what_was_recorded(small, tiny_checkpoint, tmp_path, monkeypatch):
    bundled = tmp_path / "package"
    (bundled / "bundled").mkdir(parents=True)
    recorded = bundled / "bundled" / doctor.SELF_TEST
    doctor.record(recorded, tiny_checkpoint)
    monkeypatch.setattr(resources, "files", lambda _: bundled)

    def self_test() -> doctor.Check:
        return list(doctor.examine(tiny_checkpoint))[-1]

    assert self_test().finding is doctor.Finding.OK
    values = json.loads(recorded.read_text())
    values["probabilities"]["promoter"] += 0.01
    recorded.write_text(json.dumps(values))
    check = self_test()
    assert check.finding is doctor.Finding.BROKEN
    assert "differ by up to 0.01" in check.detail
    assert not doctor.healthy([check])
    recorded.write_text(json.dumps({**values, "model": "another"}))
    assert self_test().finding is doctor.Finding.NOTE
