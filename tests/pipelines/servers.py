"""A server of files on the loopback, over https, that can do what servers should not."""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CERTIFICATE = Path(__file__).with_name("loopback.pem")

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Serves `files` by path with ETag and ranges, or does what the first of `faults` does.

    Attributes:
        files: content by path, such as `/a.bin`.
        faults: what to do instead, once each, request by request.
        ranges: the Range header of each request so far.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: list[Answer] = []
        self.ranges: list[str | None] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                owner.ranges.append(self.headers.get("Range"))
                owner.serve(self) if not owner.faults else owner.faults.pop(0)(self)
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        class Https(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                pass  # a client that leaves in the middle is part of the tests

        self.http = Https(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        self.root = f"https://127.0.0.1:{self.http.server_port}"

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        """Answer as a good server does."""
        content = self.files.get(request.path)
        if content is None:
            head(request, 404)
            return
        start = self.start_of(request, content)
        if start is None:
            head(request, 200, ETag=tag(content), Content_Length=len(content))
            request.wfile.write(content)
        elif start >= len(content):
            head(request, 416, Content_Range=f"bytes */{len(content)}")
        else:
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            head(request, 206, Content_Range=span, Content_Length=len(content) - start)
            request.wfile.write(content[start:])

    @staticmethod
    def start_of(request: BaseHTTPRequestHandler, content: bytes) -> int | None:
        """Return from which byte on the client wants this file, if it has its beginning."""
        asked = request.headers.get("Range")
        if asked is None or request.headers.get("If-Range") != tag(content):
            return None
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def breaking_off(self, after: int) -> Answer:
        """Send so many bytes of the file, as if they were the first of all."""

        def answer(request: BaseHTTPRequestHandler) -> None:
            content = self.files[request.path]
            head(request, 200, ETag=tag(content), Content_Length=len(content))
            request.wfile.write(content[:after])

        return answer


def tag(content: bytes) -> str:
    """The ETag of a content."""
    return f'"{hashlib.sha256(content).hexdigest()[:8]}"'


def head(request: BaseHTTPRequestHandler, status: int, **headers: object) -> None:
    """Send status and headers (`_` in a name is `-`); without a length there is no content."""
    request.send_response(status)
    for name, value in ({"Content_Length": 0} | headers).items():
        request.send_header(name.replace("_", "-"), str(value))
    request.end_headers()


def answering(status: int, body: bytes = b"", **headers: object) -> Answer:
    """Answer in this way, whatever is asked for."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        head(request, status, **{"Content_Length": len(body)} | headers)
        request.wfile.write(body)

    return answer


@contextmanager
def running() -> Iterator[Server]:
    """Run a server for a while."""
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
