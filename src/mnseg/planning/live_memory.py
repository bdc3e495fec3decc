"""Memory of tensors that exist at once, counted on tensors without data: nothing is computed, nothing is allocated."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mnseg.networks import folded_norm

__all__ = ["LiveMemory", "without_data"]

# What autocast computes in float32 on a GPU and not on a CPU (torch.amp, "CUDA Ops that can autocast to float32"), as
# far as networks use it; torch.nn.functional calls these.
FULL_PRECISION = ((torch, "layer_norm"), (torch, "group_norm"), (torch, "softmax"), (torch, "log_softmax"),
                  (Tensor, "softmax"), (Tensor, "log_softmax"))  # fmt: skip
SMALL = 4096  # elements of a tensor that is made with its data even so: positions of slices, corners of boxes


class LiveMemory(TorchDispatchMode):
    """Adds up the tensors that are alive, while the mode is on.

    Tensors that an operator needs only inside itself (a GPU library's workspace) are not seen.

    Attributes:
        live: bytes of the tensors that exist now.
        peak: the most so far; set it to ``live`` to count anew.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def add(self, tensor: Tensor) -> None:
        """Count a tensor until its memory is freed; one that shares memory with a counted one adds nothing."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        weakref.finalize(storage, self._free, storage.nbytes())
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)

    def _free(self, size: int) -> None:
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if inputs and not any(isinstance(leaf, FakeTensor) for leaf in inputs):
            return _with_data(func, args, kwargs)
        result = func(*args, **kwargs)
        if not inputs and isinstance(result, Tensor) and result.numel() <= SMALL:
            return _with_data(func, args, kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result


def _with_data(func: Any, args: Any, kwargs: Any) -> Any:
    with unset_fake_temporarily():
        return func(*args, **kwargs)


@contextlib.contextmanager
def _gpu_precision() -> Iterator[None]:
    """Under a CPU's autocast some results are as wide as a GPU's autocast makes them, and as many.

    A ``TorchFunctionMode`` would not see what a checkpoint computes again in the backward pass.
    """
    with contextlib.ExitStack() as stack:
        for owner, name in FULL_PRECISION:
            stack.enter_context(mock.patch.object(owner, name, _in_full_precision(getattr(owner, name))))
        folds = folded_norm._folds
        stack.enter_context(mock.patch.object(
            folded_norm, "_folds", lambda *args: not torch.is_autocast_enabled("cpu") and folds(*args)))  # fmt: skip
        yield


def _in_full_precision(function: Callable) -> Callable:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if torch.is_autocast_enabled("cpu"):
            args = tuple(value.float() if isinstance(value, Tensor) else value for value in args)
        return function(*args, **kwargs)

    return wrapper


@contextlib.contextmanager
def without_data(networks: Sequence[nn.Module]) -> Iterator[LiveMemory]:
    """Take the data out of networks, for good, and of all tensors that are made inside the context.

    Args:
        networks: on the CPU; their parameters and buffers are replaced in place. Optimizers must be made afterwards.

    Yields:
        the count, which has the networks already; enter it around what is to be counted.
    """
    memory, mode = LiveMemory(), FakeTensorMode(allow_non_fake_inputs=True)
    # A parameter that two layers share stays shared; the original is kept, or its id would be given away again.
    pairs: dict[int, tuple[Tensor, Tensor]] = {}
    for module in (module for network in networks for module in network.modules()):
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    if id(tensor) not in pairs:
                        pairs[id(tensor)] = tensor, _without_data(tensor, mode)
                    tensors[name] = pairs[id(tensor)][1]
                    memory.add(tensors[name])
    with mode, _gpu_precision():
        yield memory


def _without_data(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    if isinstance(tensor, FakeTensor):
        return tensor
    fake = mode.from_tensor(tensor.detach())
    return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
