"""The page is made from real output of the figures, on made-up predictions."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from genobird.datasets import Predictions
from genobird.errors import InputError, UsageError
from genobird.report.evaluation import number, shown
from genobird.tasks.figures import evaluate_chromatin, evaluate_masked, evaluate_promoters
from genobird.tasks.masked import MaskedTokens
from genobird.tasks.metrics import Resampling
from pipelines import steps
from pipelines.tables import Sources, main, render, write_tables

SETTINGS = {
    "resamples": 5, "seed": 3, "group_bp": 250_000, "masked_context": 512,
    "masked": {"max_tokens": 4096},
}  # fmt: skip
FEATURES = pd.DataFrame(
    {"index": [3, 130, 338, 820], "name": list("abcd"), "class": ["DNase", "TF", "TF", "histone"]}
)


def described(pattern, context=512):
    return {
        "genobird": "0", "command": "genobird evaluate <model>", "model_sha256": "0" * 64,
        "encoder": {"pattern": pattern},
        "training": {"pretraining": {"config": {"fit": {"seed": 7}}}},
        "settings": SETTINGS | {"masked_context": context}, "split": "test",
    }  # fmt: skip


def masked_tokens(bits, tracks=()):
    rng = np.random.default_rng(int(bits * 100))
    bases = np.full((8, 4), 50)
    return MaskedTokens(
        ("all", "no_n", "repeats", "unique"), np.array([f"chr1:{i}" for i in range(8)]),
        bases * rng.normal(bits, 0.05, (8, 4)), bases, bases // 5, np.arange(8),
        np.array([0, 3, 5]), np.array([0, 4, 6]), dict.fromkeys(tracks, bases * 2.0),
    )  # fmt: skip


def masked_evaluation(pattern, others, tracks=()):
    found = evaluate_masked(
        masked_tokens(1.5, tracks),
        Resampling(resamples=5),
        baselines={name: masked_tokens(1.9) for name in others},
    )
    return {
        **described(pattern), "masked": found,
        "data": {"compared": {name: described(kind) for name, kind in others.items()}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def evaluations():
    rng = np.random.default_rng(0)
    labels = (rng.random((600, 4)) < 0.2).astype(np.uint8)
    logits = (rng.normal(size=labels.shape) + labels).astype(np.float32)
    places = Predictions(np.full(600, "chr1"), np.arange(600) * 40, labels, logits)
    how = Resampling(resamples=5)
    chromatin = evaluate_chromatin(
        places, FEATURES, how, baselines={"deepsea": logits * 0, "danq": -logits}
    )
    features = chromatin.pop("per_feature")
    windows = replace(places, labels=labels[:, :1], logits=logits[:, :1])
    promoters = evaluate_promoters(windows, how, baselines={"kmers": logits[:, :1] * 2})
    trained = {"sha256": "x", "parameters": 52_843_119, "shape": {"width": 0.25}, "steps": 1_200,
               "epochs": 2.5, "seconds": 3.0}  # fmt: skip
    found = {
        "table1": masked_evaluation("full", {"pattern-window": "window"}),
        "figure8": masked_evaluation("bigbird", {"context-64": "bigbird"}),
        "table5": masked_evaluation("bigbird", {"bert": "full"}, ["ngram_bases"]),
        "table6-shuffle": {
            **described("bigbird"), "promoters": promoters, "scan": promoters, "data": {},
        },
        "table7": {
            **described("bigbird"), "chromatin": chromatin,
            "data": {
                "baselines": {"chromatin": {"sha256": "x", "deepsea": trained}},
                "chromatin": {"splits": {"train": [["chr1", 0, 9]], "test": [["chr2", 0, 9]]}},
            },
        },
    }  # fmt: skip
    return found, features


@pytest.fixture
def tables(evaluations, tmp_path):
    """Files of all evaluations, by the table's name."""
    found, features = evaluations
    paths = {}
    for name, evaluation in found.items():
        paths[name] = tmp_path / name / "evaluation.json"
        paths[name].parent.mkdir()
        paths[name].write_text(json.dumps(evaluation, allow_nan=False))
    features.to_csv(tmp_path / "table7" / "per_feature.tsv", sep="\t", index=False)
    return paths


@pytest.fixture
def published(tmp_path):
    path = tmp_path / "published.tsv"
    path.write_text(
        "index\tname\tDeepSEA_AUROC\tDeepSEA_AUPRC\n3\ta\t0.911\t0.4\n130\tb\t0.7\t0.2\n338\tc\t\t\n"
        "9\tz\t0.1\t0.1\n"
    )
    return path


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run"
    (path / "logs").mkdir(parents=True)
    (path / "config.yaml").write_text("data: {max_tokens: 512, sequences: 4}\nfit: {}\n")
    head = "epoch,step,train/bits_per_base,validation/accuracy,validation/bits_per_base\n"
    (path / "logs" / "metrics.0.csv").write_text(head + "0,9,2.1,,\n0,19,2.0,0.1,1.9\n")
    (path / "logs" / "metrics.csv").write_text(head + "0,29,1.9,,\n0,39,1.8,0.2,1.7\n")
    return path


def rows_of(page, anchor):
    """The cells of all tables of a section, row by row."""
    section = re.search(rf'<section id="{anchor}">(.*?)</section>', page, re.DOTALL)[1]
    rows = re.findall(r"<tr>(.*?)</tr>", section, re.DOTALL)
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]


def test_a_page_holds_every_table_and_the_curves(tables, published, run):
    page = render(Sources(tables, {"context-64": run}, published))
    anchors = re.findall(r'<section id="(\w+)">', page)
    assert anchors == ["table1", "figure8", "table5", "table6", "table7", "training"]
    assert page.count("<svg") == page.count("</svg>") > 10
    assert "<script" not in page
    assert "://" not in page.replace("http://www.w3.org", "")
    assert "seed&#34;: 7" in page
    assert "(seed 3)" in page


def test_masked_models_stand_with_their_intervals_and_differences(tables, evaluations):
    page = render(Sources({name: tables[name] for name in ("table1", "table5")}))
    masked = evaluations[0]["table5"]["masked"]
    rows = {row[0]: row for row in rows_of(page, "table5")}
    name = "n-gram model of bases"
    assert set(rows) == {
        "model", name, "full attention (BERT), 512 tokens", "bigbird, 512 tokens",
    }  # fmt: skip
    assert rows["bigbird, 512 tokens"][1] == shown(masked["bits_per_base"])
    ngram = masked["baselines"]["ngram_bases"]
    assert rows[name][1] == "2.000 [2.000, 2.000]"
    assert rows[name][2] == shown(ngram["difference"]["bits_per_base"], signed=True)
    assert rows[name][-1] == "1.57"
    assert rows["full attention (BERT), 512 tokens"][-1] == "1.23"
    assert rows["model"].count("difference") == 4
    assert {row[0]: row[-1] for row in rows_of(page, "table1")}["window, 512 tokens"] == "58.3"


def test_published_figures_stand_beside_the_same_features_only(tables, published):
    page = render(Sources({"table7": tables["table7"]}, published=published))
    rows = [row for row in rows_of(page, "table7") if "published" in row[1]]
    cells = {row[0]: row for row in rows[: len(rows) // 2]}
    assert cells["TF (2)"][2:4] == ["0.700", "0.200"]
    assert cells["DNase (1)"][2:4] == ["0.911", "0.400"]
    assert "histone (1)" not in cells
    assert "chromosomes 8 and 9" in cells["TF (2)"][1]
    assert "AUROC of DeepSEA, published" in page
    assert "Here chr1 were trained on, and chr2 measured." in page


def test_a_trained_baseline_says_its_size(tables):
    rows = rows_of(render(Sources({"table7": tables["table7"]})), "table7")
    assert ["DeepSEA-shaped network", "52,843,119", "0.25", "1,200", "2.5", "3.0"] in rows


def test_every_class_names_every_model(tables, evaluations):
    rows = rows_of(render(Sources({"table7": tables["table7"]})), "table7")
    found = evaluations[0]["table7"]["chromatin"]
    tf = [row for row in rows if row[0] == "TF (2)"]
    names = ["BigBird", "DeepSEA-shaped network, 0.25 of its width", "DanQ-shaped network"]
    assert [row[1] for row in tf] == names * 2  # bound bins, all bins
    cell = found["baselines"]["deepsea"]["all_bins"]["classes"]["TF"]
    wanted = f"{shown(cell['auroc'])}; {shown(cell['auroc_difference'], signed=True)}"
    assert tf[4][2] == wanted
    assert tf[4][-1] == "95.8"


def test_promoters_stand_by_kind_of_negatives(tables, evaluations):
    page = render(Sources({"table6-shuffle": tables["table6-shuffle"]}))
    rows = rows_of(page, "table6")
    assert "A scan, by models of shuffle negatives. 600 windows, " in page
    figures = evaluations[0]["table6-shuffle"]["promoters"]["figures"]
    ours = next(row for row in rows if row[0] == "BigBird")
    assert ours == [
        "BigBird",
        *(shown(figures[f]) for f in ("auroc", "auprc", "f1", "brier")),
        "99.9",
    ]
    assert number(figures["auroc"]["point"]) in ours[1]


def test_curves_follow_a_run_over_its_interruptions(tables, run):
    from pipelines.tables import _metrics

    table = _metrics(run)
    assert table["step"].tolist() == [9, 19, 29, 39]
    assert table["tokens"].tolist() == pytest.approx([0.02048, 0.04096, 0.06144, 0.08192])


def test_the_parts_of_a_run_are_read_by_their_number(run):
    # metrics.10.csv stood before metrics.2.csv: the curves of a run resumed often went back.
    head = "epoch,step,train/bits_per_base\n"
    for part in range(12):
        (run / "logs" / f"metrics.{part}.csv").write_text(f"{head}0,{part},2.0\n")
    from pipelines.tables import _metrics

    assert _metrics(run)["step"].tolist() == [*range(12), 29, 39]


def test_a_page_is_written_once(tables, tmp_path):
    sources = Sources({"table1": tables["table1"]})
    write_tables(sources, tmp_path / "page.html")
    with pytest.raises(UsageError, match="exists; choose another name or pass --force"):
        write_tables(sources, tmp_path / "page.html")
    write_tables(sources, tmp_path / "page.html", force=True)
    assert (tmp_path / "page.html").read_text() == render(sources)


def test_the_command_writes_what_is_named_and_no_input_over(tables, tmp_path):
    step, page = steps.command(main), tmp_path / "page.html"
    named = ["--table", f"table6-shuffle={tables['table6-shuffle']}"]
    CliRunner().invoke(step, [*named, "--output", str(page)], catch_exceptions=False)
    assert page.read_text() == render(Sources({"table6-shuffle": tables["table6-shuffle"]}))
    for arguments, message in [
        ([*named, "--output", str(page)], "exists; choose another name or pass --force"),
        ([*named, *named, "--output", "x.html"], "table6-shuffle is given twice"),
        (["--table", "table6", "--output", "x.html"], "'table6' found; NAME=PATH is wanted"),
        ([*named, "--output", "x.tsv"], "x.tsv has an unknown ending; allowed are .html, .htm"),
        ([*named, "--output", "x.html", "--published", "y.tsv"],
         "--published stands beside table7; give --table table7=FILE too"),
        ([*named, "--output", str(tables["table6-shuffle"]), "--force"],
         "--output and --table table6-shuffle are the same file"),
    ]:  # fmt: skip
        with pytest.raises(UsageError, match=message):
            CliRunner().invoke(step, arguments, catch_exceptions=False)


def test_what_cannot_be_shown_is_refused(tables, run, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "evaluation.json").write_text(tables["table7"].read_text())
    (bare / "broken.json").write_text("{")
    (bare / "list.json").write_text("[]")
    flat = {**json.loads(tables["table1"].read_text()), "masked": []}
    (bare / "flat.json").write_text(json.dumps(flat))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "evaluation.json").write_text(tables["table7"].read_text())
    (tmp_path / "odd" / "per_feature.tsv").write_text("index\n1\t2\n1\t2\t3\n")
    (bare / "words.tsv").write_text("index\tx_AUROC\n3\thigh\n")
    (bare / "no.tsv.gz").write_bytes(b"\xff\xfe")
    other, cut = tmp_path / "other", tmp_path / "cut"
    for folder in (other, cut):
        shutil.copytree(run, folder)
    (other / "config.yaml").write_text("fit: {}\n")  # as fine-tuning writes it
    (cut / "logs" / "metrics.csv").write_text("")
    (bare / "published.tsv").write_text("name\tvalue\n")
    (run / "config.yaml").unlink()
    for sources, error, message in [
        (Sources({}), UsageError, "no table is given; give one or more of table1, figure8"),
        (Sources({"table2": tables["table1"]}), UsageError, "'table2' is not one of table1, "),
        (Sources({"table6": tables["table1"]}), UsageError, "'table6' is not one of"),
        (Sources({"table1-x": tables["table1"]}), UsageError, "'table1-x' is not one of"),
        (Sources({"table1": bare / "none.json"}), UsageError, "there is no "),
        (Sources({"table1": bare / "broken.json"}), InputError, "is no JSON"),
        (Sources({"table1": bare / "list.json"}), InputError, "holds a list; a mapping is needed"),
        (Sources({"table1": bare / "flat.json"}), InputError, "evaluation of table1 is damaged"),
        (Sources({"table7": tmp_path / "odd" / "evaluation.json"}), InputError,
         "per_feature.tsv is no table"),
        (Sources({"table7": tables["table7"]}, published=bare / "words.tsv"), InputError,
         "words.tsv has no column x_AUROC of numbers"),
        (Sources({"table7": tables["table7"]}, published=bare / "no.tsv.gz"), InputError,
         "no.tsv.gz is no table"),
        (Sources({"table1": tables["table1"]}, {"run": other}), InputError,
         "config.yaml is of no pretraining run: it has no fit, data"),
        (Sources({"table1": tables["table1"]}, {"run": cut}), InputError,
         "metrics.csv is no table: No columns to parse"),
        (Sources({"table1": tables["table7"]}), InputError, "evaluation of table1 has no 'masked'"),
        (Sources({"table7": bare / "evaluation.json"}), UsageError, "no .*per_feature.tsv"),
        (Sources({"table7": tables["table7"]}, published=bare / "published.tsv"), InputError,
         "has the columns name, value; `index` and"),
        (Sources({"table7": tables["table7"]}, published=bare / "no.tsv"), UsageError,
         "no table of published figures"),
        (Sources({"table1": tables["table1"]}, {"run": run}), UsageError, "is no pretraining run"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message) as caught:
            write_tables(sources, tmp_path / "page.html")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "page.html").exists()
