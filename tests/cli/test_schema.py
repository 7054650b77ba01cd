from __future__ import annotations

import json

import pandas as pd
import pytest
from pydantic import BaseModel

from genobird.cli import main
from genobird.cli.training import CONFIGURATIONS, configuration


def described(capsys, *words: object) -> dict:
    assert main(["schema", *map(str, words)]) == 0
    return json.loads(capsys.readouterr().out)


def test_without_a_name_the_names_are_listed(capsys):
    assert main(["schema"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert {"score", "finetune chromatin", "variants table", "variants INFO"} <= set(names)
    assert main(["schema", "no", "such"]) == 2
    assert "'no such' has no schema" in capsys.readouterr().err


def test_the_options_of_a_verb_are_described_as_they_are_declared(capsys):
    found = described(capsys, "variants")
    assert found["title"] == "genobird variants"
    assert set(found["required"]) == {"sources", "fasta", "output"}
    assert found["properties"]["shifts"]["default"] == 1
    assert found["properties"]["fasta"]["flags"] == ["-f"]


@pytest.mark.parametrize("verb", CONFIGURATIONS)
def test_every_configuration_has_a_schema(verb):
    kind = configuration(verb)
    assert issubclass(kind, BaseModel)
    assert kind.model_json_schema()["properties"]


def test_tables_and_info_are_those_of_the_model(
    capsys, tiny_checkpoint, tiny_genome_path, tmp_path
):
    model = ["--model", str(tiny_checkpoint)]
    table, vcf = tmp_path / "out.parquet", tmp_path / "out.vcf"
    source = tmp_path / "in.vcf"
    header = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    source.write_text(f"{header}chr1\t20001\t.\tN\tA\t.\t.\t.\n")
    options = [*model, "--fasta", str(tiny_genome_path), "--background", "none", "--quiet"]
    outputs = ["--output", str(vcf), "--table", str(table)]
    assert main(["variants", str(source), *options, *outputs]) == 0
    row = described(capsys, "variants", "table", *model)["properties"]
    assert list(row) == list(pd.read_parquet(table))
    assert row["pos"] == {"type": "integer"}
    assert row["A|DNase|None|delta"] == {"type": ["number", "null"]}
    info = described(capsys, "variants", "INFO", *model)["properties"]
    declared = [line for line in vcf.read_text().splitlines() if line.startswith("##INFO")]
    assert declared
    for line in declared:
        key = line.removeprefix("##INFO=<ID=").split(",")[0]
        assert info[key]["description"] in line
    assert "GB_HAP_JOINT" in info
    assert "promoter" in described(capsys, "score", "table", *model)["properties"]
