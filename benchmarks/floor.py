"""The least time that a step can take: operations over the measured rate, bytes over the measured bandwidth.

Used by ``step.py --floor``. Operations are those of convolutions, matrix products and attention, forward and backward,
as torch counts them (but for the backward pass of grouped convolutions, which it counts as if they had no groups).
Bytes are what cannot stay in a cache: every tensor that is kept for the backward pass is written once and read once;
every weight is read in both passes, its gradient written and read, the optimizer's state rewritten.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.nn.functional import conv2d
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Counted", "Rates", "StepCounts", "floor_of", "measured_rates"]

# weight read forward and backward; gradient written and read; AdamW: weight and two moments, each read and written
WEIGHT_PASSES = {"trained": 2 + 2 + 6, "frozen": 2}
CHANNELS = 256  # of the convolution whose rate is measured: wide enough for every library


@dataclass(frozen=True)
class Rates:
    """What the device can do: operations a second in products or convolutions of ``dtype``, bytes a second copied."""

    dtype: str
    operations: float
    bandwidth: float


@dataclass
class Counted:
    """What one step asks for, and the share of its time that each kind of operator took in one profiled step."""

    operations: float = 0.0
    saved_bytes: float = 0.0
    weight_bytes: float = 0.0
    shares: dict[str, float] | None = None

    @property
    def bytes(self) -> float:
        """Bytes that must move."""
        return 2 * self.saved_bytes + self.weight_bytes


def floor_of(counted: Counted, rates: Rates) -> dict[str, float]:
    """Seconds by operations, by bytes, and the floor, which is the larger of the two."""
    by_operations, by_bytes = counted.operations / rates.operations, counted.bytes / rates.bandwidth
    return {"operations_s": by_operations, "bytes_s": by_bytes, "floor_s": max(by_operations, by_bytes)}


def measured_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """Best of several square matrix products and wide 3x3 convolutions, and of several copies far larger than a cache.

    Both, since libraries differ: on AMD processors MKL multiplies float32 matrices at less than half of oneDNN's rate.
    On a GPU float32 products may be as imprecise as torch lets convolutions be (TF32).
    """
    side, images, size = (8192, 256, 2**30) if device.type == "cuda" else (2048, 8, 2**28)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    image, weight = (
        torch.randn(shape, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        for shape in ((images, CHANNELS, 32, 32), (CHANNELS, CHANNELS, 3, 3))
    )
    source = torch.zeros(size // 4, device=device)
    target = torch.empty_like(source)
    matmul = torch.backends.cuda.matmul
    allowed, matmul.allow_tf32 = matmul.allow_tf32, torch.backends.cudnn.allow_tf32  # convolutions may use it
    try:
        product = 2 * side**3 / _best(lambda: a @ b, device)
        convolution = 2 * weight.numel() * images * 32**2 / _best(lambda: conv2d(image, weight, padding=1), device)
    finally:
        matmul.allow_tf32 = allowed
    bandwidth = 2 * size / _best(lambda: target.copy_(source), device)
    return Rates(str(dtype).removeprefix("torch."), max(product, convolution), bandwidth)


def _best(work: Callable[[], Any], device: torch.device, repeats: int = 7) -> float:
    times = []
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class StepCounts:
    """Counts the first step of every epoch of an engine and profiles the second; attach it before the clock.

    Both steps take longer than others, so the clock must leave them out (``warmup`` of at least 2).

    Args:
        name_of: names the steps of the epoch that the engine is in.
        learning: the networks that learn in it; none: forward passes alone.
        networks: all whose weights are read.
    """

    def __init__(
        self, name_of: Callable[[Engine], str], learning: Callable[[Engine], Iterable[nn.Module]],
        networks: Callable[[Engine], Iterable[nn.Module]],
    ) -> None:  # fmt: skip
        self.name_of, self.learning, self.networks = name_of, learning, networks
        self.rows: dict[str, Counted] = {}
        self._step = 0
        self._open: list[Any] = []
        self._weights: set[int] = set()
        self._saved = 0
        self._alive: set[int] = set()

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer or an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._restart)
        engine.add_event_handler(Events.ITERATION_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end)

    def _restart(self, engine: Engine) -> None:
        self._step = 0

    def _begin(self, engine: Engine) -> None:
        self._step += 1
        if self._step == 1:
            self._saved = 0
            self._alive.clear()
            self._weights = {p.untyped_storage().data_ptr() for net in self.networks(engine) for p in net.parameters()}
            self._open = [FlopCounterMode(display=False, custom_mapping=FORMULAS),
                          torch.autograd.graph.saved_tensors_hooks(self._keep, self._use)]
        elif self._step == 2:
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
            self._open = [profile(activities=activities)]
        for context in self._open:
            context.__enter__()

    def _end(self, engine: Engine) -> None:
        for context in reversed(self._open):
            context.__exit__(None, None, None)
        row = self.rows.setdefault(self.name_of(engine), Counted())
        if self._step == 1:
            row.operations = float(self._open[0].get_total_flops())
            row.saved_bytes = float(self._saved)
            row.weight_bytes = self._weight_bytes(engine)
        elif self._step == 2:
            row.shares = _shares(self._open[0])
        self._open = []

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._weights | self._alive:
            self._alive.add(storage.data_ptr())
            self._saved += storage.nbytes()
        return tensor

    def _use(self, tensor: Tensor) -> Tensor:
        self._alive.clear()  # a backward pass frees its memory for the next forward pass
        return tensor

    def _weight_bytes(self, engine: Engine) -> float:
        learning = {id(p) for net in self.learning(engine) for p in net.parameters() if p.requires_grad}
        return float(sum(
            p.numel() * p.element_size() * WEIGHT_PASSES["trained" if id(p) in learning else "frozen"]
            for net in self.networks(engine) for p in net.parameters()
        ))  # fmt: skip


def _convolution_backward(
    grad_shape: list[int], image_shape: list[int], weight_shape: list[int], bias: Any, stride: Any, padding: Any,
    dilation: Any, transposed: bool, output_padding: Any, groups: int, wanted: list[bool], **_: Any,
) -> int:  # fmt: skip
    """Each gradient asks for as many operations as the forward pass: two for each weight at each place it is put to."""
    places = math.prod((image_shape if transposed else grad_shape)[2:])
    return 2 * sum(wanted[:2]) * image_shape[0] * places * math.prod(weight_shape)


FORMULAS = {torch.ops.aten.convolution_backward: _convolution_backward}

KINDS = {
    "convolutions and products": ("conv", "mm", "linear", "attention"),
    "normalization": ("norm",),
    "activation, pooling, interpolation": ("relu", "gelu", "pool", "upsample", "interpolate", "dropout", "sigmoid"),
    "loss": ("softmax", "nll", "cross_entropy", "kl_div", "one_hot", "scatter"),
    "optimizer": ("adam", "_foreach", "optimizer"),
    "copies": ("copy", "cat", "to_copy", "clone", "fill", "zero", "memcpy", "memset"),
}


def _shares(profiler: profile) -> dict[str, float]:
    """Share of the operators' own time by kind."""
    # On a GPU an operator has its kernels' time, and each kernel is an event too.
    events = [event for event in profiler.key_averages() if event.device_type == DeviceType.CPU]
    on_device = any(event.self_device_time_total for event in events)
    times = dict.fromkeys([*KINDS, "other"], 0.0)
    for event in events:
        name = event.key.lower()
        kind = next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "other")
        times[kind] += event.self_device_time_total if on_device else event.self_cpu_time_total
    total = sum(times.values()) or 1.0
    return {kind: seconds / total for kind, seconds in times.items()}
