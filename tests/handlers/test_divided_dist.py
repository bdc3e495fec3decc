"""Validation, pseudo-foreground and the datalist's check on two processes."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset
from monai.inferers import SimpleInferer
from monai.transforms import AsDiscreted

from mnseg.data.pseudo_foreground import PseudoForeground
from mnseg.distributed import from_main_process, gather, handlers_of_this_process, rank
from mnseg.engines import dice_evaluator
from mnseg.errors import UserError
from mnseg.handlers import (
    CheckpointHandler,
    CoValidationHandler,
    HistoryHandler,
    ModelOverlayHandler,
    ProgressHandler,
    PseudoForegroundHandler,
    ResumeHandler,
    SaveModelHandler,
)
from two_processes import run_both


class Threshold(torch.nn.Module):
    def forward(self, x):
        return torch.cat([-x, x], dim=1)


def scan(number: int) -> torch.Tensor:
    return torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(number))


def validate(process: int | None, cases: int) -> dict[str, float]:
    """Dice of a threshold against noisy labels; cases divided as multi_gpu_train.json does."""
    mine = range(cases) if process is None else range(process, cases, 2)
    items = [{"image": scan(i), "label": (scan(i) + 0.3 * scan(i + 100) > 0).to(torch.uint8)} for i in mine]
    evaluator = dice_evaluator(
        "cpu", DataLoader(Dataset(items), batch_size=1), Threshold(), SimpleInferer(),
        AsDiscreted(keys=["pred", "label"], argmax=[True, False], to_onehot=2),
    )  # fmt: skip
    empty = dice_evaluator("cpu", DataLoader(Dataset([]), batch_size=1), Threshold(), SimpleInferer(), lambda x: x)
    engine = SimpleNamespace(state=SimpleNamespace(epoch=1, max_epochs=1))
    CoValidationHandler({"val_dice_3d": evaluator, "pseudo_dice_3d": empty}, 1)(engine)
    return engine.state.validation


def refresh(process: int | None) -> tuple[dict, dict]:
    items = [{"image": scan(i), "case": f"c{i}"} for i in range(5)]
    store = PseudoForeground()
    engine = Engine(lambda e, b: None)
    engine.state.device, engine.state.epoch, engine.autocast = torch.device("cpu"), 3, contextlib.nullcontext
    handler = PseudoForegroundHandler(store, Dataset(items), range(5), Threshold(), SimpleInferer(), max_cases=3)
    handler.refresh(engine)
    handler.refresh(engine)
    return {case: indices.tolist() for case, indices in store.indices.items()}, store.refreshed


def fail_on_main(calls: list) -> None:
    calls.append(rank())
    raise UserError("the datalist is not sound")


def divided(process: int) -> dict:
    calls: list = []
    with pytest.raises(UserError, match="the datalist is not sound"):
        from_main_process(fail_on_main, calls)
    missing = SimpleNamespace(path=SimpleNamespace(exists=lambda: process == 0, parent=tempfile.mkdtemp()))
    with pytest.raises(UserError, match="is not there for all processes: set run_dir"):
        ResumeHandler(missing)(Engine(lambda *_: None))
    writers = (CheckpointHandler, HistoryHandler, ModelOverlayHandler, ProgressHandler, SaveModelHandler)
    handlers = [kind.__new__(kind) for kind in (*writers, ResumeHandler, CoValidationHandler)]
    return {
        "validation": {cases: validate(process, cases) for cases in (1, 3)},
        "refresh": refresh(process),
        "calls": calls,
        "result": from_main_process(lambda: {"rank": rank()}),
        "gathered": gather(process * 10),
        "handlers": [type(handler).__name__ for handler in handlers_of_this_process(handlers)],
        "logs": logging.getLogger().isEnabledFor(logging.ERROR) and logging.root.manager.disable < logging.ERROR,
    }


@pytest.fixture(scope="module")
def both() -> list[dict]:
    return run_both(divided)


@pytest.mark.parametrize("cases", [1, 3])
def test_validation_is_the_mean_over_all_cases(both, cases):
    """With one case the second process has none."""
    alone = validate(None, cases)
    assert alone.keys() == {"val_dice_3d"} and 0.5 < alone["val_dice_3d"] < 1
    for process in both:
        assert process["validation"][cases] == pytest.approx(alone)


def test_refresh_is_divided_and_shared(both):
    alone = refresh(None)
    assert len(alone[0]) == 5
    assert both[0]["refresh"] == both[1]["refresh"] == alone


def test_the_first_process_speaks_and_writes(both):
    first, second = both
    assert first["calls"] == [0] and second["calls"] == []
    assert first["result"] == second["result"] == {"rank": 0}
    assert first["gathered"] == second["gathered"] == [0, 10]
    assert len(first["handlers"]) == 7 and second["handlers"] == ["ResumeHandler", "CoValidationHandler"]
    assert first["logs"] and not second["logs"]
