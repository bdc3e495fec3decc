"""Where a run begins: with the published version's networks, as far as that is sound, or anew."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.registry.parts import sha256_of
from lib.trainers.settings import OF_BOTH, OF_MODEL
from mnseg.errors import UserError
from mnseg.files import read_json

__all__ = ["Start", "Trained", "choose_start", "trained_of"]


@dataclass(frozen=True)
class Start:
    """file: the checkpoint (both networks) or model.pt (the 3D network alone), None: anew. reason: why, a sentence."""

    file: Path | None
    reason: str


@dataclass(frozen=True)
class Trained:
    """What a version's model and its fold models have trained on, they and all that they were warm-started from.

    seen: cases, of the main model; None: nobody knows.
    folds: index -> cases, of each fold's model.
    """

    seen: frozenset[str] | None = frozenset()
    folds: Mapping[int, frozenset[str]] | None = None


def trained_of(datalist: Path) -> Trained:
    """Read it from a version's datalist.json; a version without one (a bundle taken in) trained elsewhere."""
    try:
        content = read_json(datalist, "datalist")
        seen = content.get("seen")
        if seen is None:
            seen = [item["case"] for key in ("labeled", "unlabeled") for item in content.get(key, [])]
        folds = {int(fold["index"]): frozenset(fold["seen"]) for fold in content.get("folds", [])}
        return Trained(frozenset(seen), folds)
    except FileNotFoundError:
        return Trained()
    except (OSError, UserError, ValueError, KeyError, TypeError, AttributeError):
        return Trained(None)


def choose_start(
    version: Any,
    wanted: Mapping[str, Any],
    forbidden: Collection[str],
    fold: int | None = None,
    from_scratch: bool = False,
) -> Start:
    """Where the next run begins. Damaged files are passed over: a run that began with them would fail every time.

    Args:
        version: the published one, or None.
        wanted: `signature` of the next run's settings.
        forbidden: cases that the model must not have seen: validation's, or the fold's.
        fold: the fold's number; its model begins with that fold's model alone.
        from_scratch: somebody wants it so.
    """
    if from_scratch:
        return Start(None, "from scratch, as asked for")
    if version is None:
        return Start(None, "from scratch: nothing is published yet")
    had = version.facts.get("signature") or _of_overlay(version.overlay)
    if different := [key for key in OF_MODEL if key in had and had[key] != wanted.get(key)]:
        return Start(None, f"from scratch: {', '.join(different)} differ{'s' if len(different) == 1 else ''} from "
                           f"{version.name}")
    trained = trained_of(version.datalist)
    seen = trained.seen if fold is None else (trained.folds or {}).get(fold)
    if seen is None:
        return Start(None, f"from scratch: {version.name} has no model of which it is known that it never saw these "
                           "scans")
    if met := sorted(seen & set(forbidden)):
        return Start(None, f"from scratch: {version.name} was trained on {met[0]}, by which versions are compared now")
    checkpoint = version.checkpoint if fold is None else version.fold_checkpoint(fold)
    both = "signature" in version.facts and all(had.get(key) == wanted.get(key) for key in OF_BOTH)
    if not (why := _fault_of(checkpoint, both)):
        return Start(checkpoint, f"from {version.name}")
    if fold is None and _is_as_it_was(version):
        return Start(version.model_file, f"from the 3D network of {version.name}; the 2D network begins anew: {why}")
    return Start(None, f"from scratch: {version.name} has no files to begin with: {why}")


def _fault_of(checkpoint: Path, both: bool) -> str:
    """Why a run cannot begin with both networks, or nothing."""
    if not checkpoint.is_file():
        return "there is no checkpoint"
    if not both:
        return "the 2D network is another one"
    try:
        with zipfile.ZipFile(checkpoint) as archive:  # as torch saves, with a checksum of every part
            fault = archive.testzip()
    except Exception as error:  # whatever damaged bytes make zipfile say
        fault = type(error).__name__
    return "its checkpoint is damaged" if fault else ""


def _is_as_it_was(version: Any) -> bool:
    """Whether the 3D network's weights are those that the version was made with."""
    try:
        return sha256_of(version.model_file) == version.facts.get("model_sha256")
    except OSError:
        return False


def _of_overlay(overlay: Path) -> dict[str, Any]:
    try:
        return {key: value for key, value in json.loads(Path(overlay).read_bytes()).items() if key in OF_MODEL}
    except (OSError, ValueError, AttributeError):
        return {"class_names": None}
