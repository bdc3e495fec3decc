"""EncoderDecoder2d: an image encoder with an appended decoder, the "ResUNet" of M&N for any backbone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.nets.flexible_unet import SegmentationHead, UNetDecoder
from torch import nn
from transformers import PreTrainedModel

from mnseg.networks.feature_maps import choose_feature_maps
from mnseg.networks.plain_pyramid import PlainPyramid

__all__ = ["EncoderDecoder2d"]

DECODER_CHANNELS = (256, 128, 64, 32, 16)


class EncoderDecoder2d(nn.Module):
    """Encoder of transformers, skip connections, decoder and head of MONAI's ``FlexibleUNet``.

    Images (N, 3, h, w) -> logits (N, K, h, w). Images are padded at the end (edge values) to a multiple of the largest
    stride; the padding is dropped from the logits.

    The decoder normalizes by groups: batch statistics of weights that are new would have to be learned while those of
    the pretrained encoder stand still, and a group norm also takes a single slice.

    Args:
        backbone: hands out feature maps of several strides, or of one (a plain vision transformer, whose maps then pass
            a :class:`mnseg.networks.plain_pyramid.PlainPyramid`). At most five maps are used.
        num_classes: K.

    Attributes:
        image_size: edge of the square that the encoder insists on, None when any size will do.

    Raises:
        UserError: the encoder's feature maps suit no decoder.
    """

    def __init__(self, backbone: PreTrainedModel, num_classes: int) -> None:
        super().__init__()
        maps = choose_feature_maps(backbone)
        self.image_size = maps.image_size
        self.backbone = backbone
        self.pyramid = PlainPyramid(maps.channels) if maps.is_plain else None
        channels = self.pyramid.channels if maps.is_plain else maps.channels
        self.multiple = 1 if maps.image_size else maps.strides[-1] * (2 if maps.is_plain else 1)
        widths = DECODER_CHANNELS[: len(channels)]
        self.decoder = UNetDecoder(
            spatial_dims=2,
            encoder_channels=(3, *channels),  # the image itself is no skip connection
            decoder_channels=widths,
            act=("relu", {"inplace": True}),
            norm=("group", {"num_groups": 8}),
            dropout=0.0,
            bias=False,
            upsample="nontrainable",
            pre_conv="default",
            interp_mode="nearest",
            align_corners=None,
            is_pad=True,
        )
        self.head = SegmentationHead(spatial_dims=2, in_channels=widths[-1], out_channels=num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        h, w = images.shape[-2:]
        x = F.pad(images, (0, -w % self.multiple, 0, -h % self.multiple), mode="replicate")
        maps = list(self.backbone(x).feature_maps)
        if self.pyramid is not None:
            maps = self.pyramid(maps)
        logits = self.head(self.decoder([x, *maps], skip_connect=len(maps) - 1))
        return F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)[..., :h, :w]
