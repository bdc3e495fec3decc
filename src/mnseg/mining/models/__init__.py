"""Promptable models, one family a file."""

from mnseg.mining.models.build import build_promptable
from mnseg.mining.models.random_walker import RANDOM_WALKER, RandomWalker

__all__ = ["RANDOM_WALKER", "RandomWalker", "build_promptable"]
