"""A stopped round of mining goes on where it was, with the same result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fake_mining import FakeMiner
from mnseg.data.pictures import read_picture
from mnseg.mining.training import mine_folder
from mnseg.mining.training.journal import Journal

CASES = ["a", "b", "c", "d"]
CLASSES = ["background", "polyp"]


class Stopped(Exception):
    pass


class Stopping(FakeMiner):
    """Ends in the midst of an image."""

    def mine(self, case, image, probabilities):
        if case == "c":
            raise Stopped
        return super().mine(case, image, probabilities)


def brightness(item):
    picture = read_picture(item["image"])
    inside = picture.astype(np.float32) / 255
    return picture, np.stack([1 - inside, inside])


@pytest.fixture
def images(tmp_path) -> dict[str, Path]:
    (tmp_path / "images").mkdir()
    paths = {case: tmp_path / "images" / f"{case}.png" for case in CASES}
    for number, path in enumerate(paths.values()):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (12, 16), np.uint8)).save(path)
    return paths


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "journal.jsonl"}


@pytest.fixture
def stopped(images, tmp_path) -> Path:
    with pytest.raises(Stopped):
        mine_folder(images, brightness, Stopping(["b"]), tmp_path / "out", CLASSES)
    assert not (tmp_path / "out" / "summary.json").exists()
    return tmp_path / "out"


def again(images, out, miner=None) -> list[str]:
    miner = miner or FakeMiner(["b"])
    mine_folder(images, brightness, miner, out, CLASSES)
    return miner.mined


def test_only_the_rest_is_mined_and_the_files_are_those_of_an_unbroken_run(images, stopped, tmp_path):
    assert again(images, stopped) == ["c", "d"]
    assert again(images, tmp_path / "unbroken") == CASES
    assert files(stopped) == files(tmp_path / "unbroken")
    assert again(images, stopped) == [], "nothing has changed since"


def test_a_line_cut_in_two_is_passed_over(images, stopped):
    journal = stopped / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    assert again(images, stopped) == ["b", "c", "d"]
    assert set(Journal(stopped).lines) == set(CASES)


@pytest.mark.parametrize(
    ("change", "mined"),
    [
        (lambda images, out: (out / "a.png").unlink(), ["a", "c", "d"]),
        (lambda images, out: (out / "b.png").write_bytes(b"an old mask"), ["b", "c", "d"]),
        (lambda images, out: Image.new("L", (16, 12), 9).save(images["a"]), ["a", "c", "d"]),
    ],
    ids=["mask removed", "mask of an image that was rejected", "other image"],
)
def test_what_has_changed_is_mined_again(images, stopped, change, mined):
    change(images, stopped)
    assert again(images, stopped) == mined


@pytest.mark.parametrize("settings", [{"seed": 1}, {"box_margin": 0.2}, {"min_agreement": 0.1}, {"identity": "other"}])
def test_other_settings_or_another_model_mine_everything(images, stopped, settings):
    assert again(images, stopped, FakeMiner(["b"], **settings)) == CASES
