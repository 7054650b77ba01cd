import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt

from genobird.errors import UsageError
from genobird.report import plot_region, plot_variant, scored
from genobird.scoring.scorer import load

OTHER = dict(zip("ACGT", "CGTA", strict=True))


@pytest.fixture(scope="module")
def scorer(tiny_checkpoint):
    return load(tiny_checkpoint, device="cpu")


@pytest.fixture(autouse=True)
def _figures():
    before = mpl.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(before)


def test_a_region_is_drawn_with_the_values_of_its_table(scorer, tiny_genome_path):
    _, mine = plt.subplots()
    region = "chr1:20,001-20,400"
    axes = plot_region(scorer, region, tiny_genome_path, features=["DNase"], axes=mine)
    assert axes is mine
    assert not axes.xaxis.label.get_parse_math()
    [promoter, profile] = axes.patches
    bins = [("chr1", start, start + 200) for start in (20_000, 20_200)]
    table = scorer.score_regions(bins, tiny_genome_path)
    assert profile.get_data().values.tolist() == table["A|DNase|None"].tolist()
    assert promoter.get_data().edges.tolist() == [20_000, 20_200, 20_400]
    assert [text.get_text() for text in axes.get_legend().texts] == ["promoter", "A|DNase|None"]


def test_a_variant_is_drawn_as_two_logos(scorer, tiny_genome_path, tiny_contigs, monkeypatch):
    monkeypatch.setattr(scored, "SPAN", 1)  # fewer windows
    base = tiny_contigs["chr1"][30_000]
    ref, alt = plot_variant(scorer, f"chr1:30001:{base}>{OTHER[base]}", tiny_genome_path)
    assert (ref.get_ylabel(), alt.get_ylabel()) == ("REF", "ALT")
    assert ref.get_ylim() == alt.get_ylim()
    assert ref.figure is alt.figure
    assert len(ref.patches) == len(alt.patches) == 1 + 3  # the mark and the letters


def test_what_cannot_be_drawn_is_refused(scorer, tiny_genome_path, tiny_contigs):
    with pytest.raises(UsageError, match=r"up to 100,000 are allowed"):
        plot_region(scorer, "chr1:1-200,000", tiny_genome_path)
    with pytest.raises(UsageError, match="chr7:1-200 is not on the genome"):
        plot_region(scorer, "chr7:1-200", tiny_genome_path)
    base = OTHER[tiny_contigs["chr1"][30_000]]
    with pytest.raises(UsageError, match=r"1 variant found \(REF_MISMATCH\); one that is OK"):
        plot_variant(scorer, f"chr1:30001:{base}>{OTHER[base]}", tiny_genome_path)
