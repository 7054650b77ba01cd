from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys

import pytest

from genobird.checkpoint import Checkpoint
from genobird.cli import main
from genobird.errors import CheckpointError


def failing(error: Exception):
    def load(_: object) -> Checkpoint:
        raise error

    return load


ESCAPED = [
    ValueError("two\nlines"),
    OverflowError(34),
    KeyError("a" * 9_000),
    RuntimeError(),
    UnicodeError("no text"),
    ImportError("no module"),
    AssertionError(),
    RecursionError("too deep"),
]


@pytest.mark.parametrize("error", ESCAPED, ids=lambda error: type(error).__name__)
def test_what_nobody_foresaw_is_one_line_that_names_the_step(error, monkeypatch, capsys):
    monkeypatch.delenv("GENOBIRD_DEBUG")
    monkeypatch.setattr(Checkpoint, "load", failing(error))
    assert main(["info"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("genobird: error: genobird info failed at report/description.py, line ")
    assert f": {type(error).__name__}" in err
    assert "please report this line" in err
    assert "--debug shows the whole traceback" in err
    assert len(err) < 1_000


def test_too_little_memory_is_named_for_what_it_is(monkeypatch, capsys):
    monkeypatch.delenv("GENOBIRD_DEBUG")
    monkeypatch.setattr(Checkpoint, "load", failing(MemoryError()))
    assert main(["info"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("genobird: error: genobird info needs more memory than there is at ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [["--debug", "info"], ["info", "--debug"]])
def test_debug_shows_the_traceback(words, monkeypatch):
    monkeypatch.delenv("GENOBIRD_DEBUG")
    monkeypatch.setattr(Checkpoint, "load", failing(KeyError("a")))
    with pytest.raises(KeyError):
        main(words)


def test_the_tests_hide_no_fault(monkeypatch):
    assert os.environ["GENOBIRD_DEBUG"]
    monkeypatch.setattr(Checkpoint, "load", failing(KeyError("a")))
    with pytest.raises(KeyError):
        main(["info"])


def test_names_that_are_no_text_are_refused_at_once(capsys):
    assert main(["report", "-o", os.fsdecode(b"caf\xe9.html")]) == 2
    err = capsys.readouterr().err
    assert err.startswith(r"genobird: error: argument 'caf\udce9.html' is no valid UTF-8; rename")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "before"),
    [
        (["demo", "--force", "-o", ""], "-o"),
        (["score", "", "-f", "x.fa"], "score"),
        (["corpus", "x.fa", "--output="], "--output="),
        ([""], "genobird"),
    ],
)
def test_an_empty_word_is_refused(words, before, capsys):
    # A path of no letters was the working folder, whose files `demo --force` may replace.
    assert main(words) == 2
    message = f"genobird: error: nothing is given behind {before}, as where a variable of a shell"
    assert capsys.readouterr().err.startswith(message)


def test_a_command_from_python_is_written_as_it_was_called(
    tiny_genome_path, tiny_checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["/opt/launcher.py", "-f", "kernel.json"])
    output = tmp_path / "out.vcf"
    source = tmp_path / "in.vcf"
    source.write_text(
        "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
        "chr1\t5\t.\tA\t.\t.\t.\t.\n"
    )
    words = ["variants", str(source), "-f", str(tiny_genome_path), "-m", str(tiny_checkpoint)]
    words += ["-q", "-o", str(output)]
    assert main(words) == 0
    [line] = [text for text in output.read_text().splitlines() if "genobirdCommand" in text]
    assert line == f"##genobirdCommand=genobird {shlex.join(words)}"
    assert main(["score", "--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: genobird score ")


def test_the_package_is_the_command():
    code = [sys.executable, "-m", "genobird", "score", "--no-such-option"]
    done = subprocess.run(code, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("genobird: error: no such option: --no-such-option")


def test_a_verb_is_loaded_without_the_others():
    code = (
        "import sys; from genobird.cli import main; main(['corpus', '--help']); "
        "print([f'genobird.cli.{name}' in sys.modules for name in ('training', 'variants')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[True, False]"


def test_what_is_loaded_is_searched_for_cycles_no_more_and_nothing_later_is_kept():
    code = (
        "import gc\n"
        "from genobird.cli import options, running\n"
        "from genobird.errors import UsageError\n"
        "for _ in range(2):\n"
        "    try:\n"
        "        running.open_scorer(None, options.Passes(), 'float16')\n"
        "    except UsageError as error:\n"
        "        print('float16' in str(error), gc.isenabled(), gc.get_freeze_count())\n"
        "    later = [[] for _ in range(50_000)]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = (line.split() for line in done.stdout.splitlines())
    assert first[:2] == second[:2] == ["True", "True"]
    assert 100_000 < int(first[2]) >= int(second[2])


def test_a_name_with_a_line_feed_is_told_on_one_line(monkeypatch, capsys):
    def load(path: object) -> Checkpoint:
        logging.getLogger("genobird.genome").warning("indexing %s", path)
        raise CheckpointError(f"{path} is no usable model")

    monkeypatch.setattr(Checkpoint, "load", load)
    assert main(["info", "mo\nd\x1bel"]) == 1
    told = "indexing mo\\nd\\x1bel\ngenobird: error: mo\\nd\\x1bel is no usable model\n"
    assert capsys.readouterr().err == told
    assert main(["score", "--thr\nads", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
