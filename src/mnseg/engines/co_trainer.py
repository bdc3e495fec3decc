"""The M&N trainer: a 2D and a 3D network, first on labels alone, then teaching each other."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from mnseg.distributed import gather, share_buffers, unwrap, without_exchange
from mnseg.engines.micro_batches import MicroBatches
from mnseg.engines.mixing import BoxMix
from mnseg.engines.precision import amp_dtype_of, prepare_for
from mnseg.engines.slice_draw import draw_slices
from mnseg.engines.soundness import (
    NonFiniteLossError,
    clip_gradient,
    fetch,
    raise_errors_again,
    require_finite_weights,
)
from mnseg.engines.stages import ROLES, Role, stage_of, student_of, teachers_of
from mnseg.errors import UserError
from mnseg.losses import CoTrainingLoss, LossParts
from mnseg.losses.reduction import joint_count

__all__ = ["CoTrainer"]

logger = logging.getLogger(__name__)


class CoTrainer(SupervisedTrainer):
    """Iterative co-training of a 3D and a 2D network through pseudo-labels (M&N, Yeung et al., MLMI 2025, Sec. 2).

    Stage 1 (epochs ``1 .. stage_1_epochs``): both networks learn every labeled batch, independently (Eq. 1).
    Stage 2, counted from 1: in odd epochs the 2D network teaches and the 3D network learns (Eq. 2-6), in even epochs
    the other way round (Eq. 7-9). The teacher runs in eval mode without gradient and gives its softmax as soft
    pseudo-label; the student's loss is Eq. 5.

    A batch is what ``collate_mixed`` gives: ``image`` ``(B, C, H, W, D)``, labeled patches first, ``label``
    ``(b_l, 1, H, W, D)``, ``case`` names, and ``ignored`` ``(b_l, K)`` where a label leaves classes undrawn.

    Published on ``engine.state`` at the start of every epoch: ``stage`` (1 or 2), ``stage_epoch`` (from 1),
    ``student`` ("both", "3d", "2d"); during the run ``unlabeled_seen`` (patches so far). ``engine.state.output`` holds
    the losses as floats: ``loss_labeled_3d``, ``loss_unlabeled_3d``, ``loss_labeled_2d``, ``loss_unlabeled_2d``.

    A ``SupervisedTrainer`` of ``network`` to all of MONAI that asks for one, such as ``monai.fl``'s ``MonaiAlgo``.

    Args:
        device: where to train.
        max_epochs: epochs of both stages together.
        stage_1_epochs: epochs on labels alone.
        train_data_loader: yields the batches; its batch sampler's length must be ``epoch_length``.
        network: the 3D network ``g``, ``(B, C, H, W, D) -> (B, K, H, W, D)`` logits; both networks may be wrapped in
            ``DistributedDataParallel``: losses are then those of all processes' batches together.
        network_2d: the 2D network ``f``, lifted to the same signature by ``SliceNetwork``.
        optimizer: of ``network``.
        optimizer_2d: of ``network_2d``.
        loss: Eq. 5.
        roles: "alternate" (the method), or "fixed_teacher": ``f`` stays as stage 1 left it and only ``g`` learns in
            stage 2 (the paper's ablation without iterative co-training), or "mean_teacher": ``teacher_3d``, which must
            be a moving average of ``g``, teaches both, or "joint_teacher": the mean of both networks' pseudo-labels
            teaches both, or "distillation": in stage 2 ``teacher_3d``, which must be given, teaches ``g``, and ``f``
            stays as it is.
        teacher_3d: network that teaches in place of ``network``, say its moving average.
        micro_batch_size: at most so many patches pass a network at once; gradients are accumulated over the rest.
            None: the whole batch at once; "auto": the whole batch, and where a GPU's memory ends fewer patches from
            then on, as many as each network needs (of several processes: the whole batch). Cross-entropy and
            divergence do not change by it (with ``max_entropy`` the divergence does: each part is a mean over its own
            certain voxels), the Dice terms are then sums over each part.
        slice_stride: the 2D network learns from every so many-th slice of a patch, with a random offset each step; as a
            teacher it always sees all slices. Neighboring slices are much alike, so that its gradient hardly changes
            while its step costs ``slice_stride`` times less. 1: all slices (the paper).
        mix: exchanges voxels between labeled and unlabeled patches of a student's batch, behind the teacher; None: no.
        amp_dtype: None (full precision), "bfloat16", "float16", or "auto": bfloat16 where the device has instructions
            for it.
        max_grad_norm: gradients are clipped to this norm; None: not clipped.
        epoch_length: batches an epoch.
        train_handlers: handlers, attached in this order.

    Raises:
        UserError: for settings that contradict each other.
        NonFiniteLossError: while running, naming step and cases.
    """

    def __init__(
        self,
        device: torch.device | str,
        max_epochs: int,
        stage_1_epochs: int,
        train_data_loader: DataLoader,
        network: nn.Module,
        network_2d: nn.Module,
        optimizer: Optimizer,
        optimizer_2d: Optimizer,
        loss: CoTrainingLoss | None = None,
        roles: Literal["alternate", "fixed_teacher", "mean_teacher", "joint_teacher", "distillation"] = "alternate",
        teacher_3d: nn.Module | None = None,
        micro_batch_size: int | Literal["auto"] | None = None,
        slice_stride: int = 1,
        mix: BoxMix | None = None,
        amp_dtype: str | None = None,
        max_grad_norm: float | None = None,
        epoch_length: int | None = None,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        _check_settings(max_epochs, stage_1_epochs, roles)
        if roles == "mean_teacher" and teacher_3d in (None, unwrap(network)):
            raise UserError("roles 'mean_teacher' needs an average: set ema_momentum (say 0.01) and ema_teacher true.")
        if roles == "distillation" and teacher_3d in (None, unwrap(network)):
            raise UserError("roles 'distillation' needs a teacher: add configs/recipes/distillation.json.")
        if slice_stride < 1:
            raise UserError(f"slice_stride is {slice_stride}; it must be at least 1 (every slice).")
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            network=network,
            optimizer=optimizer,
            loss_function=CoTrainingLoss() if loss is None else loss,
            epoch_length=epoch_length,
            decollate=False,
        )
        self.stage_1_epochs = stage_1_epochs
        self.networks = {"3d": network, "2d": network_2d}
        self.optimizers = {"3d": optimizer, "2d": optimizer_2d}
        # Teachers need no gradient, so none of what DistributedDataParallel adds.
        self.teachers = {"3d": unwrap(network if teacher_3d is None else teacher_3d), "2d": unwrap(network_2d)}
        self.loss = self.loss_function
        self.roles = roles
        self.micro_batches = {key: _micro_batches(micro_batch_size, key, part) for key, part in self.networks.items()}
        self.slice_stride = slice_stride
        self.mix = mix
        self.amp_dtype = amp_dtype_of(amp_dtype, self.state.device)
        if amp_dtype == "auto":
            logger.info("amp_dtype auto: this device computes in %s", self.amp_dtype or torch.float32)
        prepare_for(self.amp_dtype, self.state.device, [*self.networks.values(), *self.teachers.values()])
        self.max_grad_norm = max_grad_norm
        # Loss scaling is for float16, whose range is small; bfloat16 has float32's.
        scaling = self.amp_dtype is torch.float16
        self.scalers = {name: torch.amp.GradScaler(self.state.device.type, enabled=scaling) for name in self.networks}
        self.state.unlabeled_seen = 0
        self.on_epoch_started(self)
        self.add_event_handler(Events.EPOCH_STARTED, self.on_epoch_started)
        # A step's loss and gradient show what it spoils, not what was spoiled before: fused ReLU6 take NaN for 0.
        self._weights_seen = False
        self.add_event_handler(Events.STARTED, lambda _: setattr(self, "_weights_seen", False))
        self.add_event_handler(Events.EPOCH_STARTED, self._require_finite_weights)
        # Before any handler measures or saves: a continued run gives the first process's statistics to all.
        self.add_event_handler(Events.EPOCH_COMPLETED, lambda _: share_buffers(list(self.networks.values())))
        self._register_handlers(train_handlers or [])
        raise_errors_again(self)

    def on_epoch_started(self, engine: Trainer) -> None:
        """Publish the epoch's stage, its number within the stage, and who learns."""
        state = engine.state
        state.stage, state.stage_epoch = stage_of(max(state.epoch, 1), self.stage_1_epochs)
        state.student = student_of(state.stage, state.stage_epoch, self.roles)

    def _require_finite_weights(self, engine: Trainer) -> None:
        """In a run's first epoch: behind what loads weights when it starts."""
        if self._weights_seen:
            return
        for name in self.networks:
            require_finite_weights(self.networks[name], f"The {name.upper()} network")
            require_finite_weights(self.teachers[name], f"The {name.upper()} teacher")
        self._weights_seen = True

    def run(self) -> None:
        """Train, or continue from ``engine.state``."""
        super(Trainer, self).run()

    def autocast(self) -> torch.autocast:
        """The mixed-precision context that both networks run in."""
        return torch.autocast(self.state.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None)

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, float]:
        image = batchdata["image"].to(self.state.device, non_blocking=True)
        label = batchdata["label"].to(self.state.device, non_blocking=True)
        ignored = batchdata["ignored"].to(self.state.device) if "ignored" in batchdata else None
        student: Role = self.state.student
        if student == "both":
            losses = self._update("3d", image, label, None, ignored) | self._update("2d", image, label, None, ignored)
        else:
            num_unlabeled = image.shape[0] - label.shape[0]
            pseudo = self._pseudo_labels(teachers_of(student, self.roles), image[label.shape[0] :])
            if pseudo is not None and self.mix is not None:
                image, pseudo = self.mix(image, label, pseudo, ignored)
            losses = self._update(student, image, label, pseudo, ignored)
            self.state.unlabeled_seen += joint_count(num_unlabeled, image.device)
        return losses

    def _pseudo_labels(self, teachers: Sequence[Role], image: Tensor) -> Tensor | None:
        """Mean of the teachers' pseudo-labels ``(b_u, K, H, W, D)``; None where there is nothing to teach."""
        if not len(image):
            return None
        return torch.stack([self._teach(name, image) for name in teachers]).mean(dim=0)

    @torch.no_grad()
    def _teach(self, name: str, image: Tensor) -> Tensor:
        """Soft pseudo-labels ``(b_u, K, H, W, D)`` (Eq. 2 and 7)."""
        teacher = self.teachers[name].eval()

        def predict(parts: Sequence[slice]) -> Tensor:
            with self.autocast():
                return torch.cat([teacher(image[part]) for part in parts]).float().softmax(dim=1)

        return self.micro_batches[name].run(predict, image.shape[0])

    def _update(
        self, name: str, image: Tensor, label: Tensor, pseudo: Tensor | None, ignored: Tensor | None = None
    ) -> dict[str, float]:
        """One optimizer step of one network (Eq. 6 and 9); returns its losses."""
        network, optimizer, scaler = self.networks[name].train(), self.optimizers[name], self.scalers[name]
        slices = draw_slices(unwrap(network), image, self.slice_stride) if name == "2d" else {}
        if slices:
            label, pseudo = (
                None if part is None else part.index_select(2 + slices["axis"], slices["positions"])
                for part in (label, pseudo)
            )
        # An attempt that failed has moved the running statistics of batch norms.
        before = [buffer.clone() for buffer in network.buffers()] if self.micro_batches[name].may_halve else []

        def gradients(parts: Sequence[slice]) -> tuple[dict[str, Tensor], Counter[str]]:
            for buffer, value in zip(network.buffers(), before, strict=False):
                buffer.copy_(value)
            optimizer.zero_grad(set_to_none=True)
            return self._gradients(name, parts, image, label, pseudo, ignored, slices)

        sums, counts = self.micro_batches[name].run(gradients, image.shape[0])
        scaler.unscale_(optimizer)
        parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        norm = clip_gradient(parameters, self.max_grad_norm)
        found = self._fetch(sums | {"norm": norm})
        self._require_finite(found, name)
        scaler.step(optimizer)
        scaler.update()
        return {f"loss_{kind}_{name}": found[kind] / count for kind, count in counts.items()}

    def _gradients(
        self, name: str, parts: Sequence[slice], image: Tensor, label: Tensor, pseudo: Tensor | None,
        ignored: Tensor | None, slices: Mapping[str, Any],
    ) -> tuple[dict[str, Tensor], Counter[str]]:  # fmt: skip
        """Add up the gradients of a batch's parts; returns its losses, each times its patches, and these numbers."""
        network, batch_size, b_l = self.networks[name], image.shape[0], label.shape[0]
        sums: dict[str, Tensor] = {}
        counts: Counter[str] = Counter()
        for part in parts:
            part_label = label[part.start : min(part.stop, b_l)]
            part_ignored = None if ignored is None else ignored[part.start : part.start + len(part_label)]
            part_pseudo = None if pseudo is None else pseudo[max(part.start - b_l, 0) : max(part.stop - b_l, 0)]
            with without_exchange(network, part.stop < batch_size):
                with self.autocast():
                    logits = network(image[part], **slices)
                loss = self.loss(logits, part_label, part_pseudo, part_ignored)
                share = (part.stop - part.start) / batch_size
                self.scalers[name].scale(loss.total * share).backward()
            _accumulate(sums, counts, loss)
            del logits, loss  # or they would be held through the next part's pass
        return sums, counts

    def _fetch(self, scalars: Mapping[str, Tensor]) -> dict[str, float]:
        """What a step looks at, all at once; the only place where the host waits for the device."""
        return fetch(scalars)

    def _require_finite(self, found: Mapping[str, float], name: str) -> None:
        """Refuse a loss or a gradient that would spoil the weights, before the optimizer's step."""
        broken = {what: value for what, value in found.items() if not math.isfinite(value)}
        if self.amp_dtype is torch.float16:  # there the scaler skips a step without a gradient and lowers its scale
            broken.pop("norm", None)
        if not broken:
            return
        what, value = "gradient" if set(broken) == {"norm"} else "loss", next(iter(broken.values()))
        # Loss and gradient are the joint batch's, so all processes come here, each with its part of the batch.
        cases = ", ".join(str(case) for cases in gather(list(self.state.batch["case"])) for case in cases)
        raise NonFiniteLossError(
            f"The {name.upper()} network's {what} is {value} at epoch {self.state.epoch}, iteration "
            f"{self.state.iteration} (cases {cases}): look at these scans with `mnseg check`, lower the learning rate, "
            "or set amp_dtype to null."
        )


def _accumulate(sums: dict[str, Tensor], counts: Counter[str], loss: LossParts) -> None:
    """Add the parts of a loss, each times its patches, where they are computed."""
    for kind, part, number in (
        ("labeled", loss.labeled, loss.num_labeled), ("unlabeled", loss.unlabeled, loss.num_unlabeled)
    ):  # fmt: skip
        if part is not None:
            sums[kind] = sums.get(kind, 0) + part.detach().float() * number
            counts[kind] += number


def _micro_batches(size: int | str | None, name: str, network: nn.Module) -> MicroBatches:
    """Of one of the networks; processes that wait for each other's gradients cannot each take parts of their own."""
    if size == "auto" and isinstance(network, nn.parallel.DistributedDataParallel):
        logger.info("micro_batch_size auto: of several processes each passes its whole batch; a number bounds it")
        size = None
    return MicroBatches(size, f"patches in the {name.upper()} network")


def _check_settings(max_epochs: int, stage_1_epochs: int, roles: str) -> None:
    if not 0 <= stage_1_epochs <= max_epochs:
        raise UserError(f"stage_1_epochs is {stage_1_epochs}; it must lie between 0 and max_epochs ({max_epochs}).")
    if roles not in ROLES:
        raise UserError(f"roles is '{roles}'; it must be one of {', '.join(ROLES)}.")
