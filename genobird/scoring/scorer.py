"""Scorer: sequences in, logits out. Tokenising, packing, strands and device are its business.

Sequences are packed into passes of fixed capacity, in the order they come. A result does not depend
on what else is in a pass, beyond the last bits of float32.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genobird.batch import add_specials, pack
from genobird.checkpoint import Checkpoint
from genobird.errors import GenobirdError, UsageError
from genobird.genome.fasta import Genome
from genobird.genome.sequence import normalise, reverse_complement
from genobird.heads import Head
from genobird.places import pack_places

if TYPE_CHECKING:
    import pandas as pd

    from genobird.genome.interval import Interval
    from genobird.scoring.alleles import Variants
    from genobird.scoring.regions import Regions

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]

CHROMATIN_FLANK = 8_100
"""Bases on each side of a place in its chromatin window: half a 200-bp bin and 8,000 bp."""
PROMOTER_BEFORE, PROMOTER_AFTER = 5_000, 3_000
"""Bases of a promoter window before the transcription start, and from it on, along the strand."""
POSITIVE_WEIGHT = 8.0
"""Training counts a positive bin as so many; calibrated probabilities take it back."""

# Bases a pass. On a CPU two chromatin windows, about 6,300 tokens of a 4,096-piece vocabulary, stay
# closer to the cache than five: 0.21 against 0.27 s a window (two cores, four layers of 256).
_CAPACITY = {"cpu": 2 * 2 * CHROMATIN_FLANK, "cuda": 80 * 2 * CHROMATIN_FLANK}


class Scorer:
    """A model ready to predict, on one device, in float32.

    Args:
        checkpoint: the model; its parts are moved to the device and set to evaluation.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`.
        threads: CPU threads of torch, for the whole process; None leaves them as they are.
        batch_size: sequences a pass, or `auto`: as many as fit a fixed number of bases.

    Raises:
        UsageError: an unknown device, or numbers below 1.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str = "auto",
        threads: int | None = None,
        batch_size: int | Literal["auto"] = "auto",
    ) -> None:
        for what, number in (("threads", threads), ("batch size", batch_size)):
            if isinstance(number, int) and number < 1:
                raise UsageError(f"{what} {number} found; 1 or more are allowed")
        if threads is not None:
            torch.set_num_threads(threads)
        self.device = _device(device)
        self.checkpoint = checkpoint.to(self.device)
        for module in checkpoint.modules().values():
            module.eval()
        self.features = _columns(checkpoint)
        """Names of the chromatin columns; a name that repeats has its index appended."""
        self.chunk = 256 if self.device.type == "cuda" else 16
        """Regions or records that are scored together and written; between them, progress shows."""
        self._most = batch_size if isinstance(batch_size, int) else None
        self._capacity = _CAPACITY.get(self.device.type, _CAPACITY["cpu"])

    def __repr__(self) -> str:
        return f"Scorer(model {self.model_hash or 'unsaved'}, {self.device})"

    @property
    def model_hash(self) -> str:
        """First 12 letters of the sha256 of the weights; empty for a model never saved."""
        return self.checkpoint.hash

    def select_features(self, wanted: Sequence[str] | None) -> list[int]:
        """Return places in `features` of column names, names or classes (`TF`), in model order.

        Raises:
            UsageError: the model has nothing of that name.
        """
        if wanted is None:
            return list(range(len(self.features)))
        table = self.checkpoint.features
        chosen: set[int] = set()
        for text in wanted:
            rows = zip(self.features, table["name"], table["class"], strict=True)
            found = [
                place
                for place, (column, name, kind) in enumerate(rows)
                if text in (column, name) or text.lower() == str(kind).lower()
            ]
            if not found:
                kinds = sorted(set(table["class"]))
                near = get_close_matches(text, [*kinds, *self.features], n=3, cutoff=0.5)
                hint = f"did you mean {', '.join(near)}?" if near else f"classes: {kinds}"
                raise UsageError(f"the model has no feature or class {text!r}; {hint}")
            chosen.update(found)
        return sorted(chosen)

    def chromatin_logits(self, sequences: Sequence[str], centres: Sequence[int]) -> Floats:
        """Predict chromatin profiles, both strands averaged.

        Args:
            sequences: S strings over ACGTN, forward strand.
            centres: the base in each sequence that the 200-bp bin is centred on.

        Returns:
            Raw logits [S, F]; calibrated probabilities are `probabilities(logits)`.

        Raises:
            UsageError: the model has no chromatin head.
        """
        head = _require(self.checkpoint.chromatin, "chromatin")
        if not sequences:
            return np.zeros((0, head.config.outputs), np.float32)
        both: list[str] = []
        places: list[int] = []
        for sequence, centre in zip(sequences, centres, strict=True):
            both += [sequence, reverse_complement(sequence)]
            places += [centre, len(sequence) - centre]  # the bin is [place - 100, place + 100)
        logits = self._ask(head, both, places)
        averaged: Floats = logits.reshape(len(sequences), 2, -1).mean(axis=1)
        return averaged

    def promoter_logits(self, sequences: Sequence[str], starts: Sequence[int]) -> Floats:
        """Predict promoters.

        Args:
            sequences: S strings over ACGTN, oriented along the strand of transcription.
            starts: the base in each sequence that is taken as transcription start.

        Returns:
            Logits [S].

        Raises:
            UsageError: the model has no promoter head.
        """
        head = _require(self.checkpoint.promoter, "promoter")
        if not sequences:
            return np.zeros(0, np.float32)
        return self._ask(head, sequences, starts)[:, 0]

    def embed(self, sequences: Sequence[str]) -> Floats:
        """Return the mean hidden state of each sequence's tokens, given strand only, [S, D].

        Raises:
            SequenceError: letters that are no DNA.
        """
        texts = [normalise(text, f"sequence {index}") for index, text in enumerate(sequences)]
        encodings = self.checkpoint.tokenizer.encode_many(texts)
        config = self.checkpoint.encoder.config
        if not texts:
            return np.zeros((0, config.width), np.float32)

        def work(part: slice) -> Tensor:
            ids = [add_specials(encoding.ids) for encoding in encodings[part]]
            batch = pack(ids, config.block_size).to(self.device)
            hidden = self.checkpoint.encoder(batch)
            firsts = batch.starts.tolist()
            states = [
                hidden[first + 1 : first + length - 1].mean(0) if length > 2 else hidden[first]
                for first, length in zip(firsts, batch.lengths, strict=True)
            ]
            return torch.stack(states)

        return self.in_passes([len(text) for text in texts], work)

    def score_sequences(
        self, sequences: Sequence[str], *, features: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Score each sequence around its midpoint; see `regions.sequence_frames`."""
        from genobird.scoring.regions import score_sequences

        return score_sequences(self, sequences, features=features)

    def score_regions(
        self,
        regions: Regions,
        fasta: Path | str | Genome,
        *,
        strict: bool = False,
        features: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Score regions of a genome; see `regions.score_regions`."""
        from genobird.scoring.regions import score_regions

        return score_regions(self, regions, fasta, strict=strict, features=features)

    def screen_variants(
        self,
        variants: Variants,
        fasta: Path | str | Genome,
        *,
        ref_mismatch: str = "flag",
        features: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Score variants on a genome; see `variants.screen_variants`."""
        from genobird.scoring.variants import screen_variants

        return screen_variants(self, variants, fasta, ref_mismatch=ref_mismatch, features=features)

    def mutagenesis(
        self,
        region: Interval | str,
        fasta: Path | str | Genome,
        *,
        features: Sequence[str] | None = None,
        form: Literal["long", "wide"] = "long",
        most_bp: int = 2_000,
    ) -> pd.DataFrame:
        """Change every base of a region; see `mutagenesis.mutagenesis`."""
        from genobird.scoring.mutagenesis import mutagenesis

        return mutagenesis(self, region, fasta, features=features, form=form, most_bp=most_bp)

    def in_passes(self, bases: Sequence[int], work: Callable[[slice], Tensor]) -> Floats:
        """Call `work` on successive slices of sequences and join what it returns.

        Out of memory, the capacity is halved for good and the slice tried again.

        Args:
            bases: length of each sequence; at least one.
            work: takes a slice of the sequences, returns [sequences of the slice, ...].

        Raises:
            GenobirdError: one sequence alone does not fit into memory.
        """
        results = []
        first = 0
        while first < len(bases):
            stop = self._stop(bases, first)
            try:
                with torch.inference_mode():
                    results.append(work(slice(first, stop)).float().cpu().numpy())
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                if stop - first == 1:
                    raise GenobirdError(
                        f"one sequence of {bases[first]:,} bp does not fit into the memory of "
                        f"{self.device}; try --device cpu or a shorter sequence"
                    ) from error
                self._most = (stop - first) // 2
                logger.warning("out of memory: going on with %d sequences a pass", self._most)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            first = stop
        return np.concatenate(results)

    def _stop(self, bases: Sequence[int], first: int) -> int:
        stop, held = first + 1, bases[first]
        while stop < len(bases) and stop - first != self._most:
            held += bases[stop]
            if self._most is None and held > self._capacity:
                break
            stop += 1
        return stop

    def _ask(self, head: Head, sequences: Sequence[str], places: Sequence[int]) -> Floats:
        encoder = self.checkpoint.encoder

        def work(part: slice) -> Tensor:
            asked = pack_places(
                sequences[part],
                [np.array([place], dtype=np.int64) for place in places[part]],
                self.checkpoint.tokenizer,
                head.config,
                encoder.config.block_size,
            ).to(self.device)
            return head(encoder(asked.batch), asked.batch, asked.spans, asked.owner)  # type: ignore[no-any-return]

        return self.in_passes([len(sequence) for sequence in sequences], work)


def load(
    name_or_dir: Path | str | None = None,
    device: str = "auto",
    *,
    threads: int | None = None,
    batch_size: int | Literal["auto"] = "auto",
) -> Scorer:
    """Load a model.

    Args:
        name_or_dir: a model directory; None is the bundled model.
        device: see `Scorer`.
        threads: see `Scorer`.
        batch_size: see `Scorer`.

    Raises:
        UsageError: there is no such directory, or no such device.
        CheckpointError: the model is incomplete or altered.
    """
    path = bundled_model() if name_or_dir is None else Path(name_or_dir)
    if name_or_dir is None and not path.is_dir():
        raise UsageError("this installation has no bundled model; give a directory with --model")
    return Scorer(Checkpoint.load(path), device=device, threads=threads, batch_size=batch_size)


def bundled_model() -> Path:
    """Return the directory of the model that comes with the package."""
    return Path(str(resources.files("genobird"))) / "bundled" / "model"


@contextmanager
def opened(fasta: Path | str | Genome) -> Iterator[Genome]:
    """Open a FASTA file for the length of a block; a `Genome` stays as open as it was."""
    if isinstance(fasta, Genome):
        yield fasta
        return
    with Genome(fasta) as genome:
        yield genome


def probabilities(logits: Floats, positive_weight: float = 1.0) -> Floats:
    """Return probabilities; `positive_weight` of the training is taken back."""
    shifted = logits.astype(np.float64) - np.log(positive_weight)
    values: Floats = (0.5 + 0.5 * np.tanh(0.5 * shifted)).astype(np.float32)
    return values


def _columns(checkpoint: Checkpoint) -> list[str]:
    if checkpoint.chromatin is None:
        return []
    table = checkpoint.features
    repeated = table["name"].duplicated(keep=False)
    return [
        f"{name}#{index}" if again else str(name)
        for name, index, again in zip(table["name"], table["index"], repeated, strict=True)
    ]


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in _CAPACITY:
        raise UsageError(f"device {name!r} is unknown; allowed are auto, cpu, cuda and cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name!r} is not there: torch sees {torch.cuda.device_count()} GPU(s); "
            "use --device cpu"
        )
    return device


def _out_of_memory(error: Exception) -> bool:
    # On CPU torch says it only in words.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate" in str(error)


def _require(head: Head | None, name: str) -> Head:
    if head is None:
        raise UsageError(f"the model has no {name} head; choose another model or train the head")
    return head
