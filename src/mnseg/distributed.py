"""One training on several processes: the process group, who writes, what is gathered, how it ends.

Started by torchrun and ``multi_gpu_train.json``. Everything here does nothing in an ordinary run of one process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from mnseg.errors import UserError, user_error_in

__all__ = [
    "from_main_process",
    "gather",
    "handlers_of_this_process",
    "is_local_main",
    "local_device",
    "num_processes",
    "rank",
    "refuse_lone_processes",
    "share_buffers",
    "start_process_group",
    "stop_process_group",
    "unwrap",
    "without_exchange",
]

T = TypeVar("T")

# torchrun ends all processes when one of them ends, so that nobody waits in vain; a limit below the time that the
# first process needs to check a large pool would end sound runs (NCCL's default is 10 minutes).
TIMEOUT = timedelta(days=1)
REPORTED = "mnseg_error_reported"


def rank() -> int:
    """Number of this process; 0 is the one that writes. 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def num_processes() -> int:
    """Processes that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_local_main() -> bool:
    """Whether this is the first process of its machine."""
    return num_processes() == 1 or int(os.environ.get("LOCAL_RANK", rank())) == 0


def local_device() -> torch.device:
    """The GPU of this process, by torchrun's LOCAL_RANK; the CPU where there is no GPU.

    Raises:
        UserError: when the machine has fewer GPUs than processes.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    index, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= count:
        raise UserError(f"Process {index} of this machine has no GPU of its own ({count} found): start torchrun with "
                        f"--nproc_per_node={count}, or set device to cpu.")  # fmt: skip
    return torch.device("cuda", index)


def start_process_group(device: torch.device | str) -> None:
    """Join the process group that torchrun's variables describe: NCCL on GPUs, Gloo on CPUs.

    From now on processes but the first log nothing, and of an error that ends the run only the first report is shown.

    Raises:
        UserError: when the process was not started by torchrun.
    """
    if dist.is_initialized():
        return
    if "WORLD_SIZE" not in os.environ:
        raise UserError("multi_gpu_train.json is for several processes: start it with torchrun --nproc_per_node=2 -m "
                        "monai.bundle run …, or leave this file out.")  # fmt: skip
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, number, size = next(iter(dist.rendezvous("env://", timeout=TIMEOUT)))
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=TIMEOUT)
    if number > 0:
        logging.disable(logging.ERROR)
    _report_errors_once(store)


def stop_process_group() -> None:
    """Leave the process group."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def refuse_lone_processes() -> None:
    """Refuse processes that torchrun started but that would train apart and write over each other's files.

    Raises:
        UserError: naming the overlay that is missing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and num_processes() == 1:
        raise UserError("torchrun started several processes that do not know of each other: add "
                        "'bundles/mn_cotraining/configs/multi_gpu_train.json' behind train.json.")  # fmt: skip


def gather(value: T) -> list[T]:
    """The value of every process, by rank, on every process; all must call it."""
    if num_processes() == 1:
        return [value]
    values: list[Any] = [None] * num_processes()
    dist.all_gather_object(values, value)
    return values


def from_main_process(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a function on the first process alone and give its result to all; its ``UserError`` ends all of them."""
    if num_processes() == 1:
        return function(*args, **kwargs)
    message: list[Any] = [None, None]
    if rank() == 0:
        try:
            message[0] = function(*args, **kwargs)
        except UserError as error:
            message[1] = error
    dist.broadcast_object_list(message, src=0)
    if message[1] is not None:
        raise message[1]
    return message[0]


def handlers_of_this_process(handlers: Sequence[Any]) -> list[Any]:
    """All handlers on the first process; on the others those without ``main_process_only``, which write files."""
    return [handler for handler in handlers if rank() == 0 or not getattr(handler, "main_process_only", False)]


def unwrap(network: nn.Module) -> nn.Module:
    """The network inside ``DistributedDataParallel``, whose state dict has no ``module.`` in its names."""
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network


def without_exchange(network: nn.Module, wanted: bool) -> contextlib.AbstractContextManager:
    """Where gradients of all parts of a batch but the last add up, before processes exchange them."""
    if wanted and isinstance(network, nn.parallel.DistributedDataParallel):
        return network.no_sync()
    return contextlib.nullcontext()


def share_buffers(networks: Sequence[nn.Module]) -> None:
    """Give the first process's buffers (batch-norm statistics) to all."""
    if num_processes() == 1:
        return
    for network in networks:
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


def _report_errors_once(store: dist.Store) -> None:
    """When one process fails the others fail with it: the first to say why speaks for all."""
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        try:
            first = store.add(REPORTED, 1) == 1
        except RuntimeError:  # the process that held the store is gone, and it has spoken
            first = user_error_in(error) is not None
        if first:
            previous(kind, error, traceback)
        else:
            print(f"process {os.environ.get('RANK', '?')} ends as well ({kind.__name__})", file=sys.stderr)

    sys.excepthook = hook
