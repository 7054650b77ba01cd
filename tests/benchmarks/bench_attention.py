"""Block-sparse attention beside dense attention, other block-sparse ones and transformers.

    python -m tests.benchmarks.bench_attention --output results [--threads 1]
    python -m tests.benchmarks.bench_attention --output results --sweep
    python -m tests.benchmarks.bench_attention --pattern full --lengths 64 128 256 512 1024
    python -m tests.benchmarks.bench_attention --output results --plot-only

One run, the same data: each way gets q, k, v as views [T, H, D] of one projection (12 heads of 64)
and gives back the output, and with `backward` the gradient of q, k and v. Writes
`attention-DEVICE.json`, a Markdown table and a log-log plot (where matplotlib is installed). Needs
torch, numpy and, on a GPU, Triton; a way whose package is missing is named and left out. Nothing is
timed before ours equals the dense reference.

On a GPU kernels are timed as replays of a CUDA graph, with the cache emptied before each. On a CPU
it is the CPU time of the calling thread, so use one thread on a busy machine (`--clock wall` for
more); there is no roofline for CPUs. `floor` is the time that the pattern needs at the rates below,
`roofline` the share of it in the measured time; dense attention is measured against its own floor.
With `--pattern full` ours computes all that dense attention does: where it stops being faster is
the crossover that `backend="auto"` should respect.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genobird.attention import PATTERNS, BlockLayout, Pattern, block_sparse_attention, plan
from tests.benchmarks.attention_table import Row, draw_plot, table
from tests.benchmarks.rivals import BLOCK, HEADS, WIDTH, WITHOUT_GRAPH, Attend, ours, ways
from tests.benchmarks.timing import cpu_seconds, gpu_seconds, quiet, where

# An H200, measured: bfloat16 products of random matrices, device copies (bytes read and written);
# exponentials: 16 a clock and multiprocessor, from the data sheet.
PEAK, HBM, EX2 = 790e12, 4.3e12, 16 * 132 * 1.755e9


def floor_seconds(layout: BlockLayout, backward: bool) -> float:
    """Least time on the GPU above: products, memory traffic or exponentials."""
    flops, rows = layout.flops(WIDTH), layout.n_blocks * BLOCK * HEADS
    pairs = flops / (4 * WIDTH)
    forward = max(flops / PEAK, layout.bytes(WIDTH, torch.bfloat16) / HBM, pairs / EX2)
    if not backward:
        return forward
    return forward + max(2.5 * flops / PEAK, rows * (8 * WIDTH * 2 + 8) / HBM, pairs / EX2)


def measure(
    attend: Attend, tensors: list[Tensor], backward: bool, options: Any, as_graph: bool = True
) -> tuple[float, Any]:
    """Seconds, and megabytes at the peak beyond the inputs."""
    leaves = [x.detach().requires_grad_(backward) for x in tensors[:3]]

    def run() -> object:
        with torch.set_grad_enabled(backward):
            out = attend(*leaves)
            return torch.autograd.grad(out, leaves, tensors[3]) if backward else out

    if tensors[0].device.type != "cuda":
        clock = time.thread_time if options.clock == "cpu" else time.perf_counter
        return cpu_seconds(run, options.seconds, clock), None
    run()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    peak = (torch.cuda.max_memory_allocated() - before) / 1e6
    return gpu_seconds(run, options.seconds, as_graph), peak


def draw(tokens: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """q, k, v as views of one projection, and a gradient of the output; random, never zeros."""
    generator = torch.Generator(device).manual_seed(0)
    fused = torch.randn(tokens, 3, HEADS, WIDTH, generator=generator, device=device)
    grad = torch.randn(tokens, HEADS, WIDTH, generator=generator, device=device)
    return [*fused.to(dtype).unbind(1), grad.to(dtype)]


def check(device: torch.device, dtype: torch.dtype) -> None:
    """Compare ours with the dense reference in float64, output and gradients."""
    layout = BlockLayout.pack(Pattern(), [1000, 300], heads=HEADS)
    tensors = draw(layout.n_blocks * BLOCK, dtype, device)
    results = []
    for backend, xs in (
        ("triton" if device.type == "cuda" else "blocked", tensors),
        ("reference", [x.double() for x in tensors]),
    ):
        leaves = [x.detach().requires_grad_() for x in xs[:3]]
        out = block_sparse_attention(*leaves, layout, backend=backend)
        results.append([out, *torch.autograd.grad(out, leaves, xs[3])])
    limit = {torch.float32: 5e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}[dtype]
    for name, actual, expected in zip(("o", "dq", "dk", "dv"), *results, strict=True):
        error = float((actual.double() - expected).norm() / expected.norm())
        if not error < limit:
            sys.exit(f"{name} in {dtype} is wrong by {error:.2g}; nothing is timed")


def bench(options: Any, device: torch.device) -> list[Row]:
    """Measure every way at every length, batch and dtype."""
    rows: list[Row] = []
    pattern = Pattern(options.pattern)
    asked = set(options.ways) if options.ways else None
    for length in options.lengths:
        batches = {max(1, options.batch_tokens // length), 1} if options.batch_tokens else {1}
        for batch in sorted(batches, reverse=True):
            for name, build in ways(length, batch, device, asked, options.flex, pattern):
                try:
                    attend = build()
                except ImportError as error:
                    print(f"{name}: left out, {error}")
                    continue
                for dtype in options.dtypes:
                    tensors = draw(length * batch, getattr(torch, dtype), device)
                    for backward in (False, True):
                        row = bench_one(name, attend, tensors, batch, backward, options)
                        rows += [row] if row else []
                torch.compiler.reset()
    return rows


def bench_one(
    name: str, attend: Attend, tensors: list[Tensor], batch: int, backward: bool, options: Any
) -> Row | None:
    """Measure one way in one setting; None where it fails."""
    tokens, device = len(tensors[0]) // batch, tensors[0].device
    passes = "forward + backward" if backward else "forward"
    dtype = str(tensors[0].dtype).removeprefix("torch.")
    label = f"{name}, {tokens} tokens x {batch}, {dtype}, {passes}"
    try:
        seconds, peak = measure(attend, tensors, backward, options, name not in WITHOUT_GRAPH)
    except (RuntimeError, NotImplementedError) as error:
        print(f"{label}: failed, {str(error).splitlines()[0][:150]}")
        return None
    print(f"{label}: {1e6 * seconds / batch:.1f} us a sequence", flush=True)
    layout = BlockLayout.pack(Pattern(options.pattern), [tokens] * batch, heads=HEADS)
    factor = 3.5 if backward else 1
    flops, least = factor * layout.flops(WIDTH), floor_seconds(layout, backward)
    if name.startswith("dense"):
        flops = factor * 4 * tokens**2 * WIDTH * HEADS * batch
        least = flops / PEAK
    on_gpu = device.type == "cuda"
    return Row(
        way=name,
        tokens=tokens,
        batch=batch,
        dtype=dtype,
        passes=passes,
        time=1e6 * seconds,
        per_sequence=1e6 * seconds / batch,
        tflops=1e-12 * flops / seconds,
        roofline=least / seconds if on_gpu else None,
        peak_mb=peak,
    )


def sweep(options: Any, device: torch.device) -> list[dict[str, Any]]:
    """Time the kernels with other tiles, warps, stages and chunks; the table stays as it is."""
    from genobird.attention import kernels

    if device.type != "cuda":
        sys.exit("--sweep times the Triton kernels: it needs a CUDA device, and there is none")
    length = options.lengths[0]
    batch = max(1, (options.batch_tokens or length) // length)
    tensors = draw(length * batch, torch.bfloat16, device)
    table = dict(kernels.CONFIGS)
    found = []

    def record(kind: str, setting: Any) -> None:
        layout = BlockLayout.pack(Pattern(), [length] * batch, heads=HEADS)
        layout.cache.clear()
        try:
            seconds, _ = measure(ours(layout, "triton"), tensors, kind != "fwd", options)
        except Exception as error:  # a configuration that does not fit is a result, too
            print(f"{kind} {setting}: {type(error).__name__}")
            return
        found.append({"kernel": kind, "setting": str(setting), "us": 1e6 * seconds / batch})
        print(f"{kind} {setting}: {1e6 * seconds / batch:.1f} us a sequence", flush=True)

    for kind in ("fwd", "dq", "dkdv"):
        for tile_m, tile_n in ((64, 64), (64, 32), (32, 64)):
            for warps in (4, 8):
                for stages in range(1, 6):
                    for registers in (None, 128 if kind != "dkdv" else 168):
                        candidate = kernels.Config(tile_m, tile_n, warps, stages, registers)
                        kernels.CONFIGS[kind, 2, WIDTH] = candidate
                        record(kind, candidate)
        kernels.CONFIGS.update(table)
    for chunk in (256, 512, 1024, 2048, 4096, 1 << 30):
        plan.CHUNK_TOKENS = chunk
        record("fwd", f"chunks of {chunk} tokens")
        record("all", f"chunks of {chunk} tokens")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Check, time, write."""
    cuda = torch.cuda.is_available()
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="folder for JSON, table and plot")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--lengths", type=int, nargs="+")
    parser.add_argument("--dtypes", nargs="+", help="torch's names")
    parser.add_argument(
        "--batch-tokens", type=int, help="tokens of the larger batch; 0: batch 1 only"
    )
    parser.add_argument("--pattern", choices=PATTERNS, default="bigbird", help="of ours and flex")
    parser.add_argument("--ways", nargs="+", help="only these, such as 'ours' 'dense flash'")
    parser.add_argument("--seconds", type=float, default=0.5, help="time for each measurement")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--clock", choices=["cpu", "wall"], help="of the CPU; cpu with one thread")
    parser.add_argument("--flex", action="store_true", help="FlexAttention on a CPU (C++ compiler)")
    parser.add_argument("--sweep", action="store_true", help="time other kernel configurations")
    parser.add_argument("--plot-only", action="store_true", help="from the JSON in --output")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not cuda:
        sys.exit("--device cuda: torch finds no CUDA device here; run it where there is one")
    device = torch.device("cuda" if cuda and options.device != "cpu" else "cpu")
    on_gpu = device.type == "cuda"
    path = options.output and options.output / f"attention-{device.type}.json"
    if options.plot_only:
        for found in sorted(options.output.glob("attention-*.json")):
            saved = json.loads(found.read_text())
            draw_plot([Row(**r) for r in saved["rows"]], saved["device"], found.with_suffix(".png"))
        return
    options.lengths = options.lengths or [1024 << i for i in range(7 if on_gpu else 3)]
    options.dtypes = options.dtypes or (["bfloat16"] if on_gpu else ["float32", "bfloat16"])
    if options.batch_tokens is None:
        options.batch_tokens = 32768 if on_gpu else 0
    options.clock = options.clock or ("cpu" if options.threads == 1 else "wall")
    torch.set_num_threads(options.threads)
    if not on_gpu:
        print("no GPU here: ours is the plain torch backend, and the Triton kernels are not timed")
    facts = {**where(device, options.threads), "pattern": options.pattern}
    print(json.dumps(facts))
    with quiet():
        for dtype in options.dtypes:
            check(device, getattr(torch, dtype))
        if options.sweep:
            results = {
                "sweep": sorted(sweep(options, device), key=lambda r: (r["kernel"], r["us"]))
            }
            rows = []
        else:
            rows = bench(options, device)
            results = {"rows": [asdict(r) for r in rows]}
    print(table(rows) if rows else json.dumps(results, indent=1))
    if options.output is None:
        return
    options.output.mkdir(parents=True, exist_ok=True)
    if options.sweep:
        (options.output / "attention-sweep.json").write_text(
            json.dumps({**facts, **results}, indent=1)
        )
        return
    path.write_text(json.dumps({**facts, **results}, indent=1) + "\n")
    path.with_suffix(".md").write_text(f"{facts['device']}, {facts['date']}\n\n{table(rows)}")
    draw_plot(
        rows, f"{facts['device']}, {options.pattern}, 12 heads of 64", path.with_suffix(".png")
    )


if __name__ == "__main__":
    main()
