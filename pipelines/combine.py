"""Two chromatin heads -> one: what is read far away, and what the local network reads, weighed.

One head reads the encoder's hidden states, another (`head.pool: local`) the bases around a place.
Their logits, a for far and l for local, become w a + v l + c, three numbers per class of features,
which make the labels of the validation part most likely; features that the far head lacks are the
local head's alone. The numbers go into the weights of the last layers. So context decides where it
knows more (histone marks), and motifs where they do (factors), and probabilities are right on
average in each class.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from genobird.checkpoint import KIND, Checkpoint, feature_columns
from genobird.datasets import ChromatinDataset
from genobird.errors import InputError
from genobird.files import refuse_existing
from genobird.heads import POSITIVE_WEIGHT, Head
from genobird.inference import Inference
from genobird.tasks.evaluate import predict_chromatin
from pipelines import steps

logger = logging.getLogger(__name__)

Doubles = NDArray[np.float64]


def fit_weights(far: Doubles, local: Doubles, labels: NDArray[np.uint8]) -> Doubles:
    """Return w, v and c with which w far + v local + c makes labels most likely.

    Logits and labels (0 or 1) are [N, F]; `far` is all 0 where that head knows nothing.
    """

    def loss(weights: Doubles) -> tuple[float, Doubles]:
        z = weights[0] * far + weights[1] * local + weights[2]
        error = expit(z) - labels
        gradient = np.array([(error * far).mean(), (error * local).mean(), error.mean()])
        return 1e3 * float((np.logaddexp(0, z) - labels * z).mean()), 1e3 * gradient

    found: Doubles = minimize(loss, np.array([0.5, 0.5, -2.0]), jac=True, method="BFGS").x
    return found


def spread(model: Checkpoint, local: Checkpoint) -> tuple[Head, NDArray[np.bool_]]:
    """Return the far head with an output for each feature of the local one, and what it knew.

    Args:
        model: has a chromatin head without a local network, of some features.
        local: has a chromatin head with `pool = local`, of these and maybe more.

    Raises:
        InputError: the heads do not fit each other.
    """
    far, near = model.chromatin, local.chromatin
    if far is None or far.local is not None:
        raise InputError("the model needs a chromatin head without a local network")
    if near is None or near.config.pool != "local":
        raise InputError("the local model needs a chromatin head with pool = local")
    place = {name: column for column, name in enumerate(feature_columns(local.features))}
    wanted = feature_columns(model.features)
    missing = [name for name in wanted if name not in place]
    if missing:
        raise InputError(
            f"the local model has no output for {missing[0]}; train it on all features"
        )
    columns = [place[name] for name in wanted]
    shape = far.config.model_copy(update={"outputs": near.config.outputs})
    known = np.zeros(near.config.outputs, dtype=bool)
    known[columns] = True
    return far.widened(shape, columns), known


def joined(far: Head, near: Head) -> Head:
    """Return one head that adds the logits of both."""
    head = far.widened(far.config.model_copy(update={"local": near.config.local}))
    head.load_state_dict(near.state_dict(), strict=False)  # a far head lacks these names
    return head


def combine(
    model: steps.ModelFolder,
    local: Annotated[Path, typer.Option(help="Model whose chromatin head reads bases alone.")],
    chromatin: Annotated[Path, typer.Option(help="Chromatin dataset of its features.")],
    output: steps.OutputFolder,
    *,
    split: steps.Split = "validation",
    precision: steps.PrecisionName = "float32",
    threads: steps.Threads = 0,
    force: steps.Force = False,
) -> dict[str, list[float]]:
    """Weigh what a model reads far away and what a local network reads, class by class.

    Returns:
        w, v and c by class; features that are the local head's alone have classes of their own.

    Raises:
        UsageError: `output` exists, or a path is missing.
        InputError: the heads or the data do not fit each other.
    """
    if threads:
        torch.set_num_threads(threads)
    refuse_existing(output, force, KIND)
    checkpoint, near = Checkpoint.load(model), Checkpoint.load(local)
    checkpoint.chromatin, known = spread(checkpoint, near)
    checkpoint.features = near.features
    dataset = ChromatinDataset(chromatin)
    asked = [Inference(one, precision=precision) for one in (checkpoint, near)]
    found = [predict_chromatin(one, dataset, split) for one in asked]
    logits, labels = [one.logits.astype(np.float64) for one in found], found[0].labels
    kinds = near.features["class"].to_numpy(str)
    weights = np.zeros((len(known), 3))
    said: dict[str, list[float]] = {}
    for kind in dict.fromkeys(kinds):
        for both in (True, False):
            chosen = np.flatnonzero((kinds == kind) & (known == both))
            if len(chosen):
                far = logits[0][:, chosen] * both
                line = fit_weights(far, logits[1][:, chosen], labels[:, chosen])
                line[0] *= both
                weights[chosen] = line
                said[kind if both else f"{kind}, local alone"] = line.tolist()
    assert near.chromatin is not None
    checkpoint.chromatin = joined(checkpoint.chromatin, near.chromatin)
    _weigh(checkpoint.chromatin, torch.from_numpy(weights).float())
    earlier = checkpoint.provenance.get("calibration", {})
    checkpoint.provenance = {
        **checkpoint.provenance,
        # Its own line for chromatin is in the weights here.
        "calibration": {name: line for name, line in earlier.items() if name != "chromatin"},
        "combined": {"split": split, "weights": said, "local": near.provenance.get("chromatin")},
    }
    checkpoint.save(output, force=force)
    for kind, (w, v, c) in said.items():
        logger.info("%s: far x %.3f, local x %.3f %+.3f", kind, w, v, c)
    return said


@torch.no_grad()
def _scale(layer: Any, factors: torch.Tensor) -> None:
    layer.weight.mul_(factors[:, None])
    layer.bias.mul_(factors)


@torch.no_grad()
def _weigh(head: Head, weights: torch.Tensor) -> None:
    """Put weights w, v, c of each output [F, 3] into the last layers of a head."""
    last: Any = head.layers[-1]
    _scale(last, weights[:, 0])
    _scale(head.local_out, weights[:, 1])
    last.bias.add_(weights[:, 2] + float(np.log(POSITIVE_WEIGHT)))


if __name__ == "__main__":
    steps.run(combine)
