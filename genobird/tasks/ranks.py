"""The processes of one training, one per device: how they find each other, and what they agree on.

They run the same command. torchrun or srun has started all of them, or Lightning starts the others
from the first. Only the first one decides, and writes to the run's folder.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch import Tensor, distributed

from genobird.errors import GenobirdError, UsageError
from genobird.tasks.settings import FitSettings

Value = TypeVar("Value")

# Whether the processes of a run have parted.
_parted = False

ACCELERATORS = {"auto": "auto", "cpu": "cpu", "cuda": "gpu"}


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """Return the number of this process; 0 is the first."""
    return distributed.get_rank() if _joined() else 0


def size() -> int:
    """Return how many processes there are."""
    return distributed.get_world_size() if _joined() else 1


def environment() -> ClusterEnvironment:
    """Return what has started the processes, or will."""
    if distributed.is_torchelastic_launched():
        return TorchElasticEnvironment()
    if _by_srun() > 1:
        return SLURMEnvironment(auto_requeue=False)  # its signal handlers would replace ours
    return LightningEnvironment()


def launch(settings: FitSettings) -> None:
    """Find the other processes of a run, or start them; nothing where they have met.

    Raises:
        UsageError: torchrun or srun started another number of processes, or what is asked for
            needs one of them, or more GPUs than there are; or this process has done such a run.
    """
    _refuse_others(settings)
    if settings.processes == 1 or _joined():
        return
    if _parted:
        raise UsageError(
            "this process has already trained on several devices, and the others have ended; "
            "start each such training by a command or script of its own"
        )
    if settings.nodes == 1:
        # Gloo looks for this machine's name otherwise, which may lead nowhere, and is waited for.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", socket.if_nameindex()[0][1])
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    # It says which process was killed before it ends the others.
    logging.getLogger("lightning_fabric.strategies.launchers").setLevel(logging.INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Fabric(
            accelerator=ACCELERATORS[settings.device],
            devices=settings.devices,
            num_nodes=settings.nodes,
            strategy="ddp",
            plugins=[environment()],
        ).launch()
    if rank():
        logging.getLogger("genobird").setLevel(logging.ERROR)


def part() -> None:
    """End all processes but the first, and let that one go on alone."""
    global _parted
    if size() == 1:
        return
    if rank():
        raise SystemExit(0)
    distributed.destroy_process_group()
    _parted = True


def _refuse_others(settings: FitSettings) -> None:
    """Refuse other processes than the settings ask for."""
    elastic, asked = distributed.is_torchelastic_launched(), settings.processes
    starter = "torchrun" if elastic else "srun"
    number = int(os.environ["WORLD_SIZE"]) if elastic else _by_srun()
    if number != asked and (elastic or number > 1):
        message = (
            f"{starter} started {number} processes, and fit.devices x fit.nodes is {asked}; set "
            f"fit.devices to the processes of a machine, or start {asked}"
        )
    elif number == 1 and settings.nodes > 1:
        message = "fit.nodes above 1 needs a process per device, started by torchrun or by srun"
    elif starter == "srun" and number > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        message = f"give srun --ntasks-per-node={settings.devices} instead of --ntasks"
    elif settings.device != "cpu" and 0 < torch.cuda.device_count() < settings.devices:
        message = (
            f"fit.devices is {settings.devices}, and this machine has {torch.cuda.device_count()} "
            "GPUs; set fit.devices to that, or fit.device to cpu"
        )
    else:
        return
    if os.environ.get("RANK" if elastic else "SLURM_PROCID", "0") != "0":
        raise SystemExit(UsageError.exit_code)  # the first one says it
    raise UsageError(message)


def _by_srun() -> int:
    """Return how many processes srun started; 1 also where there is no srun.

    SLURM_NTASKS would count what a batch job may start.
    """
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def first(act: Callable[[], Value]) -> Value:
    """Do something in the first process alone, and return its result in all.

    Args:
        act: what is done; its result can be pickled.

    Raises:
        SystemExit: in the other processes, where the first one failed; there its own error. They
            end as if all were well: Lightning kills a first process whose others fail, and its
            message and exit code are those of the run.
    """
    if size() == 1:
        return act()
    told: list[Any] = [None, False]
    failed: BaseException | None = None
    if rank() == 0:
        try:
            told[0] = act()
        except BaseException as error:
            failed, told[1] = error, True
    distributed.broadcast_object_list(told)
    if failed is not None:
        raise failed
    if told[1]:
        raise SystemExit(0)
    value: Value = told[0]
    return value


@contextmanager
def in_first(context: AbstractContextManager[None]) -> Iterator[None]:
    """Enter a context in the first process alone, before the others go on."""
    with ExitStack() as stack:
        first(lambda: stack.enter_context(context))
        yield


def gathered(value: Value) -> list[Value]:
    """Return what each process has, by rank; every process must call."""
    if size() == 1:
        return [value]
    found: list[Any] = [None] * size()
    distributed.all_gather_object(found, value)
    return found


def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their means over all processes, in place."""
    if size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    start = 0
    for tensor in tensors:
        tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor) / size())
        start += tensor.numel()


def lost(error: Exception) -> GenobirdError | None:
    """Return what to raise where another process has gone; None for any other error."""
    text = str(error)
    if size() == 1 or not (
        isinstance(error, distributed.DistError) or "by peer" in text or "gloo" in text
    ):
        return None
    return GenobirdError(
        "another process of this run has ended, perhaps for memory or with an error of its own; "
        "start the same command with --resume to go on from the last state"
    )
