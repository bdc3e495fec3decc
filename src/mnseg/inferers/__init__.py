"""Faster or more careful roads to the answer that MONAI's sliding window gives."""

from mnseg.inferers.autocast import AutocastInferer
from mnseg.inferers.bfloat16 import BFloat16Inferer
from mnseg.inferers.flips import FlipInferer
from mnseg.inferers.openvino import OpenVINOInferer

__all__ = ["AutocastInferer", "BFloat16Inferer", "FlipInferer", "OpenVINOInferer"]
