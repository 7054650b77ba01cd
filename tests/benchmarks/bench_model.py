"""A training step of the whole model, beside dense attention and transformers' BigBird.

    python -m tests.benchmarks.bench_model --output results [--activation-checkpointing] [--compile]
    python -m tests.benchmarks.bench_model --presets mini --lengths 1024   # a minute on a CPU

A step is what `genobird pretrain` does with a batch: forward pass, masked-token loss at 15 % of the
tokens, backward pass, clipping, AdamW; weights in float32, products in bfloat16 by autocast
(`--precision`). `dense` is the same model with the pattern `full`; `transformers` is its
BigBirdForMaskedLM of the same shape, which makes logits of all tokens and does not run in bfloat16
(TF32 on a GPU). `scoring` is our encoder's forward pass alone, without gradients. Ids are random; a
token is as long on average as in real DNA (6.7 bp with a vocabulary of 32,000, 5.2 with 4,096).

`MFU` is the share of useful operations (products of the forward pass three times; attention by the
block pairs that its pattern names, the backward pass at 2.5 times the forward one; nothing that is
computed again) in the rate of a large matrix product of the same precision, measured in the same
run. Memory is the peak of a step, weights and optimiser included, on a GPU by its allocator, on a
CPU counted over the tensors that operators make (`tests/memory.py`), without scratch space within
them.

Needs torch, numpy and pydantic, on a GPU also Triton; a way whose package is missing is left out.
A batch that does not fit is halved until it does. Dropout is the preset's.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.timing import cpu_seconds, quiet, where
from tests.memory import PeakMemory

if importlib.util.find_spec("sentencepiece") is None:  # no text is segmented here
    sys.modules["sentencepiece"] = ModuleType("sentencepiece")

from genobird.attention import BlockLayout
from genobird.batch import PackedBatch, pack
from genobird.model import PRESETS, BigBird, BigBirdConfig, MaskedLMHead
from genobird.tasks.pretrain import chunked_nats
from genobird.tokenizer import N_SPECIAL

BP_A_TOKEN = {32_000: 6.7, 4096: 5.2}
MASKED = 0.15
LONGEST_PIECE = 16
Step = Callable[[], object]


@dataclass
class Row:
    """One measurement of a training step."""

    preset: str
    way: str
    tokens: int
    batch: int
    seconds: float
    tokens_a_second: float
    bp_a_second: float
    mfu: float | None
    peak_mb: float


@dataclass
class Case:
    """What is trained on: S sequences of equal length, and their masked tokens."""

    batch: PackedBatch
    targets: Tensor
    labels: Tensor

    @property
    def tokens(self) -> int:
        return sum(self.batch.lengths)


def shape_of(preset: str, length: int, **changes: object) -> BigBirdConfig:
    """The preset, for sequences of a length."""
    values = {"max_tokens": max(4096, length), **PRESETS[preset], **changes}
    return BigBirdConfig.model_validate(values)


def pieces(vocab_size: int) -> np.ndarray:
    """Bases of random pieces, uint8 [V, P]; specials have none, lengths average as in DNA."""
    rng = np.random.default_rng(0)
    mean = BP_A_TOKEN.get(vocab_size, 5.2)
    lengths = np.clip(rng.poisson(mean - 1, vocab_size) + 1, 1, LONGEST_PIECE)
    lengths[:N_SPECIAL] = 0
    bases = rng.integers(0, 4, (vocab_size, LONGEST_PIECE)).astype(np.uint8)
    bases[np.arange(LONGEST_PIECE) >= lengths[:, None]] = 255
    return bases


def draw(shape: BigBirdConfig, length: int, count: int, device: torch.device) -> Case:
    """Random sequences and random targets."""
    rng = np.random.default_rng(1)
    ids = rng.integers(N_SPECIAL, shape.vocab_size, (count, length)).astype(np.uint16)
    batch = pack(list(ids), shape.block_size).to(device)
    valid = batch.valid.nonzero()[:, 0].cpu().numpy()
    targets = np.sort(rng.choice(valid, round(MASKED * len(valid)), replace=False))
    where_asked = torch.from_numpy(targets).to(device)
    return Case(batch, where_asked, batch.ids[where_asked])


def optimise(parameters: list[nn.Parameter], loss_of: Callable[[], Tensor], bf16: bool) -> Step:
    """A training step."""
    on_gpu = parameters[0].device.type == "cuda"
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.98), fused=on_gpu)

    def step() -> object:
        optimiser.zero_grad()
        with torch.autocast(parameters[0].device.type, torch.bfloat16, enabled=bf16):
            loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        return loss.detach()

    return step


def ours(shape: BigBirdConfig, case: Case, options: Any) -> Step:
    device = case.batch.ids.device
    torch.manual_seed(0)
    encoder = BigBird(shape, pieces(shape.vocab_size)).to(device).train()
    encoder.activation_checkpointing = options.activation_checkpointing
    if options.compile:
        for block in encoder.blocks:
            block.compile()
    head = MaskedLMHead(shape).to(device)

    def loss() -> Tensor:
        hidden = encoder(case.batch)[case.targets]
        return chunked_nats(head, hidden, encoder.embedding.weight, case.labels)[0].mean()

    return optimise([*encoder.parameters(), *head.parameters()], loss, options.precision == "bf16")


def scoring(shape: BigBirdConfig, case: Case, options: Any) -> Step:
    """The encoder's forward pass, without gradients."""
    device = case.batch.ids.device
    torch.manual_seed(0)
    encoder = BigBird(shape, pieces(shape.vocab_size)).to(device).eval()

    def run() -> object:
        bf16 = options.precision == "bf16"
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return encoder(case.batch)

    return run


def theirs(shape: BigBirdConfig, case: Case, options: Any) -> Step:
    """transformers' BigBird: no stem, absolute positions, products in float32 or TF32.

    Its attention does not run in bfloat16.
    """
    import transformers

    torch.set_float32_matmul_precision("high")
    device = case.batch.ids.device
    length = case.batch.lengths[0]
    config = transformers.BigBirdConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.mlp_width,
        hidden_act="gelu",
        max_position_embeddings=shape.max_tokens,
        hidden_dropout_prob=shape.dropout,
        attention_probs_dropout_prob=0.0,
        block_size=shape.block_size,
        num_random_blocks=shape.random_blocks,
    )
    torch.manual_seed(0)
    model = transformers.BigBirdForMaskedLM(config).to(device).train()
    if options.activation_checkpointing:
        model.gradient_checkpointing_enable()
    ids = case.batch.ids.view(-1, length)
    labels = torch.full_like(case.batch.ids, -100)
    labels[case.targets] = case.labels
    labels = labels.view(-1, length)

    def loss() -> Tensor:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())

    return optimise(list(model.parameters()), loss, bf16=False)


def useful_operations(shape: BigBirdConfig, case: Case) -> float:
    """Floating-point operations of a step that its result needs."""
    device = case.batch.ids.device
    one = draw(shape, case.batch.lengths[0], 1, device)
    encoder = BigBird(shape, pieces(shape.vocab_size)).to(device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(one.batch, backend="blocked")  # an operator of our own, so not counted
    sequences = len(case.batch.lengths)
    products = 3 * sequences * counter.get_total_flops()
    attention = sum(
        BlockLayout.pack(
            shape.attention_pattern(), case.batch.lengths, layer=layer, heads=shape.heads
        ).flops(shape.width // shape.heads)
        for layer in range(shape.layers)
    )
    head = 2 * shape.width * (shape.width + shape.vocab_size) * len(case.targets)
    return products + 3.5 * attention + 3 * head


def product_rate(device: torch.device, precision: str) -> float:
    """Operations a second of a large matrix product."""
    n = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    seconds = time_steps(lambda: a @ b, device, 0.5, time.perf_counter)
    return 2 * n**3 / seconds


def time_steps(
    run: Step, device: torch.device, seconds: float, clock: Callable[[], float]
) -> float:
    """Median time of a call on a GPU, waiting for it; best time on a CPU."""
    if device.type != "cuda":
        return cpu_seconds(run, seconds, clock, least=2)
    for _ in range(3):
        run()
    times: list[float] = []
    while len(times) < 5 or (sum(times) < seconds and len(times) < 50):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak_megabytes(build: Callable[[], Step], device: torch.device) -> tuple[Step, float]:
    """Build a step and run it once; also return the most memory that it took."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        step = build()
        step()
        step()  # the first has no moments of the optimiser yet
        torch.cuda.synchronize()
        return step, torch.cuda.max_memory_allocated() / 1e6
    with PeakMemory() as memory:
        step = build()
        step()
    return step, memory.peak / 1e6


def measure(
    preset: str, way: str, length: int, count: int, options: Any, device: torch.device, rate: float
) -> Row:
    """Time one way with `count` sequences."""
    shape = shape_of(preset, length, **({"pattern": "full"} if way == "dense" else {}))
    shape = shape.model_copy(update=options.changes)
    case = draw(shape, length, count, device)
    build = {"transformers": theirs, "scoring": scoring}.get(way, ours)
    step, peak = peak_megabytes(lambda: build(shape, case, options), device)
    clock = time.thread_time if options.threads == 1 else time.perf_counter
    seconds = time_steps(step, device, options.seconds, clock)
    bp = float((pieces(shape.vocab_size) != 255).sum(1)[case.batch.ids.cpu()].sum())
    return Row(
        preset=preset,
        way=way,
        tokens=length,
        batch=count,
        seconds=seconds,
        tokens_a_second=case.tokens / seconds,
        bp_a_second=bp / seconds,
        mfu=None if way == "scoring" else useful_operations(shape, case) / seconds / rate,
        peak_mb=peak,
    )


def bench(options: Any, device: torch.device, rate: float) -> Iterator[Row]:
    """Measure every preset at every length, every way."""
    for preset in options.presets:
        for length in options.lengths:
            for way in options.ways:
                count: int = max(1, options.batch_tokens // length)
                label = f"{preset}, {way}, {length} tokens"
                while True:
                    try:
                        row = measure(preset, way, length, count, options, device, rate)
                    except ImportError as error:
                        print(f"{label}: left out, {error}")
                    except torch.OutOfMemoryError:
                        if count > 1:
                            count //= 2
                            continue
                        print(f"{label}: one sequence is out of memory")
                    except RuntimeError as error:
                        print(f"{label}: failed, {str(error).splitlines()[0][:150]}")
                    else:
                        print(f"{label} x {count}: {row.tokens_a_second:,.0f} tokens/s", flush=True)
                        yield row
                    break
                torch.compiler.reset()


def table(rows: list[Row]) -> str:
    """Markdown: a line a measurement, with the ratio of ours to it."""
    mine = {(r.preset, r.tokens): r.tokens_a_second for r in rows if r.way == "ours"}
    lines = [
        "| preset | tokens | batch | way | s a step | tokens/s | kbp/s | MFU | peak MB | ours / |",
        "|---|--:|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for r in rows:
        base = mine.get((r.preset, r.tokens))
        share = "" if r.mfu is None else f"{r.mfu:.0%}"
        ratio = "" if base is None else f"{base / r.tokens_a_second:.2f}"
        lines.append(
            f"| {r.preset} | {r.tokens} | {r.batch} | {r.way} | {r.seconds:.3g} "
            f"| {r.tokens_a_second:,.0f} | {r.bp_a_second / 1e3:,.1f} | {share} "
            f"| {r.peak_mb:,.0f} | {ratio} |"
        )
    return "\n".join(lines) + "\n"


def read_options(arguments: Sequence[str] | None) -> Any:
    """The command line, with defaults for the machine."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="folder for JSON and table")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=["base", "mini"])
    parser.add_argument("--lengths", type=int, nargs="+", help="tokens a sequence")
    parser.add_argument("--batch-tokens", type=int, help="tokens a step")
    parser.add_argument(
        "--ways", nargs="+", choices=["ours", "dense", "transformers", "scoring"],
        default=["ours", "dense", "transformers"],
    )  # fmt: skip
    parser.add_argument("--layers", type=int, help="instead of the preset's")
    parser.add_argument("--precision", choices=["bf16", "float32"], default="bf16")
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true", help="layers by torch.compile")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each measurement")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; one: CPU time")
    options = parser.parse_args(arguments)
    cuda = torch.cuda.is_available()
    if options.device == "cuda" and not cuda:
        sys.exit("--device cuda: torch finds no CUDA device here; run it where there is one")
    options.device = "cuda" if cuda and options.device != "cpu" else "cpu"
    on_gpu = options.device == "cuda"
    options.lengths = options.lengths or ([4096, 16384, 65536] if on_gpu else [4096])
    options.batch_tokens = options.batch_tokens or (131_072 if on_gpu else 4096)
    options.changes = {} if options.layers is None else {"layers": options.layers}
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Time, write."""
    options = read_options(arguments)
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    if device.type == "cpu":
        print("no GPU here: attention is the plain torch backend, not the Triton kernels")
    facts = where(device, options.threads)
    print(json.dumps(facts))
    with quiet():
        rate = product_rate(device, options.precision)
        print(f"a matrix product in {options.precision}: {rate / 1e12:.3g} TFLOP/s")
        rows = list(bench(options, device, rate))
    print(table(rows))
    if options.output is None:
        return
    options.output.mkdir(parents=True, exist_ok=True)
    settings = {
        name: getattr(options, name)
        for name in ("precision", "activation_checkpointing", "compile", "layers", "batch_tokens")
    }
    results = {**facts, **settings, "product_rate": rate, "rows": [asdict(r) for r in rows]}
    path = options.output / f"model-{device.type}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(f"{facts['device']}, {facts['date']}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
