"""Training of a small 2D network on labels and on mined pseudo-labels."""

from mnseg.mining.training.data import MinedDataset, MinedLabels, require_sound_pictures
from mnseg.mining.training.handler import MiningHandler
from mnseg.mining.training.mine_folder import mine_folder
from mnseg.mining.training.predict import Predictor
from mnseg.mining.training.schedules import Schedule
from mnseg.mining.training.trainer import MiningTrainer

__all__ = [
    "MinedDataset",
    "MinedLabels",
    "MiningHandler",
    "MiningTrainer",
    "Predictor",
    "Schedule",
    "mine_folder",
    "require_sound_pictures",
]
