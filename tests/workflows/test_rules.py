"""What holds for the rules of every workflow, and where Snakemake's catalog looks."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
RULE = re.compile(
    r"^(?P<indent> *)(?P<use>use )?rule (?P<name>[\w ]+?)(?: with)?:\n"
    r"(?P<body>(?:(?P=indent) +.*\n|\n)+)",
    re.MULTILINE,
)
MODULE = """\
configfile: "config/config.yaml"
module scoring:
    snakefile: {snakefile!r}
    config: config
use rule * from scoring
"""

pytestmark = pytest.mark.workflow


def test_every_rule_tells_what_it_writes_and_needs():
    steps = 0
    for path in sorted((ROOT / "workflows").rglob("*.smk")):
        for rule in RULE.finditer(path.read_text()):
            keys = set(re.findall(rf"^{rule['indent']}    (\w+):", rule["body"], re.MULTILINE))
            wanted = {"log", "benchmark"}
            if not rule["use"]:  # what is used again keeps the rest
                wanted |= {"conda", "threads", "resources"}
                assert re.search(r"mem_mb=\d+,\s+runtime=\d+,", rule["body"]), rule["name"]
            assert keys >= wanted, f"{path.name}: {rule['name']} lacks {wanted - keys}"
            steps += 1
    assert steps > 40


def test_the_picture_of_the_rules_is_what_snakemake_plans(snakemake, project):
    text = (ROOT / "workflows" / "train" / "README.md").read_text()
    drawn = set()
    for line in re.findall("```mermaid\n(.*?)```", text, re.DOTALL)[0].splitlines()[1:]:
        rule, followers = line.strip().split(" --> ")
        drawn |= {(rule, follower) for follower in followers.split(" & ")}
    config = yaml.safe_load((ROOT / "workflows/train/config/test.yaml").read_text())
    graph = snakemake("train", config | {"output": "results/drawn"}, "--rulegraph", "mermaid-js")
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", graph))
    planned = re.findall(r"(id\d+) --> (id\d+)", graph)
    assert drawn == {(names[one], names[other]) for one, other in planned}


def test_a_deployed_copy_of_the_scoring_workflow_plans_its_jobs(tmp_path):
    catalog = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())
    assert catalog["usage"]["mandatory-flags"]["desc"]
    shutil.copytree(ROOT / "config", tmp_path / "config")
    assert (tmp_path / "config" / "README.md").is_file()
    snakefile = str(ROOT / "workflow" / "Snakefile")
    (tmp_path / "Snakefile").write_text(MODULE.format(snakefile=snakefile))
    shutil.copy(tmp_path / "config" / "samples.tsv", tmp_path)
    for name in ("regions.bed", "variants.vcf.gz", "genome.fa.gz"):
        (tmp_path / name).touch()
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run", "--printshellcmds"]
    planned = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    said = planned.stdout + planned.stderr
    assert planned.returncode == 0, said
    for verb, file in (("score", "regions.bed"), ("variants", "variants.vcf.gz")):
        assert f"genobird {verb} {file} --fasta genome.fa.gz --output results/score/" in said
