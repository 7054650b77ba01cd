"""Does this installation work: versions, devices, the bundled model and what it predicts.

Enters nothing but the machine, leaves one `Check` a question. A check never raises: what goes wrong
is its finding.
"""

from __future__ import annotations

import importlib
import json
import logging
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Any

import genobird
from genobird.errors import GenobirdError
from genobird.genome.interval import Interval
from genobird.names import deferred

with deferred():
    from genobird import demo, inference
    from genobird.scoring import scorer as scorers

logger = logging.getLogger(__name__)

SELF_TEST = "self-test.json"
PLACE = ("chr20", 54_934_029, "+")
"""What the self-test scores of the demo's genome: contig, base (0-based) and strand."""
TOLERANCE = 1e-3
"""How far a probability may be from the recorded one: another processor rounds differently."""

_LOW_DISK = 1 << 30


class Finding(StrEnum):
    """What a check says."""

    OK = "ok"
    NOTE = "note"
    BROKEN = "broken"


@dataclass(frozen=True)
class Check:
    """One question and its answer."""

    name: str
    finding: Finding
    detail: str


def examine(model: Path | None = None) -> Iterator[Check]:
    """Answer every question about a model, the bundled one by default; the quick ones first."""
    for name, question in _QUESTIONS.items():
        yield _ask(name, question)
    yield _ask("model", lambda: _model(model))
    yield _ask("self-test", lambda: _self_test(model))


def healthy(checks: list[Check]) -> bool:
    """Tell whether nothing essential is broken."""
    return all(check.finding is not Finding.BROKEN for check in checks)


def record(path: Path, model: Path | None = None) -> None:
    """Write what the self-test shall expect of a model, the bundled one by default, as JSON."""
    path.write_text(json.dumps(_predict(model), indent=2) + "\n")


def _ask(name: str, question: Callable[[], tuple[Finding, str]]) -> Check:
    try:
        return Check(name, *question())
    except GenobirdError as error:
        return Check(name, Finding.BROKEN, str(error))
    except Exception as error:
        logger.debug("%s", name, exc_info=True)
        reason = " ".join(str(error).split()) or "no message"
        return Check(name, Finding.BROKEN, f"{type(error).__name__}: {reason}")


def _version() -> tuple[Finding, str]:
    return Finding.OK, genobird.__version__


def _python() -> tuple[Finding, str]:
    return Finding.OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _torch() -> tuple[Finding, str]:
    import torch

    return Finding.OK, f"{torch.__version__}, {torch.get_num_threads()} threads"


def _bf16() -> tuple[Finding, str]:
    """Say what training does fastest on this CPU, as measured in the shape of a BigBird layer."""
    seconds, chosen = inference.measured_seconds(), inference.fastest("cpu")
    ratio = seconds["float32"] / seconds["bf16"]
    return Finding.OK, (
        f"linear layers in bf16 run {ratio:.2g} times as fast as in float32 on this CPU; train "
        f"with fit.precision {chosen}, as auto does"
    )


def _cuda() -> tuple[Finding, str]:
    import torch

    if not torch.cuda.is_available():
        return Finding.NOTE, "no CUDA device; the CPU is used"
    names = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
    return Finding.OK, f"{', '.join(names)}; train with fit.precision {inference.fastest('cuda')}"


def _triton() -> tuple[Finding, str]:
    try:
        triton = importlib.import_module("triton")
    except Exception as error:  # a broken one can fail in any way, and only GPUs need it
        return Finding.NOTE, f"cannot be imported ({type(error).__name__}); only GPUs need it"
    return Finding.OK, str(triton.__version__)


def _htslib() -> tuple[Finding, str]:
    import pysam.version

    return Finding.OK, f"{pysam.version.__htslib_version__} in pysam {pysam.__version__}"


def _disk() -> tuple[Finding, str]:
    free = shutil.disk_usage(".").free
    text = f"{free / (1 << 30):,.1f} GiB free in this folder"
    return (Finding.OK if free > _LOW_DISK else Finding.NOTE), text


def _model(model: Path | None) -> tuple[Finding, str]:
    scorer = scorers.load(model, device="cpu")
    count = len(scorer.features)
    return Finding.OK, f"{scorer.model_hash}, {count} chromatin features, files as recorded"


def _self_test(model: Path | None) -> tuple[Finding, str]:
    found = _predict(model)
    recorded = resources.files("genobird") / "bundled" / SELF_TEST
    if not recorded.is_file():
        return Finding.NOTE, "scores, but nothing was recorded to compare with"
    expected: dict[str, Any] = json.loads(recorded.read_text())
    if expected["model"] != found["model"]:
        return Finding.NOTE, "scores, but it is not the model whose scores were recorded"
    worst = max(
        abs(found["probabilities"][name] - value)
        for name, value in expected["probabilities"].items()
    )
    count = len(expected["probabilities"])
    if not worst <= TOLERANCE:
        return Finding.BROKEN, f"{count} probabilities differ by up to {worst:.2g}; reinstall torch"
    return Finding.OK, f"{count} probabilities as recorded, to within {TOLERANCE:g}"


def _predict(model: Path | None) -> dict[str, Any]:
    scorer = scorers.load(model, device="cpu")
    contig, base, strand = PLACE
    regions = [Interval(contig, base, base + 1, strand)]
    row = scorer.score_regions(regions, demo.bundled(demo.GENOME)).iloc[0]
    names = [*(["promoter"] if "promoter" in row else []), *scorer.features]
    return {
        "model": scorer.model_hash,
        "probabilities": {name: round(float(row[name]), 6) for name in names},
    }


_QUESTIONS: dict[str, Callable[[], tuple[Finding, str]]] = {
    "genobird": _version,
    "Python": _python,
    "torch": _torch,
    "bf16": _bf16,
    "CUDA": _cuda,
    "Triton": _triton,
    "htslib": _htslib,
    "disk": _disk,
}
