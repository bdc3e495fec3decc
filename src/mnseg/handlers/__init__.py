"""Ignite handlers: attach(engine) and __call__, one a file."""

from mnseg.handlers.checkpoint import CheckpointHandler
from mnseg.handlers.co_validation import CoValidationHandler
from mnseg.handlers.epoch_seed import EpochSeedHandler
from mnseg.handlers.history import HistoryHandler
from mnseg.handlers.lr_schedule import TwoStageLRHandler
from mnseg.handlers.lrg_sampling import LRGSamplingHandler
from mnseg.handlers.model_overlay import ModelOverlayHandler
from mnseg.handlers.moving_average import MovingAverageHandler
from mnseg.handlers.progress import ProgressHandler
from mnseg.handlers.pseudo_foreground import PseudoForegroundHandler
from mnseg.handlers.recalibration import RecalibrationHandler
from mnseg.handlers.resume import ResumeHandler
from mnseg.handlers.save_model import SaveModelHandler
from mnseg.handlers.time_limit import TimeLimitHandler
from mnseg.handlers.warm_start import WarmStartHandler

__all__ = [
    "CheckpointHandler",
    "CoValidationHandler",
    "EpochSeedHandler",
    "HistoryHandler",
    "LRGSamplingHandler",
    "ModelOverlayHandler",
    "MovingAverageHandler",
    "ProgressHandler",
    "PseudoForegroundHandler",
    "RecalibrationHandler",
    "ResumeHandler",
    "SaveModelHandler",
    "TimeLimitHandler",
    "TwoStageLRHandler",
    "WarmStartHandler",
]
