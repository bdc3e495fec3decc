"""The part of a trainer's networks that sites share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mnseg.networks.adaptation import StillBatchNorm1d, StillBatchNorm2d

__all__ = ["SharedWeights", "product_of"]

BatchNorm = nn.modules.batchnorm._BatchNorm


class SharedWeights(nn.Module):
    """One module over several networks, whose ``state_dict`` holds what a site sends and receives, and no more.

    ``MonaiAlgo`` reads and writes ``trainer.network``: this stands there. Names begin with ``network.``,
    ``network_2d.`` or ``ema.``.

    Args:
        network: the 3D network ``g``; all of its state is shared.
        network_2d: the 2D network ``f``; only what trains is shared: parameters that require a gradient (adapters,
            head, norms) and the statistics of batch norms that learn them. Statistics that each site measured once
            for its own scans stay there. None: ``f`` stays at its site.
        ema: the moving average of ``g``, where it is the product.
    """

    def __init__(self, network: nn.Module, network_2d: nn.Module | None = None, ema: nn.Module | None = None) -> None:
        super().__init__()
        parts = {"network": network, "network_2d": network_2d, "ema": ema}
        self.parts = nn.ModuleDict({name: part for name, part in parts.items() if part is not None})
        self.trained_2d = set() if network_2d is None else _trained_names(network_2d)

    def state_dict(self) -> dict[str, Tensor]:
        """Name -> tensor, not copied."""
        return {
            f"{part}.{name}": value
            for part, network in self.parts.items()
            for name, value in network.state_dict().items()
            if part != "network_2d" or name in self.trained_2d
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put shared weights into the networks; what is not shared stays as it is.

        Raises:
            ValueError: when the names are not exactly those of ``state_dict``.
        """
        different = sorted(state.keys() ^ self.state_dict().keys())
        if different:
            raise ValueError(f"{len(different)} names of shared weights differ: {', '.join(different[:3])}")
        for part, network in self.parts.items():
            network.load_state_dict(_of_part(state, part), strict=part != "network_2d")


def product_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the product, the 3D network or its moving average, among shared weights."""
    return _of_part(state, "ema") or _of_part(state, "network")


def _of_part(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}


def _trained_names(network: nn.Module) -> set[str]:
    names = {name for name, p in network.named_parameters(remove_duplicate=False) if p.requires_grad}
    for prefix, module in network.named_modules():
        if isinstance(module, BatchNorm) and not isinstance(module, (StillBatchNorm1d, StillBatchNorm2d)):
            names |= {f"{prefix}.{name}" for name, _ in module.named_buffers()}
    return names
