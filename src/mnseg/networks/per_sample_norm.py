"""Instance norm of volumes whose channels are last in memory, fast where the channels are few."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = ["PerSampleNorm3d"]

LANES = 128


class PerSampleNorm3d(nn.InstanceNorm3d):
    """Instance norm that leaves channels last.

    torch's own makes its input contiguous first, so that every layer would convert twice. A sample's instance norm is
    its batch norm, for which there are kernels of both layouts; that for channels last takes as many numbers at once as
    there are channels, and crawls where a network has eight. So neighboring voxels' channels are taken for further
    channels, and their statistics put together.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        if input.device.type != "cpu" or input.dim() != 5:
            return super().forward(input)
        if torch.jit.is_tracing() or not input.is_contiguous(memory_format=torch.channels_last_3d):
            samples = [
                functional.batch_norm(sample, None, None, self.weight, self.bias, True, 0.0, self.eps)
                for sample in input.split(1)
            ]
            return samples[0] if len(samples) == 1 else torch.cat(samples)
        if torch.is_grad_enabled():
            return _Norm.apply(input, self.weight, self.bias, self.eps)
        return _normalized(input, self.weight, self.bias, self.eps)[0]


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        out, mean, variance = _normalized(image, weight, bias, eps)
        ctx.save_for_backward(image, weight, mean, variance)
        ctx.eps = eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, weight, mean, variance = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last_3d)
        image_grad = torch.empty_like(image) if ctx.needs_input_grad[0] else None
        sums = [_sums(*each, ctx.eps) for each in zip(_rows(image), _rows(grad), mean, variance, strict=True)]
        products, totals = (torch.stack(part) for part in zip(*sums, strict=True))  # (B, C) each
        if image_grad is not None:
            # dL/dx = gain (y - mean(y) - x^ mean(y x^)), x^ = (x - mean) / sqrt(variance + eps)
            count = image[0, 0].numel()
            scale = (variance + ctx.eps).rsqrt()
            gain = scale if weight is None else scale * weight
            slope = -gain * scale * products / count
            shift = -gain * totals / count - slope * mean
            for target, x, y, *each in zip(*map(_rows, (image_grad, image, grad)), gain, slope, shift, strict=True):
                _affine(y, each[0], None, target)
                target += _affine(x, each[1], each[2], torch.empty_like(x))
        weight_grad = products.sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        bias_grad = totals.sum(0).to(weight.dtype) if ctx.needs_input_grad[2] else None
        return image_grad, weight_grad, bias_grad, None


def _rows(image: Tensor) -> tuple[Tensor, ...]:
    """Views of (B, C, H, W, D), channels last: a (1, C * k, R, 1) for each sample, with k voxels a row."""
    batch, channels, *size = image.shape
    voxels = math.prod(size)
    together = math.gcd(voxels, max(LANES // channels, 1))
    rows = image.permute(0, 2, 3, 4, 1).reshape(batch, voxels // together, 1, channels * together)
    return rows.permute(0, 3, 1, 2).split(1)


def _exact(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _constants(rows: Tensor, *values: float) -> list[Tensor]:
    """In float32, so that the kernels compute in float32 what they read in bfloat16."""
    return [rows.new_full((rows.shape[1],), value, dtype=_exact(rows)) for value in values]


def _normalized(
    image: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The normalized image, and each sample's mean and variance (B, C)."""
    channels = image.shape[1]
    out = torch.empty_like(image)
    found = []
    for rows, target in zip(_rows(image), _rows(out), strict=True):
        means, variances = torch.batch_norm_update_stats(rows, *_constants(rows, 0, 1), 0.0)
        means, variances = means.view(-1, channels), variances.view(-1, channels)
        mean, variance = means.mean(0), variances.mean(0) + means.var(0, correction=0)
        found.append((mean, variance))
        gain = (variance + eps).rsqrt() if weight is None else (variance + eps).rsqrt() * weight
        _affine(rows, gain, -mean * gain if bias is None else bias - mean * gain, target)
    return out, *(torch.stack(part) for part in zip(*found, strict=True))


def _sums(rows: Tensor, grad: Tensor, mean: Tensor, variance: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``sum(y x^)`` and ``sum(y)`` of a sample, (C,) each: what its norm's gain and shift get."""
    channels = len(mean)
    together = rows.shape[1] // channels
    (ones,) = _constants(rows, 1)
    _, products, totals = torch.ops.aten.native_batch_norm_backward(
        grad, rows, ones, mean.repeat(together), variance.repeat(together), None, None, False, eps, (False, True, True)
    )
    return products.view(-1, channels).sum(0), totals.view(-1, channels).sum(0)


def _affine(rows: Tensor, gain: Tensor, shift: Tensor | None, out: Tensor) -> Tensor:
    """``gain x + shift`` into ``out``, computed as the norm with mean 0 and variance 1 that it is."""
    together = rows.shape[1] // len(gain)
    zeros, ones = _constants(rows, 0, 1)
    unused = zeros.new_empty(0)
    torch.ops.aten.native_batch_norm.out(
        rows, gain.repeat(together), None if shift is None else shift.repeat(together), zeros, ones, False, 0.0, 0.0,
        out=out, save_mean=unused, save_invstd=unused.clone(),
    )  # fmt: skip
    return out
