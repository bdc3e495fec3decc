"""The M&N trainer as ``MonaiAlgo`` wants it: one round at a time."""

from __future__ import annotations

from typing import Any

from monai.fl.utils.constants import FlStatistics

from mnseg.engines.co_trainer import CoTrainer
from mnseg.engines.training_state import TrainingState
from mnseg.federated.shared_weights import SharedWeights

__all__ = ["FederatedTrainer"]


class FederatedTrainer(CoTrainer):
    """``CoTrainer`` that trains a round at a time and shares what ``shared`` holds.

    Epochs are counted over all rounds, so stages, learning rates and b_u follow the one schedule. Optimizers and
    pseudo-foreground stay at the site from round to round.

    A stopped site continues from its checkpoint. It is read here, once, since a ``ResumeHandler`` would read it again
    in every round, over the global weights that the round starts from.

    Args:
        shared: what the site sends and receives; becomes ``network``, which ``MonaiAlgo`` reads and writes.
        num_labeled: the site's labeled scans, its weight in the average.
        training_state: the checkpoint, written at the end of a round.
        resume: False: begin anew although there is a checkpoint.
        max_epochs: of the first round; ``MonaiAlgo`` sets it.
        stage_1_epochs: epochs on labels alone.
        settings: of ``CoTrainer``.
    """

    def __init__(
        self,
        shared: SharedWeights,
        num_labeled: int,
        training_state: TrainingState,
        resume: bool = True,
        *,
        max_epochs: int,
        stage_1_epochs: int,
        **settings: Any,
    ) -> None:
        # A round may be shorter than stage 1, which CoTrainer refuses of a whole run.
        super().__init__(max_epochs=max(max_epochs, stage_1_epochs), stage_1_epochs=stage_1_epochs, **settings)
        self.network = shared
        self.num_labeled = num_labeled
        if resume and training_state.path.exists():
            training_state.load(self)

    def get_stats(self, *names: str) -> dict[str, Any]:
        """MONAI's, and the number of labeled scans."""
        return {**super().get_stats(*names), FlStatistics.DATA_COUNT: self.num_labeled}
