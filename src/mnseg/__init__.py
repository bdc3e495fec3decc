"""mnseg: M&N co-training of a 2D natural-image network and a 3D network for few-label 3D segmentation."""

from mnseg._version import __version__

__all__ = ["__version__"]
