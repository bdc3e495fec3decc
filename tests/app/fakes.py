"""Stand-ins for tests of the training: a datastore in a folder, and commands that take no time."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from lib.conf import AppConf
from lib.trainers.programs import Programs

ROOT = Path(__file__).parents[2]
FAKE = Path(__file__).with_name("fake_program.py")


class FolderStore:
    """images/ID.nii.gz and labels/ID.nii.gz, as MONAI Label's datastores show them."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.label_infos: dict[str, dict] = {}
        for name in ("images", "labels"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    def add(self, image_id: str, label: bytes | None = None) -> None:
        (self.root / "images" / f"{image_id}.nii.gz").write_bytes(b"image " + image_id.encode())
        if label is not None:
            self.label(image_id, label)

    def label(self, image_id: str, content: bytes) -> None:
        (self.root / "labels" / f"{image_id}.nii.gz").write_bytes(content)

    def _ids(self, folder: str) -> list[str]:
        return sorted(path.name.removesuffix(".nii.gz") for path in (self.root / folder).glob("*.nii.gz"))

    def list_images(self) -> list[str]:
        return self._ids("images")

    def get_labeled_images(self) -> list[str]:
        return self._ids("labels")

    def get_image_info(self, image_id: str) -> dict:
        return {}

    def get_image_uri(self, image_id: str) -> str:
        return str(self.root / "images" / f"{image_id}.nii.gz")

    def get_label_info(self, label_id: str, tag: str) -> dict:
        return self.label_infos.get(label_id, {})

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        assert tag == "final"
        return image_id if image_id in self.get_labeled_images() else ""

    def get_label_uri(self, label_id: str, tag: str) -> str:
        return str(self.root / "labels" / f"{label_id}.nii.gz")


class NoProvenance:
    """Every label was drawn by a person, but for those in ``ids``; of ``began`` (version -> ids) on a mask of ours."""

    def __init__(self, *ids: str, began: dict[str, set[str]] | None = None) -> None:
        self.ids, self.began = set(ids), began or {}

    def unedited(self) -> set[str]:
        return self.ids

    def began_as(self, version: str) -> set[str]:
        return self.began.get(version, set())


class FakePrograms(Programs):
    """Runs `fake_program.py`, which does what ``behave.json`` in the workspace says."""

    def _command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-S", "-E", str(FAKE), *map(str, arguments)]

    def train(self, configs, run_dir):
        return self._command("train", run_dir, *configs)

    def score(self, configs, run_dir):
        return self._command("score", run_dir)

    def compare(self, plan, results):
        return self._command("compare", plan, results)

    def check(self, datalist, num_classes, faults):
        return self._command("check", datalist, faults)


def make_conf(tmp_path: Path, **more) -> AppConf:
    bundle = more.pop("bundle", ROOT / "bundles" / "mn_cotraining")
    defaults = {"labels": ("organ",), "workspace": tmp_path / "work", "bundle": bundle, "min_labels": 2,
                "retrain_after": 1, "retrain_pause": 0.0,
                "settings": {"stage_1_epochs": 2, "stage_2_epochs": 2, "warmup_epochs": 1}}
    return AppConf(app_dir=tmp_path, studies=str(tmp_path), is_dicomweb=False, **{**defaults, **more})


def behave(workspace: Path, **wishes) -> None:
    """``fail``: {command: text}, ``sleep``: {command: seconds}, ``dice``: of the next candidate, ``damaged``: ids of
    versions that cannot be loaded."""
    workspace.mkdir(parents=True, exist_ok=True)
    (workspace / "behave.json").write_text(json.dumps(wishes))


def until(condition, seconds: float = 20.0):
    """Wait for something that threads do; its value."""
    ends = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < ends, "it took too long"
        time.sleep(0.01)
    return value
