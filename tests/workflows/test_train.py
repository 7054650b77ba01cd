from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from snakemake.utils import validate
from snakemake_interface_common.exceptions import WorkflowError

from genobird.config import load_config
from genobird.genome.interval import parse_region, read_bed

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "workflows" / "train" / "config"
TEST_CONFIG = Path("workflows/train/config/test.yaml")

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def trained(project, snakemake):
    """The folder of results of the whole workflow on the demo region."""
    snakemake("train", TEST_CONFIG)
    return project / "results" / "test"


@pytest.mark.slow
def test_a_model_with_both_heads_is_trained_that_scores(trained):
    from genobird.checkpoint import Checkpoint
    from genobird.scoring.scorer import Scorer

    checkpoint = Checkpoint.load(trained / "model")
    assert checkpoint.features["name"].tolist() == ["test_core", "test_flank"]
    assert set(checkpoint.modules()) == {"encoder", "mlm", "promoter", "chromatin"}
    scorer = Scorer(checkpoint, device="cpu")
    table = scorer.score_sequences(["ACGTTGCA" * 500])
    assert np.isfinite(table[["promoter", "test_core", "test_flank"]].to_numpy(float)).all()


@pytest.mark.slow
def test_the_data_are_those_of_the_split(trained):
    parts = yaml.safe_load((CONFIG / "test" / "splits.yaml").read_text())["splits"]["demo"]
    promoters = pd.read_parquet(trained / "data" / "promoters.parquet")
    index = json.loads((trained / "data" / "chromatin" / "index.json").read_text())
    for part in ("train", "validation", "test"):
        (region,) = (parse_region(text) for text in parts[part])
        assert list(read_bed(trained / "data" / f"{part}.bed")) == [region]
        rows = promoters[promoters["split"] == part]
        assert rows["label"].value_counts().nunique() == 1
        assert rows["start"].min() >= region.start
        assert rows["end"].max() <= region.end
        assert index["splits"][part] == [[region.contig, region.start, region.end]]
        corpus = pd.read_parquet(trained / "corpus" / part / "sentences.parquet")
        assert corpus["start"].min() >= region.start
        assert corpus["end"].max() <= region.end
    assert promoters["split"].value_counts().to_dict() == {"train": 28, "validation": 6, "test": 20}


@pytest.mark.slow
def test_what_was_measured_is_what_ships(trained):
    model = json.loads((trained / "model" / "provenance.json").read_text())
    evaluation = json.loads((trained / "evaluation.json").read_text())
    assert evaluation["model_sha256"] == model["sha256"]["model.safetensors"]
    assert evaluation["split"] == "test"
    assert evaluation["promoters"]["windows"] == 20
    assert evaluation["scan"]["positives"] == 10
    assert evaluation["scan"]["windows"] > 100
    for task in ("chromatin", "promoters", "scan"):
        assert set(evaluation[task]["baselines"]) == {"composition", "convolution"}
    assert 0 < evaluation["masked"]["bits_per_base"]["point"] < 4
    features = pd.read_csv(trained / "per_feature.tsv", sep="\t")
    assert features["name"].tolist() == ["test_core", "test_flank"]


@pytest.mark.slow
def test_the_card_lies_beside_the_weights_and_names_them(trained):
    card = (trained / "card.md").read_text()
    assert (trained / "model" / "README.md").read_text() == card
    assert json.loads((trained / "model" / "evaluation.json").read_text()) == json.loads(
        (trained / "evaluation.json").read_text()
    )
    provenance = json.loads((trained / "model" / "provenance.json").read_text())
    assert provenance["sha256"]["model.safetensors"][:12] in card
    for step in ("pretraining", "chromatin", "promoter", "mlm"):
        assert provenance[step]["command"].startswith("genobird ")
        assert provenance[step]["config"]["fit"]["steps"] == 4


@pytest.mark.slow
def test_the_background_is_of_the_model_that_ships_and_of_no_held_out_place(trained):
    from genobird.scoring.scorer import load

    scorer = load(trained / "model", device="cpu")
    assert scorer.background is not None
    assert scorer.background.count == 2
    parts = [read_bed(trained / "data" / f"{part}.bed") for part in ("validation", "test")]
    assert scorer.background.facts["exclude"] == [str(one) for part in parts for one in part]


@pytest.mark.slow
def test_a_second_run_does_nothing(trained, snakemake):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    assert "Nothing to be done" in snakemake("train", TEST_CONFIG)
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


@pytest.mark.slow
def test_shards_that_were_stopped_are_finished_and_not_made_anew(trained, project, snakemake):
    folder = project / "results" / "stopped"
    shutil.copytree(trained, folder)
    shards = folder / "shards" / "validation"
    unfinished = shards.rename(shards.with_suffix(".unfinished"))
    index = json.loads((unfinished / "index.json").read_text())
    (unfinished / "index.json").write_text(json.dumps(index | {"complete": False, "files": []}))
    before = {path.name: path.stat().st_ino for path in unfinished.glob("*.npy")}
    config = yaml.safe_load((CONFIG / "test.yaml").read_text()) | {"output": "results/stopped"}
    # What only leads to files that are there is not made again, unless it is asked for.
    snakemake("train", config, "--", "results/stopped/shards/validation")
    assert {path.name: path.stat().st_ino for path in shards.glob("*.npy")} == before
    assert json.loads((shards / "index.json").read_text()) == index
    assert not unfinished.exists()


@pytest.mark.slow
def test_the_report_holds_the_figures_with_their_captions(trained, report):
    names, pages = report("train", TEST_CONFIG)
    assert names >= {"evaluation.json", "per_feature.tsv", "card.md", "report.html"}
    assert "A network that reads the bases around a place is trained alone" in pages
    assert "Test figures of each chromatin feature" in pages


def test_the_configuration_of_the_bundled_model_plans_every_step(project, snakemake):
    config = yaml.safe_load((CONFIG / "config.yaml").read_text())
    data = [
        *config["genome"],
        config["promoters"]["bed"],
        *config["promoters"]["exclude"],
        config["chromatin"]["peaks"],
        config["chromatin"]["tracks"],
        config["chromatin"]["sites"]["table"],
        config["chromatin"]["sites"]["peaks"],
        config["chromatin"]["motifs"],
        *config["background"]["variants"],
    ]
    for name in data:
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    log = snakemake("train", CONFIG / "config.yaml", "--dry-run", "--printshellcmds")
    steps = {line.split()[0]: line.split()[-1] for line in log.splitlines() if line.strip()}
    stages = len(config["finetune"]["chromatin"])
    expected = {"split": "3", "corpus": "3", "shards": "3", "tokenizer": "1", "promoters": "1",
                "scan": "1", "chromatin": "1", "pretrain": "1", "round": "1",
                "finetune_promoter": "1", "finetune_chromatin": str(stages), "finetune_mlm": "1",
                "baselines": "1", "evaluate": "1", "card": "1", "bundle": "1", "all": "1",
                "genome": "1", "background": "1", "calibrate": "1", "auxiliary": "1",
                "sites": "1", "finetune_local": "1", "combine": "1",
                "total": str(29 + stages)}  # fmt: skip
    assert {name: steps[name] for name in expected} == expected
    assert f"--peaks {config['chromatin']['peaks']} --tracks " in log
    assert " --others --splits " in log
    # Each stage, the local network and the baselines.
    assert log.count(f"auxiliary_path={config['output']}/data/auxiliary ") == stages + 2
    out = config["output"]
    held_out = " ".join(f"--exclude {out}/data/{part}.bed" for part in ("validation", "test"))
    assert f"{held_out} --limit 800 --seed 1 --output {out}/background.npz" in log
    assert f" --background {out}/background.npz --output {out}/model " in log


def test_without_a_background_none_is_made(project, snakemake):
    config = yaml.safe_load((CONFIG / "test.yaml").read_text()) | {"output": "results/without"}
    log = snakemake("train", config | {"background": None}, "--dry-run", "--printshellcmds")
    assert "python -m pipelines.bundle" in log
    assert "background" not in log


def test_peak_files_have_no_other_tracks_to_learn_beside(project, snakemake):
    config = yaml.safe_load((CONFIG / "test.yaml").read_text()) | {"output": "results/peaks"}
    config["chromatin"]["auxiliary"] = True  # what a configuration laid over the default keeps
    log = snakemake("train", config, "--dry-run", "--printshellcmds")
    assert "genobird finetune chromatin" in log
    assert "auxiliary" not in log


def test_a_wrong_configuration_is_refused_before_anything_runs(project, snakemake):
    config = yaml.safe_load((CONFIG / "test.yaml").read_text())
    log = snakemake("train", config | {"output": "results/wrong", "gnome": ["x.fa"]}, code=1)
    assert "Error validating config file" in log
    assert "Additional properties are not allowed ('gnome' was unexpected)" in log
    assert not (project / "results" / "wrong").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer": {"kind": "bpe", "vocabulary": 64}}, "'vocabulary' was unexpected"),
        ({"tokenizer": {"kind": "wordpiece"}}, "'wordpiece' is not one of"),
        ({"passes": 0}, "0 is less than the minimum of 1"),
        ({"genome": "x.fa"}, "'x.fa' is not of type 'array'"),
        ({"background": {"limit": 5}}, "'variants' is a required property"),
        ({"chromatin": {"peaks": ["a.bed"], "tracks": "tracks.tsv"}}, "is not of type 'string'"),
    ],
)
def test_the_schema_names_what_is_wrong(changes, message):
    config = yaml.safe_load((CONFIG / "test.yaml").read_text()) | changes
    with pytest.raises(WorkflowError, match=message):
        validate(config, str(CONFIG / "schema.yaml"))


def test_what_is_left_out_has_the_default_of_the_schema():
    config = yaml.safe_load((CONFIG / "test.yaml").read_text())
    del config["tokenizer"]["kind"], config["threads"], config["splits_file"]
    del config["background"]["limit"]
    validate(config, str(CONFIG / "schema.yaml"))
    assert config["background"]["limit"] == 2000
    del config["background"]
    validate(config, str(CONFIG / "schema.yaml"))
    assert config["background"] is None
    assert (config["tokenizer"]["kind"], config["threads"], config["splits_file"]) == (
        "bpe",
        2,
        None,
    )


def test_every_key_is_explained():
    schema = yaml.safe_load((CONFIG / "schema.yaml").read_text())
    objects = [schema]
    while objects:
        one = objects.pop()
        assert one["additionalProperties"] is False
        for name, key in one["properties"].items():
            parts = key if "properties" in key else key.get("then", {})
            if "properties" in parts:
                objects.append(parts)
            else:
                assert key["description"], name


@pytest.mark.parametrize("name", ["config.yaml", "test.yaml"])
def test_the_settings_of_each_step_are_valid(name):
    from genobird.baselines.train import BaselineConfig
    from genobird.tasks.evaluate import EvaluateSettings
    from genobird.tasks.finetune import ChromatinConfig, PromoterConfig
    from genobird.tasks.pretrain import MLMConfig, PretrainConfig

    config = yaml.safe_load((CONFIG / name).read_text())
    start = ("checkpoint=m", "data_path=d")
    sources = ("shards=s", "tokenizer=t")
    pretraining = load_config(PretrainConfig, ROOT / config["pretrain"], sources)
    assert pretraining.encoder(4096).block_size
    stages = [
        load_config(ChromatinConfig, ROOT / stage, start)
        for stage in config["finetune"]["chromatin"]
    ]
    assert [stage.keep_head for stage in stages] == [number > 0 for number in range(len(stages))]
    local = load_config(ChromatinConfig, ROOT / config["finetune"]["local"], start)
    assert local.head.local is not None
    load_config(PromoterConfig, ROOT / config["finetune"]["promoter"], start)
    load_config(MLMConfig, ROOT / config["finetune"]["mlm"], ("checkpoint=m", "shards=s"))
    load_config(BaselineConfig, ROOT / config["baselines"])
    load_config(EvaluateSettings, ROOT / config["evaluate"])


@pytest.mark.parametrize(("kind", "threads"), [("bpe", 1), ("unigram", 3)])
def test_a_vocabulary_takes_the_threads_that_its_kind_can_use(project, snakemake, kind, threads):
    config = yaml.safe_load((CONFIG / "test.yaml").read_text())
    config |= {"output": "results/planned", "threads": 3}
    config["tokenizer"] |= {"kind": kind}
    options = ("--cores", "4", "--dry-run", "--printshellcmds", "--until", "tokenizer")
    log = snakemake("train", config, *options)
    assert f"--kind {kind} " in log
    assert f"--threads {threads} " in log


def test_profiles_hold_options_that_snakemake_knows(project, snakemake, profile):
    config = yaml.safe_load((CONFIG / "test.yaml").read_text()) | {"output": "results/planned"}
    options = ("--profile", f"workflows/train/profiles/{profile}", "--executor", "dryrun")
    assert "This was a dry-run" in snakemake("train", config, *options, "--dry-run")
