"""`genobird serve` as a process: its address, and its ends."""

from __future__ import annotations

import signal
import socket
import tempfile
from urllib.request import urlopen

import pytest

from genobird.cli import main
from genobird.files import scratch
from tests.serve.conftest import served


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_page_is_served_until_a_signal_and_leaves_nothing(
    number, code, tiny_checkpoint, tiny_genome_path, tmp_path
):
    with served(tiny_checkpoint, tiny_genome_path, tmp_path) as (process, address):
        with urlopen(address) as answer:
            assert "tiny.fa, unknown assembly" in answer.read().decode()
        assert len(list(tmp_path.glob("genobird-*"))) == 1
        with urlopen(address, b"text=chr1:701-900") as answer:
            assert "jobs/" in answer.url
        process.send_signal(number)
        assert process.wait() == code
    assert list(tmp_path.glob("genobird-*")) == []


def test_a_port_that_is_taken_is_misuse(tiny_checkpoint, tiny_genome_path, capsys, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    options = ["--fasta", str(tiny_genome_path), "--model", str(tiny_checkpoint)]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", *options, "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another --port" in capsys.readouterr().err


def test_what_a_killed_process_left_is_removed_and_what_lives_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "kind-of-old"
    left.mkdir()
    (left / "file").write_text("old")
    other = tmp_path / "another-kind"
    other.mkdir()
    with scratch("kind-") as first, scratch("kind-") as second:
        assert not left.exists()
        assert first.is_dir()
        assert first.stat().st_mode & 0o077 == 0
        assert first != second
    assert list(tmp_path.iterdir()) == [other]
