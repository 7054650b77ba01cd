from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from snakemake.utils import update_config, validate
from snakemake_interface_common.exceptions import WorkflowError

from genobird.config import load_config

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "workflows" / "reproduce" / "config"
TEST_CONFIG = Path("workflows/reproduce/config/test.yaml")
TARGETS = ("table1", "figure8", "table5", "table6", "table7")

pytestmark = pytest.mark.workflow


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def rebuilt(project, snakemake):
    """The folder of results of all tables on the demo region."""
    snakemake("reproduce", TEST_CONFIG)
    return project / "results" / "test"


@pytest.mark.slow
def test_every_table_has_a_page_and_all_are_on_one(rebuilt):
    pages = {path.stem: path.read_text() for path in rebuilt.glob("*.html")}
    assert set(pages) == {*TARGETS, "tables"}
    for name in TARGETS:
        assert f'<section id="{name}">' in pages[name]
        assert f'<section id="{name}">' in pages["tables"]
    assert pages["tables"].count("<section id=") == 6  # and the training curves
    assert "<script" not in pages["tables"]


@pytest.mark.slow
def test_masked_models_are_compared_on_the_same_tokens(rebuilt):
    table1, figure8, table5 = (
        read(rebuilt / name / "evaluation.json") for name in ("table1", "figure8", "table5")
    )
    assert set(table1["masked"]["baselines"]) == {"pattern-window"}
    assert table1["encoder"]["pattern"] == "full"
    assert table1["data"]["compared"]["pattern-window"]["encoder"]["pattern"] == "window"
    assert set(figure8["masked"]["baselines"]) == {"pattern-full", "context-64", "etc-128"}
    encoders = {name: facts["encoder"] for name, facts in figure8["data"]["compared"].items()}
    assert encoders["etc-128"] == figure8["encoder"] | {"global_tokens": "extra"}
    assert figure8["settings"]["masked_context"] == 128
    assert figure8["data"]["compared"]["context-64"]["settings"]["masked_context"] == 64
    assert set(table5["masked"]["baselines"]) == {"pattern-full", "ngram_bases", "ngram_tokens"}
    assert table5["data"]["baselines"]["sequence"]["ngram_bases"]["order"] == 5
    for part in ("no_n", "repeats", "unique"):
        for found in (table5["masked"], *table5["masked"]["baselines"].values()):
            cell = found[f"bits_per_base_{part}"]
            assert cell["low"] <= cell["point"] <= cell["high"]


@pytest.mark.slow
def test_contexts_and_patterns_see_the_same_number_of_tokens(rebuilt):
    seen = {}
    for path in (rebuilt / "runs").iterdir():
        facts = read(path / "model" / "provenance.json")["pretraining"]
        seen[path.name] = facts["tokens_seen"]
        assert facts["config"]["fit"]["seed"] == 0
    assert set(seen.values()) == {4 * 256}
    assert set(seen) == {"pattern-window", "pattern-full", "context-64", "context-128", "etc-128"}


@pytest.mark.slow
def test_each_kind_of_negatives_has_its_own_windows_and_models(rebuilt):
    for kind in ("shuffle", "substitute"):
        table = pd.read_parquet(rebuilt / "data" / f"promoters.{kind}.parquet")
        assert table["name"].str.endswith(f"|{kind}").mean() == 0.5
        found = read(rebuilt / "table6" / kind / "evaluation.json")
        assert found["promoters"]["windows"] == (table["split"] == "test").sum()
        assert set(found["promoters"]["baselines"]) == {
            "composition", "kmers", "gapped_kmers", "convolution", "cnnprom", "deepromoter",
        }  # fmt: skip
        assert ("scan" in found) == (kind == "shuffle")
    scanned = read(rebuilt / "table6" / "shuffle" / "evaluation.json")["scan"]
    assert (scanned["positives"], len(scanned["baselines"])) == (10, 6)
    assert "A scan, by models of shuffle negatives." in (rebuilt / "table6.html").read_text()


@pytest.mark.slow
def test_chromatin_is_measured_beside_every_baseline(rebuilt):
    found = read(rebuilt / "table7" / "evaluation.json")
    names = {"composition", "gapped_kmers", "convolution", "deepsea", "danq", "etc-128"}
    assert set(found["chromatin"]["baselines"]) == names
    encoder = found["data"]["compared"]["etc-128"]["encoder"]
    assert encoder == found["encoder"] | {"global_tokens": "extra"}
    assert "bigbird, learned global tokens (ETC)" in (rebuilt / "table7.html").read_text()
    features = pd.read_csv(rebuilt / "table7" / "per_feature.tsv", sep="\t")
    assert {f"all_bins_auroc_{name}" for name in names} <= set(features.columns)


@pytest.mark.slow
def test_nothing_is_trained_on_the_test_part(rebuilt):
    parts = yaml.safe_load((ROOT / "workflows/train/config/test/splits.yaml").read_text())
    (test,) = parts["splits"]["demo"]["test"]
    first = int(test.partition(":")[2].partition("-")[0].replace(",", "")) - 1
    for part in ("train", "validation"):
        corpus = pd.read_parquet(rebuilt / "corpus" / part / "sentences.parquet")
        assert corpus["end"].max() <= first
    for path in (rebuilt / "data").glob("promoters.*.parquet"):
        table = pd.read_parquet(path)
        assert table[table["split"] != "test"]["end"].max() <= first
    index = read(rebuilt / "data" / "chromatin" / "index.json")
    for part in ("train", "validation"):
        assert all(end <= first for _, _, end in index["splits"][part])


@pytest.mark.slow
def test_a_second_run_does_nothing(rebuilt, snakemake):
    before = {path: path.stat().st_mtime_ns for path in rebuilt.rglob("*")}
    assert "Nothing to be done" in snakemake("reproduce", TEST_CONFIG)
    assert {path: path.stat().st_mtime_ns for path in rebuilt.rglob("*")} == before


def planned(log):
    """Rule -> how often it runs, from Snakemake's table of jobs."""
    lines = [line.split() for line in log.splitlines()]
    return {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}


@pytest.fixture
def data(project):
    """Empty files in the place of the data that the default configuration names."""
    config = yaml.safe_load((CONFIG / "config.yaml").read_text())
    names = [
        *config["genome"], *config["repeats"], config["promoters"]["bed"],
        *config["promoters"]["exclude"], config["chromatin"]["peaks"],
        config["chromatin"]["tracks"], config["published"],
    ]  # fmt: skip
    for name in names:
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return config


def test_the_default_configuration_plans_every_model_once(data, snakemake):
    log = snakemake("reproduce", CONFIG / "config.yaml", "--dry-run")
    steps = planned(log)
    assert steps["pretrain"] == 5 + 2 + 1
    assert steps["masked"] == 5 + 1 + 1
    assert steps["compare_masked"] == 3
    for rule in ("finetune_promoter", "promoter_baselines", "compare_promoters"):
        assert steps[rule] == 3
    assert steps["negatives"] == 3 + 1  # and the scan
    for rule in ("ngrams", "finetune_chromatin", "chromatin_baselines", "compare_chromatin"):
        assert steps[rule] == 1
    assert steps["page"] == 6
    assert "promoters" not in steps


@pytest.mark.parametrize(
    ("target", "trains"),
    [
        ("table1", {"pretrain": 5}),
        ("figure8", {"pretrain": 2 + 1 + 1}),
        ("table5", {"pretrain": 2, "ngrams": 1}),
        ("table6", {"pretrain": 1, "finetune_promoter": 3, "promoter_baselines": 3}),
        (
            "table7",
            {
                "pretrain": 2,
                "finetune_chromatin": 1,
                "finetune_chromatin_etc": 1,
                "chromatin_baselines": 1,
            },
        ),
    ],
)
def test_a_target_trains_what_its_table_needs(data, snakemake, target, trains):
    steps = planned(snakemake("reproduce", CONFIG / "config.yaml", "--dry-run", target))
    kinds = {"pretrain", "ngrams", "finetune_promoter", "finetune_chromatin"}
    kinds |= {"finetune_chromatin_etc", "promoter_baselines", "chromatin_baselines"}
    assert {rule: n for rule, n in steps.items() if rule in kinds} == trains


def test_a_trained_model_is_measured_instead_of_a_new_one(data, project, snakemake):
    for name in ("encoder", "finished"):
        (project / name).mkdir(exist_ok=True)
    config = data | {"start": "encoder", "chromatin_model": "finished"}
    steps = planned(snakemake("reproduce", config, "--dry-run", "table6", "table7"))
    for rule in ("pretrain", "finetune_chromatin", "finetune_chromatin_etc"):
        assert rule not in steps
    assert steps["finetune_promoter"] == 3
    assert steps["compare_chromatin"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patterns": ["full", "windows"]}, "'windows' is not one of"),
        ({"contexts": []}, "non-empty|is too short"),
        ({"patterns": ["window", "bigbird"]}, "does not contain items matching|not valid under"),
        ({"negatives": []}, "non-empty|is too short"),
        ({"repeats": "x.bed"}, "'x.bed' is not of type 'array'"),
        ({"pretrain": {"table1": "a.yaml"}}, "'figure8' is a required property"),
        ({"gnome": 1}, "'gnome' was unexpected"),
    ],
)
def test_the_schema_names_what_is_wrong(changes, message):
    config = yaml.safe_load((CONFIG / "test.yaml").read_text()) | changes
    with pytest.raises(WorkflowError, match=message):
        validate(config, str(CONFIG / "schema.yaml"))


def test_every_key_is_explained():
    objects = [yaml.safe_load((CONFIG / "schema.yaml").read_text())]
    while objects:
        one = objects.pop()
        assert one["additionalProperties"] is False
        for name, key in one["properties"].items():
            if key.get("type") == "object":
                objects.append(key)
            else:
                assert key["description"], name


@pytest.mark.parametrize("name", ["config.yaml", "larger.yaml", "test.yaml"])
def test_the_settings_of_each_step_are_valid(name):
    from genobird.baselines.config import BaselineConfig
    from genobird.tasks.evaluate import EvaluateSettings
    from genobird.tasks.finetune import ChromatinConfig, PromoterConfig
    from genobird.tasks.pretrain import PretrainConfig

    config = yaml.safe_load((CONFIG / "config.yaml").read_text())
    update_config(config, yaml.safe_load((CONFIG / name).read_text()))  # as --configfile does
    validate(config, str(CONFIG / "schema.yaml"))
    steps = config["tokens_per_step"]
    for kind, context in (
        ("table1", config["table1_context"]),
        ("figure8", config["contexts"][-1]),
    ):
        changes = ("shards=s", "tokenizer=t", f"data.max_tokens={context}")
        pretraining = load_config(PretrainConfig, ROOT / config["pretrain"][kind], changes)
        assert steps % context == 0  # every context sees the same number of tokens a step
        if kind == "table1" and name != "test.yaml":
            blocks = context // pretraining.encoder(512).block_size
            assert blocks > 8  # the window, random and global blocks of bigbird leave some out
    start = ("checkpoint=m", "data_path=d")
    load_config(ChromatinConfig, ROOT / config["finetune"]["chromatin"], start)
    load_config(PromoterConfig, ROOT / config["finetune"]["promoter"], start)
    load_config(BaselineConfig, ROOT / config["baselines"])
    masked = load_config(EvaluateSettings, ROOT / config["evaluate"]).masked
    assert masked.max_tokens >= max(config["contexts"])


def test_profiles_hold_options_that_snakemake_knows(project, snakemake, profile):
    config = yaml.safe_load((CONFIG / "test.yaml").read_text()) | {"output": "results/planned"}
    options = ("--profile", f"workflows/reproduce/profiles/{profile}", "--executor", "dryrun")
    assert "This was a dry-run" in snakemake("reproduce", config, *options, "--dry-run")
