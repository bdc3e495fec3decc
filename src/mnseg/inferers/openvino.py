"""MONAI's sliding window with the network compiled for the CPU by OpenVINO."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from monai.utils import optional_import
from torch import Tensor, nn

from mnseg.engines.precision import amp_dtype_of
from mnseg.errors import UserError
from mnseg.inferers.prepared import PreparedInferer

__all__ = ["OpenVINOInferer", "has_openvino"]

logger = logging.getLogger(__name__)

openvino, has_openvino = optional_import("openvino")

# Neither tracing nor the first call of _core may happen in two threads at once.
_compiling = threading.Lock()

Run = Callable[[np.ndarray], np.ndarray]


class OpenVINOInferer(PreparedInferer):
    """The same windows, the same overlap, the same network; only its layers are run by OpenVINO.

    On a GPU, and for a network that OpenVINO does not know how to run, this is MONAI's inferer.

    Args:
        bfloat16: compute in bfloat16 where the CPU has instructions for it; False: in float32.
        *args, **kwargs: as those of ``SlidingWindowInferer``.

    Raises:
        UserError: OpenVINO is not installed.
    """

    def __init__(self, *args: Any, bfloat16: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not has_openvino:
            raise UserError("OpenVINOInferer needs OpenVINO: pip install 'mnseg[openvino]', or leave its overlay out.")
        self.bfloat16 = bfloat16 and amp_dtype_of("auto", "cpu") is torch.bfloat16

    def _suits(self, device: torch.device, network: nn.Module) -> bool:
        return device.type == "cpu"

    def _prepare(self, network: nn.Module) -> _Compiled:
        return _Compiled(network, self.bfloat16)


class _Compiled:
    """A network as a function of windows, compiled for each of their shapes when it comes.

    Several windows share the threads, each window a part of them: less waiting for one another than when all threads
    work on every layer.
    """

    def __init__(self, network: nn.Module, bfloat16: bool = False) -> None:
        self.network = network
        self.bfloat16 = bfloat16
        self.runs: dict[tuple[int, ...], Run | None] = {}
        self.shared: dict[tuple[int, ...], Run | None] = {}
        self.lock = threading.Lock()

    def __call__(self, windows: Tensor) -> Tensor:
        with self.lock:
            run = self._run(tuple(windows.shape), min(torch.get_num_threads(), len(windows)))
            if run is None:
                return self.network(windows)
            return torch.from_numpy(run(windows.float().contiguous().numpy()))

    def _run(self, shape: tuple[int, ...], streams: int) -> Run | None:
        window = shape[1:]
        if streams > 1 and window not in self.shared:
            self.shared[window] = _compile(self.network, (1, *window), streams, self.bfloat16)
        if window in self.shared:  # also the last window of a volume, which may come alone: nothing is compiled for it
            return self.shared[window]
        if shape not in self.runs:
            self.runs[shape] = _compile(self.network, shape, 1, self.bfloat16)
        return self.runs[shape]


def _compile(network: nn.Module, shape: tuple[int, ...], streams: int, bfloat16: bool) -> Run | None:
    """None: OpenVINO cannot run the network, or runs it otherwise than torch."""
    with _compiling:
        return _compile_alone(network, shape, streams, bfloat16)


def _compile_alone(network: nn.Module, shape: tuple[int, ...], streams: int, bfloat16: bool) -> Run | None:
    was_training, windows = network.training, torch.rand(shape)
    try:
        # Tensors that were made in inference mode cannot be traced.
        with torch.inference_mode(False), torch.no_grad():
            model = openvino.convert_model(network.eval(), example_input=torch.zeros(shape), input=list(shape))
            expected = network(windows)
        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
        settings |= {"INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32"}
        settings |= {"NUM_STREAMS": streams} if streams > 1 else {"PERFORMANCE_HINT": "LATENCY"}
        compiled = _core().compile_model(model, "CPU", settings)
        run = _one_by_one(compiled, streams) if streams > 1 else lambda windows: compiled(windows)[0]
        # What a network computes outside of torch is a constant to a compiler.
        _require_close(torch.from_numpy(run(windows.numpy())), expected, bfloat16)
        return run
    except Exception as error:  # whatever conversion does not know
        logger.warning("OpenVINO cannot run %s (%s): torch does.", type(network).__name__, str(error).splitlines()[0])
        return None
    finally:
        network.train(was_training)


def _require_close(found: torch.Tensor, expected: torch.Tensor, bfloat16: bool) -> None:
    """Raise AssertionError where a compiled network does something else than the network."""
    if not bfloat16:
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
    # Eight bits of each number: single logits may be far off, all of them together may not.
    elif not (off := float((found - expected).norm() / expected.norm())) < 0.1:
        raise AssertionError(f"its logits are {100 * off:.0f} % off")


@functools.cache
def _core() -> Any:
    """The one Core of this process, whose CPU plugin a thread of its own has loaded.

    When the plugin is loaded it replaces the signal stack (sigaltstack) of the thread that asks for it, and frees that
    memory when it is unloaded. With a plugin for each compiled shape, freed in the order in which they were made, a
    thread was left with a stack that was gone: the next signal, such as that of a child process that ended, killed the
    whole process without a word.
    """
    core = openvino.Core()
    with ThreadPoolExecutor(1) as apart:
        apart.submit(core.get_property, "CPU", "FULL_DEVICE_NAME").result()
    return core


def _one_by_one(compiled: Any, streams: int) -> Run:
    """Windows side by side, as many at once as there are streams."""
    queue = openvino.AsyncInferQueue(compiled, streams)

    def run(windows: np.ndarray) -> np.ndarray:
        found: list[np.ndarray | None] = [None] * len(windows)
        # The output's memory is the request's, which the next window uses again.
        queue.set_callback(lambda request, place: found.__setitem__(place, request.get_output_tensor(0).data.copy()))
        for place in range(len(windows)):
            queue.start_async(windows[place : place + 1], place)
        queue.wait_all()
        return np.concatenate(found)

    return run
