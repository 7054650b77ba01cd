from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from genobird.scoring import regions


class BigWigFile:
    """Only counts what it is given."""

    def __init__(self, path: str, _: str) -> None:
        self.path, self.entries = Path(path), 0
        self.path.write_text("")

    def addHeader(self, contigs: list[tuple[str, int]]) -> None:
        assert contigs

    def addEntries(self, contigs: list[str], *_: object, **__: object) -> None:
        self.entries += len(contigs)

    def close(self) -> None:
        self.path.write_text(str(self.entries))


def test_tracks_come_beside_the_table(run, options, tmp_path, monkeypatch):
    monkeypatch.setattr(regions, "require_backend", lambda: SimpleNamespace(open=BigWigFile))
    folder, table = tmp_path / "tracks", tmp_path / "out.tsv"
    arguments = ["-o", table, "--bigwig", folder, "--features", "DNase", "--json"]
    code, out, _ = run("score", "chr1:20,001-20,500", *options, *arguments)
    assert code == 0
    assert len(table.read_text().splitlines()) == 2
    names = ["promoter.bw", "A_DNase_None.bw"]
    assert json.loads(out)["tracks"] == [str(folder / name) for name in names]
    assert [(folder / name).read_text() for name in names] == ["3", "3"]
    table.unlink()
    code, _, err = run("score", "chr1:20,001-20,500", *options, *arguments)
    assert code == 2
    assert "promoter.bw exists; choose another folder or pass --force" in err
    assert not table.exists()


def test_tracks_that_cannot_be_made_are_refused_before_work(run, options, tmp_path, monkeypatch):
    arguments = ["-o", tmp_path / "out.tsv", "--bigwig", tmp_path / "tracks"]
    monkeypatch.setitem(__import__("sys").modules, "pyBigWig", None)
    code, _, err = run("score", "chr1:20,001-20,500", *options, *arguments)
    assert code == 2
    assert "a bigWig file needs pyBigWig" in err
    code, _, err = run("score", "some.fa", *options, *arguments)
    assert code == 2
    assert "--bigwig needs regions of the genome itself" in err
    assert not list(tmp_path.iterdir())
