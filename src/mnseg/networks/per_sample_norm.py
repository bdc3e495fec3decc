"""Instance norm of volumes whose channels are last in memory, fast where the channels are few."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = ["PerSampleNorm3d"]

LANES = 128  # numbers of a row
LARGE = 16_384  # voxels, from which rows are many enough for their means to be near the map's


class PerSampleNorm3d(nn.InstanceNorm3d):
    """Instance norm that leaves channels last.

    torch's own makes its input contiguous first, so that every layer would convert twice. A sample's instance norm is
    its batch norm, for which there are kernels of both layouts; that for channels last takes as many numbers at once as
    there are channels, and crawls where a network has eight. So in a large map neighboring voxels' channels are taken
    for further channels, and their statistics put together.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        if input.device.type != "cpu" or input.dim() != 5:
            return super().forward(input)
        if torch.jit.is_tracing() or not _suits(input):
            samples = [
                functional.batch_norm(sample, None, None, self.weight, self.bias, True, 0.0, self.eps)
                for sample in input.split(1)
            ]
            return samples[0] if len(samples) == 1 else torch.cat(samples)
        if torch.is_grad_enabled():
            return _Norm.apply(input, self.weight, self.bias, self.eps)
        return _normalized(input, self.weight, self.bias, self.eps)[0]


def _suits(image: Tensor) -> bool:
    """Of an empty batch or a single voxel torch has something to say."""
    return len(image) > 0 and image[0, 0].numel() > 1 and image.is_contiguous(memory_format=torch.channels_last_3d)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        out, mean, scale = _normalized(image, weight, bias, eps)
        ctx.save_for_backward(image, weight, mean, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, weight, mean, scale = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last_3d)
        image_grad = torch.empty_like(image)
        samples = zip(_rows(image), _rows(grad), mean, scale, _rows(image_grad), strict=True)
        of_weight, of_bias = zip(*(_gradients(*sample, weight) for sample in samples), strict=True)
        weight_grad = sum(of_weight).to(weight.dtype) if ctx.needs_input_grad[1] else None
        bias_grad = sum(of_bias).to(weight.dtype) if ctx.needs_input_grad[2] else None
        return image_grad, weight_grad, bias_grad, None


def _rows(image: Tensor) -> tuple[Tensor, ...]:
    """Views of (B, C, H, W, D), channels last: a (1, C * k, R, 1) for each sample, with k voxels a row."""
    batch, channels, *size = image.shape
    voxels = math.prod(size)
    together = math.gcd(voxels, max(LANES // channels, 1)) if voxels >= LARGE else 1
    rows = image.permute(0, 2, 3, 4, 1).reshape(batch, voxels // together, 1, channels * together)
    return rows.permute(0, 3, 1, 2).split(1)


def _constants(rows: Tensor, *values: float) -> list[Tensor]:
    """A number for each channel, in float32, so that the kernels compute in float32 what they read in bfloat16."""
    exact = torch.promote_types(rows.dtype, torch.float32)
    return [rows.new_full((rows.shape[1],), value, dtype=exact) for value in values]


def _normalized(
    image: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The normalized image, and each sample's mean and ``1 / sqrt(variance + eps)`` (B, C)."""
    channels = image.shape[1]
    out = torch.empty_like(image)
    found = []
    for rows, target in zip(_rows(image), _rows(out), strict=True):
        means, variances = torch.batch_norm_update_stats(rows, *_constants(rows, 0, 1), 0.0)
        means, variances = means.view(-1, channels), variances.view(-1, channels)
        mean, variance = means.mean(0), variances.mean(0) + means.var(0, correction=0)
        scale = (variance + eps).rsqrt()
        gain = scale if weight is None else scale * weight
        _affine(rows, gain, -mean * gain if bias is None else bias - mean * gain, target)
        found.append((mean, scale))
    return out, *(torch.stack(part) for part in zip(*found, strict=True))


def _gradients(
    rows: Tensor, grad: Tensor, mean: Tensor, scale: Tensor, out: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A sample's gradients: ``sum(y x^)``, ``sum(y)``, and into ``out`` ``gain (y - mean(y) - x^ mean(y x^))``.

    The kernel takes the means over the rows' k-th voxels alone. How much the means over all differ from these is
    little, and is put right afterwards: put together from sums, large parts of bfloat16 gradients would cancel.
    """
    channels, (count, together) = len(mean), (rows.shape[2], rows.shape[1] // len(mean))
    mean, scale = mean.repeat(together), scale.repeat(together)
    factor = torch.ones_like(scale) if weight is None else weight.repeat(together)
    image_grad, products, totals = torch.ops.aten.native_batch_norm_backward(
        grad, rows, factor, *_constants(rows, 0, 1), mean, scale, True, 0.0, (True, True, True)
    )
    all_products, all_totals = (part.view(-1, channels).sum(0) for part in (products, totals))
    off_products = (products - all_products.repeat(together) / together) / count
    off_totals = (totals - all_totals.repeat(together) / together) / count
    slope = factor * scale * scale * off_products
    shift = factor * scale * off_totals - slope * mean
    torch.add(image_grad, _affine(rows, slope, shift, torch.empty_like(rows)), out=out)
    return all_products, all_totals


def _affine(rows: Tensor, gain: Tensor, shift: Tensor, out: Tensor) -> Tensor:
    """``gain x + shift`` into ``out``, computed as the norm with mean 0 and variance 1 that it is."""
    together = rows.shape[1] // len(gain)
    zeros, ones = _constants(rows, 0, 1)
    unused = zeros.new_empty(0)
    torch.ops.aten.native_batch_norm.out(
        rows, gain.repeat(together), shift.repeat(together), zeros, ones, False, 0.0, 0.0,
        out=out, save_mean=unused, save_invstd=unused.clone(),
    )  # fmt: skip
    return out
