from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from genobird.checkpoint import require_free_names
from genobird.datasets import ChromatinDataset
from genobird.errors import ContigError, OutOfBoundsError, TableError, UsageError
from genobird.genome.interval import Interval
from genobird.peaks import Feature, Track, bins_inside, feature_table, labels
from pipelines import chromatin, grch37
from pipelines.manifest import Splits
from tests.conftest import random_dna, write_fasta

SPLITS = Splits(
    "tiny",
    (Interval("chr1", 0, 30_100),),
    (Interval("chr1", 30_100, 40_000),),
    (Interval("chr1", 40_000, 50_000),),
)
FEATURES = [
    Feature(3, "K562|DNase|None", "DNase", "a.narrowPeak"),
    Feature(130, "K562|CTCF|None#130", "TF", "b.narrowPeak"),
]


def peaks(*places):
    return {"chr1": np.array(places, dtype=np.int64).reshape(-1, 2)}


def track(*places, feature=FEATURES[0]):
    return Track(feature, peaks(*places))


def test_bins_over_a_border_of_the_split_belong_to_no_part():
    masks = {part: bins_inside(spans, "chr1", 300) for part, spans in SPLITS.parts.items()}
    assert masks["train"].nonzero()[0].tolist() == list(range(150))
    assert masks["validation"].nonzero()[0].tolist() == list(range(151, 200))
    assert masks["test"].nonzero()[0].tolist() == list(range(200, 250))
    assert not bins_inside(SPLITS.train, "chr2", 10).any()


@pytest.fixture
def genome_path(tmp_path):
    sequence = random_dna(60_050, seed=5)
    return write_fasta(tmp_path / "g.fa", {"chr1": sequence[:1000] + "N" + sequence[1001:]})


def build(genome_path, output, tracks, **options):
    with grch37.locate([genome_path], ["chr1"]) as contigs:
        return chromatin.build(tracks, contigs, SPLITS, output, **options)


def test_a_dataset_holds_what_was_promised(genome_path, tmp_path):
    many = [(start, start + 150) for start in range(0, 60_000, 400)]
    tracks = [
        track(*many),
        track((200, 400), feature=FEATURES[1]),
        track(*many[::2], feature=Feature(-1, "mine", "custom")),
    ]
    counts = build(genome_path, tmp_path / "d", tracks, min_positives=5, sources={"x": "y"})
    index = json.loads((tmp_path / "d" / "index.json").read_text())
    table = pd.read_csv(tmp_path / "d" / "features.tsv", sep="\t")
    assert table["name"].tolist() == ["K562|DNase|None", "mine"]
    assert table["index"].tolist() == [3, -1]
    assert index["left_out"] == ["K562|CTCF|None#130"]
    assert index["bins"] == counts.bins == {"train": 149, "validation": 49, "test": 50}
    assert index["splits"]["test"] == [["chr1", 40_000, 50_000]]
    assert index["sources"] == {"x": "y"}

    sequence = np.load(tmp_path / "d" / "chr1.sequence.npy")
    usable = np.load(tmp_path / "d" / "chr1.usable.npy")
    packed = np.load(tmp_path / "d" / "chr1.labels.npy")
    assert (sequence.dtype, len(sequence), chr(sequence[1000])) == (np.uint8, 60_050, "N")
    assert np.flatnonzero(usable == 0).tolist() == [5, 150, *range(250, 300)]
    assert (packed.dtype, packed.shape) == (np.uint8, (300, 1))
    table_of = np.unpackbits(packed, axis=1, bitorder="little", count=2)
    assert np.flatnonzero(table_of[:, 0]).tolist() == list(range(0, 300, 2))
    assert np.flatnonzero(table_of[:, 1]).tolist() == list(range(0, 300, 4))
    assert index["positives"]["train"] == counts.positives["train"].tolist() == [75, 38]

    quality = pd.read_csv(tmp_path / "d" / "qc.tsv", sep="\t").set_index("name")
    assert quality["kept"].tolist() == [1, 0, 1]
    assert quality.loc["K562|CTCF|None#130", "train_positives"] == 1
    assert quality.loc["K562|DNase|None", "covered_bp"] == 150 * 150


def test_the_same_input_gives_the_same_bytes(genome_path, tmp_path):
    many = [(start, start + 150) for start in range(0, 60_000, 400)]
    for name in ("a", "b"):
        build(genome_path, tmp_path / name, [track(*many)])
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_features_without_enough_positives_leave_nothing_to_learn(genome_path, tmp_path):
    with pytest.raises(UsageError, match="none of 1 features has 50 positive training bins"):
        build(genome_path, tmp_path / "d", [track((200, 400))])
    assert not list(tmp_path.glob("*d*"))


def test_a_split_that_ends_after_its_contig_is_refused(tmp_path):
    # Training ended in an IndexError, for the file of bins was shorter than the split.
    path = write_fasta(tmp_path / "short.fa", {"chr1": random_dna(49_900, seed=5)})
    message = r"chr1:40,001-50,000 of test ends after chr1, which has 49,900 bp in the FASTA; give"
    with pytest.raises(OutOfBoundsError, match=message):
        build(path, tmp_path / "d", [track((200, 400))])
    assert not (tmp_path / "d").exists()


def test_contigs_of_the_split_may_be_missing(genome_path, tmp_path):
    splits = Splits("two", (*SPLITS.train, Interval("chr2", 0, 9_000_000)), (), ())
    many = [(start, start + 150) for start in range(0, 60_000, 400)]
    with grch37.locate([genome_path], splits.contigs) as contigs:
        chromatin.build([track(*many)], contigs, splits, tmp_path / "d")
    assert ChromatinDataset(tmp_path / "d").intervals("train") == list(SPLITS.train)


def test_a_peak_that_ends_after_its_contig_tells_of_another_assembly(genome_path, tmp_path):
    message = r"^a\.narrowPeak: the peak chr1:60,001-60,051 ends after chr1 \(60,050 bp\); are the"
    with pytest.raises(OutOfBoundsError, match=message):
        build(genome_path, tmp_path / "d", [track((0, 400), (60_000, 60_051))])
    assert not (tmp_path / "d").exists()


def test_peaks_elsewhere_are_left_out_and_counted(genome_path, tmp_path, caplog):
    many = [(start, start + 150) for start in range(0, 60_000, 400)]
    mixed = Track(FEATURES[0], {"1": peaks(*many)["chr1"], "chr9": np.array([[1, 2], [3, 4]])})
    other = Track(FEATURES[1], {"chrX": np.array([[5, 6]])})
    build(genome_path, tmp_path / "d", [mixed, other])
    assert (
        "2 tracks: 3 of 153 peaks lie on chr9, chrX, not in the split's contigs of" in caplog.text
    )
    quality = pd.read_csv(tmp_path / "d" / "qc.tsv", sep="\t")
    assert quality["peaks"].tolist() == [150, 0]
    assert quality["train_positives"].tolist() == [75, 0]
    with pytest.raises(ContigError, match=r"1 of 1 peaks lie on chrX, .*; check the assembly$"):
        build(genome_path, tmp_path / "e", [other])


def test_force_replaces_a_dataset_and_nothing_else(genome_path, tmp_path):
    many = [(start, start + 150) for start in range(0, 60_000, 400)]
    (tmp_path / "d").mkdir()
    for _ in range(2):
        build(genome_path, tmp_path / "d", [track(*many)], force=True)
    (tmp_path / "d" / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"d holds notes\.txt, which genobird does not write"):
        build(genome_path, tmp_path / "d", [track(*many)], force=True)
    (tmp_path / "thesis").mkdir()
    for name in ("chapter.txt", "index.json"):
        (tmp_path / "thesis" / name).touch()
    with pytest.raises(UsageError, match="thesis exists and is no chromatin dataset"):
        build(genome_path, tmp_path / "thesis", [track(*many)], force=True)
    assert (tmp_path / "thesis" / "chapter.txt").exists()


def write_tables(folder, rows, tracks=((7, 130), (8, 3), (9, -1), (10, 130))):
    pd.DataFrame(rows, columns=["chrom", "start", "end", "track_id"]).to_csv(
        folder / "peaks.tsv.gz", sep="\t", index=False
    )
    pd.DataFrame(tracks, columns=["track_id", "deepsea_index"]).to_csv(
        folder / "tracks.tsv", sep="\t", index=False
    )
    return folder / "peaks.tsv.gz", folder / "tracks.tsv"


def test_tracks_come_in_the_official_order_and_one_feature_s_are_joined(tmp_path):
    rows = [("chr1", 5, 9, 7), ("chr1", 1, 2, 8), ("chr2", 0, 3, 10), ("chr1", 4, 5, 9)]
    found = chromatin.read_peak_table(*write_tables(tmp_path, rows), FEATURES)
    assert [t.feature for t in found] == FEATURES
    assert found[1].peaks["chr1"].tolist() == [[5, 9]]
    assert found[1].peaks["chr2"].tolist() == [[0, 3]]


def test_other_tracks_are_features_of_one_s_own(tmp_path):
    rows = [("chr1", 5, 9, 7), ("chr1", 1, 2, 8), ("chr2", 0, 3, 4)]
    peaks, tracks = write_tables(tmp_path, rows)
    names = ["track_id", "deepsea_index", "source_file"]
    table = [(8, -1, "b.narrowPeak.gz"), (7, 3, "a.narrowPeak"), (4, -1, "my.own.bed")]
    pd.DataFrame(table, columns=names).to_csv(tracks, sep="\t", index=False)
    found = chromatin.read_other_tracks(peaks, tracks)
    assert [t.feature for t in found] == [
        Feature(-1, "my.own", "custom"), Feature(-1, "b", "custom"),
    ]  # fmt: skip
    assert [{c: p.tolist() for c, p in t.peaks.items()} for t in found] == [
        {"chr2": [[0, 3]]}, {"chr1": [[1, 2]]},
    ]  # fmt: skip
    pd.DataFrame(table[1:2], columns=names).to_csv(tracks, sep="\t", index=False)
    with pytest.raises(UsageError, match="has no other tracks"):
        chromatin.read_other_tracks(peaks, tracks)
    pd.DataFrame([*table, (9, -1, "b.bed")], columns=names).to_csv(tracks, sep="\t", index=False)
    with pytest.raises(TableError, match="two other tracks have the name b"):
        chromatin.read_other_tracks(peaks, tracks)
    with pytest.raises(UsageError, match="--others chooses among --tracks"):
        chromatin.main([], tmp_path / "out", bed=[peaks], others=True)


def test_impossible_tables_are_refused(tmp_path):
    with pytest.raises(TableError, match="chr1 9 9 has no length"):
        chromatin.read_peak_table(*write_tables(tmp_path, [("chr1", 9, 9, 7)]), FEATURES)
    with pytest.raises(TableError, match="deepsea_index 5 is not in"):
        chromatin.read_peak_table(*write_tables(tmp_path, [], [(1, 5)]), FEATURES)
    (tmp_path / "tracks.tsv").write_text("track\tdeepsea_index\n")
    with pytest.raises(TableError, match="has no column track_id"):
        chromatin.read_peak_table(tmp_path / "peaks.tsv.gz", tmp_path / "tracks.tsv", FEATURES)
    with pytest.raises(UsageError, match="no file"):
        chromatin.read_peak_table(tmp_path / "peaks.tsv.gz", tmp_path / "absent", FEATURES)


def test_peak_files_are_official_by_name_or_one_s_own(tmp_path):
    folder = tmp_path / "peaks"
    folder.mkdir()
    for name in ("my.track.bed", "b.narrowPeak", "a.narrowPeak"):
        (folder / name).write_text("chr1\t10\t20\nchr1\t5\t7\n")
    (folder / "notes.txt").write_text("not peaks")
    found = chromatin.read_peak_files([folder], FEATURES)
    assert [t.feature.name for t in found] == [f.name for f in FEATURES] + ["my.track"]
    assert found[2].feature.index == -1
    assert found[2].peaks["chr1"].tolist() == [[10, 20], [5, 7]]
    with pytest.raises(UsageError, match=r"two peak files make the feature my\.track"):
        chromatin.read_peak_files([folder, folder / "my.track.bed"], FEATURES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no"):
        chromatin.read_peak_files([tmp_path / "empty"], FEATURES)


def test_official_features_keep_unique_columns():
    features = chromatin.read_features(chromatin.FEATURES)
    assert len(features) == 919
    assert features[338].name == "K562|CTCF|None#338"
    kinds = [feature.kind for feature in features]
    assert kinds == ["DNase"] * 125 + ["TF"] * 690 + ["histone"] * 104
    require_free_names(feature_table(features))  # so they can be trained


@pytest.mark.realdata
def test_transcription_starts_are_open_and_random_places_are_not(shared_data):
    features = chromatin.read_features(chromatin.FEATURES)
    tracks = chromatin.read_peak_table(
        shared_data / "chromatin" / "peaks.chr20_chrX.tsv.gz",
        shared_data / "chromatin" / "tracks.tsv",
        features,
    )
    assert len(tracks) == 261
    (dnase,) = (t for t in tracks if t.feature.name == "GM12878|DNase|None")
    open_bins = labels([dnase], "chr20", 290_000)[:, 0]
    bed = pd.read_csv(
        shared_data / "promoters" / "epdnew_human_006_hg19.bed", sep="\t", header=None
    )
    starts = bed.loc[bed[0] == "chr20", 1].to_numpy() // 200
    assert open_bins[starts].mean() > 0.2
    assert open_bins.mean() < 0.02
