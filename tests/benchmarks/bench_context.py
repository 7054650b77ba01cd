"""At which distance is context used? A planted pair of motifs, for each pattern of attention.

    python -m tests.benchmarks.bench_context --output results  # some 15 minutes on a CPU

Random tokens hold two motifs of four tokens, `--tokens` apart at most; each stands as it is or in
the other orientation (its four tokens are those of the opposite strand). The label: do both have
the same orientation? It is read at the first motif alone, by a linear layer on its first token, so
the orientation of the other has to travel. A small model is trained anew for each pattern, on
distances drawn from powers of two, the same pairs for all, and then asked about pairs of each
distance that it has not seen (`told`). Chance is 50 %. The share of pairs whose second motif can be
seen from the first at all, where its gradient is not zero, needs no training (`seen`; `--steps 0`
measures that alone).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genobird.batch import PackedBatch, pack
from genobird.model import BigBird, BigBirdConfig
from genobird.tokenizer import N_SPECIAL
from tests.benchmarks.timing import where

PATTERNS = ("window", "random+window", "longformer", "bigbird", "full")
SHAPE = {
    "vocab_size": 32, "width": 32, "layers": 2, "heads": 2, "mlp_width": 64, "dropout": 0.0,
    "position": "rope", "block_size": 8,
}  # fmt: skip
# Two motifs, each with its other orientation; random tokens have none of these 16 ids.
MOTIFS = np.arange(N_SPECIAL, N_SPECIAL + 16).reshape(2, 2, 4)
TESTED, COUNTED = 1, 0


class Pairs(NamedTuple):
    """Sequences with a pair each.

    Attributes:
        batch: S sequences.
        first: int64 [S], where the first motif starts.
        labels: float32 [S], 1 where both have the same orientation.
    """

    batch: PackedBatch
    first: Tensor
    labels: Tensor


def distances(tokens: int) -> list[int]:
    """Powers of two that a pair can be apart, from 8."""
    return [2**k for k in range(3, 32) if 2**k <= tokens - 8] + [tokens - 8]


def draw(seed: tuple[int, ...], count: int, tokens: int, apart: Sequence[int]) -> Pairs:
    """Draw pairs; the same seed gives the same ones."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(MOTIFS.max() + 1, SHAPE["vocab_size"], (count, tokens)).astype(np.uint16)
    turned = rng.integers(0, 2, (count, 2))
    distance = rng.choice(apart, count)
    left = rng.integers(0, tokens - 4 - distance + 1)
    swapped = rng.integers(0, 2, count).astype(bool)
    starts = np.where(swapped, left + distance, left), np.where(swapped, left, left + distance)
    for motif in range(2):
        places = starts[motif][:, None] + np.arange(4)
        np.put_along_axis(ids, places, MOTIFS[motif][turned[:, motif]].astype(np.uint16), axis=1)
    batch = pack(list(ids), SHAPE["block_size"])
    first = batch.starts + torch.from_numpy(starts[0])
    return Pairs(batch, first, torch.from_numpy((turned[:, 0] == turned[:, 1]).astype(np.float32)))


def train(pattern: str, args: argparse.Namespace) -> tuple[BigBird, nn.Linear]:
    """Train a model: near pairs first, then up to the full distance, then all of them."""
    torch.manual_seed(args.seed)
    encoder = BigBird(BigBirdConfig.model_validate({**SHAPE, "pattern": pattern}))
    head = nn.Linear(SHAPE["width"], 1)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=0.01)
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, args.learning_rate, total_steps=args.steps, pct_start=0.1
    )
    every = distances(args.tokens)
    for step in range(args.steps):
        known = 1 + int(len(every) * min(1.0, 2 * step / args.steps))
        pairs = draw((args.seed, COUNTED, step), args.batch, args.tokens, every[:known])
        loss = F.binary_cross_entropy_with_logits(answer(encoder, head, pairs), pairs.labels)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        rates.step()
        if args.verbose and step % 100 == 0:
            print(f"{pattern} {step} {loss.item():.3f}", flush=True)
    return encoder.eval(), head


def answer(encoder: BigBird, head: nn.Linear, pairs: Pairs) -> Tensor:
    """Logits of the same orientation, [S]."""
    return head(encoder(pairs.batch, wanted=pairs.first)[pairs.first])[:, 0]  # type: ignore[no-any-return]


def reach(pattern: str, args: argparse.Namespace) -> dict[int, float]:
    """Share of pairs of each distance whose first motif depends on the second, untrained."""
    torch.manual_seed(args.seed)
    encoder = BigBird(BigBirdConfig.model_validate({**SHAPE, "pattern": pattern}))
    head = nn.Linear(SHAPE["width"], 1)
    embedded: list[Tensor] = []
    encoder.embedding.register_forward_hook(lambda _module, _ids, out: embedded.append(out))
    found = {}
    for distance in distances(args.tokens):
        pairs = draw((args.seed, TESTED, distance), args.batch, args.tokens, [distance])
        logits = answer(encoder, head, pairs).sum()
        (gradient,) = torch.autograd.grad(logits, embedded.pop())
        second = torch.isin(pairs.batch.ids, torch.from_numpy(MOTIFS[1].flatten()))
        is_seen = gradient[second].view(args.batch, -1).any(1)
        found[distance] = float(is_seen.float().mean())
    return found


def accuracies(encoder: BigBird, head: nn.Linear, args: argparse.Namespace) -> dict[int, float]:
    """Share of right answers for each distance."""
    found = {}
    for distance in distances(args.tokens):
        right = 0.0
        for part in range(args.tested // args.batch):
            pairs = draw((args.seed, TESTED, distance, part), args.batch, args.tokens, [distance])
            with torch.no_grad():
                said = answer(encoder, head, pairs) > 0
            right += float((said == (pairs.labels > 0)).sum())
        found[distance] = right / (args.tested // args.batch * args.batch)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Train, ask, print; write `context.json` to a folder that is given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--patterns", choices=PATTERNS, nargs="+", default=list(PATTERNS))
    parser.add_argument("--tokens", type=int, default=1024, help="of a sequence")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=16, help="sequences a step")
    parser.add_argument("--tested", type=int, default=512, help="pairs of each distance")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="print the loss")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    every = distances(args.tokens)
    print("| pattern | of 100 pairs | CPU time, s | " + " | ".join(map(str, every)) + " |")
    print("|---|---|--:|" + "--:|" * len(every))
    rows: dict[str, dict[str, dict[int, float]]] = {}
    for pattern in args.patterns:
        rows[pattern] = {}
        for kind in ("seen", "told") if args.steps else ("seen",):
            start = time.process_time()
            shares = (
                reach(pattern, args) if kind == "seen" else accuracies(*train(pattern, args), args)
            )
            seconds = time.process_time() - start
            rows[pattern][kind] = shares
            cells = " | ".join(f"{100 * share:.0f}" for share in shares.values())
            print(f"| {pattern} | {kind} | {seconds:.0f} | {cells} |", flush=True)
    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)
        found = {"where": where(torch.device("cpu"), args.threads), "shares": rows}
        (args.output / "context.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
