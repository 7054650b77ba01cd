"""A model as a function of one-hot bases, as tools of attribution and design call models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from genobird.errors import SequenceError, UsageError
from genobird.scoring.sites import Outputs, sequence_site

if TYPE_CHECKING:
    from genobird.scoring.scorer import Scorer

_LETTERS = np.frombuffer(b"ACGTN", dtype=np.uint8)


class OneHotModel(nn.Module):
    """One-hot bases [B, 4, L] -> logits [B, O] at the midpoint of each sequence.

    What is asked is what `score_sequences` reports: as logits chromatin of both strands, averaged,
    and the promoter along the given strand; then what a table head predicts, in its own units. The
    model reads tokens, and which tokens a sequence has is no smooth function of its bases: there is
    no gradient, and no half of a base.

    Args:
        scorer: the model; it stays on its device, and the logits go to that of the bases.
        features: `promoter`, columns, names or classes of the chromatin head, and columns of a
            table head; None is all.

    Attributes:
        names: of the O outputs.

    Raises:
        UsageError: an output is unknown, or the model has none.
    """

    def __init__(self, scorer: Scorer, features: Sequence[str] | None = None) -> None:
        super().__init__()
        self.scorer = scorer
        self.outputs = Outputs.named(scorer, features)
        self.names = self.outputs.names

    def forward(self, x: Tensor) -> Tensor:
        """Predict.

        Args:
            x: [B, 4, L], channels A, C, G, T; a base is one 1, a column of zeros is N.

        Raises:
            UsageError: a gradient is asked for.
            SequenceError: it is not one-hot.
        """
        if x.requires_grad and torch.is_grad_enabled():
            raise UsageError(
                "a gradient of the bases is asked for, and the model reads tokens: it has none; "
                "use what changes bases, such as in-silico mutagenesis"
            )
        texts = _texts(x)
        sites = [sequence_site(str(number), text) for number, text in enumerate(texts)]
        return torch.from_numpy(self.outputs.at(sites, "+")).to(x.device)


def _texts(x: Tensor) -> list[str]:
    """Return the letters of one-hot bases [B, 4, L]."""
    if x.dim() != 3 or x.shape[1] != 4 or not x.shape[2]:
        raise SequenceError(f"bases of shape {list(x.shape)} found; [batch, 4, length] is wanted")
    known = x.sum(1)
    if not ((x == 0) | (x == 1)).all() or not (known <= 1).all():
        raise SequenceError(
            "bases that are not one-hot found; each column holds one 1, or zeros for N"
        )
    codes = torch.where(known == 1, x.argmax(1), 4).cpu().numpy()
    return [_LETTERS[row].tobytes().decode() for row in codes]
