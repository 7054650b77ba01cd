"""Scorer: sequences in, logits out. How a model is run is the business of `inference`.

A result does not depend on what else is asked, in which order, in passes of which size or on how
many threads: on a CPU to the bit where the matrix library rounds as it did where this was measured
(docs/scores.md), anywhere to within 1e-5 of a logit in float32.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from functools import cached_property
from importlib import import_module
from numbers import Integral
from os import PathLike
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genobird.batch import PackedBatch, Places, add_specials, pack
from genobird.checkpoint import Checkpoint, bundled_model, feature_columns
from genobird.errors import SequenceError, UsageError, counted, quoted
from genobird.genome.fasta import Genome
from genobird.genome.sequence import normalise, reverse_complement
from genobird.heads import Head, HeadConfig
from genobird.inference import Floats, Inference, Precision, Reader
from genobird.places import Question
from genobird.scoring.inputs import Sequences, named_sequences
from genobird.scoring.table import as_list

if TYPE_CHECKING:
    import pandas as pd

    from genobird.scoring import attention_map, mutagenesis, regions, variant_table
    from genobird.scoring.background import Background
    from genobird.scoring.one_hot import OneHotModel

Arrays = Sequence[NDArray[np.int64]]
Positions = Sequence[Sequence[int] | NDArray[np.int64]]
"""Of each sequence, positions in bases, 0-based."""
MOST: Final = 65_536  # threads, or sequences per pass


_NUMBER = re.compile(r"#[0-9]+$")
_SHOWN = 3


class Method:
    """A function whose first parameter is a scorer, as a method of the scorer."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __get__(self, scorer: Scorer | None, _: type[Scorer]) -> Callable[..., Any]:
        found = getattr(import_module(f"genobird.scoring.{self._module}"), self._name)
        return found if scorer is None else MethodType(found, scorer)


class Scorer:
    """A model ready to predict, on one device.

    Where its methods take a list of sequences or of features, one string is a list of one. Calls
    from several threads take turns; a forked process computes with one thread.

    Args:
        checkpoint: the model; its parts are moved to the device and set to evaluation.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`.
        threads: CPU threads of torch, for the whole process; None leaves them as they are.
        batch_size: sequences per pass, or `auto`: as many as fit a fixed number of bases.
        precision: `float32`, or `bf16`: the encoder's matrix products in bfloat16, about twice as
            fast where the processor has them. Scores move; docs/scores.md says how far.

    Raises:
        UsageError: no checkpoint, an unknown device or precision, or numbers below 1.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str = "auto",
        threads: int | None = None,
        batch_size: int | Literal["auto"] = "auto",
        precision: Precision = "float32",
    ) -> None:
        if not isinstance(checkpoint, Checkpoint):
            raise UsageError(
                f"{quoted(checkpoint)} is no model; genobird.load reads that of a directory"
            )
        size = None if batch_size == "auto" else batch_size
        for what, number in (("threads", threads), ("batch size", size)):
            if number is not None and not (isinstance(number, Integral) and 1 <= number <= MOST):
                found = f"{what} {quoted(number)} found"
                raise UsageError(f"{found}; 1 or more are allowed, {MOST:,} at most")
        if threads is not None:
            torch.set_num_threads(threads)
        self.inference: Final = Inference(checkpoint, device, precision=precision, most=size)
        self.checkpoint, self.precision = checkpoint, self.inference.precision
        self.device = self.inference.device
        self.features = feature_columns(checkpoint.features) if checkpoint.chromatin else []
        """Names of the chromatin columns; a name that repeats has its index appended."""
        self.targets = checkpoint.targets.columns if checkpoint.targets else []
        """Names of the columns of a table head."""
        self.chunk = 256 if self.device.type == "cuda" else 16
        """Regions or records that are scored together and written; between them, progress shows."""

    def __repr__(self) -> str:
        return f"Scorer(model {self.model_hash or 'unsaved'}, {self.device})"

    @cached_property
    def background(self) -> Background | None:
        """Background that effects are ranked among, the model's own or what was assigned.

        Raises:
            BackgroundError: that in the model's directory is damaged, or of another model.
        """
        from genobird.scoring.background import background_of

        return background_of(self)

    @property
    def model_hash(self) -> str:
        """First 12 letters of the sha256 of the weights; empty for a model never saved."""
        return self.checkpoint.hash

    def select_features(self, wanted: str | Sequence[str] | None) -> list[int]:
        """Return places in `features` of column names, names or classes (`TF`), in model order.

        Raises:
            UsageError: the model has nothing of that name.
        """
        return select(self.features, self.checkpoint.features, wanted)

    def chromatin_logits(self, sequences: Sequence[str], centres: Sequence[int]) -> Floats:
        """Predict chromatin profiles, both strands averaged.

        Args:
            sequences: S strings over ACGTN, forward strand.
            centres: the base in each sequence that the 200-bp bin is centred on.

        Returns:
            Raw logits [S, F]; see `effects.probabilities`.

        Raises:
            UsageError: the model has no chromatin head.
        """
        self.inference.head("chromatin")
        return self.profiles(sequences, centres)[0]

    def profiles(
        self, sequences: Sequence[str], places: Sequence[int] | Positions, states: bool = False
    ) -> tuple[Floats, Floats]:
        """Predict chromatin profiles at several places of each sequence, both strands averaged.

        Args:
            sequences: S strings over ACGTN, forward strand.
            places: of each sequence, the bases that 200-bp bins are centred on; P in all.
            states: whether hidden states are wanted too.

        Returns:
            Raw logits [P, F] (F = 0 without a chromatin head), and the mean hidden state of the
            tokens that the head reads for each place [P, D] (D = 0 unless `states`).
        """
        head = self.checkpoint.chromatin
        readers: list[Reader] = [] if head is None else [head]
        outputs = 0 if head is None else head.config.outputs
        width = self.checkpoint.encoder.config.width if states else 0
        sequences = as_list(sequences)
        readers += [_mean_state] if states else []
        if not sequences:
            return np.zeros((0, outputs), np.float32), np.zeros((0, width), np.float32)
        config = HeadConfig() if head is None else head.config
        values = self.inference.predict(
            readers, config, sequences, _arrays(places, sequences), both_strands=True
        )
        return values[:, :outputs], values[:, outputs:]

    def promoter_logits(
        self,
        sequences: Sequence[str],
        starts: Sequence[int] | Positions,
        *,
        near: bool | Sequence[bool] = False,
    ) -> Floats:
        """Predict promoters.

        Args:
            sequences: S strings over ACGTN, oriented along the strand of transcription.
            starts: the base in each sequence that is taken as transcription start, or several;
                P in all.
            near: whether the likeliest start near each counts instead, for all or for each of the
                P: where it is not known to the base. The same for a head that reads no letters.

        Returns:
            Logits [P].

        Raises:
            UsageError: the model has no promoter head.
        """
        head = self.inference.head("promoter")
        sequences = as_list(sequences)
        if not sequences:
            return np.zeros(0, np.float32)
        places = _arrays(starts, sequences)
        count, chosen = sum(map(len, places)), np.asarray(near)
        if chosen.dtype != bool or chosen.shape not in ((), (count,)):
            raise UsageError(
                f"near is {quoted(near)}; give true or false, or one of them for each of "
                f"{counted(count, 'place')}"
            )
        both = self.inference.predict([head.starts], head.config, sequences, places)
        return np.where(chosen, both[:, 1], both[:, 0])

    def starts_and_profiles(
        self, sequences: Sequence[str], places: Positions, states: bool = False
    ) -> tuple[Floats, Floats, Floats]:
        """Predict promoters and chromatin profiles of the same windows, each encoded once a strand.

        Args:
            sequences: S strings over ACGTN, forward strand; one at least.
            places: of each sequence, the bases that bins are centred on and near which the
                likeliest transcription starts count; P in all.
            states: see `profiles`.

        Returns:
            Logits of promoters along the forward and the reverse strand [P, 2], and what
            `profiles` returns.

        Raises:
            UsageError: the model has no promoter head, or no chromatin head.
        """
        promoter, chromatin = (self.inference.head(name) for name in ("promoter", "chromatin"))
        groups: list[list[Reader]] = [[_near(promoter)], [chromatin, *[_mean_state] * states]]

        def predict(texts: Sequence[str], starts: Arrays, centres: Arrays) -> Floats:
            asked = [Question(promoter.config, starts), Question(chromatin.config, centres)]
            return self.inference.predict_together(groups, asked, texts)

        forward = _arrays(places, sequences)
        turned = [reverse_complement(text) for text in sequences]
        # A start is a base; a bin's centre lies between two, so it is another place when turned.
        pairs = list(zip(turned, forward, strict=True))
        starts = [len(text) - 1 - here for text, here in pairs]
        centres = [len(text) - here for text, here in pairs]
        strands = np.stack(
            [predict(sequences, forward, forward), predict(turned, starts, centres)], axis=1
        )  # [P, 2, 1 + F + D]
        mean, outputs = strands[:, :, 1:].mean(axis=1), chromatin.config.outputs
        return strands[:, :, 0], mean[:, :outputs], mean[:, outputs:]

    @property
    def target_flank(self) -> int:
        """Bases on each side of a place that a table head was trained with; 0 without one."""
        targets = self.checkpoint.targets
        return 0 if targets is None else targets.window_bp // 2

    def target_values(
        self, sequences: Sequence[str], places: Positions, strands: Sequence[str] = ""
    ) -> Floats:
        """Predict the targets of a table head; see `Inference.target_values`.

        It was trained with `target_flank` bases on each side of a place.
        """
        texts = as_list(sequences)
        return self.inference.target_values(texts, _arrays(places, texts), strands)

    def embed(self, sequences: Sequences) -> Floats:
        """Return the mean hidden state of each sequence's tokens, given strand only, [S, D].

        Args:
            sequences: S sequences, see `score_sequences`.

        Raises:
            SequenceError: letters that are no DNA, or an empty sequence.
            UsageError: something is no sequence.
        """
        named = list(named_sequences(sequences))
        texts = [normalise(text, f"sequence {name}") for name, text in named]
        if "" in texts:
            empty = named[texts.index("")][0]
            raise SequenceError(f"sequence {empty} is empty; give one base at least")
        config = self.checkpoint.encoder.config
        if not texts:
            return np.zeros((0, config.width), np.float32)

        def prepare(part: slice) -> PackedBatch:
            encodings = self.checkpoint.tokenizer.encode_many(texts[part])
            return pack([add_specials(one.ids) for one in encodings], config.block_size)

        def compute(batch: PackedBatch) -> Tensor:
            hidden = self.inference.encode(batch.to(self.device))
            firsts = batch.starts.tolist()
            states = [
                hidden[first + 1 : first + length - 1].mean(0) if length > 2 else hidden[first]
                for first, length in zip(firsts, batch.lengths, strict=True)
            ]
            return torch.stack(states)

        return self.inference.passes.run([len(text) for text in texts], prepare, compute)

    # What needs more than the model is a function of another module, loaded when it is first used.
    if TYPE_CHECKING:
        score_sequences = regions.score_sequences
        score_regions = regions.score_regions
        embed_regions = regions.embed_regions
        screen_variants = variant_table.screen_variants
        mutagenesis = mutagenesis.mutagenesis
        attention = attention_map.attention_map
    else:
        score_sequences = Method("regions", "score_sequences")
        score_regions = Method("regions", "score_regions")
        embed_regions = Method("regions", "embed_regions")
        screen_variants = Method("variant_table", "screen_variants")
        mutagenesis = Method("mutagenesis", "mutagenesis")
        attention = Method("attention_map", "attention_map")

    def module(self, features: Sequence[str] | None = None) -> OneHotModel:
        """Return the model as a function of one-hot bases; see `one_hot.OneHotModel`."""
        from genobird.scoring.one_hot import OneHotModel

        return OneHotModel(self, features)


def _arrays(places: Sequence[int] | Positions, sequences: Sequence[str]) -> Arrays:
    """Return the places in each sequence; UsageError where they are none, or not of each."""
    try:
        found = [np.atleast_1d(np.asarray(here)) for here in places]
    except (TypeError, ValueError):
        found = []
    are_whole = all(len(here) and here.dtype.kind in "iu" for here in found)
    if len(found) != len(sequences) or not are_whole:
        raise UsageError(
            f"{quoted(places)} is given as places in {counted(len(sequences), 'sequence')}; give "
            "one or more whole numbers for each"
        )
    return [here.astype(np.int64) for here in found]


def _near(head: Head) -> Reader:
    """Return a reader of the likeliest starts near places, [P, outputs]."""
    return lambda hidden, places: head.starts(hidden, places)[:, head.config.outputs :]


def _mean_state(hidden: Tensor, places: Places) -> Tensor:
    """Return the mean hidden state over each place's cells, [P, D]."""
    edges = zip(places.spans[:, 0, 0].tolist(), places.spans[:, -1, 1].tolist(), strict=True)
    return torch.stack([hidden[first:end].mean(0) for first, end in edges])


def select(
    columns: Sequence[str], table: pd.DataFrame, wanted: str | Sequence[str] | None
) -> list[int]:
    """Return places of features, in model order.

    Args:
        columns: of all features.
        table: the checkpoint's, with columns `name` and `class`.
        wanted: columns, names (one without its `#number` is all that differ in that alone),
            classes, or the cell or target of names `cell|target|treatment`; one string is a list of
            one; None is all.

    Raises:
        UsageError: there is nothing of that name.
    """
    if wanted is None:
        return list(range(len(columns)))
    if not isinstance(wanted, Iterable):
        raise UsageError(f"{quoted(wanted)} is given as features; give names or classes")
    chosen: set[int] = set()
    for text in map(str, as_list(wanted)):
        rows = zip(columns, table["name"], table["class"], strict=True)
        found = [
            place
            for place, (column, name, kind) in enumerate(rows)
            if text in (column, name, _NUMBER.sub("", column), *name.split("|")[:2])
            or text.lower() == str(kind).lower()
        ]
        if not found:
            hint = _hint(text, columns, sorted(set(table["class"])))
            raise UsageError(f"the model has no feature or class {text!r}; {hint}")
        chosen.update(found)
    return sorted(chosen)


def _hint(text: str, columns: Sequence[str], kinds: Sequence[str]) -> str:
    """Say which names or classes an unknown one may have meant."""
    begin = [name for name in columns if text and name.lower().startswith(text.lower())]
    if len(begin) > _SHOWN:
        some = ", ".join(begin[:_SHOWN])
        return f"{len(begin)} names begin so, such as {some}; genobird info lists all names"
    near = begin or get_close_matches(text, [*kinds, *columns], n=_SHOWN, cutoff=0.5)
    if near:
        return f"did you mean {', '.join(near)}?"
    return f"classes are {', '.join(kinds)}, and genobird info lists all names"


def load(
    name_or_dir: Path | str | None = None,
    device: str = "auto",
    *,
    threads: int | None = None,
    batch_size: int | Literal["auto"] = "auto",
    precision: Precision = "float32",
) -> Scorer:
    """Load the model of a directory, the bundled one by default; all else is as in `Scorer`.

    Raises:
        UsageError: there is no such directory, or no such device.
        CheckpointError: the model is incomplete or altered.
    """
    if not isinstance(name_or_dir, str | PathLike | None):
        raise UsageError(f"{quoted(name_or_dir)} is given as a model; give its directory")
    path = bundled_model() if name_or_dir is None else Path(name_or_dir)
    if name_or_dir is None and not path.is_dir():
        raise UsageError("this installation has no bundled model; give a directory with --model")
    return Scorer(
        Checkpoint.load(path),
        device=device,
        threads=threads,
        batch_size=batch_size,
        precision=precision,
    )


@contextmanager
def opened(fasta: Path | str | Genome) -> Iterator[Genome]:
    """Open a FASTA file for the length of a block; a `Genome` stays as open as it was."""
    with nullcontext(fasta) if isinstance(fasta, Genome) else Genome(fasta) as genome:
        yield genome
