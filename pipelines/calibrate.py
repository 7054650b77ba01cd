"""A model whose probabilities are too large or too small on average -> one whose are right.

The logits z of a head become a z + b, two numbers per head, which make the labels of the validation
part most likely (Platt 1999, with his targets: few labels that z separates do not make a infinite).
Both go into the weights of the head's last layer, so that nothing else has to know. Order within a
feature, and with it AUROC and AUPRC, stays as it was.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import nn

from genobird.checkpoint import KIND, Checkpoint
from genobird.datasets import ChromatinDataset, read_promoters
from genobird.errors import InputError, UsageError
from genobird.files import refuse_existing
from genobird.heads import POSITIVE_WEIGHT, Head, probabilities
from genobird.inference import Inference
from genobird.tasks.evaluate import predict_chromatin, predict_promoters
from pipelines import steps

logger = logging.getLogger(__name__)

_STEPS, _CLOSE = 50, 1e-9
Doubles = NDArray[np.float64]


class Line(NamedTuple):
    """z becomes `slope` z + `offset`."""

    slope: float
    offset: float

    def after(self, first: Line) -> Line:
        """Return the line of both, where another was taken first."""
        return Line(self.slope * first.slope, self.slope * first.offset + self.offset)


def fit_line(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Line:
    """Find the line that makes labels most likely, by Newton's method.

    Args:
        logits: of any shape.
        labels: 0 or 1, of the same shape.

    Raises:
        InputError: all labels are alike.
    """
    z, y = logits.astype(np.float64).ravel(), labels.astype(np.float64).ravel()
    if len(np.unique(y)) < 2:
        raise InputError("all labels of the validation part are alike; it cannot calibrate")
    targets = _targets(y)
    mean, scale = float(z.mean()), float(z.std()) or 1.0
    x = np.stack([(z - mean) / scale, np.ones_like(z)])  # [2, N]
    line = _most_likely(x, np.zeros_like(z), targets)
    slope = float(line[0]) / scale
    if slope <= 0:
        logger.warning("larger logits do not mean more positives here; only their mean is moved")
        return Line(1.0, fit_offset(logits, labels))
    return Line(slope, float(line[1]) - slope * mean)


def fit_offset(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Find what to add to logits that makes labels most likely."""
    z, y = logits.astype(np.float64).ravel(), labels.astype(np.float64).ravel()
    return float(_most_likely(np.ones((1, len(z))), z, _targets(y))[0])


def _targets(labels: Doubles) -> Doubles:
    """Return Platt's targets of labels 0 and 1, [N]."""
    positives = float(labels.sum())
    rates = 1 / (len(labels) - positives + 2), (positives + 1) / (positives + 2)
    return np.where(labels > 0, rates[1], rates[0])


def _most_likely(x: Doubles, base: Doubles, targets: Doubles) -> Doubles:
    """Return w [K] with which base + w x makes targets [N] most likely; x is [K, N]."""
    w = np.zeros(len(x))
    for _ in range(_STEPS):
        p = probabilities(base + w @ x)
        step = np.linalg.solve((x * (p * (1 - p))) @ x.T, x @ (p - targets))
        # No further than a logit on average: far from the optimum Newton's steps are too long.
        w -= step * min(1.0, 1.0 / max(float(np.abs(step @ x).mean()), 1e-30))
        if np.abs(step).max() < _CLOSE:
            break
    return w


def move(head: Head, line: Line, weight: float = 1.0) -> None:
    """Change a head's last layers in place so that its calibrated logits lie on the line.

    The line is for logits from which ln `weight` was taken, the weight of a positive label in
    training.
    """
    lasts = [head.layers[-1]] if head.far else []
    lasts += [head.local_out] if head.local is not None else []
    lasts += [head.core] if head.core is not None else []
    with torch.no_grad():
        for parameter in (p for last in lasts for p in last.parameters()):
            parameter.mul_(line.slope)
        bias = lasts[0].bias
        assert isinstance(bias, torch.Tensor)
        bias.add_(_offset(line, weight))


def _offset(line: Line, weight: float) -> float:
    """Return what raw logits are moved by after they were scaled."""
    return line.offset + (1 - line.slope) * float(np.log(weight))


@torch.no_grad()
def follow(promoter: Head, chromatin: Head, line: Line, weight: float) -> None:
    """Let a promoter head (pool = profiles) ask the moved chromatin head, and answer as before.

    It is changed in place: its batch norm takes the move back. The model then holds the asked head
    once. `weight` is that of a positive label in the chromatin head's training.
    """
    assert promoter.profiles is not None
    assert isinstance(promoter.norm, nn.BatchNorm1d)
    promoter.profiles.load_state_dict(chromatin.state_dict())
    mean, variance = promoter.norm.running_mean, promoter.norm.running_var
    assert mean is not None
    assert variance is not None
    mean.mul_(line.slope).add_(_offset(line, weight))
    # (L - m) / sqrt(v + eps) of the old logits, exactly
    eps = promoter.norm.eps
    variance.add_(eps).mul_(line.slope**2).sub_(eps)


def _asks(promoter: Head | None, chromatin: Head) -> bool:
    """Say whether a promoter head asks the chromatin head as it is."""
    if promoter is None or promoter.profiles is None:
        return False
    asked, own = promoter.profiles.state_dict(), chromatin.state_dict()
    return asked.keys() == own.keys() and all(torch.equal(asked[key], own[key]) for key in own)


def calibrate(
    model: steps.ModelFolder,
    output: steps.OutputFolder,
    *,
    chromatin: Annotated[Path | None, typer.Option(help="Chromatin dataset.")] = None,
    promoters: Annotated[Path | None, typer.Option(help="Promoter windows, Parquet.")] = None,
    split: steps.Split = "validation",
    precision: steps.PrecisionName = "float32",
    threads: steps.Threads = 0,
    force: steps.Force = False,
) -> dict[str, Line]:
    """Make a model's probabilities right on average, on its validation part.

    A head without data stays as it is.

    Returns:
        The line of each head.

    Raises:
        UsageError: no data are given, the model lacks a head, or `output` exists.
        InputError: the data do not fit the model or cannot calibrate.
    """
    if threads:
        torch.set_num_threads(threads)
    refuse_existing(output, force, KIND)
    if chromatin is None and promoters is None:
        raise UsageError("nothing to calibrate on; give --chromatin, --promoters or both")
    checkpoint = Checkpoint.load(model)
    inference = Inference(checkpoint, precision=precision)
    lines: dict[str, Line] = {}
    if chromatin is not None:
        dataset = ChromatinDataset(chromatin)
        found = predict_chromatin(inference, dataset, split)
        logits = found.logits - np.float32(np.log(POSITIVE_WEIGHT))
        lines["chromatin"] = fit_line(logits, found.labels)
        assert checkpoint.chromatin is not None
        asked = _asks(checkpoint.promoter, checkpoint.chromatin)
        move(checkpoint.chromatin, lines["chromatin"], POSITIVE_WEIGHT)
        if asked and checkpoint.promoter is not None:
            follow(checkpoint.promoter, checkpoint.chromatin, lines["chromatin"], POSITIVE_WEIGHT)
    if promoters is not None:
        table = read_promoters(promoters, split)
        exact, near = predict_promoters(inference, table).T
        labels = table["label"].to_numpy()
        lines["promoter"] = line = fit_line(exact, labels)
        assert checkpoint.promoter is not None
        move(checkpoint.promoter, line)
        if checkpoint.promoter.core is not None:
            # The line moves both; what is left is that the best of many is larger than one.
            offset = fit_offset(line.slope * near + line.offset, labels)
            checkpoint.promoter.near_offset.mul_(line.slope).add_(offset)
    known = dict(checkpoint.provenance.get("calibration", {}))
    for name, line in lines.items():
        first = known.get(name, {"slope": 1.0, "offset": 0.0})
        both = line.after(Line(first["slope"], first["offset"]))
        known[name] = {**both._asdict(), "split": split}
    checkpoint.provenance = {**checkpoint.provenance, "calibration": known}
    checkpoint.save(output, force=force)
    for name, line in lines.items():
        logger.info("%s: logits x %.3f %+.3f", name, line.slope, line.offset)
    return lines


if __name__ == "__main__":
    steps.run(calibrate)
