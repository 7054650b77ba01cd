from __future__ import annotations

import jsonschema
import pytest
import yaml

from genobird.errors import ConfigError, OutOfBoundsError, UsageError
from genobird.genome.interval import Interval
from pipelines import manifest
from pipelines.manifest import FOLDER, Splits

FILES = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "schema.yaml")
ENTRY = {"name": "a.fa", "licence": "public domain"}
FACTS = {"kind": "files", "name": "x", "assembly": "GRCh37", "citation": "None.", "files": [ENTRY]}


def write(tmp_path, document):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_manifest_fits_the_published_schema(path):
    schema = yaml.safe_load((FOLDER / "schema.yaml").read_text())
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(path.read_text()))


def test_the_published_schema_is_that_of_the_models():
    assert (FOLDER / "schema.yaml").read_text() == manifest.schema()


@pytest.mark.parametrize("name", ["grch37", "promoters", "chromatin"])
def test_every_file_has_a_url_or_an_origin(name):
    for file in manifest.load(name).files:
        assert file.url or file.origin, file.name
        assert file.sha256 or file.md5 or file.md5sums or "record" in file.note, file.name


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["grch37", "promoters", "chromatin"])
def test_files_on_disk_have_the_size_that_is_stated(name, shared_data):
    for file in manifest.load(name).files:
        if (shared_data / file.name).is_file():
            assert (shared_data / file.name).stat().st_size == file.size


@pytest.mark.realdata
def test_contig_lengths_are_those_of_the_published_table(shared_data):
    lines = (shared_data / "annotation" / "hg19.chrom.sizes").read_text().splitlines()
    sizes = {name: int(size) for name, size in (line.split() for line in lines)}
    contigs = manifest.load("grch37").contigs
    assert len(contigs) == 24
    assert contigs == {name: sizes[name] for name in contigs}


def test_the_available_split_is_half_open_and_spares_the_reserved_regions():
    splits = manifest.load_splits("available")
    assert splits.train == (Interval("chr20", 0, 50_000_000), Interval("chrX", 0, 69_999_930))
    assert splits.validation == (Interval("chr20", 50_000_000, 54_000_000),)
    assert splits.test == (Interval("chr20", 54_000_000, 58_000_000),)
    assert splits.of("chr20", 58_000_000, 58_000_001) is None
    assert splits.of("chr22", 20_000_000, 20_000_001) is None
    assert splits.contigs == ["chr20", "chrX"]


def test_the_paper_split_never_trains_on_chr8_chr9_or_the_locus_of_chr7():
    splits = manifest.load_splits("paper")
    lengths = manifest.load("grch37").contigs
    assert {interval.contig for interval in splits.test} == {"chr8", "chr9"}
    assert splits.of("chr7", 30_508_750, 35_296_850) == ("validation", splits.validation[0])
    everything = sum((i.length for part in splits.parts.values() for i in part), 0)
    assert everything == sum(lengths.values()) - lengths["chrY"]


def test_a_window_over_a_border_belongs_to_no_part():
    splits = manifest.load_splits("available")
    assert splits.of("chr20", 49_999_000, 50_000_000) == ("train", splits.train[0])
    assert splits.of("chr20", 49_999_001, 50_000_001) is None


def test_parts_must_not_overlap():
    with pytest.raises(ConfigError, match="chr1:1-10 and chr1:10-20 overlap"):
        Splits("x", (Interval("chr1", 0, 10),), (), (Interval("chr1", 9, 20),))


def test_an_interval_must_end_within_its_contig_where_that_is_there():
    splits = Splits("x", (Interval("chr1", 0, 100), Interval("chr2", 0, 50)), (), ())
    splits.refuse_outside({"chr1": 100})
    with pytest.raises(OutOfBoundsError, match=r"x: chr2:1-50 of train ends after chr2, .* 49 bp"):
        splits.refuse_outside({"chr1": 100, "chr2": 49})


def test_an_unknown_key_of_a_split_is_the_one_that_is_named(tmp_path):
    parts = {"description": "d", "trian": [], "validation": [], "test": [], "reserved": []}
    path = write(tmp_path, {"kind": "splits", "assembly": "x", "splits": {"mine": parts}})
    message = r"unknown key splits\.mine\.trian; allowed here: description, reserved, test, train,"
    with pytest.raises(ConfigError, match=message):
        manifest.load_splits("mine", path)
    del parts["trian"]
    path = write(tmp_path, {"kind": "splits", "assembly": "x", "splits": {"mine": parts}})
    with pytest.raises(ConfigError, match=r"x\.yaml: splits\.mine\.train: Field required$"):
        manifest.load_splits("mine", path)


@pytest.mark.parametrize("document", [None, [1], {"splits": {}}, {"kind": ["files"]}])
def test_a_document_of_no_known_kind_is_refused(tmp_path, document):
    with pytest.raises(ConfigError, match=r"x\.yaml has no `kind: files` or `kind: splits`"):
        manifest.load(write(tmp_path, document))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "abc"}, "sha256"),
        ({"name": "../a.fa"}, "must stay inside"),
        ({"name": "/a.fa"}, "must stay inside"),
        ({"url": "ftp://host/a.fa"}, "https://"),
        ({"url": "http://host/a.fa"}, "https://"),
        ({"md5sums": "http://host/md5sum.txt"}, "https://"),
        ({"sha265": "typo"}, "sha265"),
        ({"size": -1}, "size"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_place(tmp_path, change, message):
    path = write(tmp_path, FACTS | {"files": [ENTRY | change]})
    with pytest.raises(ConfigError, match=message):
        manifest.load(path)


def test_two_files_of_one_name_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"named twice: a\.fa"):
        manifest.load(write(tmp_path, FACTS | {"files": [ENTRY, ENTRY]}))


def test_text_that_is_no_yaml_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_text("kind: [")
    with pytest.raises(ConfigError, match=r"is not YAML: .* line 1, column 8"):
        manifest.load(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00kind")
    with pytest.raises(ConfigError, match="is not YAML: 'utf-8' codec"):
        manifest.load_splits("mine", tmp_path / "x.yaml")


def test_unknown_names_list_the_known_ones(tmp_path):
    with pytest.raises(UsageError, match="data_manifests/ has chromatin"):
        manifest.load("hg99")
    with pytest.raises(UsageError, match="it has available, sites, second, paper"):
        manifest.load_splits("mine")
    with pytest.raises(UsageError, match=r"it has a\.fa"):
        manifest.load(write(tmp_path, FACTS)).file("b.fa")
    with pytest.raises(UsageError, match="lists splits"):
        manifest.load("splits")
    with pytest.raises(UsageError, match="lists files"):
        manifest.load_splits("available", FOLDER / "grch37.yaml")
