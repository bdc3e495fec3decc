"""MONAI's sliding window with the network compiled for the CPU by OpenVINO."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from monai.utils import optional_import
from torch import Tensor, nn

from mnseg.errors import UserError

__all__ = ["OpenVINOInferer", "has_openvino"]

logger = logging.getLogger(__name__)

openvino, has_openvino = optional_import("openvino")


class OpenVINOInferer(SlidingWindowInferer):
    """The same windows, the same overlap, the same network in float32; only its layers are run by OpenVINO.

    The network is compiled when it is first used, and again when its weights have changed. On a GPU, and for a network
    that OpenVINO does not know how to run, this is MONAI's inferer. Arguments: as those of ``SlidingWindowInferer``.

    Raises:
        UserError: OpenVINO is not installed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not has_openvino:
            raise UserError("OpenVINOInferer needs OpenVINO: pip install 'mnseg[openvino]', or leave its overlay out.")
        self._compiled: tuple[Any, Callable[[Tensor], Tensor]] | None = None
        self._lock = threading.Lock()

    def __call__(
        self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Logits (B, K, H, W, D) of a volume (B, C, H, W, D)."""
        if inputs.device.type == "cpu" and isinstance(network, nn.Module) and not torch.is_grad_enabled():
            network = self._network(network)
        return super().__call__(inputs, network, *args, **kwargs)

    def _network(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        # Not the state_dict, whose tensors have no version in inference mode.
        tensors = [*network.parameters(), *network.buffers()]
        state = (network, [(tensor.data_ptr(), tensor._version) for tensor in tensors])
        with self._lock:
            if self._compiled is None or self._compiled[0] != state:
                self._compiled = (state, _Compiled(network))
            return self._compiled[1]


class _Compiled:
    """A network as a function of windows, compiled for each of their shapes when it comes."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.requests: dict[tuple[int, ...], Any] = {}
        self.lock = threading.Lock()

    def __call__(self, windows: Tensor) -> Tensor:
        shape = tuple(windows.shape)
        with self.lock:
            if shape not in self.requests:
                self.requests[shape] = _compile(self.network, shape)
            request = self.requests[shape]
            if request is None:
                return self.network(windows)
            found = request(windows.float().contiguous().numpy())[0]
        return torch.from_numpy(found)


def _compile(network: nn.Module, shape: tuple[int, ...]) -> Any | None:
    """None: OpenVINO cannot run the network, or runs it otherwise than torch."""
    was_training, windows = network.training, torch.rand(shape)
    try:
        # Tensors that were made in inference mode cannot be traced.
        with torch.inference_mode(False), torch.no_grad():
            model = openvino.convert_model(network.eval(), example_input=torch.zeros(shape), input=list(shape))
            expected = network(windows)
        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_PRECISION_HINT": "f32"}  # fmt: skip
        request = openvino.Core().compile_model(model, "CPU", settings)
        # What a network computes outside of torch is a constant to a compiler.
        torch.testing.assert_close(torch.from_numpy(request(windows.numpy())[0]), expected, rtol=1e-2, atol=1e-2)
        return request
    except Exception as error:  # whatever conversion does not know
        logger.warning("OpenVINO cannot run %s (%s): torch does.", type(network).__name__, str(error).splitlines()[0])
        return None
    finally:
        network.train(was_training)
