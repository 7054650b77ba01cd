"""A head for a table of one's own, on small worlds with a planted motif."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pysam
import pytest
import torch

import genobird
from genobird.checkpoint import CONFIG, WEIGHTS, Checkpoint
from genobird.errors import GenobirdError, InputError, UsageError
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.genome.sequence import reverse_complement
from genobird.heads import Head, HeadConfig
from genobird.local import LocalConfig
from genobird.report import scored
from genobird.report.page import fine
from genobird.scoring.mutagenesis import prepare
from genobird.scoring.scorer import Scorer
from genobird.scoring.settings import EffectSettings
from genobird.scoring.variant_vcf import annotate_variants
from genobird.targets import Targets
from genobird.tasks.fit import FitSettings
from genobird.tasks.label_table import (
    LabelTable,
    divided,
    fitted,
    labels_of,
    signals_by_name,
    targets_of,
    warn_of_few,
)
from genobird.tasks.table import TableBatches, TableTask
from tests.conftest import random_dna, write_fasta
from tests.models import tiny_checkpoint

MOTIF = "GGGCGGGGCCGG"
COUNTS = ("none", "one", "two", "three")
LOCAL = {"span_bp": 120, "filters": 16, "width": 16, "hidden": 16, "dropout": 0.0}
FIT = {
    "steps": 100, "warmup_steps": 5, "learning_rate": 5e-3, "device": "cpu", "threads": 1,
    "validate_every": 100, "loggers": ["csv"],
}  # fmt: skip
SHORT = {**FIT, "steps": 4, "save_every": 2, "validate_every": 2}


@pytest.fixture(scope="session")
def world(tmp_path_factory, tiny_tokenizer):
    """A genome with 0 to 3 motifs at each region, a table of them, and a model to start from."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.Generator(np.random.Philox(7))
    bases, rows = list(random_dna(60_000, seed=70)), []
    for number, middle in enumerate(range(300, 59_700, 200)):
        count = int(rng.integers(4))
        for place in range(middle - 45, middle - 45 + 30 * count, 30):
            bases[place : place + len(MOTIF)] = MOTIF
        split = ("train", "train", "train", "validation", "test")[number % 5]
        value = 100 + 10 * count + rng.normal()
        rows.append(("c", middle - 50, middle + 50, value, COUNTS[count], split))
    write_fasta(folder / "genome.fa", {"c": "".join(bases), "d": random_dna(3_000, seed=71)})
    columns = ["chrom", "start", "end", "activity", "state", "split"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "table.tsv", sep="\t", index=False)
    tiny_checkpoint(tiny_tokenizer, dropout=0.1).save(folder / "start")
    return folder


@pytest.fixture
def train(world, tmp_path):
    """Trains on the table of the world in a folder; `values` are further settings."""

    def train(name="run", **values):
        how = {"resume": values.pop("resume", False), "progress": False}
        given = {
            "labels": world / "table.tsv", "fasta": world / "genome.fa", "target": ["activity"],
            "model": world / "start", "window_bp": 200, "regions": 32, "fit": FIT,
            "head": {"pool": "local", "hidden": 0, "local": LOCAL}, **values,
        }  # fmt: skip
        return genobird.finetune("table", tmp_path / name, **how, **given)

    return train


def figures(model, split="test"):
    return model.provenance["table"]["figures"][split]


@pytest.mark.parametrize("seed", [0, 1])
def test_values_that_follow_a_motif_are_learnt_in_their_units(train, seed):
    model = train(fit={**FIT, "seed": seed})
    found = figures(model)["targets"]["activity"]
    assert found["pearson"]["point"] > 0.8
    assert found["spearman"]["point"] > 0.7
    assert found["known"] == figures(model)["regions"] == 59
    assert 105 < model.targets.means[0] < 125
    assert 8 < model.targets.scales[0] < 14


@pytest.mark.parametrize("seed", [0, 1])
def test_classes_that_follow_a_motif_are_learnt(train, seed):
    model = train(target=["state"], fit={**FIT, "seed": seed})
    found = figures(model)
    assert model.targets.columns == [f"table|state={name}" for name in sorted(COUNTS)]
    assert found["accuracy"]["point"] > 0.7
    assert found["auroc"]["point"] > 0.85
    assert found["log_loss"]["point"] < 1
    assert sum(found["classes"].values()) == found["regions"]


def test_an_encoder_is_trained_through_adapters_where_that_is_asked_for(train, world):
    shape = {"hidden": 8, "before_bp": 60, "after_bp": 60}
    before = Checkpoint.load(world / "start")
    frozen = train("frozen", head=shape, fit=SHORT)
    model = train("lora", head=shape, fit=SHORT, freeze_encoder=False, encoder={"lora_rank": 2})
    weights = [one.encoder.state_dict() for one in (before, frozen, model)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    assert same(before.promoter, model.promoter)
    assert same(before.chromatin, model.chromatin)


def same(one, other):
    return all(
        torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items()
    )


CELLS = {"pool": "cells", "hidden": 8, "cell_bp": 40, "cell_width": 4}


@pytest.mark.parametrize(
    ("how", "progress"),
    [
        ({"head": CELLS, "freeze_encoder": False}, r" \(step 2 of 4\)"),
        ({"head": {"hidden": 8}, "draws": 1}, ""),  # stopped while regions are encoded
    ],
    ids=["trained", "frozen"],
)
def test_four_steps_are_two_a_crash_and_two_more(train, tmp_path, monkeypatch, how, progress):
    how = {"fit": SHORT, "regions": 8, **how}
    train("whole", **how)
    make = TableBatches.__call__

    def crash(self, step):
        if self.augment and step == 2:
            raise RuntimeError("power cut")
        return make(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(TableBatches, "__call__", crash)
        with pytest.raises(RuntimeError, match="power cut"):
            train("parts", **how)
    with pytest.raises(UsageError, match=f"an interrupted run has done{progress}; pass --resume"):
        train("parts", **how)
    if progress:
        with pytest.raises(UsageError, match=r"data\.sha256"):
            train("parts", **how, resume=True, target=["state"])
    train("parts", **how, resume=True)
    whole, parts = (tmp_path / run / "model" / WEIGHTS for run in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()
    assert not (tmp_path / "parts" / "encoded").exists()


def untrained(world, *, stranded=False, **shape):
    """A model with a table head that was not trained."""
    model = Checkpoint.load(world / "start")
    torch.manual_seed(3)
    model.table = Head(HeadConfig(outputs=2, **shape), model.encoder.config.width)
    model.targets = Targets(
        names=("a", "b"), means=(5.0, 0.0), scales=(2.0, 1.0), window_bp=200, stranded=stranded
    )
    return model


def test_scores_of_a_saved_model_are_those_of_the_model_in_memory(world, tmp_path):
    model = untrained(world, hidden=8)
    model.save(tmp_path / "model")
    regions = [("c", 250, 350), ("d", 0, 20), ("d", 2_990, 3_000), ("c", 59_000, 70_000)]
    first, second = (
        Scorer(one).score_regions(regions, world / "genome.fa")
        for one in (model, Checkpoint.load(tmp_path / "model"))
    )
    pd.testing.assert_frame_equal(first, second)
    assert list(first.columns[-2:]) == ["table|a", "table|b"]
    assert first.iloc[:3, -2:].notna().all(axis=None)
    assert first.iloc[3, -2:].isna().all()
    assert json.loads((tmp_path / "model" / CONFIG).read_text())["targets"]["names"] == ["a", "b"]
    assert not {"table", "targets"} & set(json.loads((world / "start" / CONFIG).read_text()))


def test_a_region_without_a_strand_is_the_mean_of_both_and_one_with_it_is_read_along_it(world):
    with Genome(world / "genome.fa") as genome:
        text, _ = genome.fetch_clipped("c", 200, 400)
    place = [np.array([100])]
    stranded = Scorer(untrained(world, stranded=True))
    plus, minus, none = (stranded.target_values([text], place, strand) for strand in "+-.")
    turned = stranded.target_values([reverse_complement(text)], place, "+")
    np.testing.assert_allclose(minus, turned, rtol=1e-5)
    np.testing.assert_allclose(none, (plus + minus) / 2, rtol=1e-5)
    assert np.abs(plus - minus).max() > 1e-3
    together = stranded.target_values([text] * 3, place * 3, "-.+")
    np.testing.assert_allclose(together, np.concatenate([minus, none, plus]), rtol=1e-5)
    np.testing.assert_allclose(
        Scorer(untrained(world)).target_values([text], place, "-"), none, rtol=1e-5
    )
    rows = stranded.score_regions(
        [Interval("c", 250, 350, strand) for strand in "+-."], world / "genome.fa"
    )
    np.testing.assert_allclose(
        rows[["table|a", "table|b"]], np.concatenate([plus, minus, none]), rtol=1e-5
    )


def test_a_variant_has_the_values_of_both_alleles(world):
    scorer = Scorer(untrained(world))
    with Genome(world / "genome.fa") as genome:
        text, _ = genome.fetch_clipped("c", 200, 400)
    other = {"A": "C"}.get(text[100], "A")
    found = scorer.screen_variants([f"c:301:{text[100]}>{other}"], world / "genome.fa").iloc[0]
    changed = text[:100] + other + text[101:]
    ref, alt = scorer.target_values([text, changed], [np.array([100])] * 2)
    for place, name in enumerate(("table|a", "table|b")):
        assert found[f"{name}|ref"] == pytest.approx(ref[place], rel=1e-5)
        assert found[f"{name}|alt"] == pytest.approx(alt[place], rel=1e-5)
        assert found[f"{name}|delta"] == pytest.approx(alt[place] - ref[place], abs=1e-5)
    assert not found["top"].startswith("table|")


@pytest.mark.parametrize("frozen", [True, False])
def test_heads_that_stay_while_the_encoder_is_trained_are_named(world, caplog, frozen):
    TableTask(untrained(world), FitSettings(), "table", freeze_encoder=frozen)
    told = "other heads (mlm, promoter, chromatin) are not, and read what it becomes"
    assert (told in caplog.text) == (not frozen)


def test_windows_that_are_moved_are_averaged_and_each_holds_what_the_head_reads(world):
    def screened(shifts=1, grid=0, **shape):
        scorer = Scorer(untrained(world, before_bp=30, after_bp=36, **shape))
        settings = EffectSettings(shifts=shifts, grid=grid)
        table = scorer.screen_variants([variant], world / "genome.fa", settings=settings)
        return scorer, table.iloc[0]

    with Genome(world / "genome.fa") as genome:
        text, _ = genome.fetch_clipped("c", 0, 600)
    other = {"A": "C"}.get(text[300], "A")
    variant, changed = f"c:301:{text[300]}>{other}", text[:300] + other + text[301:]
    for settings, offsets in (({"shifts": 2}, (-64, 64)), ({"grid": 128}, (44,))):
        scorer, found = screened(**settings)
        for allele, bases in (("ref", text), ("alt", changed)):
            windows = [bases[200 - offset : 400 - offset] for offset in offsets]
            places = [np.array([100 + offset]) for offset in offsets]
            expected = scorer.target_values(windows, places).mean(axis=0)
            values = [found[f"table|{name}|{allele}"] for name in "ab"]
            np.testing.assert_allclose(values, expected, rtol=1e-5)
    refused = r"windows of 200 bp, which may lie up to 64 bp off .* 36 bp .* up to 128 bp off; take"
    with pytest.raises(UsageError, match=refused):
        screened(shifts=3)
    with pytest.raises(UsageError, match=r"up to 20 bp off a variant, for the head reads 80 bp"):
        screened(shifts=2, local=LocalConfig(span_bp=160, pool_bp=8, cells=5, filters=4))
    with pytest.raises(UsageError, match=r"reads \[CLS\], whatever the place"):
        screened(shifts=2, pool="cls")


def test_a_vcf_has_the_changes_of_all_targets(world, tmp_path):
    scorer = Scorer(untrained(world))
    with Genome(world / "genome.fa") as genome:
        base = genome.fetch_clipped("c", 300, 301)[0]
    first, second = [other for other in "ACGT" if other != base][:2]
    head = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    (tmp_path / "in.vcf").write_text(f"{head}c\t301\t.\t{base}\t{first},*,{second}\t.\t.\t.\n")
    annotate_variants(scorer, tmp_path / "in.vcf", world / "genome.fa", tmp_path / "out.vcf")
    with pysam.VariantFile(str(tmp_path / "out.vcf")) as file:
        assert file.header.info["GB_TARGETS"].description.endswith("separated by |: a|b")
        [record] = file
    found = record.info["GB_TARGETS"]
    assert found[1] in (None, ".")
    table = scorer.screen_variants(tmp_path / "in.vcf", world / "genome.fa")
    expected = table.loc[[0, 2], ["table|a|delta", "table|b|delta"]].to_numpy(np.float64)
    values = [[float(text) for text in found[k].split("|")] for k in (0, 2)]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize("strand", ["", ":-"])
def test_mutagenesis_asks_the_head_in_its_own_window_along_the_strand(world, strand):
    scorer = Scorer(untrained(world, stranded=True))
    with Genome(world / "genome.fa") as genome:
        text, _ = genome.fetch_clipped("c", 201, 401)
    table = scorer.mutagenesis(
        f"c:301-302{strand}", world / "genome.fa", features=["table|b", "promoter"], form="wide"
    )
    assert list(table.columns[4:]) == [
        f"{name}|{part}" for name in ("promoter", "table|b") for part in ("ref", "alt", "delta")
    ]
    assert table["pos"].tolist() == [301] * 3 + [302] * 3
    texts = [text]
    for pos, alt in zip(table["pos"], table["alt"], strict=True):
        texts.append(text[: pos - 202] + alt + text[pos - 201 :])
    places, strands = [np.array([100])] * len(texts), (strand[1:] or ".") * len(texts)
    values = scorer.target_values(texts, places, strands)[:, 1]
    np.testing.assert_allclose(table["table|b|ref"], values[0], rtol=1e-5)
    np.testing.assert_allclose(table["table|b|alt"], values[1:], rtol=1e-5)
    np.testing.assert_allclose(table["table|b|delta"], values[1:] - values[0], atol=1e-5)


def test_mutagenesis_takes_the_head_by_itself_only_where_its_window_holds_the_region(world, caplog):
    scorer = Scorer(untrained(world))
    names = ["table|a", "table|b"]
    with Genome(world / "genome.fa") as genome:
        fits = prepare(scorer, "c:301-500", genome)
        assert fits.names[-2:] == names
        assert not caplog.records
        wider = prepare(scorer, "c:301-501", genome)
        assert not set(names) & set(wider.names)
        assert len(wider.names) == len(fits.names) - 2
        assert "200 bp around the midpoint, and c:301-501 has 201 bp" in caplog.text
        with pytest.raises(UsageError, match=r"region of up to 200 bp, or leave out table\|a$"):
            prepare(scorer, "c:301-501", genome, features=["promoter", "table|a"])
        with pytest.raises(UsageError, match=r"no output 'table\|c'; it has table\|a, table\|b"):
            prepare(scorer, "c:301-302", genome, features="table|c")
        scorer.checkpoint.promoter, scorer.features = None, []
        with pytest.raises(UsageError, match="region of up to 200 bp"):
            prepare(scorer, "c:301-501", genome)


def test_the_module_of_one_hot_bases_has_the_values_of_score_sequences(world):
    scorer, text = Scorer(untrained(world)), random_dna(301, seed=5)
    module = scorer.module(["table|b", "promoter"])
    bases = torch.tensor([["ACGT".index(base) for base in text]])
    found = module(torch.nn.functional.one_hot(bases, 4).mT.float())
    assert module.names == ["promoter", "table|b"]
    expected = scorer.score_sequences([text])["table|b"]
    np.testing.assert_allclose(found[:, 1].numpy(), expected, rtol=1e-5)


def test_a_report_of_a_table_head_alone_has_its_logos_in_its_units(world, tmp_path, monkeypatch):
    monkeypatch.setattr(scored, "SPAN", 1)
    model = untrained(world)
    model.promoter = model.chromatin = None
    scorer = Scorer(model)
    with Genome(world / "genome.fa") as genome:
        base = genome.fetch_clipped("c", 300, 301)[0]
        other = {"A": "C"}.get(base, "A")
        table = scorer.screen_variants([f"c:301:{base}>{other}"], genome)
        table.to_parquet(tmp_path / "v.parquet")
        page = tmp_path / "r.html"
        scored.write_report(page, scorer, genome, "g", variants=tmp_path / "v.parquet", logos=1)
    text = page.read_text()
    assert "Bases around c:301 that matter for table|a" in text
    assert "difference of a feature, in its units" in text
    for allele in ("ref", "alt"):  # values, no probabilities
        assert f'<td class="n">{fine(table[f"table|a|{allele}"][0])}</td>' in text


def test_a_report_of_regions_of_a_table_head_alone_has_no_curves(world, tmp_path):
    model = untrained(world)
    model.promoter = model.chromatin = None
    scorer, page = Scorer(model), tmp_path / "r.html"
    with Genome(world / "genome.fa") as genome:
        scorer.score_regions(["c:301-302"], genome).to_parquet(tmp_path / "r.parquet")
        scored.write_report(page, scorer, genome, "g", regions=tmp_path / "r.parquet", curves=1)
    assert "Along the loci" not in page.read_text()


def test_losses_leave_out_what_is_unknown(world):
    task = TableTask(untrained(world), FitSettings(), "table")
    logits = torch.tensor([[1.0, 2.0], [0.5, -1.0]])
    labels = torch.tensor([[0.0, float("nan")], [1.0, 1.0]])
    assert task.losses(logits, labels).tolist() == [[1.0, 0.0], [0.25, 4.0]]
    task.checkpoint.targets = Targets(names=("x", "y"), column="s", objective="classes")
    found = task.losses(logits, torch.tensor([[0.0], [1.0]]))
    expected = np.log(1 + np.exp([1.0, 1.5]))
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)


def test_targets_come_back_in_their_units():
    targets = Targets(names=("a", "b"), means=(5.0, -1.0), scales=(2.0, 0.5))
    values = np.array([[4.0, -1.0], [9.0, np.nan]])
    found = targets.standardised(values)
    np.testing.assert_allclose(found, [[-0.5, 0.0], [2.0, np.nan]])
    np.testing.assert_allclose(targets.values(found), values)
    classes = Targets(names=("a", "b"), column="s", objective="classes")
    np.testing.assert_allclose(
        classes.values(np.log([[1.0, 3.0], [1e-30, 1e30]])), [[0.25, 0.75], [0.0, 1.0]]
    )


def test_a_model_whose_targets_are_not_its_outputs_is_refused(world, tmp_path):
    model = untrained(world)
    model.targets = Targets(names=("a",), means=(0.0,), scales=(1.0,))
    with pytest.raises(ValueError, match="a table head of 2 outputs has 1 targets"):
        model.save(tmp_path / "model")


def read(world, text, tmp_path, name="mine.tsv"):
    """Return regions and labels of a table, as training reads it."""
    (tmp_path / name).write_text(text)
    with Genome(world / "genome.fa") as genome:
        return LabelTable.read(tmp_path / name, genome)


def labelled(world, table, columns, objective=None):
    splits = divided(table, None, (), (), 0)
    targets = targets_of(table, splits, columns, objective, {}, 200)
    with Genome(world / "genome.fa") as genome:
        return fitted(labels_of(table, splits, genome, targets, {}))


HEAD = "chrom\tstart\tend\tstrand\tx\ty\ts\tsplit\n"
ROWS = (
    "c\t0\t100\t+\t1\t5\ta\ttrain\nc\t100\t200\t-\t\t7\tb\ttrain\n"
    "c\t200\t300\t.\t3\t\t\ttrain\nd\t0\t100\t*\t3\t1\tb\tvalidation\n"
)  # fmt: skip


def test_values_may_be_unknown_and_several(world, tmp_path):
    labels = labelled(world, read(world, HEAD + ROWS, tmp_path), ["x", "y"])
    np.testing.assert_array_equal(
        labels.values, [[1.0, 5.0], [np.nan, 7.0], [3.0, np.nan], [3.0, 1.0]]
    )
    assert labels.targets.means == (2.0, 6.0)
    assert labels.targets.scales == (1.0, 1.0)
    assert labels.targets.stranded
    assert [region.strand for region in labels.regions] == ["+", "-", ".", "."]


@pytest.mark.parametrize("name", ["mine.csv", "mine.parquet", "mine.tsv.gz"])
def test_csv_and_parquet_are_read_as_tsv_is(world, tmp_path, name):
    plain = labelled(world, read(world, HEAD + ROWS, tmp_path), ["s"])
    frame = pd.read_csv(tmp_path / "mine.tsv", sep="\t", dtype=object)
    if name.endswith("parquet"):  # where gaps make floats of numbers
        frame = pd.read_csv(tmp_path / "mine.tsv", sep="\t")
        frame.to_parquet(tmp_path / name)
    else:
        frame.to_csv(tmp_path / name, sep="," if "csv" in name else "\t", index=False)
    with Genome(world / "genome.fa") as genome:
        table = LabelTable.read(tmp_path / name, genome)
    for columns, objective in ((["s"], None), (["x"], None), (["x"], "classes")):
        one = labelled(world, table, columns, objective)
        other = labelled(world, read(world, HEAD + ROWS, tmp_path), columns, objective)
        np.testing.assert_array_equal(one.values, other.values)
        assert one.targets == other.targets
    assert plain.targets.names == ("a", "b")
    assert one.targets.names == ("1", "3")


def test_places_that_are_held_out_divide_a_table(world, tmp_path):
    text = "chrom\tstart\tend\tx\n" + "".join(f"c\t{at}\t{at + 10}\t1\n" for at in range(0, 50, 10))
    table = read(world, text + "d\t0\t10\t1\n", tmp_path)
    with Genome(world / "genome.fa") as genome:
        splits = divided(table, genome, ("c:26-40",), ("d", "c:41-50"), 0)
    assert splits.tolist() == ["train", "train", "", "validation", "test", "test"]


def test_classes_with_few_rows_and_targets_without_are_told_with_their_counts(
    world, tmp_path, caplog
):
    rows = [("a", "1", "train")] * 10 + [("b", "2", "train")] * 9
    rows += [("a", "1", "validation"), ("b", "2", "validation"), ("a", "", "test")]
    text = "chrom\tstart\tend\ts\tx\tsplit\n" + "".join(
        f"c\t0\t100\t{s}\t{x}\t{split}\n" for s, x, split in rows
    )
    table = read(world, text, tmp_path)
    for column, told in (
        ("s", "b has few rows (9 to train on, 1 to validate on, 0 to test on)"),
        ("x", "x has few rows (19 to train on, 2 to validate on, 0 to test on)"),
    ):
        warn_of_few(labelled(world, table, [column]))
        (message,) = caplog.messages
        assert f"mine.tsv: {told}; " in message
        caplog.clear()


def test_a_training_warns_of_a_class_that_has_a_single_row(train, world, tmp_path, caplog):
    cells = pd.read_csv(world / "table.tsv", sep="\t")
    rare = cells.index[cells["split"] == "train"][0]
    cells.loc[rare, "state"] = "rare"
    cells.to_csv(tmp_path / "mine.tsv", sep="\t", index=False)
    train(labels=tmp_path / "mine.tsv", target=["state"], fit={**SHORT, "steps": 1})
    assert "rare has few rows (1 to train on, 0 to validate on, 0 to test on)" in caplog.text


def test_a_bigwig_gives_the_log_of_its_mean_signal(world, tmp_path):
    backend = pytest.importorskip("pyBigWig")
    with backend.open(str(tmp_path / "mine.bw"), "w") as file:
        file.addHeader([("c", 60_000)])
        file.addEntries(["c", "c"], [0, 150], ends=[100, 200], values=[3.0, 2.0])
    table = read(world, HEAD + ROWS, tmp_path)
    splits, files = divided(table, None, (), (), 0), signals_by_name([tmp_path / "mine.bw"])
    targets = targets_of(table, splits, (), None, files, 200)
    assert targets.columns == ["table|mine"]
    with Genome(world / "genome.fa") as genome:
        labels = labels_of(table, splits, genome, targets, files)
        np.testing.assert_allclose(labels.values[:, 0], [*np.log1p([3, 1, 0]), np.nan])
        with pytest.raises(UsageError, match="--bigwig is missing; predicted are mine"):
            labels_of(table, splits, genome, targets, {})
    other = write_fasta(tmp_path / "other.fa", {"c": "A" * 500, "d": "A" * 500})
    with Genome(other) as genome, pytest.raises(InputError, match=r"c has 60,000 bp, in .* 500"):
        labels_of(table, splits, genome, targets, files)
    (tmp_path / "mine.bw").write_text("nothing")
    with Genome(world / "genome.fa") as genome, pytest.raises(InputError, match="is no bigWig"):
        labels_of(table, splits, genome, targets, files)


@pytest.mark.parametrize(
    ("text", "options", "code", "message"),
    [
        ("chrom\tend\tx\nc\t1\t2\n", {}, 1, "has no column start, but chrom, end, x"),
        (HEAD, {}, 1, "has a header and no rows"),
        ("", {}, 1, "cannot be read as a table"),
        (HEAD + "\udce9" + ROWS, {}, 1, "its text is no UTF-8"),
        (HEAD + "c\t1\n1\t2\t3\t4\t5\t6\t7\t8\t9\n", {}, 1, "cannot be read as a table"),
        (HEAD.replace("\ty", "\tx") + ROWS, {}, 1, "has several columns 'x'; keep one"),
        (HEAD + ROWS, {"target": ["z"]}, 1, "has no column z, but x, y, s"),
        (HEAD + ROWS, {"target": ["start"]}, 2,
         "--target start found; chrom, start, .* are not predicted: other columns of .* are x, y"),
        (HEAD + ROWS, {"target": ["#Chrom"]}, 2, "--target #Chrom found; chrom, start, end"),
        (HEAD + ROWS, {"target": ["x", "x"]}, 2, "--target x,x repeats a name"),
        (HEAD + ROWS, {"target": []}, 2, "with --target or with --bigwig"),
        (HEAD + ROWS, {"bigwig": ["none.bw"]}, 2, "there is no bigWig file none.bw"),
        (HEAD + ROWS, {"labels": "none.tsv"}, 2, "there is no table none.tsv"),
        (HEAD + ROWS, {"target": ["x", "s"]}, 1, "row 1: s 'a' is no finite number"),
        (HEAD + ROWS, {"target": ["x", "y"], "objective": "classes"}, 2, "of one column"),
        (HEAD + ROWS, {"held_out": ["d"]}, 2, "has a column split; leave out --held-out"),
        (HEAD + ROWS.replace("\t3\t", "\tinf\t"), {}, 1, "row 3: x 'inf' is no finite number"),
        (HEAD + ROWS.replace("\t3\t", "\tNaN\t"), {}, 1, "row 3: x 'NaN' is no finite number"),
        (HEAD + ROWS.replace("\tb\tt", "\tNA\tt"), {"target": ["s"]}, 1, "s 'NA' is no class"),
        ((HEAD + ROWS).replace("\t", ";"), {}, 1, "are they separated by tabs"),
        (HEAD + ROWS.replace("\t3\t", "\tlow\t"), {}, 1, "predict classes with --objective"),
        (HEAD + ROWS.replace("\t3\t", "\t1\t"), {}, 1, "x has fewer than two different values"),
        (HEAD + ROWS.replace("a\ttrain", "b\ttrain"), {"target": ["s"]}, 1, "s is b in all of"),
        (
            HEAD + ROWS.replace("b\tvalid", "q\tvalid"), {"target": ["s"]}, 1,
            "row 4: s 'q' is not among the classes that are trained, a, b",
        ),
        (HEAD + ROWS.replace("validation", "train"), {}, 1, "no row of split validation"),
        (HEAD + ROWS.replace("validation", "valid"), {}, 1, "row 4: split 'valid' found; allowed"),
        (HEAD + ROWS.replace("d\t0\t100", "d\t0\t3001"), {}, 1, r"row 4: d:1-3,001 ends after d"),
        (HEAD + ROWS.replace("d\t0\t100", "z\t0\t100"), {}, 1, "row 4: contig 'z' is not in"),
        (HEAD + ROWS.replace("d\t0\t100", "d\t-1\t100"), {}, 1, "row 4: start '-1' is no whole"),
        (HEAD + ROWS.replace("d\t0\t100", "d\t9\t1"), {}, 1, "row 4: end 1 of an interval on d"),
        (HEAD + ROWS.replace("\t*\t", "\tup\t"), {}, 1, "row 4: strand 'up' is unknown"),
        (HEAD + ROWS, {"encoder": {"lora_rank": 2}}, 2, "set freeze_encoder to false"),
        (HEAD + ROWS, {"head": {"pool": "profiles"}}, 2, "head.pool"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_learnt_is_refused_in_one_line(
    train, tmp_path, text, options, code, message
):
    (tmp_path / "mine.tsv").write_text(text, errors="surrogateescape")
    with pytest.raises(GenobirdError, match=message) as error:
        train(**{"labels": tmp_path / "mine.tsv", "target": ["x"], **options})
    assert error.value.exit_code == code
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()
