"""Progress read from a file that somebody else is writing."""

from __future__ import annotations

import json

import pytest
from lib.trainers.progress import Progress, read_progress


def line(epoch: int, **more) -> str:
    return json.dumps({"epoch": epoch, "stage": 1, "seconds": 2.0, **more}) + "\n"


def test_nothing_yet(tmp_path):
    assert read_progress(tmp_path, 10) == Progress(max_epochs=10)


def test_stage_losses_dice_and_time_left(tmp_path):
    (tmp_path / "history.jsonl").write_text(
        line(1, val_dice_3d=0.7, val_dice_2d=0.6) + line(2, val_dice_3d=0.5) + line(3, seconds=4.0)
        + line(4, stage=2, seconds=600.0, loss_unlabeled_3d=0.25)
    )  # fmt: skip
    found = read_progress(tmp_path, 10)
    assert (found.epoch, found.max_epochs, found.stage) == (4, 10, 2)
    assert found.losses == {"loss_unlabeled_3d": 0.25}
    assert (found.dice_3d, found.dice_2d, found.best_dice_3d) == (0.5, 0.6, 0.7)
    assert found.seconds_left == 6 * 3.0, "the median of 2, 2, 4, 600: the last one was paused"


@pytest.mark.parametrize("half", ['{"epoch": 3, "sta', "null\n", "[1]\n", '{"epoch": "3"}\n', "\x00\x00", "{" * 9])
def test_what_a_killed_process_left(tmp_path, half):
    (tmp_path / "history.jsonl").write_text(line(1) + line(2) + half)
    assert read_progress(tmp_path, 4).epoch == 2


def test_numbers_that_are_none(tmp_path):
    (tmp_path / "history.jsonl").write_text(line(1, loss_labeled_3d=float("nan"), val_dice_3d=None, seconds="x"))
    found = read_progress(tmp_path, 4)
    assert found.losses == {} and found.dice_3d is None and found.seconds_left == 0


def test_a_long_history_is_read_from_its_end(tmp_path):
    (tmp_path / "history.jsonl").write_text("".join(line(epoch, pad="x" * 1000) for epoch in range(1, 1001)))
    assert read_progress(tmp_path, 2000).epoch == 1000
