"""Equations 1, 4 and 5 of the M&N paper."""

from mnseg.losses.co_training import CoTrainingLoss, LossParts
from mnseg.losses.pseudo_label import PseudoLabelLoss
from mnseg.losses.supervised import SupervisedLoss

__all__ = ["CoTrainingLoss", "LossParts", "PseudoLabelLoss", "SupervisedLoss"]
