"""Training runs: exact resume, logs, one process or several.

A run directory holds `logs/` (CSV and TensorBoard unless `fit.loggers` names others), `last.ckpt`
(everything a resume needs: weights, optimiser, step, what the run was asked to do) and, at the end,
`model/` (a `Checkpoint`). Batches are functions of their number (`data.py`), and so is the dropout
in them: a resumed run continues with the same data, on as many devices as it has now. A step whose
loss or gradient is not finite ends the run before it changes a weight, and leaves its batches in
`not-finite.pt`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch.utils.data import DataLoader

from genobird.errors import GenobirdError
from genobird.files import Draft
from genobird.inference import device_of, settled_precision
from genobird.runs import refuse_other, refuse_unfinished
from genobird.tasks import ranks
from genobird.tasks.callbacks import (
    Bar,
    Interrupt,
    Progress,
    ReturnMemory,
    RunningMean,
    SaveState,
    loggers,
)
from genobird.tasks.data import Steps
from genobird.tasks.run_folder import BAD_BATCH, STATE, Run, SavedRun, identity
from genobird.tasks.settings import FitSettings
from genobird.tasks.task import Averages, NotFinite, Task

__all__ = ["FitSettings", "Run", "Task", "fit", "measured"]


class _Batches(pl.LightningDataModule):
    """Training continues at the trainer's step, which is known only after the state is restored."""

    def __init__(
        self,
        train: Callable[[int], Any],
        validation: Callable[[int], Any] | None,
        validations: int,
        settings: FitSettings,
    ) -> None:
        super().__init__()
        self.train, self.validation, self.validations = train, validation, validations
        self.settings = settings

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        start = self.trainer.global_step * self.settings.accumulate
        return self._loader(self.train, self.settings.batches, start, self.settings.workers)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        if self.validation is None:
            return []
        return self._loader(self.validation, self.validations, 0, 0)

    @staticmethod
    def _loader(make: Callable[[int], Any], stop: int, start: int, workers: int) -> DataLoader[Any]:
        steps = Steps(make, stop, start, ranks.rank(), ranks.size())
        # With a generator of its own, a loader leaves torch's random state to dropout, however
        # often it is started.
        return DataLoader(steps, None, num_workers=workers, generator=torch.Generator())


def fit(
    task: Task,
    train: Callable[[int], Any],
    run: Run,
    *,
    validation: Callable[[int], Any] | None = None,
    validations: int = 0,
    facts: Mapping[str, Any] | None = None,
    callbacks: Sequence[pl.Callback] = (),
) -> None:
    """Train a task; its checkpoint's parts are trained in place.

    On several devices it returns in the first process alone: the others end when they have trained.

    Args:
        task: model and loss; where its precision is `auto`, `task.settings` says what it became.
        train: makes a batch from its number; a step takes `accumulate` of them.
        run: how it is done.
        validation: makes the validation batch of an index.
        validations: number of validation batches.
        facts: what the run is beside its `FitSettings`, by section: settings and hashes of data. A
            resumed run must have the same.
        callbacks: further Lightning callbacks.

    Raises:
        UsageError: there is a state in the run's folder, and `resume` is not given or the state is
            another run's; or the processes are others than the settings ask for.
        GenobirdError: a loss or gradient that is not finite, or another process that has ended.
        SystemExit: in other processes than the first, at the end.
    """
    ranks.launch(task.settings)
    task.settings, task.identity, begun = ranks.first(
        lambda: _begin(task.settings, run, facts or {})
    )
    settings = task.settings
    if settings.threads:
        torch.set_num_threads(settings.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    output = run.output
    saver = SaveState(output / STATE, settings.save_every, settings.save_minutes)
    interrupt = Interrupt(saver, validations)
    mean = RunningMean(task.parts, settings.average) if settings.average else None
    own = [saver, Progress(settings.log_every), ReturnMemory(), *[Bar()] * run.progress]
    task.train()
    with warnings.catch_warnings(), _compiled(task), interrupt.listening():
        # Lightning advises more workers and warns of its own deprecated calls: not our user's.
        warnings.simplefilter("ignore")
        trainer = _trainer(
            task,
            validates=validation is not None,
            enable_progress_bar=run.progress,
            logger=loggers(output, settings.loggers) if ranks.rank() == 0 else False,
            callbacks=[*([mean] if mean else ()), *own, *callbacks, interrupt],
        )
        batches = _Batches(train, validation, validations, settings)
        try:
            trainer.fit(task, batches, ckpt_path=output / STATE if begun else None)
        except NotFinite as found:
            parts = ranks.gathered([_plain(batch) for batch in found.batches])
            ranks.first(partial(_refuse_step, found, parts, output))
        except SystemExit as stop:  # Lightning turns Ctrl-C into an exit
            if isinstance(stop.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from stop
            raise
        except RuntimeError as error:
            if (gone := ranks.lost(error)) is not None:
                raise gone from error
            raise
    if interrupt.asked is not None:  # before the first step, when Lightning heard it too
        interrupt.leave()
    if mean:
        mean.swap()
    task.eval()
    ranks.part()


def _begin(
    settings: FitSettings, run: Run, facts: Mapping[str, Any]
) -> tuple[FitSettings, dict[str, Any], bool]:
    """Return settled settings, the run's identity, and whether there is a state to go on from."""
    saved = SavedRun.read(run.output)
    if saved and not run.resume:
        refuse_unfinished(run.output, saved.progress)
    known = saved.identity.get("fit.precision") if saved else None
    precision = settled_precision(settings.precision, known, settings.device)
    settings = settings.model_copy(update={"precision": precision})
    asked = identity({**facts, "fit": settings.model_dump()})
    if saved:
        refuse_other(run.output, saved.identity, asked, of_any_version=True)
    run.output.mkdir(parents=True, exist_ok=True)
    return settings, asked, saved is not None


def _trainer(task: Task, *, validates: bool, **given: Any) -> pl.Trainer:
    """Return Lightning's trainer for a run; `given` are further arguments of it."""
    settings = task.settings
    batches = settings.accumulate // settings.processes  # per step, of each process
    strategy: Any = "auto"
    if settings.processes > 1:  # batch norms are averaged when it matters, not in each step
        strategy = DDPStrategy(
            find_unused_parameters=task.skips_parameters, broadcast_buffers=False
        )
    return pl.Trainer(
        accelerator=ranks.ACCELERATORS[settings.device],
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy=strategy,
        plugins=[ranks.environment()],
        use_distributed_sampler=False,  # `Steps` shares the batches out
        precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
        max_steps=settings.steps,
        max_epochs=-1,
        accumulate_grad_batches=batches,
        val_check_interval=min(settings.validate_every, settings.steps) * batches,
        check_val_every_n_epoch=None,
        limit_val_batches=1.0 if validates else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log_every,
        enable_model_summary=False,
        enable_checkpointing=False,
        **given,
    )


@contextmanager
def _compiled(task: Task) -> Iterator[None]:
    """Let the encoder's layers be compiled while it trains, if that is asked for."""
    blocks = task.checkpoint.encoder.blocks
    if not task.settings.compile:
        yield
        return
    for block in blocks:
        block.compile(dynamic=True)
    try:
        yield
    except TorchDynamoException as error:
        raise GenobirdError(
            f"the encoder cannot be compiled here ({str(error).strip().splitlines()[0]}); set "
            "fit.compile to false"
        ) from error
    finally:
        for block in blocks:
            block._compiled_call_impl = None


def measured(task: Task, batches: Callable[[int], Any], count: int) -> dict[str, float]:
    """Measure a task as it is now, on the device and in the precision that it was trained on.

    `fit` has trained it; it is left on the CPU, in evaluation. Each metric is the mean over those
    of `count` batches that have it, each as heavy as its `weight`.
    """
    device = device_of(task.settings.device).type
    task.to(device).eval()
    found = Averages()
    mixed = torch.autocast(device, torch.bfloat16, enabled=task.settings.precision == "bf16")
    with torch.inference_mode(), mixed:
        for index in range(count):
            metrics = task.model_step(batches(index).to(device))
            found.add(metrics, float(metrics.pop("weight")))
    task.cpu()
    return found.means()


def _refuse_step(found: NotFinite, parts: list[Any], output: Path) -> NoReturn:
    """Save the batches of a step that must not be taken, and end the run."""
    facts = {"step": found.step, "loss": found.loss, "gradient_norm": found.norm}
    in_order = [batch for turn in zip(*parts, strict=True) for batch in turn]
    with Draft(output / BAD_BATCH) as part:
        torch.save({**facts, "batches": in_order}, part)
    raise GenobirdError(
        f"step {found.step + 1} has a loss of {found.loss:g} and a gradient norm of "
        f"{found.norm:g}; the run stopped before it, its batches are in {output / BAD_BATCH}; "
        "start again with a lower fit.learning_rate, or with fit.precision float32"
    )


def _plain(value: Any) -> Any:
    """Return a batch as dictionaries of tensors, which torch loads without running code."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value.cpu() if isinstance(value, Tensor) else value
