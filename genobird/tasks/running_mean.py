"""A running mean of the weights: what is validated and kept, while the weights themselves train.

Lightning's callback of that kind averages integer buffers too (tables of pieces, which then lose
1 by rounding), saves the mean for the weights within a validation, and leaves the weights of a run
that is resumed behind its last step.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from genobird.tasks.callbacks import AfterSteps
from genobird.tasks.task import average_norms


class RunningMean(AfterSteps):
    """Averages the parts of a task that train, and stands in for them in validation.

    What batch norms have seen is averaged as the weights are. It could be measured again with the
    mean weights, but that is a pass over data before every validation; where the learning rate
    decays to 0, both come to the same.

    Args:
        parts: of the task.
        decay: share of the mean that stays in a step; less in the first steps, so that the mean
            forgets where the run began.
    """

    def __init__(self, parts: nn.ModuleDict, decay: float) -> None:
        trained = {
            name: part
            for name, part in parts.items()
            if any(parameter.requires_grad for parameter in part.parameters())
        }
        self.parts, self.decay = nn.ModuleDict(trained), decay
        self.mean = AveragedModel(self.parts, avg_fn=self._averaged, use_buffers=True)
        self._kept = 0.0
        self._stands_in = False

    def _averaged(self, mean: Tensor, now: Tensor, _: Tensor | int) -> Tensor:
        return torch.lerp(now, mean, self._kept) if mean.is_floating_point() else now

    def on_train_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Follow the task to its device."""
        super().on_train_start(trainer, *args)
        self.mean.to(trainer.lightning_module.device)

    def after_step(self, trainer: pl.Trainer) -> None:
        """Take the step's weights into the mean."""
        self._kept = min(self.decay, trainer.global_step / (9 + trainer.global_step))
        self.mean.update_parameters(self.parts)

    def on_validation_start(self, *_: Any) -> None:
        """Let the mean be validated."""
        self.swap()

    def on_validation_end(self, *_: Any) -> None:
        """Let the weights train on."""
        self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their mean."""
        means, weights = self.mean.module.state_dict(), self.parts.state_dict()
        for name, weight in weights.items():
            kept = weight.clone()
            weight.copy_(means[name])
            means[name].copy_(kept)
        self._stands_in = not self._stands_in

    def state_dict(self) -> dict[str, Any]:
        """Return the mean, and whether it stands in for the weights."""
        average_norms(self.mean)
        return {"mean": self.mean.state_dict(), "stands_in": self._stands_in}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, when the task has its weights again."""
        self.mean.load_state_dict(state_dict["mean"])
        self._stands_in = state_dict["stands_in"]
        if self._stands_in:  # saved within a validation, which is done again
            self.swap()
