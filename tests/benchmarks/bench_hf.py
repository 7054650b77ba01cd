"""Transformers' BigBird before and after `genobird.hf.accelerate`, in one run.

    python -m tests.benchmarks.bench_hf --output results
    python -m tests.benchmarks.bench_hf --layers 1 --lengths 4096  # a minute on a CPU

Both are the same `BigBirdModel` with random weights, float32, evaluation mode unless gradients are
asked for (`--passes backward`, train mode without dropout). They take turns, so that what else the
machine does falls on both; the best time of each counts: processor time on a CPU, events on a GPU.
Layers cost the same each, so few of them show the ratio. Memory is counted over the tensors that
operators make (`tests/memory.py`).
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from genobird.hf import accelerate
from tests.benchmarks.timing import quiet, where
from tests.memory import PeakMemory

SHAPES: dict[str, dict[str, int]] = {
    "base": {"max_position_embeddings": 16_384},
    "tiny": {
        "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "block_size": 16,
        "vocab_size": 100, "max_position_embeddings": 16_384,
    },
}  # fmt: skip


def models(shape: str, layers: int) -> dict[str, nn.Module]:
    """The same weights in both."""
    from transformers import BigBirdConfig, BigBirdModel

    torch.manual_seed(0)
    config = BigBirdConfig(
        num_hidden_layers=layers, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        sep_token_id=2, **SHAPES[shape],
    )  # fmt: skip
    theirs = BigBirdModel(config)
    return {"transformers": theirs, "accelerated": accelerate(copy.deepcopy(theirs))}


def call(model: nn.Module, length: int, passes: str, device: torch.device) -> Callable[[], None]:
    """A pass over one sequence."""
    ids = torch.randint(5, 100, (1, length), generator=torch.Generator().manual_seed(length))
    ids = ids.to(device)
    model.train(passes == "backward").to(device)

    def run() -> None:
        with torch.set_grad_enabled(passes == "backward"):
            out = model(ids).last_hidden_state
            if passes == "backward":
                model.zero_grad()
                out.square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def measure(args: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """One row per length."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    rows = []
    for length in args.lengths:
        # Anew for each length: theirs stays with full attention once it was given a short batch.
        runs = {
            way: call(model, length, args.passes, device)
            for way, model in models(args.shape, args.layers).items()
        }
        times: dict[str, list[float]] = {way: [] for way in runs}
        for _ in range(1 + args.repeats):
            for way, run in runs.items():
                start = clock()
                run()
                times[way].append(clock() - start)
        row: dict[str, Any] = {"tokens": length, "passes": args.passes, "layers": args.layers}
        for way, run in runs.items():
            row[way] = {"seconds": min(times[way][1:])}
            if device.type != "cuda":
                with PeakMemory() as memory:
                    run()
                row[way]["peak_mb"] = memory.peak / 1e6
        row["speedup"] = row["transformers"]["seconds"] / row["accelerated"]["seconds"]
        rows.append(row)
        print(
            f"| {length} | {args.passes} | {row['transformers']['seconds']:.3f} "
            f"| {row['accelerated']['seconds']:.3f} | {row['speedup']:.2f} |",
            flush=True,
        )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print; write `hf-DEVICE.json` to a folder that is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shape", choices=SHAPES, default="base")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 4096])
    parser.add_argument("--passes", choices=["forward", "backward"], default="forward")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    print("| tokens | passes | transformers, s | accelerated, s | times as fast |")
    print("|---:|---|---:|---:|---:|")
    with quiet():
        rows = measure(args, device)
    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)
        found = {"where": where(device, args.threads), "rows": rows}
        path = args.output / f"hf-{device.type}.json"
        path.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
