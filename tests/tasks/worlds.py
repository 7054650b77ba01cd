"""Trainings of several processes on the CPU, started as torchrun starts them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore


def in_world(size: int, shards: Path, tokenizer: Path, output: Path, **how: Any) -> list[int]:
    """Train in `size` processes, and return their exit codes; what rank r says is in `r.log`.

    Args:
        size: number of processes.
        shards: what is trained on.
        tokenizer: that they were made with.
        output: run folder.
        **how: see `_train`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "tests.tasks.runs", "tests.models"])
    # As torchrun's agent does: a port that is held from when it is chosen until the end.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    world: list[BaseProcess] = [
        context.Process(
            target=_process, args=(rank, size, store.port, shards, tokenizer, output, how)
        )
        for rank in range(size)
    ]
    for process in world:
        process.start()
    try:
        for process in world:
            process.join()
    finally:
        for process in world:
            process.kill()
    return [process.exitcode for process in world]


def _process(
    rank: int,
    size: int,
    port: int,
    shards: Path,
    tokenizer: Path,
    output: Path,
    how: dict[str, Any],
) -> None:
    log = os.open(output.parent / f"{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if size > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
            "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test",
            "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
        }  # fmt: skip
    from genobird.cli.app import _log_to_stderr, _report
    from genobird.errors import GenobirdError

    with _log_to_stderr():
        try:
            _train(rank, size, shards, tokenizer, output, **how)
        except GenobirdError as error:
            sys.exit(_report(str(error), error.exit_code))


def _train(
    rank: int,
    size: int,
    shards: Path,
    tokenizer: Path,
    output: Path,
    *,
    resume: bool = False,
    copies: bool = False,
    act: tuple[str, int, int] | None = None,
    validating: bool = False,
    **changes: Any,
) -> None:
    """Train a tiny model.

    Args:
        rank: of this process.
        size: of its world.
        shards: what is trained on.
        tokenizer: that they were made with.
        output: run folder.
        resume: go on.
        copies: keep the state of each step, as `output/step.ckpt`.
        act: what happens, in which process, after how many steps.
        validating: it happens within a validation, not within a step.
        **changes: to the settings.
    """
    import torch

    from genobird.shards import Shards
    from genobird.tasks.data import PretrainBatches, PretrainDataSettings
    from genobird.tasks.fit import Run, fit
    from genobird.tasks.pretrain import Pretraining
    from genobird.tokenizer import Tokenizer
    from tests.models import tiny_checkpoint
    from tests.tasks.runs import SETTINGS, keep_states

    pieces = Tokenizer.load(tokenizer)
    batches = PretrainBatches(
        Shards.open(shards), PretrainDataSettings(max_tokens=66, sequences=2),
        vocab_size=pieces.vocab_size, block_size=16,
    )  # fmt: skip
    settings = SETTINGS.model_copy(update={"accumulate": 2, "devices": size, **changes})
    checkpoint = tiny_checkpoint(pieces, dropout=0.1)
    checkpoint.promoter = checkpoint.chromatin = None
    task = Pretraining(checkpoint, settings)
    step = task.model_step

    def model_step(batch: Any) -> dict[str, torch.Tensor]:
        metrics = step(batch)
        where = (rank, task.global_step, task.training)
        if act and where == (*act[1:], not validating):
            if act[0] == "not finite":
                metrics["loss"] = metrics["loss"] * float("nan")
            else:
                os.kill(os.getpid(), getattr(signal, act[0]))
        if rank == 1:
            metrics.pop("accuracy", None)  # as of a batch without
        return metrics

    task.model_step = model_step  # type: ignore[method-assign]
    fit(
        task,
        batches,
        Run(output, resume=resume, progress=False),
        validation=batches,
        validations=3,
        callbacks=[keep_states(output)] if copies else (),
    )
    torch.save(task.parts.state_dict(), output / "trained.pt")
