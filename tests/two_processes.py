"""Runs a test's function in two processes that form a Gloo group, as torchrun would."""

from __future__ import annotations

import importlib.util
import inspect
import multiprocessing
import os
import queue
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from mnseg.distributed import start_process_group, stop_process_group

# A server that has imported torch and MONAI once forks the processes: seconds faster than starting them anew, and,
# unlike a fork of the test process, without its threads.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["mnseg.engines", "mnseg.handlers", "two_processes"])


def run_both(function: Callable[..., Any], *args: Any, timeout: float = 150) -> list[Any]:
    """What ``function(rank, *args)`` returns in either process; plain values or numpy, no tensors.

    Raises:
        AssertionError: with the traceback of a process that failed, or when one is not done in time.
    """
    processes, results = _start(function, args)
    found: dict[int, Any] = {}
    end = time.monotonic() + timeout
    try:
        while len(found) < 2:
            rank, result, error = results.get(timeout=max(end - time.monotonic(), 0.01))
            assert error is None, f"process {rank}:\n{error}"
            found[rank] = result
    except queue.Empty:
        raise AssertionError(f"only {sorted(found)} of both processes were done after {timeout} s") from None
    finally:
        for process in processes:
            if len(found) < 2:
                process.kill()
            process.join()
    return [found[0], found[1]]


def run_to_the_end(function: Callable[..., Any], *args: Any, timeout: float = 60) -> list[int]:
    """Exit codes of processes that may be killed on the way; a process that outlives the other must end, too."""
    processes, _ = _start(function, args)
    end = time.monotonic() + timeout
    for process in processes:
        process.join(max(end - time.monotonic(), 0.01))
    late = [rank for rank, process in enumerate(processes) if process.exitcode is None]
    for process in processes:
        process.kill()
        process.join()
    assert not late, f"process {late} still waits after {timeout} s"
    return [process.exitcode for process in processes]


def place_of(function: Callable[..., Any]) -> tuple[str, str]:
    """File and name of a test's function: pytest imports tests under names that another process does not know."""
    return inspect.getfile(function), function.__name__


def function_at(place: tuple[str, str]) -> Callable[..., Any]:
    """The function of ``place_of``, in another process."""
    spec = importlib.util.spec_from_file_location("test_in_another_process", place[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, place[1])


def _start(function: Callable[..., Any], args: tuple) -> tuple[list[Any], Any]:
    place = place_of(function)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results = CONTEXT.Queue()
    processes = [CONTEXT.Process(target=_work, args=(rank, port, results, place, args)) for rank in (0, 1)]
    for process in processes:
        process.start()
    return processes, results


def _work(rank: int, port: int, results: Any, place: tuple[str, str], args: tuple) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        function = function_at(place)
        start_process_group("cpu")
        results.put((rank, function(rank, *args), None))
        stop_process_group()
    except BaseException:
        results.put((rank, None, traceback.format_exc()))
