"""The M&N trainer."""

from mnseg.engines.co_trainer import CoTrainer, NonFiniteLossError

__all__ = ["CoTrainer", "NonFiniteLossError"]
