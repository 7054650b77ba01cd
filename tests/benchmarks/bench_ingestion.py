"""Speed of segmentation in CPU time, beside a plain Python reference; not collected by pytest.

python tests/benchmarks/bench_ingestion.py chr20.fa.gz
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from genobird.genome.fasta import Genome
from genobird.tokenizer import Tokenizer

TRAINED_BP = 10_000_000
SENTENCE_BP = 750
REFERENCE_BP = 200_000


def reference_encode(sequence: str, ranks: dict[str, int]) -> list[str]:
    """Join the adjacent pieces of the best rank, the leftmost first, until none can be joined."""
    pieces = list(sequence)
    worst = len(ranks)
    while len(pieces) > 1:
        joined = [ranks.get(a + b, worst) for a, b in itertools.pairwise(pieces)]
        best = min(joined)
        if best == worst:
            break
        at = joined.index(best)
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return pieces


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def cut(sequence: str, length: int) -> list[str]:
    return [sequence[start : start + length] for start in range(0, len(sequence), length)]


def line(*cells: object) -> None:
    sys.stdout.write("\t".join(map(str, cells)) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of segmentation on one core.")
    parser.add_argument("fasta", type=Path)
    parser.add_argument("--bp", type=int, default=8_000_000, help="bases to segment")
    arguments = parser.parse_args()
    _, sequence = next(Genome(arguments.fasta).stream())
    sequence = sequence.replace("N", "")
    if len(sequence) < TRAINED_BP + arguments.bp:
        parser.error(f"the first contig has {len(sequence)} known bases; give a larger one")
    trained, held_out = sequence[:TRAINED_BP], sequence[-arguments.bp :]
    line("vocabulary", "training_cpu_s", "way", "Mbp/s", "bp/token")
    for vocab_size in (4_096, 32_000):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "t.model"
            started = time.process_time()
            tokenizer = Tokenizer.train(cut(trained, 500), path, vocab_size=vocab_size)
            training = round(time.process_time() - started, 1)
        tokens = len(tokenizer.encode(held_out))
        ways: dict[str, Callable[[], object]] = {
            f"encode_flat, sentences of {SENTENCE_BP} bp (as shards)": partial(
                tokenizer.encode_flat, cut(held_out, SENTENCE_BP)
            ),
            "encode_many with spans, windows of 16,200 bp (as scoring)": partial(
                tokenizer.encode_many, cut(held_out, 16_200)
            ),
            "encode with spans, one string": partial(tokenizer.encode, held_out),
        }
        for name, work in ways.items():
            rate = len(held_out) / 1e6 / seconds(work)
            line(vocab_size, training, name, round(rate, 2), round(len(held_out) / tokens, 2))
        sentences = cut(held_out[:REFERENCE_BP], SENTENCE_BP)
        ranks = {piece: rank for rank, piece in enumerate(tokenizer.pieces)}
        started = time.process_time()
        found = [reference_encode(sentence, ranks) for sentence in sentences]
        rate = REFERENCE_BP / 1e6 / (time.process_time() - started)
        line(vocab_size, "", "plain Python reference", round(rate, 4), "")
        for sentence, pieces in zip(sentences, found, strict=True):
            if [tokenizer.pieces[i] for i in tokenizer.encode(sentence).ids] != pieces:
                raise SystemExit("the tokenizer and the reference differ")


if __name__ == "__main__":
    main()
