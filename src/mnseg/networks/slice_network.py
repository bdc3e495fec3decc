"""SliceNetwork: a 2D segmentation network that reads volumes, slice by slice."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint as run_checkpointed

from mnseg.errors import UserError
from mnseg.networks.fast_convolution import can_clamp

__all__ = ["SliceNetwork"]

BatchNorm = nn.modules.batchnorm._BatchNorm


class SliceNetwork(nn.Module):
    """Lifts a 2D network ``f`` to volumes: ``P = concat_d f(S^d)`` (Eq. 2 of M&N).

    Volumes (B, C, H, W, D) -> logits (B, K, H, W, D) at full resolution. Each slice is brought to what the network
    saw in its own training: a standardised voxel x (zero mean, unit variance, as the data pipeline makes it) becomes
    ``x01 = x * intensity_scale + intensity_shift``, then ``(x01 - mean) / std`` per channel. The defaults give slices
    the mean (0.45) and spread (0.225) of grey natural images in [0, 1]; nothing is clamped. For volumes that are
    already scaled to [0, 1] set ``intensity_scale=1, intensity_shift=0``.

    Args:
        network_2d: (N, 3, h, w) -> logits (N, K, h', w') of any stride, or an object with ``.logits``
            (MobileNetV2 returns ceil(h / 8), SegFormer ceil(h / 4), UperNet h).
        num_classes: K, checked against the network's output.
        mean, std: per RGB channel, for x in [0, 1].
        slice_axis: spatial axis (0, 1, 2 of H, W, D) along which slices are taken; the through-plane axis. Several, as
            (2, 0, 1): slices are taken along each, and the probabilities are the mean over the axes.
        slice_scale: slices are enlarged bilinearly by this factor first, so that small slices keep enough logits
            (80 x 64 at stride 8 leaves 10 x 8).
        slice_context: 1 repeats a slice as three channels, 3 gives slices d-1, d, d+1 (edges repeated).
        chunk_size: at most this many slices go through the network at once.
        min_size, size_multiple: slices are padded at the end (edge values) to at least / to a multiple of this.
        image_size: edge of the square that the network insists on. Slices are resized, both axes alike, so that their
            longer side has this size, then padded to the square; slice_scale and min_size play no part. None: any
            size.
        intensity_scale, intensity_shift: see above.
        checkpoint: recompute each chunk's activations in the backward pass: memory is then bounded by chunk_size in
            training too, for about a third more time.

    Raises:
        UserError: an argument out of range, or an input with a number of channels that cannot become RGB.
    """

    def __init__(
        self,
        network_2d: nn.Module,
        num_classes: int,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        slice_axis: int | Sequence[int] = 2,
        slice_scale: float = 1.0,
        slice_context: int = 1,
        chunk_size: int = 32,
        min_size: int = 32,
        size_multiple: int | None = None,
        image_size: int | None = None,
        intensity_scale: float = 0.225,
        intensity_shift: float = 0.45,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        axes = (slice_axis,) if isinstance(slice_axis, int) else tuple(slice_axis)
        _require(
            len(axes) > 0 and len({*axes}) == len(axes) and {*axes} <= {0, 1, 2},
            f"slice_axis is {slice_axis}: give 0, 1 or 2 (H, W or D), or a list of different ones.",
        )
        _require(slice_scale > 0, f"slice_scale is {slice_scale}: give a number above 0.")
        _require(slice_context in (1, 3), f"slice_context is {slice_context}: give 1 or 3.")
        _require(chunk_size >= 1, f"the slice chunk is {chunk_size}: give at least 1 slice.")
        self.network_2d = network_2d
        self.num_classes = num_classes
        self.slice_axes = axes
        self.slice_scale = float(slice_scale)
        self.slice_context = slice_context
        self.chunk_size = chunk_size
        self.min_size = min_size
        self.size_multiple = size_multiple
        self.image_size = image_size
        self.checkpoint = checkpoint
        # One affine map per channel: ((x * scale + shift) - mean) / std.
        mean_t, std_t = torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)
        self.register_buffer("input_gain", (intensity_scale / std_t).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("input_offset", ((intensity_shift - mean_t) / std_t).view(1, 3, 1, 1), persistent=False)

    def forward(
        self, x: torch.Tensor, positions: torch.Tensor | None = None, axis: int | None = None
    ) -> torch.Tensor:
        """Logits (B, K, H, W, D), float32, of a volume (B, C, H, W, D).

        Args:
            x: the volume.
            positions: n indices along ``axis``: only these slices pass the network, each with its true neighbors as
                context, and the logits have n slices there.
            axis: slices are taken along this axis alone; None: along all of ``slice_axis``. With several, the result is
                the logarithm of the mean probability.
        """
        if x.ndim != 5:
            raise UserError(f"SliceNetwork got a tensor of shape {tuple(x.shape)}: it reads (B, C, H, W, D).")
        x = x.as_tensor() if hasattr(x, "as_tensor") else x  # MONAI's MetaTensor slows every operation
        channels = x.shape[1]
        _require(
            channels == 1 or (channels == 3 and self.slice_context == 1),
            f"The 2D network needs 1 or 3 input channels (1 with slice_context 3), the volume has {channels}: "
            "set in_channels or choose channels in the data.",
        )
        if axis is not None or len(self.slice_axes) == 1:
            return self._along(self.slice_axes[0] if axis is None else axis, x, positions)
        parts = [self._along(each, x, None).log_softmax(dim=1) for each in self.slice_axes]
        return torch.stack(parts).logsumexp(dim=0) - math.log(len(parts))

    def _along(self, axis: int, x: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
        """Logits from the slices along one axis."""
        volume = x.movedim(2 + axis, 1)  # (B, D, C, h, w)
        batch, depth = volume.shape[:2]
        if positions is None:
            positions = torch.arange(depth, device=x.device)
        count = len(positions)
        indices = torch.arange(batch * count, device=x.device)
        # Chunks differ by one slice at most, so no chunk of a single slice is left over for a batch norm to fail on.
        chunks = indices.tensor_split(math.ceil(len(indices) / self.chunk_size))
        recompute = self.checkpoint and self.training and torch.is_grad_enabled()
        logits = []
        for chunk in chunks:
            slices = self._take(volume, chunk // count, positions[chunk % count])
            if recompute:
                logits.append(
                    run_checkpointed(self._segment, slices, use_reentrant=False, context_fn=self._recompute_contexts)
                )
            else:
                logits.append(self._segment(slices))
        out = torch.cat(logits) if len(logits) > 1 else logits[0]
        out = out.reshape(batch, count, *out.shape[1:])  # (B, D, K, h, w)
        return out.movedim(1, 2 + axis).contiguous()

    def _take(self, volume: torch.Tensor, case: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        """Slices (n, 1 or 3, h, w) at positions d of the given cases."""
        if self.slice_context == 1:
            return volume[case, d]
        last = volume.shape[1] - 1
        return torch.cat([volume[case, (d + shift).clamp(0, last)] for shift in (-1, 0, 1)], dim=1)

    def _segment(self, slices: torch.Tensor) -> torch.Tensor:
        """Logits (n, K, h, w) of slices (n, 1 or 3, h, w)."""
        size = slices.shape[-2:]
        x, used = self._fit(slices.float())
        x = x * self.input_gain + self.input_offset  # a grey slice becomes three channels here
        # Pooled batch norms cannot take statistics of a single slice.
        lone = _batch_norm_eval(self.network_2d) if len(x) == 1 and self.training else contextlib.nullcontext()
        with lone:
            out = self.network_2d(x)
        logits = (out.logits if hasattr(out, "logits") else out).float()
        if can_clamp(x):  # a trainer's ReLU6 may take NaN for 0: what is no number must not come out as an answer
            logits = logits + 0 * x.detach().sum((1, 2, 3), keepdim=True)
        _require(
            logits.shape[1] == self.num_classes,
            f"The 2D network returns {logits.shape[1]} classes, num_classes is {self.num_classes}: make them equal.",
        )
        if used is not None:  # padded: go to the padded size, then drop the padding
            logits = _resize(logits, x.shape[-2:])[..., : used[0], : used[1]]
        return _resize(logits, size)

    def _fit(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int] | None]:
        """Resize, then pad to what the network takes; the size before padding, None if not padded."""
        edge = self.image_size
        scale = self.slice_scale if edge is None else edge / max(x.shape[-2:])
        x = _resize(x, [max(1, round(s * scale)) for s in x.shape[-2:]])
        h, w = x.shape[-2:]
        multiple = self.size_multiple or 1
        padded = (edge or math.ceil(max(s, self.min_size) / multiple) * multiple for s in (h, w))
        pad_h, pad_w = (wanted - s for wanted, s in zip(padded, (h, w), strict=True))
        if pad_h == 0 and pad_w == 0:
            return x, None
        return F.pad(x, (0, pad_w, 0, pad_h), mode="replicate"), (h, w)

    def _recompute_contexts(self):
        """For checkpointing: the second forward must not move the running statistics a second time."""
        return contextlib.nullcontext(), _batch_norm_still(self.network_2d)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _resize(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


@contextlib.contextmanager
def _batch_norm_eval(network: nn.Module) -> Iterator[None]:
    """Batch norms use their running statistics inside this context."""
    training = [m for m in network.modules() if isinstance(m, BatchNorm) and m.training]
    for m in training:
        m.training = False
    try:
        yield
    finally:
        for m in training:
            m.training = True


@contextlib.contextmanager
def _batch_norm_still(network: nn.Module) -> Iterator[None]:
    """Batch norms normalise by the batch but leave their running statistics as they are."""
    tracking = [m for m in network.modules() if isinstance(m, BatchNorm) and m.training and m.track_running_stats]
    saved = [(m, m.momentum, m.num_batches_tracked) for m in tracking]
    for m in tracking:
        m.momentum = 0.0
        m.num_batches_tracked = m.num_batches_tracked.clone() if m.num_batches_tracked is not None else None
    try:
        yield
    finally:
        for m, momentum, count in saved:
            m.momentum, m.num_batches_tracked = momentum, count
