"""The M&N trainer."""

from mnseg.engines.co_trainer import CoTrainer, NonFiniteLossError
from mnseg.engines.dice_evaluator import dice_evaluator

__all__ = ["CoTrainer", "NonFiniteLossError", "dice_evaluator"]
