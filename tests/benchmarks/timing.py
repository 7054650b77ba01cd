"""Clocks, and what was measured on: shared by the benchmarks."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch


def gpu_seconds(run: Callable[[], object], seconds: float, as_graph: bool) -> float:
    """Median time of a replay of a CUDA graph, or of a plain call."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    call = run
    if as_graph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        call = graph.replay
    cache = torch.empty(256 << 20, dtype=torch.int8, device="cuda")
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - began < seconds and len(times) < 200):
        cache.zero_()
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(1e-3 * start.elapsed_time(end))
    return statistics.median(times)


def cpu_seconds(
    run: Callable[[], object], seconds: float, clock: Callable[[], float], least: int = 3
) -> float:
    """Best time of a call: what else the machine does can only add to it."""
    run()
    times: list[float] = []
    while len(times) < least or (sum(times) < seconds and len(times) < 20):
        start = clock()
        run()
        times.append(clock() - start)
    return min(times)


def where(device: torch.device, threads: int) -> dict[str, Any]:
    """Device, versions, commit and date."""
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    for package in ("triton", "transformers"):
        if importlib.util.find_spec(package):
            versions[package] = importlib.metadata.version(package)
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
    else:
        name = f"{cpu_name()}, {threads} thread{'s' * (threads > 1)}"
    return {
        "device": name,
        "versions": versions,
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def commit() -> str:
    """The commit of the code, as far as git is there to tell."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def cpu_name() -> str:
    """The processor, as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "CPU")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what other packages warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
