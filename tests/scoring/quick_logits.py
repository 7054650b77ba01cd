"""Logits that are quick sums over a sequence, in the place of the model's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from genobird.genome.sequence import reverse_complement
from genobird.inference import Floats
from genobird.scoring.scorer import Scorer

Places = Sequence[int] | Sequence[np.ndarray]


def stub_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put quick logits into every scorer; they are bent, so that effects do not add up."""

    def profiles(
        scorer: Scorer, sequences: Sequence[str], places: Places, states: bool = False
    ) -> tuple[Floats, Floats]:
        logits = _logits(sequences, places, len(scorer.features))
        return logits, np.zeros((len(logits), 0), np.float32)

    def promoter_logits(
        scorer: Scorer, sequences: Sequence[str], starts: Places, *, near: bool = False
    ) -> Floats:
        return _logits(sequences, starts, 1)[:, 0]

    def starts_and_profiles(
        scorer: Scorer, sequences: Sequence[str], places: Places, states: bool = False
    ) -> tuple[Floats, Floats, Floats]:
        turned = [reverse_complement(text) for text in sequences]
        back = [len(text) - 1 - np.asarray(at) for text, at in zip(sequences, places, strict=True)]
        along = promoter_logits(scorer, sequences, places), promoter_logits(scorer, turned, back)
        return np.stack(along, axis=1), *profiles(scorer, sequences, places, states)

    def log_likelihoods(
        scorer: Scorer, pairs: Sequence, *settings: object
    ) -> tuple[Floats, Floats]:
        values = [[0, sum(map(ord, pair.alt)) % 7] for pair in pairs]
        return np.array(values, np.float32).reshape(len(pairs), 2), np.ones(len(pairs), np.float32)

    monkeypatch.setattr(Scorer, "profiles", profiles)
    monkeypatch.setattr(Scorer, "promoter_logits", promoter_logits)
    monkeypatch.setattr(Scorer, "starts_and_profiles", starts_and_profiles)
    monkeypatch.setattr("genobird.scoring.effects.log_likelihoods", log_likelihoods)


def _logits(sequences: Sequence[str], places: Places, outputs: int) -> Floats:
    rows: list[list[float]] = []
    for text, here in zip(sequences, places, strict=True):
        letters = np.frombuffer(text.encode(), np.uint8).astype(np.float64)
        for place in np.atleast_1d(here):
            near = np.exp(-np.abs(np.arange(len(text)) - place) / 2_000)
            # Neighbouring letters are multiplied: a base that is moved along counts elsewhere.
            weighted = (letters * near)[1:]
            rows.append([np.sin(weighted @ np.sin(k + letters[:-1])) for k in range(outputs)])
    return np.array(rows, np.float32).reshape(len(rows), outputs)
