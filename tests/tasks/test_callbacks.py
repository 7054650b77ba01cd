from __future__ import annotations

import platform
from pathlib import Path
from types import SimpleNamespace

import pytest

from genobird.tasks import callbacks
from genobird.tasks.callbacks import ReturnMemory, return_memory

BLOCK, BLOCKS = 100_000, 2_000  # bytes; blocks this small lie in the heap


def resident() -> int:
    """Bytes of this process in memory."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in status if line.startswith("VmRSS")).split()[1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone keeps free memory")
def test_free_memory_between_blocks_in_use_goes_back_to_the_system():
    blocks = [b"x" * BLOCK for _ in range(BLOCKS)]
    kept = blocks[::20]
    del blocks
    full = resident()
    return_memory()
    assert full - resident() > BLOCK * BLOCKS / 2
    assert len(kept) == BLOCKS / 20


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(callbacks.ctypes, "CDLL", lambda _: SimpleNamespace())
    return_memory()


def test_memory_is_given_back_every_tenth_step(monkeypatch):
    given = []
    monkeypatch.setattr(callbacks, "return_memory", lambda: given.append(step))
    for step in range(1, 31):
        ReturnMemory().on_train_batch_end(SimpleNamespace(global_step=step))
    assert given == [10, 20, 30]
