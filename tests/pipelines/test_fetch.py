from __future__ import annotations

import gzip
import hashlib
import json

import pytest
from Bio.bgzf import BgzfWriter
from typer.testing import CliRunner

from genobird.errors import InputError, OutputError, UsageError
from pipelines import fetch, manifest, steps
from pipelines.fetch import Status
from pipelines.manifest import File, Manifest, Origin
from tests.pipelines.servers import answering

CONTENT = bytes(range(256)) * 400
DIGEST = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
PAGE = b"\n <!DOCTYPE html><html>Log in to go on</html>"


@pytest.fixture
def url(server):
    server.files["/a.bin"] = CONTENT
    return f"{server.root}/a.bin"


def entry(**facts):
    return File(**({"name": "x/a.bin", "licence": "public domain"} | facts))


def record(folder):
    return json.loads((folder / "fetched.json").read_text())


def names(folder):
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize(
    "facts", [{"sha256": DIGEST}, {"md5": MD5}, {"sha256": DIGEST, "md5": MD5}]
)
def test_a_file_with_a_published_checksum_is_verified(url, tmp_path, facts):
    one = fetch.fetch(entry(url=url, **facts), tmp_path)
    assert one.status is Status.VERIFIED
    assert one.path.read_bytes() == CONTENT
    assert record(tmp_path) == {"x/a.bin": {"sha256": DIGEST, "status": "verified"}}
    assert names(one.path.parent) == ["a.bin"]


@pytest.mark.parametrize("facts", [{}, {"size": len(CONTENT)}])
def test_a_file_without_one_is_only_recorded_however_often_it_is_fetched(url, tmp_path, facts):
    for _ in range(2):
        assert fetch.fetch(entry(url=url, **facts), tmp_path).status is Status.RECORDED
    assert record(tmp_path) == {"x/a.bin": {"sha256": DIGEST, "status": "recorded"}}


def test_the_command_tells_verified_from_recorded(server, url, tmp_path, caplog):
    server.files["/b.bin"] = b"b"
    files = [entry(url=url, sha256=DIGEST), entry(name="b.bin", url=f"{server.root}/b.bin")]
    facts = Manifest(kind="files", name="x", assembly="x", citation="x", files=files)
    (tmp_path / "x.yaml").write_text(facts.model_dump_json())
    with caplog.at_level("INFO"):
        arguments = [str(tmp_path / "x.yaml"), "--output", str(tmp_path / "data")]
        CliRunner().invoke(steps.command(fetch.main), arguments, catch_exceptions=False)
    first, second = (text for text in caplog.messages if "/data/" in text)
    assert first.endswith("a.bin: verified by a published checksum")
    assert "b.bin: recorded: no checksum is published" in second
    assert "verified" not in second


def test_an_interrupted_download_goes_on_where_it_stopped(server, url, tmp_path, monkeypatch):
    with monkeypatch.context() as once:
        once.setattr(fetch, "ATTEMPTS", 1)
        server.faults = [server.breaking_off(70_000)]
        with pytest.raises(InputError, match="run again to resume"):
            fetch.fetch(entry(url=url, sha256=DIGEST), tmp_path)
    assert names(tmp_path / "x") == ["a.bin.part", "a.bin.part.version"]
    one = fetch.fetch(entry(url=url, sha256=DIGEST), tmp_path)
    assert server.ranges == [None, f"bytes={fetch.CHUNK}-"]
    assert one.path.read_bytes() == CONTENT
    assert names(tmp_path / "x") == ["a.bin"]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"sha256": "0" * 64}, "SHA-256"),
        ({"md5": "0" * 32}, "MD5"),
        ({"size": 5}, "102,400 bytes, the manifest says 5"),
    ],
)
def test_what_does_not_match_the_manifest_is_not_kept(url, tmp_path, facts, message):
    with pytest.raises(InputError, match=message):
        fetch.fetch(entry(url=url, **facts), tmp_path)
    assert names(tmp_path / "x") == []
    assert not (tmp_path / "fetched.json").exists()


def test_the_checksum_of_the_first_fetch_holds_from_then_on(server, url, tmp_path):
    path = fetch.fetch(entry(url=url), tmp_path).path
    path.write_bytes(b"altered")
    with pytest.raises(InputError, match=f"recorded is {DIGEST}"):
        fetch.fetch(entry(url=url), tmp_path)
    path.unlink()
    server.files["/a.bin"] = b"another version"
    with pytest.raises(InputError, match=f"recorded is {DIGEST}"):
        fetch.fetch(entry(url=url), tmp_path)


def test_a_published_checksum_outweighs_what_was_recorded_without_one(url, tmp_path):
    (tmp_path / "fetched.json").write_text(json.dumps({"x/a.bin": "0" * 64}))
    with pytest.raises(InputError, match="recorded is 000"):
        fetch.fetch(entry(url=url), tmp_path)
    assert fetch.fetch(entry(url=url, md5=MD5), tmp_path).status is Status.VERIFIED
    assert record(tmp_path) == {"x/a.bin": {"sha256": DIGEST, "status": "verified"}}


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 5}', '{"a": {"status": "verified"}}'])
def test_a_damaged_record_is_one_line(url, tmp_path, text):
    (tmp_path / "fetched.json").write_text(text)
    with pytest.raises(InputError, match=r"fetched\.json is no record .*; remove it"):
        fetch.fetch(entry(url=url), tmp_path)


class TestMd5sums:
    @pytest.fixture
    def file(self, server, url):
        return entry(url=url, md5sums=f"{server.root}/md5sum.txt")

    @pytest.mark.parametrize("line", [f"{MD5}  a.bin", f"{MD5} *a.bin", f"{MD5}  ./a.bin\r"])
    def test_a_list_of_the_publisher_s_verifies(self, server, file, tmp_path, line):
        text = f"{'0' * 32}  aa.bin\n{line}\n{'1' * 32}  a.bin.gz\n"
        server.files["/md5sum.txt"] = text.encode()
        assert fetch.fetch(file, tmp_path).status is Status.VERIFIED
        asked = len(server.ranges)
        assert fetch.fetch(file, tmp_path).status is Status.VERIFIED
        assert len(server.ranges) == asked == 2

    def test_another_file_than_the_listed_one_is_refused(self, server, file, tmp_path):
        server.files["/md5sum.txt"] = f"{'0' * 32}  a.bin\n".encode()
        with pytest.raises(InputError, match="expected is 000"):
            fetch.fetch(file, tmp_path)
        assert names(tmp_path / "x") == []

    @pytest.mark.parametrize("text", [b"", b"\xff\xfe", f"{MD5}  b.bin\n".encode(), PAGE])
    def test_a_list_without_the_file_is_refused_before_the_download(
        self, server, file, tmp_path, text
    ):
        server.files["/md5sum.txt"] = text
        with pytest.raises(InputError, match=r"md5sum\.txt states no MD5 of a\.bin"):
            fetch.fetch(file, tmp_path)
        assert len(server.ranges) == 1

    def test_a_file_that_was_recorded_before_is_verified_now(self, server, file, tmp_path):
        assert fetch.fetch(entry(url=file.url), tmp_path).status is Status.RECORDED
        server.files["/md5sum.txt"] = f"{MD5}  a.bin\n".encode()
        assert fetch.fetch(file, tmp_path).status is Status.VERIFIED

    def test_a_file_from_disk_needs_no_network(self, server, file, tmp_path):
        (tmp_path / "a.bin").write_bytes(CONTENT)
        one = fetch.fetch(file, tmp_path / "data", from_dir=tmp_path)
        assert one.status is Status.RECORDED
        assert server.ranges == []


class TestContent:
    """What is asked of a file that nothing published vouches for."""

    @pytest.fixture
    def file(self, server):
        return entry(name="hg19.fa.gz", url=f"{server.root}/hg19.fa.gz")

    def refused(self, server, file, folder, content, message):
        server.files["/hg19.fa.gz"] = content
        with pytest.raises(InputError, match=message) as caught:
            fetch.fetch(file, folder)
        assert "\n" not in str(caught.value)
        assert names(folder) == []

    def test_a_login_page_is_not_kept_as_a_genome(self, server, file, tmp_path):
        self.refused(server, file, tmp_path, PAGE, "is a web page, not data; .* login first")
        server.faults = [answering(200, PAGE, Content_Type="text/html")]
        self.refused(server, file, tmp_path, PAGE, "answers with a web page")

    def test_a_login_page_that_was_kept_is_found(self, server, file, tmp_path):
        (tmp_path / "hg19.fa.gz").write_bytes(PAGE)
        with pytest.raises(InputError, match="is a web page, not data"):
            fetch.fetch(file, tmp_path)

    def test_a_login_page_is_refused_whatever_the_name(self, server, tmp_path):
        server.files["/a.bed"] = b"\xef\xbb\xbf<html>"
        with pytest.raises(InputError, match="is a web page, not data"):
            fetch.fetch(entry(url=f"{server.root}/a.bed"), tmp_path)

    def test_gzip_must_begin_and_end_as_gzip(self, server, file, tmp_path):
        packed = gzip.compress(CONTENT * 30)
        self.refused(server, file, tmp_path, CONTENT, "is not gzip, as its name says")
        self.refused(server, file, tmp_path, b"", "is not gzip")
        for end in (20, len(packed) // 2, -8, -1):
            self.refused(server, file, tmp_path, packed[:end], "is cut short")
        spoilt = bytearray(packed)
        spoilt[-6] ^= 1
        self.refused(server, file, tmp_path, bytes(spoilt), "is damaged")
        server.files["/hg19.fa.gz"] = packed + packed
        assert fetch.fetch(file, tmp_path).status is Status.RECORDED

    def test_bgzf_must_have_its_last_block(self, server, file, tmp_path):
        path = tmp_path / "made" / "x.gz"
        path.parent.mkdir()
        with BgzfWriter(str(path), "wb") as writer:
            writer.write(CONTENT)
        data = tmp_path / "data"
        data.mkdir()
        self.refused(server, file, data, path.read_bytes()[:-28], "is cut short")
        server.files["/hg19.fa.gz"] = path.read_bytes()
        assert fetch.fetch(file, data).status is Status.RECORDED


def test_a_server_error_leaves_nothing(server, url, tmp_path):
    server.files.clear()
    with pytest.raises(InputError, match="answers 404"):
        fetch.fetch(entry(url=url), tmp_path)
    assert names(tmp_path / "x") == []


def test_a_folder_that_cannot_be_written_is_one_line(url, tmp_path):
    (tmp_path / "x").write_text("a file where a folder should be")
    with pytest.raises(OutputError, match=r"cannot write .*a\.bin: "):
        fetch.fetch(entry(url=url), tmp_path)


def test_files_on_disk_are_found_by_checksum_whatever_their_name(tmp_path):
    source = tmp_path / "disk" / "deep"
    source.mkdir(parents=True)
    (source / "renamed.bin").write_bytes(CONTENT)
    (source / "a.bin").write_bytes(b"another file of that name")
    one = fetch.fetch(entry(sha256=DIGEST), tmp_path / "data", tmp_path / "disk")
    assert one == fetch.Fetched(tmp_path / "data" / "x" / "a.bin", Status.VERIFIED)
    assert one.path.read_bytes() == CONTENT


def test_a_file_that_is_nowhere_says_where_it_comes_from(tmp_path):
    with pytest.raises(UsageError, match="comes with vt-examples"):
        fetch.fetch(entry(origin=Origin(package="vt-examples")), tmp_path)
    with pytest.raises(UsageError, match="does not hold"):
        fetch.fetch(entry(sha256=DIGEST), tmp_path, tmp_path)
    with pytest.raises(UsageError, match="sought by name"):
        fetch.fetch(entry(), tmp_path, tmp_path)
    with pytest.raises(UsageError, match="no folder"):
        fetch.fetch(entry(), tmp_path, tmp_path / "absent")


def test_all_files_are_those_that_the_way_of_fetching_can_bring(url, tmp_path):
    files = [entry(url=url), entry(name="b.bin", sha256=DIGEST)]
    facts = Manifest(kind="files", name="x", assembly="x", citation="x", files=files)
    assert [one.path.name for one in fetch.fetch_all(facts, tmp_path / "net")] == ["a.bin"]
    found = fetch.fetch_all(facts, tmp_path / "disk", from_dir=tmp_path / "net")
    assert [one.path.name for one in found] == ["b.bin"]


@pytest.mark.realdata
def test_the_promoters_come_from_disk_by_their_published_checksums(shared_data, tmp_path):
    found = fetch.fetch_all(manifest.load("promoters"), tmp_path, from_dir=shared_data)
    assert [one.status for one in found] == [Status.VERIFIED] * 3
