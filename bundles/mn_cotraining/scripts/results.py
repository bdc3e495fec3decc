"""What an evaluation leaves, and how a run ends that is refused midway.

Run by path from inference.json and evaluate.json; the same file in both bundles. Needs monai and ignite.
"""

from pathlib import Path

from ignite.engine import Events
from monai.handlers import StatsHandler


class PlainStatsHandler(StatsHandler):
    """``StatsHandler`` that lets a refusal end the run by its sentence, without a traceback."""

    def exception_raised(self, engine, e):
        if isinstance(e, SystemExit):
            raise e
        super().exception_raised(engine, e)


def earlier_results(folder):
    """Files that an evaluation left in a folder."""
    own = ("evaluation.json", "metrics.csv", "val_*_raw.csv", "val_*_summary.csv", "field_metrics.csv",
           "field_summary.json", "predictions/*_pred.*")  # fmt: skip
    return [path for pattern in own for path in Path(folder).glob(pattern)]


class ClearEarlierResults:
    """Handler: when the evaluation starts, those of an earlier one go, whose masks would pass for the new figures'."""

    def __init__(self, folder):
        self.folder = folder

    def attach(self, engine):
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine):
        for path in earlier_results(self.folder):
            path.unlink()
