from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from genobird.errors import InputError, UsageError
from pipelines import fetch, manifest
from pipelines.manifest import File, Manifest, Origin

CONTENT = bytes(range(256)) * 400
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """A server on the loopback that can break off, forget ranges or change its file."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.break_after: int | None = None
        self.ranges: list[str | None] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/a.bin"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        tag = f'"{hashlib.sha256(self.content).hexdigest()[:8]}"'
        asked = request.headers.get("Range")
        self.ranges.append(asked)
        start = 0
        if asked and request.headers.get("If-Range") == tag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(self.content):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        request.send_header("ETag", tag)
        request.send_header("Content-Length", str(len(self.content) - start))
        request.end_headers()
        end = len(self.content) if self.break_after is None else self.break_after
        request.wfile.write(self.content[start:end])


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever)
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


def entry(**facts):
    return File(**({"name": "x/a.bin", "licence": "public domain"} | facts))


def test_a_download_is_verified_and_recorded(server, tmp_path):
    path = fetch.fetch(entry(url=server.url), tmp_path)
    assert path.read_bytes() == CONTENT
    assert json.loads((tmp_path / "fetched.json").read_text()) == {"x/a.bin": DIGEST}
    assert [file.name for file in path.parent.iterdir()] == ["a.bin"]


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
    server.break_after = 70_000
    with pytest.raises(InputError, match="run again to resume"):
        fetch.fetch(entry(url=server.url, sha256=DIGEST), tmp_path)
    assert not (tmp_path / "x" / "a.bin").exists()
    server.break_after = None
    path = fetch.fetch(entry(url=server.url, sha256=DIGEST), tmp_path)
    assert server.ranges == [None, "bytes=70000-"]
    assert path.read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(server, tmp_path):
    server.break_after = 70_000
    with pytest.raises(InputError, match="run again to resume"):
        fetch.fetch(entry(url=server.url), tmp_path)
    server.break_after, server.content = None, b"new" + CONTENT
    assert fetch.fetch(entry(url=server.url), tmp_path).read_bytes() == b"new" + CONTENT


def test_a_complete_part_needs_no_more_bytes(server, tmp_path):
    part = tmp_path / "x" / "a.bin.part"
    part.parent.mkdir()
    fetch.download(server.url, part)
    fetch.download(server.url, part)
    assert part.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"sha256": "0" * 64}, "SHA-256"),
        ({"md5": "0" * 32}, "MD5"),
        ({"size": 5}, "102,400 bytes, the manifest says 5"),
    ],
)
def test_what_does_not_match_the_manifest_is_not_kept(server, tmp_path, facts, message):
    with pytest.raises(InputError, match=message):
        fetch.fetch(entry(url=server.url, **facts), tmp_path)
    assert list((tmp_path / "x").glob("a.bin*")) in ([], [tmp_path / "x" / "a.bin.part.version"])


def test_the_checksum_of_the_first_fetch_holds_from_then_on(server, tmp_path):
    path = fetch.fetch(entry(url=server.url), tmp_path)
    path.write_bytes(b"altered")
    with pytest.raises(InputError, match=f"expected is {DIGEST}"):
        fetch.fetch(entry(url=server.url), tmp_path)
    path.unlink()
    server.content = b"another version"
    with pytest.raises(InputError, match=f"expected is {DIGEST}"):
        fetch.fetch(entry(url=server.url), tmp_path)


def test_a_server_error_is_one_line(server, tmp_path):
    server.content = b""
    with pytest.raises(InputError, match="answers 416"):
        fetch.fetch(entry(url=server.url), tmp_path)


def test_no_server_is_one_line(server, tmp_path):
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch.fetch(entry(url="http://127.0.0.1:1/a.bin"), tmp_path)


def test_files_on_disk_are_found_by_checksum_whatever_their_name(tmp_path):
    source = tmp_path / "disk" / "deep"
    source.mkdir(parents=True)
    (source / "renamed.bin").write_bytes(CONTENT)
    (source / "a.bin").write_bytes(b"another file of that name")
    path = fetch.fetch(entry(sha256=DIGEST), tmp_path / "data", tmp_path / "disk")
    assert path == tmp_path / "data" / "x" / "a.bin"
    assert path.read_bytes() == CONTENT


def test_a_file_that_is_nowhere_says_where_it_comes_from(tmp_path):
    with pytest.raises(UsageError, match="comes with vt-examples"):
        fetch.fetch(entry(origin=Origin(package="vt-examples")), tmp_path)
    with pytest.raises(UsageError, match="does not hold"):
        fetch.fetch(entry(sha256=DIGEST), tmp_path, tmp_path)
    with pytest.raises(UsageError, match="sought by name"):
        fetch.fetch(entry(), tmp_path, tmp_path)
    with pytest.raises(UsageError, match="no folder"):
        fetch.fetch(entry(), tmp_path, tmp_path / "absent")


def test_all_files_are_those_that_the_way_of_fetching_can_bring(server, tmp_path):
    files = [entry(url=server.url), entry(name="b.bin", sha256=DIGEST)]
    facts = Manifest(kind="files", name="x", assembly="x", citation="x", files=files)
    assert [p.name for p in fetch.fetch_all(facts, tmp_path / "net")] == ["a.bin"]
    found = fetch.fetch_all(facts, tmp_path / "disk", from_dir=tmp_path / "net")
    assert [p.name for p in found] == ["b.bin"]


@pytest.mark.realdata
def test_the_promoters_come_from_disk_by_their_published_checksums(shared_data, tmp_path):
    paths = fetch.fetch_all(manifest.load("promoters"), tmp_path, from_dir=shared_data)
    assert len(paths) == 3
