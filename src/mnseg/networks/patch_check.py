"""Does a patch pass the 3D network? Asked before anything is read or written."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from mnseg.errors import UserError

__all__ = ["require_fitting_image", "require_fitting_patch"]


def require_fitting_patch(network: nn.Module, in_channels: int, patch_size: Sequence[int]) -> None:
    """Send one patch through the network, without memory or arithmetic (torch's meta device).

    Args:
        network: the 3D network, left as it is.
        in_channels: channels of a scan.
        patch_size: three numbers of voxels.

    Raises:
        UserError: naming ``patch_size`` and what the network said.
    """
    sizes = list(patch_size)
    if len(sizes) != 3 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise UserError(f"patch_size is {patch_size}; it must be three whole numbers above 0, one an axis.")
    probe = copy.deepcopy(network).to("meta").train()
    try:
        with torch.no_grad():
            output = probe(torch.empty(1, in_channels, *sizes, device="meta"))
    except NotImplementedError:
        return  # an operation that torch cannot try without data
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"patch_size {sizes} does not fit the 3D network ({reason}): multiples of 16 from 32 on fit the default "
            "one, multiples of 32 with an axis of at least 64 SwinUNETR."
        ) from error
    output = output[0] if isinstance(output, (list, tuple)) else output
    if list(output.shape[2:]) != sizes and output.ndim == 5:
        left = list(output.shape[2:])
        raise UserError(f"patch_size {sizes} leaves the 3D network as {left}: choose multiples of 16.")


def require_fitting_image(network: nn.Module, in_channels: int, image_size: Sequence[int]) -> None:
    """The same for a 2D network: one image of ``image_size`` (rows, columns) must keep its size.

    Raises:
        UserError: naming ``image_size`` and what the network said.
    """
    sizes = list(image_size)
    probe = copy.deepcopy(network).to("meta").train()
    try:
        with torch.no_grad():
            output = probe(torch.empty(2, in_channels, *sizes, device="meta"))
    except NotImplementedError:
        return
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"image_size {sizes} does not fit the network ({reason}): choose multiples of 16.") from error
    output = output[-1] if isinstance(output, (list, tuple)) else output
    if list(output.shape[2:]) != sizes:
        raise UserError(f"image_size {sizes} leaves the network as {list(output.shape[2:])}: choose multiples of 16.")
