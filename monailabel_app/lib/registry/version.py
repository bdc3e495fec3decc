"""One version of the model: a folder that is never changed in what it serves."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Version", "is_version_id"]

_ID = re.compile(r"[0-9]{4,12}")


def is_version_id(text: Any) -> bool:
    """Whether a text can be a version's id; nothing else is ever joined to a path."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


@dataclass(frozen=True)
class Version:
    """A model with all that belongs to it. Files other than ``model_file`` and ``overlay`` may be missing.

    Args:
        id: four digits or more, never given twice.
        path: the version's folder.
        facts: the content of version.json.
    """

    id: str
    path: Path
    facts: Mapping[str, Any]

    @classmethod
    def load(cls, path: Path) -> Version:
        """Read a version's folder.

        Raises:
            OSError: it is not there.
            ValueError: its version.json is damaged.
        """
        facts = json.loads((path / "version.json").read_bytes())
        if not isinstance(facts, dict):
            raise ValueError(f"{path / 'version.json'} holds no JSON object")
        return cls(path.name, path, facts)

    @property
    def name(self) -> str:
        """What clients show: "mnseg 0003"."""
        return f"mnseg {self.id}"

    @property
    def model_file(self) -> Path:
        """Weights of the 3D network."""
        return self.path / "model.pt"

    @property
    def overlay(self) -> Path:
        """Overlay for inference.json and evaluate.json: classes, preprocessing, network."""
        return self.path / "model.json"

    @property
    def checkpoint(self) -> Path:
        """Both networks, for a warm start."""
        return self.path / "checkpoint.pt"

    def fold_checkpoint(self, fold: int) -> Path:
        """Both networks of the model that was trained without a fold."""
        return self.path / "folds" / str(int(fold)) / "checkpoint.pt"

    @property
    def datalist(self) -> Path:
        """What it was trained on, with hashes of the labels."""
        return self.path / "datalist.json"

    @property
    def predictions(self) -> Path:
        """Folder of masks of cases that the model did not train on: ``<case>.nii.gz``."""
        return self.path / "predictions"

    def predicted_images(self) -> dict[str, str]:
        """Case -> digest of the image that its mask in ``predictions`` was made of; what is not known is not there."""
        try:
            content = json.loads((self.path / "predictions.json").read_bytes())
            return {str(case): str(digest) for case, digest in content.items()}
        except (OSError, ValueError, AttributeError):
            return {}

    @property
    def scores(self) -> Path:
        """Disagreement of both networks on the unlabeled scans."""
        return self.path / "scores.json"
