"""The M&N trainer."""

from mnseg.engines.co_trainer import CoTrainer
from mnseg.engines.dice_evaluator import dice_evaluator
from mnseg.engines.soundness import NonFiniteLossError

__all__ = ["CoTrainer", "NonFiniteLossError", "dice_evaluator"]
