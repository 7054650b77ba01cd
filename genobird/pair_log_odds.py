"""What counting says of a hidden piece: which pieces stand near each other more often than chance.

A text of T pieces in which a and b occur c(a) and c(b) times would hold b as the d-th piece after a
E = c(a) c(b) / T times if pieces knew nothing of each other. It holds it so C times, and

    odds_d(a, b) = log (C + 1) / (E + 1)

is what knowing the one adds to the log-probability of the other. Pairs that are seen less than a
few times are not kept: for them C is 0. The table is sparse, made by counting alone, and tells of
repeats and of a tokenizer's habits what gradients would need many passes over the sequence for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genobird.tokenizer import N_SPECIAL

# Where training starts. Two neighbours repeat each other in part, pieces farther away more so.
FIRST_WEIGHT, FARTHER_WEIGHT = 0.8, 0.4
_CHUNK = 1 << 24  # pairs that are counted at once


def log_odds(seen: Tensor, expected: Tensor) -> Tensor:
    """Return log (C + 1) / (E + 1), in nats, of pairs seen C times and expected E times."""
    return torch.log1p(seen) - torch.log1p(expected)


class PairLogOdds(nn.Module):
    """Log-odds of all pieces at a place, from the pieces around it.

    Pairs at distance d are rows of the lists `first_d` (offsets of the pairs of each first piece,
    int64 [V + 1]), `second_d` (their second pieces, ascending, uint16 [K]) and `odds_d` (float16
    [K]). `counts` says how often each piece occurs, int64 [V]; specials have 0 and say nothing.
    What is trained are `weights` [R, 2]: how much a piece before and one after the place counts,
    for each distance.

    Args:
        vocab_size: pieces, V.
        reach: distances, R.
    """

    counts: Tensor
    weights: nn.Parameter

    def __init__(self, vocab_size: int, reach: int) -> None:
        super().__init__()
        self.vocab_size, self.reach = vocab_size, reach
        self.register_buffer("counts", torch.zeros(vocab_size, dtype=torch.int64))
        for distance in range(1, reach + 1):
            self._keep(distance, np.zeros(0, np.int64), np.zeros(0, np.float16))
        weights = torch.full((reach, 2), FARTHER_WEIGHT)
        weights[:1] = FIRST_WEIGHT
        self.weights = nn.Parameter(weights)
        self._found: dict[tuple[int, bool], tuple[Tensor, Tensor, Tensor]] = {}

    @classmethod
    def counted(
        cls, texts: Iterable[NDArray[np.uint16]], vocab_size: int, least: Sequence[int]
    ) -> PairLogOdds:
        """Count the pairs of a text.

        Args:
            texts: runs of ids; pairs do not reach from one to the next.
            vocab_size: pieces, V.
            least: for distances 1, 2, ... how often a pair is seen at least to be kept; R of them.

        Returns:
            The table with its first weights.
        """
        made = cls(vocab_size, len(least))
        tables = [_PairCounts(vocab_size, distance + 1) for distance in range(len(least))]
        counts = np.zeros(vocab_size, np.int64)
        for ids in texts:
            counts += np.bincount(ids, minlength=vocab_size)
            for table in tables:
                table.add(ids)
        counts[:N_SPECIAL] = 0
        made.counts = torch.from_numpy(counts)
        for distance, (table, lowest) in enumerate(zip(tables, least, strict=True), 1):
            codes, seen = table.counted()
            a, b = codes // vocab_size, codes % vocab_size
            kept = (seen >= lowest) & (a >= N_SPECIAL) & (b >= N_SPECIAL)
            expected = counts[a[kept]] * (counts[b[kept]] / counts.sum())
            odds = log_odds(torch.from_numpy(seen[kept]).double(), torch.from_numpy(expected))
            made._keep(distance, codes[kept], odds.numpy().astype(np.float16))
        return made

    def pairs(self, distance: int) -> int:
        """Return how many pairs are kept at a distance."""
        return len(self.get_buffer(f"odds_{distance}"))

    def forward(self, around: Tensor) -> Tensor:
        """Add up what the pieces around M places say of them.

        Args:
            around: int64 [M, R, 2], the pieces d before and d after each place; specials say
                nothing.

        Returns:
            Weighted log-odds of each piece in nats, [M, V].
        """
        total = self.weights.new_zeros((len(around), self.vocab_size))
        for row in range(self.reach):
            for side in (0, 1):
                with torch.no_grad():
                    said = self._said(around[:, row, side], row + 1, before=side == 0)
                total = total + self.weights[row, side] * said.to(total.dtype)
        return total

    def dense(self, distance: int) -> Tensor:
        """Return the log-odds of all pairs, float32 [V, V]: the reference, for few pieces."""
        counts = self.counts.double()
        expected = counts[:, None] * counts / max(1.0, float(counts.sum()))
        odds = log_odds(torch.zeros_like(expected), expected).float()
        first = self.get_buffer(f"first_{distance}")
        rows = torch.repeat_interleave(first.diff())
        odds[rows, self.get_buffer(f"second_{distance}").long()] = self.get_buffer(
            f"odds_{distance}"
        ).float()
        return odds

    def _said(self, pieces: Tensor, distance: int, *, before: bool) -> Tensor:
        """Return the log-odds of every piece beside M known ones, [M, V]."""
        counts = self.counts.float()
        share = counts / counts.sum().clamp(min=1)
        said = -torch.log1p(counts[pieces][:, None] * share)  # of pairs never seen
        first, other, odds = self._lists(distance, before)
        number = first[pieces + 1] - first[pieces]  # [M]
        rows = torch.repeat_interleave(number)
        ends = number.cumsum(0)
        places = torch.arange(len(rows), device=rows.device) - (ends - number - first[pieces])[rows]
        said[rows, other[places].long()] = odds[places].float()
        return said

    def _lists(self, distance: int, before: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return offsets by the known piece [V + 1], the other pieces [K] and the odds [K].

        Made once for a side and device: few operations know the small type that is stored.
        """
        known = self._found.get((distance, before))
        first = self.get_buffer(f"first_{distance}")
        if known is not None and known[0].device == first.device:
            return known
        second = self.get_buffer(f"second_{distance}").to(torch.int32)
        odds = self.get_buffer(f"odds_{distance}")
        known = first, second, odds
        if not before:
            order = second.argsort(stable=True)
            offsets = torch.bincount(second, minlength=self.vocab_size).cumsum(0)
            offsets = torch.cat([offsets.new_zeros(1), offsets])
            firsts = torch.repeat_interleave(first.diff()).to(torch.int32)
            known = offsets, firsts[order], odds[order]
        self._found[distance, before] = known
        return known

    def _keep(self, distance: int, codes: NDArray[np.int64], odds: NDArray[np.float16]) -> None:
        """Store pairs, given in ascending order as a V + b."""
        edges = np.arange(self.vocab_size + 1) * self.vocab_size
        lists = {
            "first": np.searchsorted(codes, edges).astype(np.int64),
            "second": (codes % self.vocab_size).astype(np.uint16),
            "odds": odds,
        }
        for name, values in lists.items():
            self.register_buffer(f"{name}_{distance}", torch.from_numpy(values))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Make room for as many pairs as there are: their number is nowhere else."""
        for name, value in self.named_buffers():
            found = state_dict.get(prefix + name)
            if found is not None:
                self.register_buffer(name, torch.empty(found.shape, dtype=value.dtype))
        self._found.clear()
        super()._load_from_state_dict(state_dict, prefix, *rest)


class _PairCounts:
    """Counts of pairs at one distance, in bounded memory: one number and one count a kind."""

    def __init__(self, vocab_size: int, distance: int) -> None:
        self.vocab_size, self.distance = vocab_size, distance
        self._codes, self._seen = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._waiting: list[NDArray[np.int64]] = []
        self._pairs = 0  # that wait

    def add(self, ids: NDArray[np.uint16]) -> None:
        wide = ids.astype(np.int64)
        self._waiting.append(wide[: -self.distance] * self.vocab_size + wide[self.distance :])
        self._pairs += len(self._waiting[-1])
        if self._pairs > _CHUNK:
            self._count()

    def _count(self) -> None:
        fresh, times = np.unique(np.concatenate(self._waiting), return_counts=True)
        self._waiting.clear()
        self._pairs = 0
        codes, where = np.unique(np.concatenate([self._codes, fresh]), return_inverse=True)
        seen = np.bincount(where, weights=np.concatenate([self._seen, times]))
        self._codes, self._seen = codes, seen.astype(np.int64)

    def counted(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the pairs as a V + b, ascending, and how often each was seen."""
        if self._waiting:
            self._count()
        return self._codes, self._seen
