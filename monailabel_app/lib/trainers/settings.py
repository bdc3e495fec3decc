"""Which settings a training gets: the server's config files, its ``settings``, and what the app decides itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from mnseg.errors import UserError
from mnseg.files import read_json

__all__ = ["OF_BOTH", "OF_MODEL", "config_files", "merged_settings", "resolved", "run_overlay", "signature"]

# What must be equal for weights to mean the same: of the 3D network, and of both.
OF_MODEL = ("class_names", "in_channels", "orientation", "spacing", "intensity", "network_def")
OF_BOTH = ("model_2d", "network_2d_def", "finetuning", "lora_rank", "slice_context", "slice_scale")
EPOCHS = ("stage_1_epochs", "stage_2_epochs", "warmup_epochs")
# The last one too: it must stay below the others, and their ratio is the schedule.
RATES = ("learning_rate", "learning_rate_2d", "learning_rate_final")
_SEPARATOR = re.compile(r"#|::")


def config_files(bundle: Path, overlays: Iterable[Path]) -> list[Path]:
    """train.json and the overlays that the server was started with."""
    return [Path(bundle) / "configs" / "train.json", *map(Path, overlays)]


def merged_settings(files: Iterable[Path], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Top-level keys after all files and ``settings``, as texts: nothing is evaluated. Later ones win; keys that reach
    into another one (``network_def#features``) are applied to it."""
    merged: dict[str, Any] = {}
    for layer in (*(read_json(file, "The config") for file in files), settings):
        for key, value in layer.items():
            _set(merged, _SEPARATOR.split(key), deepcopy(value))
    return merged


def signature(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of the settings the weights depend on; compared before a warm start."""
    return {key: settings.get(key) for key in (*OF_MODEL, *OF_BOTH)}


def resolved(settings: Mapping[str, Any], key: str) -> int | None:
    """A whole number among the settings; None when the file computes it."""
    value = settings.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def run_overlay(
    folder: Path,
    class_names: Iterable[str],
    settings: Mapping[str, Any],
    warm_start: Path | None,
    share: float = 1.0,
    rate: float = 1.0,
) -> dict[str, Any]:
    """The last overlay of a run: where it lies, what it segments, where it begins.

    Args:
        folder: of the run; its datalist.json lies there.
        class_names: the background first.
        settings: `merged_settings`, for the numbers of epochs and the learning rates.
        warm_start: a checkpoint, or None: the networks begin anew.
        share: of the epochs that a warm-started run trains.
        rate: factor on its learning rates; rates that the settings compute are left as they are.

    Raises:
        UserError: a name or path that a config would take for an expression.
    """
    overlay: dict[str, Any] = {
        "class_names": list(class_names),
        "dataset_dir": str(folder),
        "data_list_file_path": str(folder / "datalist.json"),
        "run_dir": str(folder),
        "allow_empty_unlabeled": True,
        "resume": True,
        "warm_start": None if warm_start is None else str(warm_start),
    }
    for text in (*overlay["class_names"], str(folder)):
        if text.startswith(("$", "@", "%")) or re.search(r"[@%](#|::)", text):
            raise UserError(f"{text!r} cannot be used: a config would take it for an expression; choose another name.")
    if warm_start is not None:
        for key in EPOCHS:
            if epochs := resolved(settings, key):
                overlay[key] = max(1, round(epochs * share))
        for key in RATES:
            if isinstance(settings.get(key), int | float):
                overlay[key] = settings[key] * rate
    return overlay


def _set(target: dict[str, Any], path: list[str], value: Any) -> None:
    *parents, last = path
    node: Any = target
    for name in parents:
        node = node[int(name)] if isinstance(node, list) else node.setdefault(name, {})
    if isinstance(node, list):
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last.removeprefix("+")] = value
    else:
        raise UserError(f"the setting {json.dumps('#'.join(path))} reaches into one that has no parts.")
