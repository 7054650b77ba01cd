from __future__ import annotations

import gzip

import pytest

from genobird.errors import InputError
from pipelines import fetch
from pipelines.fetch import ATTEMPTS, CHUNK
from tests.pipelines.servers import answering, tag

CONTENT = bytes(range(256)) * 400


@pytest.fixture
def url(server):
    server.files["/a.bin"] = CONTENT
    return f"{server.root}/a.bin"


@pytest.fixture
def part(tmp_path):
    return tmp_path / "a.bin.part"


@pytest.fixture
def begun(server, url, part, monkeypatch):
    """The first piece of the file, as a run that broke off leaves it."""
    with monkeypatch.context() as once:
        once.setattr(fetch, "ATTEMPTS", 1)
        server.faults = [server.breaking_off(70_000)]
        with pytest.raises(InputError, match=r"broke off after 65,536 of 102,400 bytes .*again"):
            fetch.download(url, part)
    assert part.read_bytes() == CONTENT[:CHUNK]
    server.ranges.clear()
    return part


def test_a_download_that_breaks_off_goes_on_where_it_stopped(server, url, part):
    server.faults = [server.breaking_off(70_000)]
    fetch.download(url, part)
    assert server.ranges == [None, "bytes=65536-"]
    assert part.read_bytes() == CONTENT


def test_the_next_run_goes_on_too(server, url, begun):
    fetch.download(url, begun)
    assert server.ranges == ["bytes=65536-"]
    assert begun.read_bytes() == CONTENT


def test_a_complete_part_needs_no_more_bytes(server, url, part):
    fetch.download(url, part)
    fetch.download(url, part)
    assert server.ranges == [None]


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(server, url, begun):
    server.files["/a.bin"] = b"new" + CONTENT
    fetch.download(url, begun)
    assert begun.read_bytes() == b"new" + CONTENT


def test_a_part_of_another_address_is_not_gone_on_with(server, begun):
    server.files["/b.bin"] = b"another" * 20_000
    fetch.download(f"{server.root}/b.bin", begun)
    assert server.ranges == [None]
    assert begun.read_bytes() == b"another" * 20_000


@pytest.mark.parametrize("mark", [b"", b'"etag"', b"{}", b"\xff"])
def test_a_part_of_which_nothing_is_known_is_not_gone_on_with(server, url, begun, mark):
    begun.with_name("a.bin.part.version").write_bytes(mark)
    fetch.download(url, begun)
    assert server.ranges == [None]
    assert begun.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "content_range",
    [
        None,
        "bytes 0-102399/102400",
        "bytes 65535-102399/102400",
        "bytes 65536-102399/102401",
        "bytes 65536-102399/*",
        "items 65536-102399/102400",
    ],
)
def test_bytes_from_another_place_are_not_joined_on(server, url, begun, content_range):
    headers = {} if content_range is None else {"Content_Range": content_range}
    server.faults = [answering(206, CONTENT[CHUNK:], ETag=tag(CONTENT), **headers)]
    fetch.download(url, begun)
    assert server.ranges == ["bytes=65536-", None]
    assert begun.read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_fetched_anew(server, url, begun):
    begun.write_bytes(CONTENT + b"more")
    fetch.download(url, begun)
    assert server.ranges == ["bytes=102404-", None]
    assert begun.read_bytes() == CONTENT


def test_a_range_that_was_not_asked_for_is_refused(server, url, part):
    server.faults = [answering(206, b"x", Content_Range="bytes 5-5/6")]
    with pytest.raises(InputError, match="answers 206"):
        fetch.download(url, part)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again_after_growing_pauses(server, url, part, status, monkeypatch):
    pauses = []
    monkeypatch.setattr(fetch.time, "sleep", pauses.append)
    server.faults = [answering(status)] * (ATTEMPTS - 1)
    fetch.download(url, part)
    assert part.read_bytes() == CONTENT
    assert pauses == sorted(set(pauses))
    assert len(pauses) == ATTEMPTS - 1


def test_attempts_are_bounded(server, url, part):
    server.faults = [answering(503)] * (ATTEMPTS + 1)
    with pytest.raises(InputError, match=r"answers 503 .*\(5 attempts\); run again to resume"):
        fetch.download(url, part)
    assert len(server.faults) == 1


@pytest.mark.parametrize("status", [203, 204, 304, 401, 403, 404, 410])
def test_a_refusal_is_one_line_at_once(server, url, part, status):
    server.faults = [answering(status)] * 2
    with pytest.raises(InputError, match=f"a.bin answers {status} .*; check the manifest"):
        fetch.download(url, part)
    assert len(server.faults) == 1


def test_no_server_is_one_line(server, part):
    with pytest.raises(InputError, match=r"cannot be fetched: Connection refused \(5 attempts\)"):
        fetch.download("https://127.0.0.1:1/a.bin", part)


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(
    server, url, part, monkeypatch, caplog
):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(InputError, match=r"cannot be fetched: .*certificate verify failed"):
        fetch.download(url, part)
    assert not caplog.records
    assert not part.read_bytes()


def test_only_https_is_spoken(server, url, part):
    with pytest.raises(InputError, match=r"http://x\.org/a is not https"):
        fetch.download("http://x.org/a", part)
    server.faults = [answering(302, Location="http://127.0.0.1:1/a.bin")]
    with pytest.raises(InputError, match=r"redirects to http://127\.0\.0\.1:1/a\.bin, which"):
        fetch.download(url, part)
    server.faults = [
        answering(302, Location="/b.bin"),
        answering(302, Location=url.replace("https", "http")),
    ]
    with pytest.raises(InputError, match="which is not https"):
        fetch.download(url, part)


def test_a_redirect_over_https_is_followed(server, url, part):
    server.faults = [answering(302, Location="/a.bin?x=1"), answering(307, Location=url)]
    fetch.download(f"{server.root}/old.bin", part)
    assert part.read_bytes() == CONTENT


def test_a_login_page_is_refused_as_one(server, url, part):
    page = b"<html><body>Log in</body></html>"
    server.faults = [
        answering(302, Location="/login"),
        answering(200, page, Content_Type="text/html; charset=utf-8"),
    ]
    with pytest.raises(InputError, match=r"answers with a web page .* login first"):
        fetch.download(url, part)
    assert part.read_bytes() == b""


def test_a_begun_file_outlives_a_login_page(server, url, begun):
    server.faults = [answering(200, b"<html>", Content_Type="text/html")]
    with pytest.raises(InputError, match="web page"):
        fetch.download(url, begun)
    assert begun.read_bytes() == CONTENT[:CHUNK]


def test_a_packed_file_stays_packed_whatever_the_server_calls_it(server, url, part):
    packed = gzip.compress(CONTENT)
    server.faults = [answering(200, packed, Content_Encoding="gzip")]
    fetch.download(url, part)
    assert part.read_bytes() == packed


def test_a_server_that_tells_no_length_may_be_believed_or_fetched_anew(server, url, part):
    def chunked(request):
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.write(b"5\r\nACGTN\r\n")
        if len(server.ranges) > 1:
            request.wfile.write(b"0\r\n\r\n")

    server.faults = [chunked, chunked]
    fetch.download(url, part)
    assert part.read_bytes() == b"ACGTN"
