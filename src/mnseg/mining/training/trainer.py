"""The trainer of the small network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer, Trainer
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from mnseg.engines.soundness import NonFiniteLossError, clip_gradient, fetch, raise_errors_again
from mnseg.losses import SupervisedLoss
from mnseg.mining.training.schedules import Schedule

__all__ = ["MiningTrainer"]


class MiningTrainer(SupervisedTrainer):
    """Train on labels and mined labels: ``L = L_s(labeled) + w(epoch) L_s(mined)``, ``L_s`` being M&N's Eq. 1.

    (The equations of Mao et al. were not at hand; this is the usual form.) A batch is what ``collate_mixed`` gives:
    ``image`` (B, C, H, W) and ``label`` (B, 1, H, W), the ``state.num_unlabeled`` mined ones last.

    ``engine.state`` has what the handlers of co-training expect: ``stage`` (1: labels only, 2: mined ones too),
    ``student`` ("2d"), ``unlabeled_seen``; and ``output``, the losses ``loss_labeled_2d`` and ``loss_unlabeled_2d``.

    Args:
        device: where to train.
        max_epochs: epochs.
        schedule: when is mined, and w.
        train_data_loader: yields the batches.
        network: (B, C, H, W) -> (B, K, H, W) logits, alone or in a list (U-Net++).
        optimizer: of the network.
        loss: ``L_s``.
        max_grad_norm: gradients are clipped to this norm; None: not clipped.
        epoch_length: batches an epoch.
        train_handlers: handlers, attached in this order.

    Raises:
        NonFiniteLossError: while running, naming epoch and cases.
    """

    def __init__(
        self,
        device: torch.device | str,
        max_epochs: int,
        schedule: Schedule,
        train_data_loader: DataLoader,
        network: nn.Module,
        optimizer: Optimizer,
        loss: nn.Module | None = None,
        max_grad_norm: float | None = None,
        epoch_length: int | None = None,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            network=network,
            optimizer=optimizer,
            loss_function=SupervisedLoss() if loss is None else loss,
            epoch_length=epoch_length,
            decollate=False,
        )
        self.schedule = schedule
        self.max_grad_norm = max_grad_norm
        self.scalers: dict[str, Any] = {}  # TrainingState saves those of mixed precision, of which there is none
        self.state.unlabeled_seen = self.state.num_unlabeled = 0
        self.state.student = "2d"
        self.on_epoch_started(self)
        self.add_event_handler(Events.EPOCH_STARTED, self.on_epoch_started)
        self._register_handlers(train_handlers or [])
        raise_errors_again(self)

    def on_epoch_started(self, engine: Trainer) -> None:
        """Publish the epoch's stage."""
        engine.state.stage = self.schedule.stage(max(engine.state.epoch, 1))

    def run(self) -> None:
        """Train, or continue from ``engine.state``."""
        super(Trainer, self).run()

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, float]:
        image, label = (batchdata[key].to(self.state.device, non_blocking=True) for key in ("image", "label"))
        num_labeled = len(image) - self.state.num_unlabeled
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.network(image)
        logits = logits[-1] if isinstance(logits, (list, tuple)) else logits
        losses = {"loss_labeled_2d": self.loss_function(logits[:num_labeled], label[:num_labeled])}
        total = losses["loss_labeled_2d"]
        if self.state.num_unlabeled:
            losses["loss_unlabeled_2d"] = self.loss_function(logits[num_labeled:], label[num_labeled:])
            total = total + self.schedule.weight(self.state.epoch) * losses["loss_unlabeled_2d"]
        total.backward()
        norm = clip_gradient(self.network.parameters(), self.max_grad_norm)
        found = fetch(losses | {"norm": norm})
        self._require_finite(found)
        self.optimizer.step()
        self.state.unlabeled_seen += self.state.num_unlabeled
        return {name: found[name] for name in losses}

    def _require_finite(self, found: Mapping[str, float]) -> None:
        broken = {name: value for name, value in found.items() if not math.isfinite(value)}
        if broken:
            what = "gradient" if set(broken) == {"norm"} else "loss"
            raise NonFiniteLossError(
                f"The {what} is {next(iter(broken.values()))} at epoch {self.state.epoch}, iteration "
                f"{self.state.iteration} (cases {', '.join(self.state.batch['case'])}): look at these images, or lower "
                "the learning rate."
            )
