from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import genobird
from genobird.cli import app, main
from genobird.genome.fasta import Genome
from genobird.names import EXTRAS

HEAVY = ("matplotlib", "pandas", "pyarrow", "pysam", "pytorch_lightning", "sentencepiece", "torch")
BED = "chr1\t20000\t20200\tone\t.\t+\n"
HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


@dataclass
class Place:
    """Good inputs in a folder of their own; a case spoils one of them."""

    folder: Path
    genome: Path
    model: Path

    def file(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def score(self, regions: str, **changes: str) -> list[str]:
        options = {
            "fasta": str(self.genome),
            "model": str(self.model),
            "output": str(self.folder / "out.tsv"),
            "device": "cpu",
        } | changes
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return ["score", regions, *words]

    def variants(self, vcf: str) -> list[str]:
        output = str(self.folder / "out.vcf.gz")
        words = ["--fasta", str(self.genome), "--model", str(self.model), "--output", output]
        words += ["--background", "none"]  # these models have none, and say so
        return ["variants", vcf, *words]


@pytest.fixture
def place(tmp_path, tiny_contigs, tiny_checkpoint):
    genome = tmp_path / "genome.fa"
    genome.write_text("".join(f">{name}\n{bases}\n" for name, bases in tiny_contigs.items()))
    with Genome(genome) as opened:  # makes the index, which a log line would tell of
        assert opened.contigs
    return Place(tmp_path, genome, tiny_checkpoint)


def missing_file(place: Place) -> list[str]:
    return place.score(str(place.folder / "regions.bed"))


def missing_fasta(place: Place) -> list[str]:
    return place.score(place.file("a.bed", BED), fasta=str(place.folder / "none.fa"))


def missing_vcf(place: Place) -> list[str]:
    return place.variants(str(place.folder / "none.vcf"))


def missing_model(place: Place) -> list[str]:
    return place.score(place.file("a.bed", BED), model=str(place.folder / "none"))


def empty_bed(place: Place) -> list[str]:
    return place.score(place.file("a.bed", ""))


def empty_vcf(place: Place) -> list[str]:
    return place.variants(place.file("a.vcf", ""))


def empty_fasta(place: Place) -> list[str]:
    return place.score(place.file("a.bed", BED), fasta=place.file("a.fa", ""))


def bed_of_another_assembly(place: Place) -> list[str]:
    return place.score(place.file("a.bed", BED + "chr1\t59900\t60100\n"))


def unknown_contig(place: Place) -> list[str]:
    return place.score(place.file("a.bed", "chr7\t100\t200\n"))


def unknown_contigs_in_vcf(place: Place) -> list[str]:
    return place.variants(place.file("a.vcf", HEADER + "chr7\t100\t.\tA\tC\t.\t.\t.\n"))


def text_as_fasta(place: Place) -> list[str]:
    return place.score(place.file("a.bed", BED), fasta=place.file("a.fa", "Dear all,\n\nhello\n"))


def protein_as_fasta(place: Place) -> list[str]:
    return place.score(place.file("a.bed", BED), fasta=place.file("a.fa", ">p\nMKVLAAGIEQ\n"))


def truncated_gzip_bed(place: Place) -> list[str]:
    packed = gzip.compress((BED * 500).encode())
    return place.score(place.file("a.bed.gz", packed[:-20]))


def truncated_gzip_fasta(place: Place) -> list[str]:
    packed = gzip.compress(place.genome.read_bytes())
    return place.score(place.file("a.bed", BED), fasta=place.file("a.fa.gz", packed[:-20]))


def truncated_gzip_vcf(place: Place) -> list[str]:
    record = "chr1\t20000\t.\tA\tC\t.\t.\t.\n"
    packed = gzip.compress((HEADER + record * 500).encode())
    return place.variants(place.file("a.vcf.gz", packed[:-20]))


def vcf_without_header(place: Place) -> list[str]:
    return place.variants(place.file("a.vcf", "chr1\t20000\t.\tA\tC\t.\t.\t.\n"))


def existing_output(place: Place) -> list[str]:
    place.file("out.tsv", "precious\n")
    return place.score(place.file("a.bed", BED))


def existing_vcf_output(place: Place) -> list[str]:
    place.file("out.vcf.gz", "precious\n")
    return place.variants(place.file("a.vcf", HEADER))


def existing_demo_output(place: Place) -> list[str]:
    return ["demo", "--output", str(place.folder), "--model", str(place.model)]


def model_lacks_file(place: Place) -> list[str]:
    model = shutil.copytree(place.model, place.folder / "model")
    (model / "tokenizer.model").unlink()
    return place.score(place.file("a.bed", BED), model=str(model))


def model_altered(place: Place) -> list[str]:
    model = shutil.copytree(place.model, place.folder / "model")
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    return place.score(place.file("a.bed", BED), model=str(model))


def unknown_yaml_key(place: Place) -> list[str]:
    config = place.file("c.yaml", "learning_rat: 0.1\n")
    return ["pretrain", "--config", config, "--output", str(place.folder / "run")]


def unknown_section_key(place: Place) -> list[str]:
    config = place.file("c.yaml", "fit: {stepss: 3}\n")
    output = str(place.folder / "run")
    return ["finetune", "promoter", "--config", config, "--output", output]


def table_of_another_program(place: Place) -> list[str]:
    output = str(place.folder / "out.html")
    return ["report", "--regions", place.file("a.tsv", "gene\tvalue\nA\t1\n"), "--output", output]


Case = Callable[[Place], list[str]]
BAD: dict[Case, tuple[int, str]] = {
    missing_file: (2, r"regions\.bed"),
    missing_fasta: (2, r"none\.fa does not exist"),
    missing_vcf: (2, r"none\.vcf"),
    missing_model: (2, "no model directory"),
    empty_bed: (1, "holds no interval"),
    empty_vcf: (1, "no VCF header"),
    empty_fasta: (1, r"a\.fa"),
    bed_of_another_assembly: (
        1,
        r"chr1:59,901-60,100 ends after chr1 \(60,000 bp\); is the BED from another assembly\?",
    ),
    unknown_contig: (1, "contig 'chr7' is not in"),
    unknown_contigs_in_vcf: (1, r"none of 1 allele lies on a contig"),
    text_as_fasta: (1, r"a\.fa"),
    protein_as_fasta: (1, r"a\.fa"),
    truncated_gzip_bed: (1, r"a\.bed\.gz is (cut short|damaged)"),
    truncated_gzip_fasta: (1, r"a\.fa\.gz is (cut short|damaged)"),
    truncated_gzip_vcf: (1, r"a\.vcf\.gz is (cut short|damaged)"),
    vcf_without_header: (1, "no VCF header"),
    existing_output: (2, r"out\.tsv exists; choose another name or pass --force"),
    existing_vcf_output: (2, r"out\.vcf\.gz exists"),
    existing_demo_output: (2, "exists; choose another folder or pass --force"),
    model_lacks_file: (1, r"lacks tokenizer\.model"),
    model_altered: (1, r"model\.safetensors was altered"),
    unknown_yaml_key: (2, "unknown key learning_rat; allowed here: "),
    unknown_section_key: (2, r"unknown key fit\.stepss; allowed here: "),
    table_of_another_program: (1, "the region table has no column chrom"),
}


def contents(folder: Path) -> dict[str, bytes]:
    """Files under a folder; an index beside a good FASTA may come at any time."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if path.name != "genome.fa.fai"
    }


def assert_one_line(text: str, pattern: str) -> None:
    lines = [line for line in text.splitlines() if "is read into memory" not in line]
    assert len(lines) == 1, text
    assert lines[0].startswith("genobird: error: ")
    assert re.search(pattern, lines[0]), lines[0]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.__name__)
def test_bad_input_ends_with_one_line_and_nothing_written(case, place, capsys):
    code, pattern = BAD[case]
    arguments = case(place)
    before = contents(place.folder)
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert_one_line(captured.err, pattern)
    assert contents(place.folder) == before


def test_an_unwritable_output_ends_with_one_line(place, capsys):
    # A folder stands where the lock would go: root may write everywhere else.
    (place.folder / ".out.tsv.lock").mkdir()
    assert main(place.score(place.file("a.bed", BED))) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert_one_line(captured.err, r"out\.tsv\.lock is no file of its own")
    assert not (place.folder / "out.tsv").exists()


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["no-such-verb"], "no such command no-such-verb"),
        (["demo", "--no-such-option"], "no such option: --no-such-option"),
        (["report", "--output"], "--output"),
        (["report", "--output", "x.html"], "needs a region table"),
        (
            ["report", "--regions", "r.tsv", "-o", "x.pdf"],
            "unknown ending; allowed are .html, .htm",
        ),
        (["report", "--variants", "v", "--output", "./v"], "the report and the variant table are"),
        (["variants", "a.vcf"], "missing option --fasta"),
        (["demo", "--threads", "0"], "invalid value for --threads"),
        (["info", "no-such-model"], "no model directory no-such-model"),
    ],
    ids=" ".join,
)
def test_misuse_ends_with_one_line_and_code_2(arguments, pattern, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert_one_line(captured.err, pattern)
    assert not list(tmp_path.iterdir())


def test_a_group_without_a_verb_shows_its_help(capsys):
    assert main(["tokenizer"]) == 2
    assert "encode" in capsys.readouterr().err


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"genobird {genobird.__version__}\n"


def test_help_loads_nothing_heavy():
    code = (
        "import json, sys; from genobird.cli import main; code = main(['--help']); "
        "print(json.dumps([code, sorted(sys.modules)]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    *_, last = result.stdout.splitlines()
    exit_code, modules = json.loads(last)
    assert exit_code == 0
    assert set(modules).isdisjoint(HEAVY)
    assert "demo" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [[], ["score"], ["variants"], ["demo"], ["report"], ["info"], ["doctor"], ["corpus"]],
    ids=lambda words: words[0] if words else "genobird",
)
def test_every_verb_has_help(arguments, capsys):
    assert main([*arguments, "--help"]) == 0
    assert "Usage: " in capsys.readouterr().out


def test_info_loads_nothing_of_the_extra_of_training(tiny_checkpoint):
    code = (
        "import json, sys; from genobird.cli import main; code = main(['info', sys.argv[1]]); "
        "print(json.dumps([code, sorted(sys.modules)]))"
    )
    words = [sys.executable, "-c", code, str(tiny_checkpoint)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    exit_code, modules = json.loads(done.stdout.splitlines()[-1])
    assert exit_code == 0
    assert set(modules).isdisjoint({"matplotlib", *EXTRAS["train"]})


def test_info_describes_a_model_as_json(tiny_checkpoint, capsys):
    assert main(["info", str(tiny_checkpoint), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["features"] == {"total": 5, "TF": 3, "DNase": 1, "histone": 1}
    parts = dict(facts["parameters"])
    assert parts.pop("total") == sum(parts.values())
    assert facts["sha256"]["model.safetensors"].startswith(facts["hash"])
    assert set(facts["heads"]) == {"promoter", "chromatin"}
    assert facts["feature_names"]["TF"] == ["A|CTCF|None#130", "A|CTCF|None#338", "B|CTCF|None"]
    assert sum(map(len, facts["feature_names"].values())) == 5


@pytest.mark.parametrize("found", ["[1]", '{"promoters": 5}', '{"chromatin": {"all_bins": []}}'])
def test_info_tells_an_evaluation_of_another_shape(tiny_checkpoint, tmp_path, capsys, found):
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    (model / "evaluation.json").write_text(found)
    assert main(["info", str(model)]) == 1
    error = "genobird: error: the model's provenance or evaluation is not as genobird writes it; "
    assert capsys.readouterr().err == f"{error}make or fetch it again\n"


def test_info_shows_test_figures_where_the_model_has_them(tiny_checkpoint, tmp_path, capsys):
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    area = {"low": 0.8, "point": 0.9, "high": 0.95}
    one = {"features": 3, "auroc": area, "auprc": area}
    figures = {
        "promoters": {
            "positives": 5,
            "windows": 1_200,
            "figures": {"auroc": area, "auprc": area},
            "curves": {"roc": [0.1] * 51},
        },
        "chromatin": {"all_bins": {"classes": {"TF": one, "DNase": {"features": 0}}}},
        "masked": {"bits_per_base": area},
        "settings": {"seed": 0},
    }
    (model / "evaluation.json").write_text(json.dumps(figures))
    assert main(["info", str(model)]) == 0
    text = capsys.readouterr().out
    areas = "AUROC 0.900 [0.800, 0.950], AUPRC 0.900 [0.800, 0.950]"
    assert f"  promoters, 5 among 1,200 windows: {areas}\n" in text
    assert "  chromatin, TF (3): AUROC 0.900 [0.800, 0.950]" in text
    assert "  masked tokens: 0.900 [0.800, 0.950] bits per base\n" in text
    assert "settings" not in text
    assert "roc:" not in text
    assert main(["info", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluation"] == figures


def test_info_names_every_feature_once_in_a_page(tiny_checkpoint, tmp_path, capsys):
    # It wrote 8,394 lines of the bundled model, most of them points of curves, and no name.
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    facts = json.loads((model / "provenance.json").read_text())
    data = {"bins": {"train": 5_000}, "sources": {"a.fa.gz": "0" * 64}}
    chromatin = {"bases_seen": 1_000, "data": data, "earlier": {"bases_seen": 200, "data": data}}
    facts |= {"assembly": "GRCh37", "chromatin": chromatin}
    facts["combined"] = {"local": {"bases_seen": 30}}
    (model / "provenance.json").write_text(json.dumps(facts))
    assert main(["info", str(model)]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert re.fullmatch(r"genobird model [0-9a-f]{12}: .*, 23,878 parameters", lines[0])
    assert len(lines) < 40
    assert max(map(len, lines)) <= 100
    at = lines.index("TF features (3)")
    assert lines[at + 1] == "  A|CTCF|None#130, A|CTCF|None#338, B|CTCF|None"
    for name in ("A|DNase|None", "B|H3K4me3|None"):
        assert text.count(name) == 1
    assert "  assembly: GRCh37\n" in text
    assert "  chromatin: 5,000 train bins, 1,200 bases seen of a.fa.gz\n" in text
    assert "  local network: 30 bases seen\n" in text
    assert "  chromatin: 5 outputs, reads " in text


def test_doctor_passes_with_a_good_model_and_fails_without(tiny_checkpoint, tmp_path, capsys):
    assert main(["doctor", "--model", str(tiny_checkpoint), "--json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert checks["model"]["finding"] == "ok"
    assert checks["self-test"]["finding"] == "note"
    assert main(["doctor", "--model", str(tmp_path / "none")]) == 1
    assert re.search(r"broken +model +there is no model directory", capsys.readouterr().out)


def test_of_commands_in_several_threads_one_runs_at_a_time(monkeypatch):
    entered = []

    def enter() -> None:
        entered.append(app._alone.acquire(blocking=False))

    def run(words: list[str]) -> int:
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        return 0

    monkeypatch.setattr(app, "_run", run)
    assert main(["info"]) == 0
    assert entered == [False]
    enter()
    app._alone.release()
    assert entered == [False, True]
