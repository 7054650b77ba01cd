"""Trainings as they are asked for in Python and on the command line: settings, folder, model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel

import genobird
from genobird.checkpoint import Checkpoint
from genobird.config import settings_of
from genobird.errors import UsageError, quoted
from genobird.tasks import pretrain as pretraining
from genobird.tasks import ranks
from genobird.tasks.finetune import (
    ChromatinConfig,
    PromoterConfig,
    finetune_chromatin,
    finetune_promoter,
)
from genobird.tasks.peaks import PeaksConfig, PeaksSettings, finetune_peak_files
from genobird.tasks.pretrain import MLMConfig, PretrainConfig, finetune_mlm
from genobird.tasks.run_folder import Run, run_folder
from genobird.tasks.table import TableConfig, TableSettings, finetune_table

Train = Callable[[Any, Run], Checkpoint]
Head = Literal["chromatin", "mlm", "peaks", "promoter", "table"]
FINETUNINGS: Final[Mapping[Head, tuple[type[BaseModel], Train]]] = {
    "chromatin": (ChromatinConfig, finetune_chromatin),
    "mlm": (MLMConfig, finetune_mlm),
    "peaks": (PeaksConfig, finetune_peak_files),
    "promoter": (PromoterConfig, finetune_promoter),
    "table": (TableConfig, finetune_table),
}
"""What can be trained on a model: its settings, and what trains it."""


def pretrain(
    output: Path | str,
    settings: PretrainConfig | None = None,
    *,
    resume: bool = False,
    force: bool = False,
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
    **values: Any,
) -> Checkpoint:
    """Pretrain an encoder by masked tokens, as `genobird pretrain`; write it to `output/model`.

    Args:
        output: the run's folder.
        settings: what to read and how to train.
        resume: continue an unfinished run.
        force: replace what is there, when the new run has ended.
        progress: show a progress bar.
        provenance: facts to keep with the model; by default the version of genobird.
        values: fields of the settings, before those of `settings`: `shards`, `tokenizer`,
            `fit={"steps": 100}`.

    Returns:
        The model that was written.

    Raises:
        ConfigError: an unknown or missing field, or a value out of range.
        UsageError: a run is there already, or is resumed as another one.
        InputError: data that cannot be read.
    """
    config = settings_of(PretrainConfig, settings, values)
    run = _run(output, resume, progress, provenance)
    return _train(pretraining.pretrain, config, run, force)


def finetune(
    what: Head,
    output: Path | str,
    settings: ChromatinConfig
    | MLMConfig
    | PeaksSettings
    | PromoterConfig
    | TableSettings
    | None = None,
    *,
    resume: bool = False,
    force: bool = False,
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
    **values: Any,
) -> Checkpoint:
    """Train a head of a model, or the model with it; write the model to `output/model`.

    As `genobird finetune`; `peaks` is `genobird finetune chromatin --peaks`. Of peaks, the figures
    of held-out places are in `output/held_out.json` and in `provenance["chromatin"]` of the model;
    those of a `table`, in the same file and in `provenance["table"]`.

    `what` is the head, or `peaks`: a chromatin head for peak files of one's own; `table`: a head
    for values or classes of regions. The settings are of the same kind: `ChromatinConfig`,
    `MLMConfig`, `PeaksConfig`, `PromoterConfig`, `TableConfig`. Their fields may be `values`, such
    as `checkpoint` and `data_path`, `peaks` and `fasta`, or `labels`, `fasta` and `target`. All
    else is as for `pretrain`: the other arguments, the model that is returned, and the errors.

    Raises:
        UsageError: there is no such head.
    """
    if what not in FINETUNINGS:
        known = ", ".join(FINETUNINGS)
        raise UsageError(f"{quoted(what)} is no head to fine-tune; allowed are {known}")
    kind, train = FINETUNINGS[what]
    config = settings_of(kind, settings, values)
    return _train(train, config, _run(output, resume, progress, provenance), force)


def _run(
    output: Path | str, resume: bool, progress: bool, provenance: Mapping[str, Any] | None
) -> Run:
    if provenance is None:
        provenance = {"genobird": genobird.__version__}
    return Run(Path(output), resume, progress, provenance)


def _train(train: Train, config: BaseModel, run: Run, force: bool) -> Checkpoint:
    """Train in a folder; all processes of the run do, and the first one writes."""
    if (fit := getattr(config, "fit", None)) is not None:
        ranks.launch(fit)
    with ranks.in_first(run_folder(run.output, config, resume=run.resume, force=force)):
        return train(config, run)
