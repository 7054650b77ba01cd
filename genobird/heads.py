"""Heads on the encoder's hidden states: promoters and chromatin profiles.

A head reads, for each place it is asked about, the tokens over an interval of bases
(`pool = "bin"`: their mean and maximum, beside [CLS]; `pool = "cells"`: the same of what it keeps
of each token, in each of the cells that the interval is cut into, so that it knows where around the
place something lies), [CLS] alone (`pool = "cls"`, the paper's, appendix F), or what another head
says of places side by side in the interval (`pool = "profiles"`: a promoter shows in chromatin).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from genobird.batch import PackedBatch
from genobird.errors import UsageError

POSITIVE_WEIGHT = 8.0
"""How often a positive chromatin label counts in training (paper, table 21). Logits are ln 8 too
large by that; calibrated probabilities take it back."""


class HeadConfig(BaseModel):
    """Shape of a head."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outputs: int = Field(1, ge=1, description="Logits a place: 1 for promoters, F for chromatin.")
    pool: Literal["cls", "bin", "cells", "profiles"] = Field(
        "bin", description="What of the sequence the head reads."
    )
    hidden: int = Field(0, ge=0, description="Width of a hidden layer; 0 for a linear head.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout before each linear layer.")
    before_bp: int = Field(
        100, ge=0, description="Bases read before the place, without pool = cls."
    )
    after_bp: int = Field(100, ge=1, description="Bases read from the place on.")
    cell_bp: int = Field(40, ge=1, description="Bases of a cell, with pool = cells.")
    cell_width: int = Field(64, ge=1, description="Numbers that are kept of a token.")
    step_bp: int = Field(
        200, ge=1, description="From one place to the next that the profiles are asked about."
    )
    profiles: HeadConfig | None = Field(
        None,
        description="Shape of the head that is asked, with pool = profiles; training fills it.",
    )

    @model_validator(mode="after")
    def _whole_cells(self) -> HeadConfig:
        width = self.before_bp + self.after_bp
        if self.pool in ("cells", "profiles") and width % self.cell_bp:
            raise ValueError(
                f"{self.before_bp} and {self.after_bp} bp are no whole number of cells of "
                f"{self.cell_bp} bp; change before_bp, after_bp or cell_bp"
            )
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
        """Say whether a head of this shape can become the other without answering otherwise."""
        free = {"outputs", "cell_width", "dropout"}
        wider = other.outputs >= self.outputs and other.cell_width >= self.cell_width
        return wider and self.model_dump(exclude=free) == other.model_dump(exclude=free)

    @property
    def cells(self) -> int:
        """Cells of a place, C; 1 is the whole interval."""
        split = self.pool in ("cells", "profiles")
        return (self.before_bp + self.after_bp) // self.cell_bp if split else 1

    @property
    def asked(self) -> int:
        """Places that the profiles are asked about, K."""
        if self.profiles is None:
            return 0
        return (self.cells - self.profiles.cells) * self.cell_bp // self.step_bp + 1


class Head(nn.Module):
    """Logits for places in packed sequences.

    Attributes:
        reads: numbers that are pooled of each place, R.
        profiles: the head that is asked, a copy of its own; None without pool = profiles.
    """

    def __init__(self, config: HeadConfig, width: int) -> None:
        super().__init__()
        self.config, self.width = config, width
        self.profiles: Head | None = None
        self.norm: nn.Module
        if config.pool == "profiles":
            if config.profiles is None:
                raise UsageError("pool = profiles asks another head; its shape is missing")
            self.profiles = Head(config.profiles, width)
            read = config.asked * config.profiles.outputs
            self.reads, self.norm = read, nn.BatchNorm1d(read)
            self.layers = _layers(config, read, norms=False)
            return
        kept, cells = width, config.pool == "cells"
        if cells:
            # As in the tower, batch norms learn several times faster than what else was tried.
            kept = config.cell_width
            self.keep = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, kept))
            self.cell_norm = nn.BatchNorm1d(2 * kept)
        read = width if config.pool == "cls" else width + 2 * config.cells * kept
        self.reads = read
        self.norm = nn.LayerNorm(width if cells else read)
        self.layers = _layers(config, read, norms=cells)

    def forward(self, hidden: Tensor, batch: PackedBatch, spans: Tensor, owner: Tensor) -> Tensor:
        """Predict.

        Args:
            hidden: [T, D] of the encoder.
            batch: the sequences.
            spans: int64 [P, C, 2], the tokens of each place's cells in the packed batch (half-open,
                at least one token).
            owner: int64 [P], the sequence of each place.

        Returns:
            Logits [P, outputs].
        """
        return self.answer(self.pool(hidden, batch, spans, owner))

    def pool(self, hidden: Tensor, batch: PackedBatch, spans: Tensor, owner: Tensor) -> Tensor:
        """Read hidden states at each place.

        Heads on a frozen encoder begin with what this gives: only `keep` has weights here.

        Args:
            hidden: as in `forward`.
            batch: as in `forward`.
            spans: as in `forward`.
            owner: as in `forward`.

        Returns:
            [CLS], then mean and maximum of each cell: [P, R], R = D + 2 C c, where c numbers are
            kept of a token, D without cells; R = D with pool = cls, and R = K F with pool =
            profiles, the F logits of K places.
        """
        if self.profiles is not None:
            return self._profiles(self.profiles, hidden, batch, spans, owner)
        cls = hidden[batch.starts[owner]]
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

    def _profiles(
        self, profiles: Head, hidden: Tensor, batch: PackedBatch, spans: Tensor, owner: Tensor
    ) -> Tensor:
        """Ask the other head about K places side by side, [P, K F]."""
        pooled = profiles.pool(hidden, batch, spans, owner)  # [P, D + C r], r numbers a cell
        cls = pooled[:, : self.width]
        cells = pooled[:, self.width :].view(*spans.shape[:2], -1)
        step = self.config.step_bp // self.config.cell_bp
        # Neighbouring places share cells: each takes its own run of them, [P, K, r, cells].
        runs = cells.unfold(1, profiles.config.cells, step).transpose(2, 3).flatten(2)
        heads = cls[:, None].expand(-1, runs.shape[1], -1)
        each = torch.cat([heads, runs], dim=2)  # [P, K, D + cells r]
        return profiles.answer(each.flatten(0, 1)).view(len(spans), -1)

    def widened(self, config: HeadConfig) -> Head:
        """Return a head with more outputs, or more numbers kept of a token, that answers as this.

        What is new of the kept numbers adds nothing until it is trained; a new output is 0.

        Args:
            config: this head's, with larger `outputs` or `cell_width`; its dropout may differ too.

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
        state, last = wide.state_dict(), len(wide.layers) - 1
        for name, values in self.state_dict().items():
            new = state[name]
            if name == f"layers.{last}.weight" or name == f"layers.{last}.bias":
                new.zero_()
            if name == "layers.1.weight" and self.config.pool == "cells":
                new.zero_()
                new[: len(values), read] = values
            elif name.startswith("cell_norm.") and values.dim():
                new[both] = values
            elif values.dim():
                new[: len(values)] = values
            else:
                new.copy_(values)
        return wide

    def narrowed(self, outputs: int) -> Head:
        """Return a head that gives the first outputs of this one alone, [P, outputs]."""
        narrow = Head(self.config.model_copy(update={"outputs": outputs}), self.width)
        last = f"layers.{len(narrow.layers) - 1}."
        state = self.state_dict()
        narrow.load_state_dict(
            {k: v[:outputs] if k.startswith(last) else v for k, v in state.items()}
        )
        return narrow

    def answer(self, pooled: Tensor) -> Tensor:
        """Return the logits [P, outputs] of what `pool` has read."""
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
    width = (config.before_bp + config.after_bp) // config.cells
    cells = torch.arange(config.cells) * width - config.before_bp
    first = (places[:, None] + cells).clamp(0, length - 1)  # [P, C]
    end = (places[:, None] + cells + width).clamp(1, length)
    first_token = torch.searchsorted(starts, first, right=True) - 1
    end_token = torch.searchsorted(starts, end, right=False)
    return torch.stack([first_token, torch.maximum(end_token, first_token + 1)], dim=-1)
