"""A model's answers for a whole split: every place once, in long windows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from genobird.batch import add_specials, pack
from genobird.checkpoint import Checkpoint
from genobird.datasets import UPSTREAM_BP, ChromatinDataset, Predictions
from genobird.errors import InputError, ShardError, UsageError
from genobird.genome.sequence import reverse_complement
from genobird.heads import Head
from genobird.places import pack_places
from genobird.shards import Shards
from genobird.tasks.data import PretrainBatches, PretrainDataSettings, generator, mask_tokens

Precision = Literal["float32", "bf16"]


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch that is read at once, and the bins of it that are kept.

    Attributes:
        contig: its name.
        start: first base, 0-based.
        end: base after the last.
        bins: int64 [n], ascending; their context lies in [start, end) or beyond the contig.
    """

    contig: str
    start: int
    end: int
    bins: NDArray[np.int64]


def windows_over(
    dataset: ChromatinDataset, split: str, context_bp: int, window_bp: int
) -> Iterator[Window]:
    """Cover each usable bin of a split once.

    A window reaches `context_bp` beyond its bins on both sides, also where that leaves the split:
    the sequence there is context, its labels are never read. It is clipped at the contig's ends.

    Raises:
        UsageError: a window has no room for a bin.
    """
    width = dataset.bin_bp
    room = (window_bp - 2 * context_bp) // width
    if room < 1:
        raise UsageError(
            f"window_bp {window_bp} has no bin with {context_bp} bp of context on both sides; "
            f"it is at least {2 * context_bp + width}"
        )
    for interval in dataset.intervals(split):
        usable = dataset.usable_bins(interval)
        stretch = (usable - -(-interval.start // width)) // room
        for bins in np.split(usable, np.flatnonzero(np.diff(stretch)) + 1):
            if len(bins):
                start = int(bins[0]) * width - context_bp
                end = int(bins[-1] + 1) * width + context_bp
                length = dataset.length(interval.contig)
                yield Window(interval.contig, max(0, start), min(end, length), bins)


def predict_chromatin(
    checkpoint: Checkpoint,
    dataset: ChromatinDataset,
    split: str,
    *,
    both_strands: bool = True,
    context_bp: int = 8_000,
    window_bp: int = 30_000,
    precision: Precision = "float32",
    device: torch.device | str = "cpu",
) -> Predictions:
    """Predict every usable bin of a split once.

    Bins share long windows, so most see more than `context_bp` on a side, none sees less unless its
    contig ends. Windows reach over the split's borders for sequence, never for labels.

    Args:
        checkpoint: a model with a chromatin head.
        dataset: its features are those of the head.
        split: whose bins are predicted.
        both_strands: average the logits of both strands.
        context_bp: least context of a bin on either side.
        window_bp: longest window.
        precision: of matrix products.
        device: where to compute.

    Raises:
        UsageError: the model has no chromatin head.
        InputError: the head has other features than the dataset, or the split has no usable bin.
    """
    head = _head(checkpoint, "chromatin")
    names = checkpoint.features["name"].tolist()
    if names != dataset.features["name"].tolist():
        raise InputError(
            f"the model's {len(names)} features are not the {len(dataset.features)} of "
            f"{dataset.path}; evaluate it on the dataset that it was trained on"
        )
    contigs, bins, labels, logits = [], [], [], []
    for window in windows_over(dataset, split, context_bp, window_bp):
        sequence = dataset.sequence(window.contig, window.start, window.end)
        centres = window.bins * dataset.bin_bp + dataset.bin_bp // 2 - window.start
        sequences, places = [sequence], [centres]
        if both_strands:
            sequences.append(reverse_complement(sequence))
            places.append(len(sequence) - centres)
        found = _logits(checkpoint, head, sequences, places, precision, device)
        logits.append(found.reshape(len(sequences), len(centres), -1).mean(0))
        labels.append(dataset.labels(window.contig, window.bins))
        bins.append(window.bins)
        contigs.append(np.full(len(centres), window.contig))
    if not bins:
        raise InputError(f"{dataset.path}: split {split} has no bin without N")
    return Predictions(
        np.concatenate(contigs),
        np.concatenate(bins),
        np.concatenate(labels),
        np.concatenate(logits),
        dataset.bin_bp,
    )


def predict_promoters(
    checkpoint: Checkpoint,
    table: pd.DataFrame,
    *,
    sequences: int = 8,
    precision: Precision = "float32",
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """Predict the windows of a promoter table as they are, oriented along their strand.

    Args:
        checkpoint: a model with a promoter head.
        table: N rows with a column `sequence` whose transcription start is base 5,000.
        sequences: windows a pass.
        precision: of matrix products.
        device: where to compute.

    Returns:
        Logits, float32 [N].

    Raises:
        UsageError: the model has no promoter head.
    """
    head = _head(checkpoint, "promoter")
    texts = [str(text) for text in table["sequence"]]
    logits = []
    for first in range(0, len(texts), sequences):
        part = texts[first : first + sequences]
        places = [np.array([UPSTREAM_BP], dtype=np.int64)] * len(part)
        logits.append(_logits(checkpoint, head, part, places, precision, device)[:, 0])
    return np.concatenate(logits)


@dataclass(frozen=True, eq=False)
class MaskedTokens:
    """What a masked language model says of the tokens it was asked for, summed by sequence.

    Attributes:
        groups: stretch of the genome of each sequence, str [S].
        bits: sum of -log2 p(true token), float64 [S, 2]: all masked tokens, and those without N.
        bases: bases in these tokens, int64 [S, 2].
        tokens: their number, int64 [S, 2].
        hits: tokens whose most probable piece is the true one, int64 [S].
        pieces: how often each piece was asked for, int64 [V].
        lengths: bases of each piece, int64 [V].
    """

    groups: NDArray[np.str_]
    bits: NDArray[np.float64]
    bases: NDArray[np.int64]
    tokens: NDArray[np.int64]
    hits: NDArray[np.int64]
    pieces: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def frequency_bits_per_base(self) -> float:
        """Bits per base of the masked pieces' own frequencies: the best without any context."""
        seen = self.pieces[self.pieces > 0]
        bits = -(seen * np.log2(seen / seen.sum())).sum()
        return float(bits / (self.pieces @ self.lengths))


@torch.inference_mode()
def predict_masked(
    checkpoint: Checkpoint,
    shards: Shards,
    settings: PretrainDataSettings,
    batches: int,
    *,
    seed: int = 0,
    group_bp: int = 250_000,
    precision: Precision = "float32",
    device: torch.device | str = "cpu",
) -> MaskedTokens:
    """Ask for masked tokens in windows drawn from shards without replacement.

    Args:
        checkpoint: a model with a masked-language-model head.
        shards: made with the model's tokenizer.
        settings: length and number of sequences, mask rate.
        batches: at most so many batches are read.
        seed: key of the windows and masks.
        group_bp: width of the stretches in `groups`.
        precision: of matrix products.
        device: where to compute.

    Raises:
        UsageError: the model has no masked-language-model head.
        ShardError: the shards were made with another tokenizer.
    """
    if checkpoint.mlm is None:
        raise UsageError("the model has no masked-language-model head; leave out the shards")
    tokenizer = checkpoint.tokenizer
    if shards.index.tokenizer_sha256 != tokenizer.sha256:
        raise ShardError(
            "the shards were made with another tokenizer than the model's; "
            "make them again with `genobird shards`"
        )
    encoder, mlm = checkpoint.encoder.to(device).eval(), checkpoint.mlm.to(device).eval()
    data = PretrainBatches(
        shards, settings, vocab_size=tokenizer.vocab_size,
        block_size=encoder.config.block_size, seed=seed,
    )  # fmt: skip
    order = generator(seed, 0, 0).permutation(len(data.windows))[: batches * settings.sequences]
    lengths = tokenizer.lengths.astype(np.int64)
    kept = np.stack([np.ones(len(lengths), dtype=bool), ~(tokenizer.bases == 4).any(axis=1)])
    groups, rows, hits = [], [], []
    pieces = np.zeros(len(lengths), dtype=np.int64)
    for step, first in enumerate(range(0, len(order), settings.sequences)):
        chosen = order[first : first + settings.sequences]
        batch = pack([add_specials(data.window(int(i))) for i in chosen], data.block_size)
        masked, targets, labels = mask_tokens(
            batch.ids, settings.mask_rate, data.vocab_size, generator(seed, 1, step)
        )
        owner = batch.sequence[targets].numpy()
        batch = batch.with_ids(masked).to(device)
        with _autocast(precision, device):
            hidden = encoder(batch)[targets.to(device)]
            logits = mlm(hidden, encoder.embedding.weight).float().cpu()
        bits = F.cross_entropy(logits, labels, reduction="none").double().numpy() / math.log(2)
        true = labels.numpy()
        hit = (logits.argmax(-1) == labels).numpy()
        sums = [
            np.bincount(owner, weights=what * mask[true], minlength=len(chosen))
            for what in (bits, lengths[true], np.ones(len(true)))
            for mask in kept
        ]
        rows.append(np.stack(sums, axis=1).reshape(len(chosen), 3, 2))
        hits.append(np.bincount(owner, weights=hit, minlength=len(chosen)))
        pieces += np.bincount(true, minlength=len(pieces))
        for i in chosen:
            contig, start = shards.positions(int(data.windows[i, 0]))
            groups.append(f"{contig}:{start // group_bp}")
    sums_: NDArray[np.float64] = np.concatenate(rows).astype(np.float64)
    return MaskedTokens(
        groups=np.array(groups),
        bits=sums_[:, 0],
        bases=sums_[:, 1].astype(np.int64),
        tokens=sums_[:, 2].astype(np.int64),
        hits=np.concatenate(hits).astype(np.int64),
        pieces=pieces,
        lengths=lengths,
    )


def _head(checkpoint: Checkpoint, name: str) -> Head:
    head = checkpoint.modules().get(name)
    if not isinstance(head, Head):
        raise UsageError(f"the model has no {name} head; add one with `genobird finetune {name}`")
    return head


def _autocast(precision: Precision, device: torch.device | str) -> Any:
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


@torch.inference_mode()
def _logits(
    checkpoint: Checkpoint,
    head: Head,
    sequences: Sequence[str],
    places: Sequence[NDArray[np.int64]],
    precision: Precision,
    device: torch.device | str,
) -> NDArray[np.float32]:
    """Run encoder and head once, [P, F]."""
    encoder, head = checkpoint.encoder.to(device).eval(), head.to(device).eval()
    block_size = encoder.config.block_size
    batch = pack_places(sequences, places, checkpoint.tokenizer, head.config, block_size).to(device)
    with _autocast(precision, device):
        logits = head(encoder(batch.batch), batch.batch, batch.spans, batch.owner)
    found: NDArray[np.float32] = logits.float().cpu().numpy()
    return found
