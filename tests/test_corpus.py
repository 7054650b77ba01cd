from __future__ import annotations

import gzip
import json
import logging
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from genobird import corpus as corpora
from genobird.corpus import CorpusSettings, build, draw, inside_regions, read, too_much_n
from genobird.errors import AssemblyError, ContigError, InputError, OutOfBoundsError, UsageError
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.genome.sequence import n_fraction, n_runs, reverse_complement

SMALL = CorpusSettings(passes=2, start_max=500, sentences=(3, 6), sentence_bp=(50, 100))
settings_drawn = st.builds(
    CorpusSettings,
    start_max=st.integers(0, 300),
    sentences=st.sampled_from([(1, 1), (2, 5)]),
    sentence_bp=st.sampled_from([(1, 1), (5, 9), (30, 30)]),
    both_strands=st.booleans(),
    seed=st.integers(0, 2**40),
)


def write_fasta(path: Path, contigs: dict[str, str]) -> Path:
    path.write_text("".join(f">{name}\n{bases}\n" for name, bases in contigs.items()))
    return path


def frame_of(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path / "sentences.parquet")


@given(settings=settings_drawn, length=st.integers(0, 2_000), pass_index=st.integers(0, 3))
def test_sentences_follow_the_law(settings: CorpusSettings, length: int, pass_index: int) -> None:
    drawn = draw(length, settings, "chr1", pass_index)
    forward = drawn[~drawn["reverse"]]
    if not len(forward):
        assert not len(drawn)
        assert length <= settings.start_max
        return
    assert forward["start"][0] <= settings.start_max
    assert forward["end"][-1] == length
    fewest, most = settings.sentences
    shortest, longest = settings.sentence_bp
    lengths = corpora.span_bp(forward)
    assert (forward["end"][:-1] == forward["start"][1:]).all()
    assert ((shortest <= lengths[:-1]) & (lengths[:-1] <= longest)).all()
    assert 0 < lengths[-1] <= longest
    assert set(np.diff(forward["document"])) <= {0, 1}
    counts = np.bincount(forward["document"])
    assert all(fewest <= count <= most for count in counts[:-1])
    assert 0 < counts[-1] <= most


def test_the_defaults_are_the_papers() -> None:
    rows = draw(60_000_000, CorpusSettings(), "chr20", 0)
    lengths = corpora.span_bp(rows)[:-1]
    per_document = np.bincount(rows["document"])[:-1]
    assert (lengths.min(), lengths.max()) == (500, 1_000)
    assert (per_document.min(), per_document.max()) == (50, 100)
    assert lengths.mean() == pytest.approx(750, abs=5)
    assert per_document.mean() == pytest.approx(75, abs=2)
    starts = [int(draw(10_000, CorpusSettings(), f"c{i}", 0)["start"][0]) for i in range(3_000)]
    assert min(starts) < 20
    assert 4_980 < max(starts) <= 5_000
    assert np.mean(starts) == pytest.approx(2_500, abs=100)


def test_draws_depend_on_seed_contig_and_pass_only() -> None:
    rows = draw(50_000, SMALL, "chr1", 0)
    assert np.array_equal(rows, draw(50_000, SMALL, "chr1", 0))
    other_seed = SMALL.model_copy(update={"seed": 1})
    for other in (
        draw(50_000, SMALL, "chr1", 1),
        draw(50_000, SMALL, "chr2", 0),
        draw(50_000, other_seed, "chr1", 0),
    ):
        assert rows["start"][:50].tolist() != other["start"][:50].tolist()


def test_the_draw_is_pinned() -> None:
    rows = draw(100_000, CorpusSettings(), "chr1", 0)
    assert rows[:3].tolist() == [
        (0, 4019, 4646, False),
        (0, 4646, 5231, False),
        (0, 5231, 5918, False),
    ]


def test_both_strands_read_the_same_documents_backwards() -> None:
    settings = SMALL.model_copy(update={"both_strands": True})
    drawn = draw(3_000, settings, "chr1", 0)
    forward, reverse = (drawn[drawn["reverse"] == strand] for strand in (False, True))
    assert np.array_equal(forward, draw(3_000, SMALL, "chr1", 0))
    for name in ("start", "end"):
        assert np.array_equal(reverse[name], forward[name][::-1])
    last = forward["document"][-1]
    assert np.array_equal(reverse["document"], 2 * last + 1 - forward["document"][::-1])
    assert np.array_equal(drawn["document"], np.sort(drawn["document"]))


@given(text=st.text(alphabet="AN", min_size=1, max_size=200), limit=st.floats(0, 1))
def test_share_of_n_is_counted_base_by_base(text: str, limit: float) -> None:
    settings = CorpusSettings(start_max=5, sentences=(1, 3), sentence_bp=(3, 20))
    rows = draw(len(text), settings, "chr1", 0)
    expected = [
        text[r["start"] : r["end"]].count("N") > limit * (r["end"] - r["start"]) for r in rows
    ]
    assert too_much_n(rows, n_runs(text), limit).tolist() == expected


@given(bounds=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 200)), max_size=6))
def test_a_sentence_is_kept_when_one_region_holds_all_of_it(bounds: list[tuple[int, int]]) -> None:
    regions = [Interval("chr1", start, start + length) for start, length in bounds]
    settings = CorpusSettings(start_max=5, sentences=(1, 3), sentence_bp=(3, 40))
    rows = draw(500, settings, "chr1", 0)
    expected = [
        any(region.start <= row["start"] and row["end"] <= region.end for region in regions)
        for row in rows
    ]
    assert inside_regions(rows, regions).tolist() == expected


def test_a_built_corpus_holds_what_the_law_draws(
    tiny_genome_path: Path, tiny_contigs: dict[str, str], tmp_path: Path
) -> None:
    corpus = build([tiny_genome_path], tmp_path / "corpus", SMALL)
    frame = frame_of(corpus.path)
    assert frame.columns.tolist() == ["pass", "document", "contig", "start", "end", "strand"]
    for contig, bases in tiny_contigs.items():
        for pass_index in range(2):
            group = frame[(frame.contig == contig) & (frame["pass"] == pass_index)]
            kept = [
                (document, start, end, "-" if reverse else "+")
                for document, start, end, reverse in draw(
                    len(bases), SMALL, contig, pass_index
                ).tolist()
                if n_fraction(bases[start:end]) <= 0.05
            ]
            columns = (group.document, group.start, group.end, group.strand)
            assert list(zip(*columns, strict=True)) == kept
    counts = corpus.index.counts
    assert counts.sentences == len(frame)
    assert counts.bp == (frame.end.astype(int) - frame.start).sum()
    assert counts.documents == len(frame[["contig", "pass", "document"]].drop_duplicates())
    drawn_in_all = sum(
        len(draw(len(bases), SMALL, contig, p))
        for contig, bases in tiny_contigs.items()
        for p in range(2)
    )
    assert counts.dropped_n == drawn_in_all - len(frame) > 0
    assert counts.dropped_region == 0


def test_the_index_tells_where_a_corpus_comes_from(tiny_genome_path: Path, tmp_path: Path) -> None:
    region = Interval("1", 0, 30_000)
    build([tiny_genome_path], tmp_path / "corpus", SMALL, regions=[region])
    index = json.loads((tmp_path / "corpus" / "index.json").read_text())
    assert index["settings"] == json.loads(SMALL.model_dump_json())
    assert index["regions"] == [["chr1", 0, 30_000]]
    assert index["fastas"][0]["path"] == str(tiny_genome_path.resolve())
    assert index["fastas"][0]["contigs"] == {"chr1": 60_000, "chr2": 30_000, "chrN": 2_000}
    assert index["genome_sha256"] == index["fastas"][0]["sha256"]
    assert index["version"]
    assert index["counts"]["dropped_region"] > 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["corpus"]


def test_regions_split_a_genome(tiny_genome_path: Path, tmp_path: Path) -> None:
    train = [Interval("chr1", 0, 40_000), Interval("chr2", 0, 30_000)]
    validation = [Interval("chr1", 40_000, 60_000)]
    a = frame_of(build([tiny_genome_path], tmp_path / "a", SMALL, train).path)
    b = frame_of(build([tiny_genome_path], tmp_path / "b", SMALL, validation).path)
    whole = frame_of(build([tiny_genome_path], tmp_path / "c", SMALL).path)
    assert a[a.contig == "chr1"].end.max() <= 40_000
    assert b.start.min() >= 40_000
    assert set(b.contig) == {"chr1"}
    key = ["pass", "contig", "start"]
    both = pd.concat([a, b])[key].apply(tuple, axis=1)
    assert set(both) <= set(whole[key].apply(tuple, axis=1))
    # Only the sentences across the border and those of chrN are in neither.
    left_out = whole[~whole[key].apply(tuple, axis=1).isin(set(both)) & (whole.contig != "chrN")]
    assert ((left_out.start < 40_000) & (left_out.end > 40_000)).all()


def test_the_same_arguments_give_the_same_bytes(tiny_genome_path: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        build([tiny_genome_path], tmp_path / name, SMALL)
    for file in ("sentences.parquet", "index.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_contig_has_the_same_sentences_in_another_genome(
    tiny_contigs: dict[str, str], tiny_genome_path: Path, tmp_path: Path
) -> None:
    alone = write_fasta(tmp_path / "chr2.fa", {"chr2": tiny_contigs["chr2"]})
    a = frame_of(build([alone], tmp_path / "a", SMALL).path)
    b = frame_of(build([tiny_genome_path], tmp_path / "b", SMALL).path)
    b = b[b.contig == "chr2"]
    assert a.start.tolist() == b.start.tolist()


def test_text_is_read_from_the_fasta_on_its_strand(
    tiny_genome_path: Path, tiny_contigs: dict[str, str], tmp_path: Path
) -> None:
    settings = SMALL.model_copy(update={"both_strands": True})
    corpus = build([tiny_genome_path], tmp_path / "corpus", settings)
    expected = []
    frame = frame_of(corpus.path)
    for contig, start, end, strand in frame[["contig", "start", "end", "strand"]].to_numpy():
        text = tiny_contigs[contig][start:end]
        expected.append(reverse_complement(text) if strand == "-" else text)
    assert list(corpus.iter_text()) == expected
    size = corpus.index.groups[0].sentences
    assert (
        list(corpus.iter_text(groups=[1]))
        == expected[size : size + corpus.index.groups[1].sentences]
    )


def test_samples_are_even_and_as_large_as_asked(
    tiny_genome_path: Path, tiny_contigs: dict[str, str], tmp_path: Path
) -> None:
    corpus = build([tiny_genome_path], tmp_path / "corpus", SMALL)
    sample = list(corpus.sample_text(20_000, seed=1))
    assert 19_000 < sum(map(len, sample)) <= 20_000
    share = sum(len(text) for text in sample if text in tiny_contigs["chr1"]) / 20_000
    assert share == pytest.approx(60 / 91, abs=0.08)
    assert sample == list(corpus.sample_text(20_000, seed=1))
    assert sample != list(corpus.sample_text(20_000, seed=2))
    assert set(sample) <= set(corpus.iter_text())


def test_a_sample_larger_than_the_corpus_is_all_of_it(
    tiny_genome_path: Path, tmp_path: Path
) -> None:
    corpus = build([tiny_genome_path], tmp_path / "corpus", SMALL)
    assert list(corpus.sample_text(10**9, seed=0)) == list(corpus.iter_text())
    assert list(corpus.sample_text(0, seed=0)) == []


def test_several_fastas_make_one_corpus(
    tiny_contigs: dict[str, str], tiny_genome_path: Path, tmp_path: Path
) -> None:
    paths = [write_fasta(tmp_path / f"{n}.fa", {n: b}) for n, b in tiny_contigs.items()]
    split = build(paths, tmp_path / "a", SMALL, regions=[Interval("2", 0, 20_000)])
    whole = build([tiny_genome_path], tmp_path / "b", SMALL, regions=[Interval("2", 0, 20_000)])
    assert list(split.iter_text()) == list(whole.iter_text())
    assert split.index.genome_sha256 != whole.index.genome_sha256
    assert len(split.fastas) == 3


def test_plain_gzip_is_streamed_and_not_held(
    tiny_genome_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    packed = tmp_path / "tiny.fa.gz"
    packed.write_bytes(gzip.compress(tiny_genome_path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        a = build([packed], tmp_path / "a", SMALL)
        texts = list(a.iter_text())
    assert not caplog.records
    assert texts == list(build([tiny_genome_path], tmp_path / "b", SMALL).iter_text())


def test_plain_gzip_is_read_once_for_contigs_in_order(
    tiny_genome_path: Path,
    tiny_contigs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed = tmp_path / "tiny.fa.gz"
    packed.write_bytes(gzip.compress(tiny_genome_path.read_bytes()))
    corpus = build([packed], tmp_path / "corpus", SMALL)
    names = [*corpus.index.fastas[0].contigs]
    begun: list[Path] = []
    original = Genome.stream

    def stream(genome: Genome) -> Iterator[tuple[str, str]]:
        begun.append(genome.path)
        yield from original(genome)

    monkeypatch.setattr(Genome, "stream", stream)
    for order, times in ((names, 1), ([names[0], names[2]], 2), (names[1:], 3), (names[1:2], 4)):
        for name in order:
            assert corpus.sequence(name) == tiny_contigs[name].upper()
        assert len(begun) == times
        if order == names:  # as a worker gets it
            corpus = pickle.loads(pickle.dumps(corpus))


def test_a_moved_fasta_may_be_given_again(tiny_genome_path: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old.fa", tmp_path / "new.fa"
    shutil.copy(tiny_genome_path, old)
    corpus = build([old], tmp_path / "corpus", SMALL)
    expected = list(corpus.iter_text())
    (tmp_path / "old.fa.fai").unlink(missing_ok=True)
    old.rename(new)
    with pytest.raises(
        UsageError, match=r"old\.fa, the FASTA of the corpus, is gone; give its new"
    ):
        read(corpus.path)
    assert list(read(corpus.path, [new]).iter_text()) == expected
    other = write_fasta(tmp_path / "other.fa", {"chr1": "ACGT" * 100})
    with pytest.raises(AssemblyError, match=r"none of .*other\.fa has the content of .*old\.fa"):
        read(corpus.path, [other])


def test_a_changed_fasta_is_noticed(tiny_contigs: dict[str, str], tmp_path: Path) -> None:
    path = write_fasta(tmp_path / "g.fa", {"chr2": tiny_contigs["chr2"]})
    corpus = build([path], tmp_path / "corpus", SMALL)
    corpus.verify()
    path.unlink()
    (tmp_path / "g.fa.fai").unlink(missing_ok=True)
    write_fasta(path, {"chr2": tiny_contigs["chr2"][1:]})
    with pytest.raises(
        AssemblyError, match=r"has 29,999 bp, the corpus .* has 30,000; give the FASTA"
    ):
        next(corpus.iter_text())
    with pytest.raises(AssemblyError, match="give that FASTA or build the corpus again"):
        corpus.verify()


def test_an_existing_output_is_refused_unless_forced(
    tiny_genome_path: Path, tmp_path: Path
) -> None:
    output = tmp_path / "corpus"
    build([tiny_genome_path], output, SMALL)
    with pytest.raises(UsageError, match="corpus exists; choose another name or pass --force"):
        build([tiny_genome_path], output, SMALL)
    again = build([tiny_genome_path], output, SMALL.model_copy(update={"seed": 7}), force=True)
    assert again.index.settings.seed == 7
    assert [entry.name for entry in tmp_path.iterdir()] == ["corpus"]


@pytest.mark.parametrize("force", [False, True])
def test_a_corpus_with_a_file_of_its_user_is_spared(
    tiny_genome_path: Path, tmp_path: Path, force: bool
) -> None:
    output = tmp_path / "corpus"
    build([tiny_genome_path], output, SMALL)
    (output / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"corpus holds notes\.txt, which genobird does not write"):
        build([tiny_genome_path], output, SMALL, force=force)
    assert (output / "notes.txt").read_text() == "mine"


def test_force_spares_a_folder_that_is_no_corpus(tiny_genome_path: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "thesis" / "index.json").write_text("{}")  # was enough to be taken for a corpus
    with pytest.raises(UsageError, match=r"exists and is no corpus: it holds chapter\.txt, "):
        build([tiny_genome_path], tmp_path / "thesis", SMALL, force=True)
    assert (tmp_path / "thesis" / "chapter.txt").exists()


def test_a_failed_build_leaves_nothing(tiny_contigs: dict[str, str], tmp_path: Path) -> None:
    a = write_fasta(tmp_path / "a.fa", {"chr1": tiny_contigs["chr1"]})
    b = write_fasta(tmp_path / "b.fa", {"chr1": tiny_contigs["chr2"]})
    with pytest.raises(InputError, match=r"contig chr1 of .*b\.fa is in another FASTA file too"):
        build([a, b], tmp_path / "corpus", SMALL)
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.fa", "b.fa"}


def test_an_empty_corpus_is_an_error(tiny_genome_path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no sentence is left \([\d,]+ lie outside the regions"):
        build([tiny_genome_path], tmp_path / "corpus", SMALL, regions=[])
    with pytest.raises(UsageError, match="no FASTA file is given"):
        build([], tmp_path / "corpus", SMALL)
    with pytest.raises(ContigError, match="contig 'chr99' is not in"):
        build([tiny_genome_path], tmp_path / "corpus", SMALL, regions=[Interval("chr99", 0, 9)])
    beyond = Interval("1", 5, 60_001, source="a.bed, line 7")
    with pytest.raises(OutOfBoundsError, match=r"^a\.bed, line 7: 1:6-60,001 ends after chr1 \("):
        build([tiny_genome_path], tmp_path / "corpus", SMALL, regions=[beyond])


def test_an_output_that_cannot_be_made_is_named(tiny_genome_path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file is a file, and output .*corpus needs a folder"):
        build([tiny_genome_path], tmp_path / "file" / "corpus", SMALL)


def test_what_is_no_corpus_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a corpus \(no index\.json\); make one with"):
        read(tmp_path)


def test_damage_is_noticed(tiny_genome_path: Path, tmp_path: Path) -> None:
    corpus = build([tiny_genome_path], tmp_path / "corpus", SMALL)
    parquet, index = corpus.path / "sentences.parquet", corpus.path / "index.json"
    content = parquet.read_bytes()
    parquet.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"is damaged \(.*\); build it again"):
        read(corpus.path)
    other = build([tiny_genome_path], tmp_path / "other", CorpusSettings(sentence_bp=(400, 500)))
    shutil.copy(other.path / "sentences.parquet", parquet)
    with pytest.raises(InputError, match=r"sentences that do not fit index\.json"):
        read(corpus.path)
    index.write_text('{"format": "genobird-shards-1"}')
    with pytest.raises(
        InputError, match=r"damaged \(format: Input should be 'genobird-corpus-1'\);"
    ):
        read(corpus.path)
    index.write_text(index.read_text()[:-20])
    with pytest.raises(InputError, match=r"is damaged \(.*\); build it again"):
        read(corpus.path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("passes", 0),
        ("start_max", -1),
        ("sentences", (0, 3)),
        ("sentences", (5, 3)),
        ("sentence_bp", (1_000, 500)),
        ("max_n_fraction", 1.5),
        ("seed", -1),
        ("windows", 3),
    ],
)
def test_nonsense_settings_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        CorpusSettings.model_validate({field: value})


@pytest.mark.slow
@pytest.mark.realdata
def test_a_real_chromosome_is_drawn_as_in_the_paper(shared_data: Path, tmp_path: Path) -> None:
    corpus = build([shared_data / "genome" / "chr20.fa.gz"], tmp_path / "corpus")
    counts = corpus.index.counts
    with Genome(shared_data / "genome" / "chr20.fa.gz") as genome:
        _, sequence = next(genome.stream())
    known = 10 * (len(sequence) - sequence.count("N"))
    assert counts.bp == pytest.approx(known, rel=0.001)
    assert counts.documents == pytest.approx(known / 56_250, rel=0.03)
    assert frame_of(corpus.path).groupby("pass").size().gt(70_000).sum() == 10
    assert all("N" * 51 not in text for text in corpus.sample_text(1_000_000, seed=0))
