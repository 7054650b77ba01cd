"""A server on the loopback for what downloads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines import fetch
from tests.pipelines import servers


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[servers.Server]:
    """A trusted server; pauses between attempts take no time."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(servers.CERTIFICATE))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch.time, "sleep", lambda _: None)
    with servers.running() as server:
        yield server
