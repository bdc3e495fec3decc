"""A device that this computer does not have: computes on the CPU, but keeps its tensors apart as a GPU does.

What would fail on a GPU because a tensor was forgotten on the host fails here too. Kernels, their precision, streams
and memory are not pretended, nor is autocast, which does nothing here. ``on_pretend_gpu`` installs it in a process of
its own, as the name of a device is given once for a whole process.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

from two_processes import CONTEXT, function_at, place_of

__all__ = ["DEVICE", "install", "on_pretend_gpu", "waits"]

NAME = "pretend"
DEVICE = f"{NAME}:0"
ATEN = torch.ops.aten
COPIES = (ATEN.to, ATEN._to_copy, ATEN.copy_)
INDEXED = (ATEN.index, ATEN.index_put, ATEN.index_put_)  # indices may be on the host
WAITED = (ATEN._local_scalar_dense, ATEN.item, ATEN.equal, ATEN.nonzero, ATEN.masked_select, ATEN._unique2)
# Of these an operator's general implementation would make an empty tensor and resize it, or find no Python at all.
DIRECT = ("_to_copy", "arange", "arange.start", "arange.start_step")


class FarTensor(Tensor):
    """A tensor on the device; ``near`` has its values."""

    # By C++ tensor: MetaTensor replaces a tensor's __dict__, Module.to exchanges what its Python object holds. Nothing
    # is taken out, a tensor at the same address takes its place.
    nears: ClassVar[dict[int, Tensor]] = {}

    @staticmethod
    def __new__(cls, near: Tensor) -> FarTensor:
        far = Tensor._make_wrapper_subclass(
            cls, near.shape, near.stride(), near.storage_offset(), dtype=near.dtype, device=DEVICE
        )
        cls.nears[far._cdata] = near
        return far

    def __init__(self, *_: Any) -> None:
        """A subclass's own would be handed arguments of this class."""

    @property
    def near(self) -> Tensor:
        return self.nears[self._cdata]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})

    # What PyTorch refuses to do with a Python subclass, and does with a tensor on a GPU.

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def as_subclass(self, cls: type) -> Tensor:
        kind = _far_kind(cls)
        return self.view_as(self) if kind is FarTensor else FarTensor.__new__(kind, self.near)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().cpu().__reduce_ex__(protocol)


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


KINDS: dict[type, type] = {Tensor: FarTensor}  # MetaTensor's far kind, and so on
waits: list[str] = []  # operators for which the host waited until the device had a value for it
LIBRARIES: list[torch.library.Library] = []  # an operator's implementation goes with its library


def install() -> None:
    """Give this process the device, for good."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    torch.__future__.set_swap_module_params_on_conversion(True)  # Module.to keeps Python's part of a tensor
    everything, operators = (torch.library.Library(scope, "IMPL") for scope in ("_", "aten"))
    LIBRARIES.extend((everything, operators))
    everything.fallback(lambda func, *args, **kwargs: _compute(func, args, kwargs), "PrivateUse1")
    for name in DIRECT:
        packet, _, overload = name.partition(".")
        func = getattr(getattr(ATEN, packet), overload or "default")
        operators.impl(name, lambda *args, func=func, **kwargs: _compute(func, args, kwargs), "PrivateUse1")
    torch._tensor._convert, torch.load = _convert, _load


def _compute(func: Any, args: Any, kwargs: Any) -> Any:
    """An operator on the host's values; the result is far if the operands are, or if it is asked for there."""
    leaves, packet = tree_leaves((args, kwargs)), func.overloadpacket
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    far = {id(leaf.near): leaf for leaf in tensors if isinstance(leaf, FarTensor)}
    wanted = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
    to_device = bool(far) if wanted is None else wanted.type == NAME
    forgotten = [leaf for leaf in tensors if not isinstance(leaf, FarTensor) and leaf.dim()]  # numbers may come along
    indexed = packet in INDEXED and isinstance(args[0], FarTensor)
    if far and forgotten and packet not in COPIES and not indexed:
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got {DEVICE} and cpu.")
    if far and _waits(packet, args, wanted):
        waits.append(str(func))
    args, kwargs = tree_map(_near, (args, kwargs))
    result = func(*args, **kwargs)
    if packet is ATEN.copy_:
        return tensors[0]
    if not to_device:
        return result
    # An operator that changes its operand returns the operand itself.
    return tree_map(lambda leaf: far[id(leaf)] if id(leaf) in far else _away(leaf), result)


def _waits(packet: Any, args: Any, wanted: torch.device | None) -> bool:
    """Whether the result lies on the host, or its shape depends on the values."""
    if packet in COPIES:
        destination = args[0].device if packet is ATEN.copy_ else wanted
        return destination is not None and destination.type != NAME
    by_mask = packet in INDEXED and any(index is not None and index.dtype is torch.bool for index in args[1])
    return by_mask or packet in WAITED


def _near(leaf: Any) -> Any:
    """The same on the host: the values of a tensor, the CPU instead of the device."""
    if isinstance(leaf, torch.device):
        return torch.device("cpu")
    return leaf.near if isinstance(leaf, FarTensor) else leaf


def _away(leaf: Any) -> Any:
    return FarTensor(leaf) if isinstance(leaf, Tensor) else leaf


def _far_kind(cls: type) -> type:
    if issubclass(cls, FarTensor):
        return cls
    if cls not in KINDS:
        # A class with __torch_dispatch__ loses a __torch_function__ that it only inherits.
        own = {"__torch_function__": classmethod(cls.__torch_function__.__func__)}
        KINDS[cls] = type(f"Far{cls.__name__}", (FarTensor, cls), own)
    return KINDS[cls]


def _near_kind(cls: type) -> type:
    return next((near for near, far in KINDS.items() if far is cls), cls)


_stock_convert, _stock_load = torch._tensor._convert, torch.load


def _convert(result: Any, cls: type) -> Any:
    """torch's own gives the result of a subclass's operator the subclass, on whatever device that lies."""
    if isinstance(result, FarTensor):
        kind = _far_kind(cls)
        return result if isinstance(result, kind) or result.requires_grad else FarTensor.__new__(kind, result.near)
    if isinstance(result, (tuple, list)):
        return type(result)(_convert(each, cls) for each in result)
    return _stock_convert(result, _near_kind(cls))


def _load(file: Any, map_location: Any = None, **kwargs: Any) -> Any:
    """torch's own would make storages on the device, which has none."""
    if map_location is None or torch.device(map_location).type != NAME:
        return _stock_load(file, map_location, **kwargs)
    content = _stock_load(file, "cpu", **kwargs)
    return tree_map(lambda leaf: leaf.to(map_location) if isinstance(leaf, Tensor) else leaf, content)


def on_pretend_gpu(function: Callable[..., Any], *args: Any, timeout: float = 200) -> Any:
    """What ``function(*args)``, of a test's file, returns in a process that has the device; plain values, no tensors.

    Raises:
        AssertionError: with the traceback if it failed.
    """
    results = CONTEXT.Queue()
    process = CONTEXT.Process(target=_work, args=(results, place_of(function), args))
    process.start()
    try:
        result, error = results.get(timeout=timeout)
    finally:
        process.kill()
        process.join()
    assert error is None, error
    return result


def _work(results: Any, place: tuple[str, str], args: tuple) -> None:
    torch.set_num_threads(1)
    try:
        install()
        torch.manual_seed(0)
        results.put((function_at(place)(*args), None))
    except BaseException:
        results.put((None, traceback.format_exc()))
    results.close()
    results.join_thread()
