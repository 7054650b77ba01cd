"""Heads on the encoder's hidden states: promoters and chromatin profiles.

A head reads, for each place it is asked about, the tokens over an interval of bases
(`pool = "bin"`: their mean and maximum, beside [CLS]; `pool = "cells"`: the same of what it keeps
of each token, in each of the cells that the interval is cut into, so that it knows where around the
place something lies), [CLS] alone (`pool = "cls"`, the paper's, appendix F), or what another head
predicts for places side by side in the interval (`pool = "profiles"`: a promoter shows in
chromatin). With `local` it reads the bases around the place too (`local.py`), and with
`pool = "local"` these alone. A promoter head may read its core promoter letter by letter: what lies
30 bp before a start, and at it, is not in profiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from genobird.batch import Places, in_rows
from genobird.config import Strict
from genobird.errors import UsageError
from genobird.genome.sequence import NO_BASE
from genobird.local import LocalConfig, LocalNetwork

POSITIVE_WEIGHT = 8.0
"""How often a positive chromatin label counts in training (paper, table 21). Logits are ln 8 too
large by that; calibrated probabilities take it back."""


def probabilities(logits: NDArray[Any], positive_weight: float = 1.0) -> NDArray[np.float64]:
    """Return the probabilities of logits; `positive_weight` of the training is taken back."""
    found: NDArray[np.float64] = np.tanh((logits.astype(np.float64) - np.log(positive_weight)) / 2)
    return 0.5 + 0.5 * found


class HeadConfig(Strict):
    """Shape of a head."""

    outputs: int = Field(1, ge=1, description="Logits per place: 1 for promoters, F for chromatin.")
    pool: Literal["cls", "bin", "cells", "profiles", "local"] = Field(
        "bin", description="What of the sequence the head reads."
    )
    hidden: int = Field(0, ge=0, description="Width of a hidden layer; 0 for a linear head.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout before each linear layer.")
    before_bp: int = Field(
        100, ge=0, description="Bases read before the place, without pool = cls."
    )
    after_bp: int = Field(100, ge=1, description="Bases read from the place on.")
    cell_bp: int = Field(40, ge=1, description="Bases of a cell, with pool = cells.")
    cell_width: int = Field(64, ge=1, description="Numbers kept per token, with cells.")
    step_bp: int = Field(
        200, ge=1, description="Bases between places whose profiles are read, with profiles."
    )
    local: LocalConfig | None = Field(
        None, description="Shape of the network that reads the bases around the place."
    )
    core_before_bp: int = Field(
        0,
        ge=0,
        le=1_000,
        description="Bases before the place that are read letter by letter, with profiles.",
    )
    core_after_bp: int = Field(0, ge=0, le=1_000, description="The same from the place on.")
    near_bp: int = Field(
        100,
        ge=0,
        le=1_000,
        description="Where a start is not known to the base, the likeliest one within this many "
        "bases of the place counts; for heads that read letters.",
    )
    profiles: HeadConfig | None = Field(
        None,
        description="Shape of the head that is asked, with pool = profiles; training fills it.",
    )

    @property
    def reach_bp(self) -> int:
        """Bases on each side of a place, of which some are read; the encoder sees others too."""
        read = [] if self.pool == "local" else [self.before_bp, self.after_bp]
        return max(*read, 0, self.local.reach_bp if self.local else 0)

    @model_validator(mode="after")
    def _whole_cells(self) -> HeadConfig:
        width = self.before_bp + self.after_bp
        if self.pool in ("cells", "profiles") and width % self.cell_bp:
            raise ValueError(
                f"{self.before_bp} and {self.after_bp} bp are no whole number of cells of "
                f"{self.cell_bp} bp; change before_bp, after_bp or cell_bp"
            )
        if self.pool == "local" and self.local is None:
            raise ValueError("pool = local reads bases alone; give the shape of `local`")
        if self.pool == "profiles" and self.local is not None:
            raise ValueError("a head with pool = profiles reads bases by the head it asks")
        if self.pool != "profiles" and self.core_bp:
            raise ValueError("core_before_bp and core_after_bp are for heads with pool = profiles")
        if self.profiles is None:
            return self
        if self.pool != "profiles" or self.profiles.pool != "cells":
            raise ValueError("a head with pool = profiles asks one with pool = cells")
        if self.profiles.cell_bp != self.cell_bp:
            raise ValueError(
                f"the profiles are read in cells of {self.profiles.cell_bp} bp; cell_bp "
                f"{self.cell_bp} must be the same"
            )
        asked = self.profiles.before_bp + self.profiles.after_bp
        if width < asked or (width - asked) % self.step_bp or self.step_bp % self.cell_bp:
            raise ValueError(
                f"profiles of {asked} bp, every {self.step_bp} bp, do not fill {width} bp in cells "
                f"of {self.cell_bp} bp; change before_bp, after_bp or step_bp"
            )
        return self

    def widens_to(self, other: HeadConfig) -> bool:
        """Say whether a head of this shape can become the other without answering otherwise.

        The shifts at which a local network is read may differ: they have no weights.
        """
        free = {"outputs", "cell_width", "dropout", "local"}
        wider = other.outputs >= self.outputs and other.cell_width >= self.cell_width
        mine, theirs = (
            one.local and one.local.model_dump(exclude={"shifts_bp"}) for one in (self, other)
        )
        same = mine in (None, theirs)
        return wider and same and self.model_dump(exclude=free) == other.model_dump(exclude=free)

    @property
    def cells(self) -> int:
        """Cells of a place, C; 1 is the whole interval, 0 none: the head reads bases alone."""
        if self.pool in ("cells", "profiles"):
            return (self.before_bp + self.after_bp) // self.cell_bp
        return int(self.pool != "local")

    @property
    def bases(self) -> tuple[int, int]:
        """Bases before the place and from it on that are read as letters; 0, 0 for none."""
        if self.local:
            return self.local.reach_bp, self.local.reach_bp
        near = self.near_bp if self.core_bp else 0
        before, after = self.core_before_bp + near, self.core_after_bp + near
        if not self.profiles or not self.profiles.local:
            return before, after
        reach = self.profiles.local.reach_bp
        first = self.profiles.before_bp - self.before_bp
        last = first + (self.asked - 1) * self.step_bp
        return max(before, reach - first), max(after, reach + last)

    @property
    def core_bp(self) -> int:
        """Bases that are read letter by letter, L."""
        return self.core_before_bp + self.core_after_bp

    @property
    def asked(self) -> int:
        """Places that the profiles are asked about, K."""
        if self.profiles is None:
            return 0
        return (self.cells - self.profiles.cells) * self.cell_bp // self.step_bp + 1


class Head(nn.Module):
    """Logits for places in packed sequences.

    Attributes:
        reads: numbers that are pooled of each place, R; codes of letters, which may follow them, do
            not count.
        far: those of them that come from hidden states; the others are the local network's.
        profiles: the head that is asked; None without pool = profiles.
        core: weights of the letters around a start; None where it reads none.
        near_offset: added where the likeliest start near a place counts, for that is larger than
            what a place by itself gives.
    """

    def __init__(self, config: HeadConfig, width: int) -> None:
        super().__init__()
        self.config, self.width = config, width
        self.profiles: Head | None = None
        self.local: LocalNetwork | None = None
        self.core: nn.Conv1d | None = None
        self.near_offset: Tensor
        self.reads = self.far = self._build_far(config, width)
        if config.local:
            self.local = LocalNetwork(config.local)
            self.local_out = nn.Linear(config.local.hidden, config.outputs)
            self.reads += config.local.hidden

    def _build_far(self, config: HeadConfig, width: int) -> int:
        """Build what reads hidden states, and return how many numbers of a place it reads."""
        self.norm: nn.Module
        if config.pool == "local":
            return 0
        if config.pool == "profiles":
            if config.profiles is None:
                raise UsageError("pool = profiles asks another head; its shape is missing")
            self.profiles = Head(config.profiles, width)
            read = config.asked * config.profiles.outputs
            self.norm = nn.BatchNorm1d(read)
            self.layers = _layers(config, read, norms=False)
            if config.core_bp:
                self.core = nn.Conv1d(4, config.outputs, config.core_bp, bias=False)
                self.core_dropout = nn.Dropout(config.dropout)
                self.register_buffer("near_offset", torch.zeros(config.outputs))
            return read
        kept, cells = width, config.pool == "cells"
        if cells:
            # As in the tower, batch norms learn several times faster than what else was tried.
            kept = config.cell_width
            self.keep = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, kept))
            self.cell_norm = nn.BatchNorm1d(2 * kept)
        read = width if config.pool == "cls" else width + 2 * config.cells * kept
        self.norm = nn.LayerNorm(width if cells else read)
        self.layers = _layers(config, read, norms=cells)
        return read

    def forward(self, hidden: Tensor, places: Places) -> Tensor:
        """Predict.

        Args:
            hidden: [T, D] of the encoder.
            places: P places in the sequences that the encoder has read, packed for this head.

        Returns:
            Logits [P, outputs].
        """
        return self.answer(self.pool(hidden, places))

    def starts(self, hidden: Tensor, places: Places) -> Tensor:
        """Predict starts at the places, and the likeliest within `near_bp` of each, [P, 2 outputs].

        Both are the same for a head that reads no letters. A start near lies on a known base.
        """
        pooled = self.pool(hidden, places)
        exact = self.answer(pooled)
        near = exact if self.core is None else in_rows(self._answer_near, pooled)
        return torch.cat([exact, near], dim=1)

    def pool(self, hidden: Tensor, places: Places) -> Tensor:
        """Read hidden states and bases at each place.

        Heads on a frozen encoder begin with what this gives: only `keep` and the local network have
        weights here.

        Returns:
            [CLS], then mean and maximum of each cell, then what the local network sees: [P, R],
            R = D + 2 C c + h, where c numbers are kept of a token, D without cells; R = D + h with
            pool = cls, and R = K F with pool = profiles, the F logits of K places, then the codes
            of the letters that are read.
        """
        if self.profiles is not None:
            found = self._profiles(self.profiles, hidden, places)
            return torch.cat([found, self._letters(places).to(found.dtype)], dim=1)
        parts = [] if self.config.pool == "local" else [self._pool_tokens(hidden, places)]
        if self.local is not None:
            parts.append(self.local(places.bases))
        return torch.cat(parts, dim=1)

    def _pool_tokens(self, hidden: Tensor, places: Places) -> Tensor:
        spans = places.spans
        cls = hidden[places.batch.starts[places.owner]]
        if self.config.pool == "cls":
            return cls
        # Neighbouring places share cells; each is read once.
        both = spans.flatten(0, 1)
        cells, where = torch.unique(both, dim=0, return_inverse=True)  # [K, 2], [P C]
        counts = cells[:, 1] - cells[:, 0]
        offsets = torch.arange(int(counts.max()), device=spans.device)
        # [K, L]; a cell shorter than L repeats its last token, which changes no maximum.
        tokens = torch.minimum(cells[:, :1] + offsets, cells[:, 1:] - 1)
        kept = self.keep(hidden) if self.config.pool == "cells" else hidden  # [T, c]
        states = kept[tokens.flatten()].view(*tokens.shape, -1)  # [K, L, c]
        inside = (offsets < counts[:, None])[..., None]
        mean = (states * inside).sum(1) / counts[:, None]
        read = torch.cat([mean.to(states.dtype), states.amax(1)], dim=-1)  # [K, 2 c]
        return torch.cat([cls, read[where].view(len(cls), -1).to(cls.dtype)], dim=-1)

    def _profiles(self, profiles: Head, hidden: Tensor, places: Places) -> Tensor:
        """Ask the other head about K places side by side, [P, K F]."""
        pooled = profiles._pool_tokens(hidden, places)  # [P, D + C r], r numbers per cell
        cls = pooled[:, : self.width]
        cells = pooled[:, self.width :].view(*places.spans.shape[:2], -1)
        step = self.config.step_bp // self.config.cell_bp
        # Neighbouring places share cells: each takes its own run of them, [P, K, r, cells].
        runs = cells.unfold(1, profiles.config.cells, step).transpose(2, 3).flatten(2)
        heads = cls[:, None].expand(-1, runs.shape[1], -1)
        each = torch.cat([heads, runs], dim=2).flatten(0, 1)  # [P K, D + cells r]
        if profiles.local is not None:
            reach = profiles.local.config.reach_bp
            before = self.config.before_bp - profiles.config.before_bp + reach
            first = self.config.bases[0] - before
            spans = places.bases[:, first:].unfold(1, 2 * reach, self.config.step_bp)
            bases = spans[:, : runs.shape[1]].flatten(0, 1)  # [P K, 2 reach]
            each = torch.cat([each, profiles.local(bases).to(each.dtype)], dim=1)
        return profiles.answer(each).view(len(places.spans), -1)

    def _letters(self, places: Places) -> Tensor:
        """Return the codes of the bases that starts near the places read, [P, L + 2 near_bp]."""
        config = self.config
        if not config.core_bp:
            return places.bases[:, :0]
        first = config.bases[0] - config.core_before_bp - config.near_bp
        return places.bases[:, first : first + config.core_bp + 2 * config.near_bp]

    def widened(self, config: HeadConfig, outputs: Sequence[int] | None = None) -> Head:
        """Return a head with more outputs, more numbers kept of a token, or a local network.

        It answers as this one does: what is new of the kept numbers, and a new local network, add
        nothing until they are trained; a new output is 0.

        Args:
            config: this head's, with larger `outputs` or `cell_width`, or with `local`; its dropout
                and shifts may differ too.
            outputs: where each output of this head stands among the new ones; None is the first.

        Raises:
            UsageError: it differs otherwise, or is smaller.
        """
        if not self.config.widens_to(config):
            raise UsageError(f"a head of the shape {self.config!r} cannot become {config!r}")
        wide = Head(config, self.width)
        kept, more = self.config.cell_width, config.cell_width
        both = torch.cat([torch.arange(kept), more + torch.arange(kept)])  # mean and maximum
        cells = torch.arange(config.cells)[:, None] * 2 * more + both
        read = torch.cat([torch.arange(self.width), self.width + cells.flatten()])
        rows = torch.arange(self.config.outputs) if outputs is None else torch.tensor(outputs)
        if wide.local is not None:
            nn.init.zeros_(wide.local_out.weight)
            nn.init.zeros_(wide.local_out.bias)
        state = wide.state_dict()
        for name, values in self.state_dict().items():
            new = state[name]
            if not values.dim():
                new.copy_(values)
                continue
            places: Tensor = torch.arange(len(values))
            if name.startswith(self.last):
                places = rows
                new.zero_()
            elif name.startswith("cell_norm."):
                places = both
            if name == "layers.1.weight" and self.config.pool == "cells":
                new.zero_()
                new[places[:, None], read] = values
            else:
                new[places] = values
        return wide

    def local_alone(self) -> Head:
        """Return a head with `pool = "local"`: this one's local network and its outputs.

        Raises:
            UsageError: it has none.
        """
        if self.local is None:
            raise UsageError("the head has no local network that could be read alone")
        alone = Head(
            HeadConfig(outputs=self.config.outputs, pool="local", local=self.config.local),
            self.width,
        )
        alone.load_state_dict(
            {k: v for k, v in self.state_dict().items() if k.startswith(("local.", "local_out."))}
        )
        return alone

    def narrowed(self, outputs: int) -> Head:
        """Return a head that gives the first outputs of this one alone, [P, outputs]."""
        narrow = Head(self.config.model_copy(update={"outputs": outputs}), self.width)
        state = self.state_dict()
        narrow.load_state_dict(
            {k: v[:outputs] if k.startswith(self.last) else v for k, v in state.items()}
        )
        return narrow

    @property
    def last(self) -> tuple[str, ...]:
        """How the names of the weights begin that each output has for itself."""
        return (f"layers.{len(self.layers) - 1}.", "local_out.") if self.far else ("local_out.",)

    def answer(self, pooled: Tensor) -> Tensor:
        """Return the logits [P, outputs] of what `pool` has read."""
        return self._answer(pooled) if self.training else in_rows(self._answer, pooled)

    def _answer(self, pooled: Tensor) -> Tensor:
        far, near = pooled[:, : self.far], pooled[:, self.far :]
        if self.core is not None:
            first = self.config.near_bp
            letters = near[:, first : first + self.config.core_bp]
            return self._answer_far(far) + self._answer_core(letters)[:, :, 0]
        if self.local is None:
            return self._answer_far(far)
        logits: Tensor = self.local_out(near)
        return logits + self._answer_far(far) if self.far else logits

    def _answer_near(self, pooled: Tensor) -> Tensor:
        far, letters = pooled[:, : self.far], pooled[:, self.far :]
        near = self.config.near_bp
        starts = letters[:, None, self.config.core_before_bp :][:, :, : 2 * near + 1]
        absent = starts == NO_BASE  # no transcript starts beyond a sequence, or where there is N
        absent[:, :, near] = False
        best = self._answer_core(letters).masked_fill(absent, -torch.inf).amax(2)
        return self._answer_far(far) + best + self.near_offset

    def _answer_core(self, letters: Tensor) -> Tensor:
        """Return what codes [P, L + n] add for each of n + 1 starts, [P, outputs, n + 1]."""
        assert self.core is not None
        known = F.one_hot(letters.long(), NO_BASE + 1)[..., :NO_BASE].float()
        # Each letter as far from the mean as any input of a batch norm; N adds nothing.
        scaled = (known - known.sum(2, keepdim=True) / 4) / 0.1875**0.5
        return self.core(self.core_dropout(scaled.transpose(1, 2)))  # type: ignore[no-any-return]

    def _answer_far(self, pooled: Tensor) -> Tensor:
        if self.config.pool != "cells":
            return self.layers(self.norm(pooled))  # type: ignore[no-any-return]
        cls, cells = pooled[:, : self.width], pooled[:, self.width :]
        cells = F.relu(self.cell_norm(cells.reshape(-1, self.cell_norm.num_features)))
        both = torch.cat([self.norm(cls), cells.view(len(cls), -1)], dim=1)
        return self.layers(both)  # type: ignore[no-any-return]


def _layers(config: HeadConfig, read: int, *, norms: bool) -> nn.Sequential:
    """Build what is between the numbers that are read and the logits."""
    layers: list[nn.Module] = [nn.Dropout(config.dropout)]
    if config.hidden:
        layers += [nn.Linear(read, config.hidden)]
        layers += [nn.BatchNorm1d(config.hidden)] if norms else []
        layers += [nn.GELU(), nn.Dropout(config.dropout)]
    layers.append(nn.Linear(config.hidden or read, config.outputs))
    return nn.Sequential(*layers)


def place_spans(starts: Tensor, places: Tensor, config: HeadConfig, length: int) -> Tensor:
    """Return the tokens over the bases around each place.

    Args:
        starts: int64 [T], the first base of each token of one sequence, ascending.
        places: int64 [P], positions in bases.
        config: says how many bases before and after the place are read, and in how many cells.
        length: bases of the sequence.

    Returns:
        int64 [P, C, 2], half-open token indices; every token that touches a cell's bases is within.
    """
    if not config.cells:
        return torch.zeros((len(places), 0, 2), dtype=torch.int64)
    width = (config.before_bp + config.after_bp) // config.cells
    cells = torch.arange(config.cells) * width - config.before_bp
    first = (places[:, None] + cells).clamp(0, length - 1)  # [P, C]
    end = (places[:, None] + cells + width).clamp(1, length)
    first_token = torch.searchsorted(starts, first, right=True) - 1
    end_token = torch.searchsorted(starts, end, right=False)
    return torch.stack([first_token, torch.maximum(end_token, first_token + 1)], dim=-1)
