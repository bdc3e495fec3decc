"""What a bundle config asks of its own text: no mistyped keys, and a record of the model for evaluation."""

from __future__ import annotations

import copy
import difflib
import inspect
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from mnseg.errors import UserError, show_user_errors_plainly
from mnseg.networks.licenses import is_restrictive, license_of
from mnseg.settings import wrong_settings

__all__ = [
    "MODEL_KEYS",
    "config_text",
    "model_metadata",
    "model_overlay",
    "refuse_unknown_keys",
    "require_sound_settings",
    "unknown_keys",
]

MODEL_KEYS = (
    "class_names",
    "in_channels",
    "orientation",
    "lite",
    "spacing",
    "intensity",
    "patch_size",
    "image_size",
    "overlap",
    "network_def",
)


# What MONAI itself adds to a config that is run with --tracking.
TRACKING_KEYS = ("tracking_uri", "experiment_name", "run_name", "save_execute_config", "is_not_rank0")


def _calling(kind: type) -> Any | None:
    """The innermost object of a class whose method is running; MONAI does not hand the config to its expressions."""
    for frame in inspect.stack(0):
        owner = frame.frame.f_locals.get("self")
        if isinstance(owner, kind):
            return owner
    return None


def unknown_keys(config: Mapping[str, Any], known: Iterable[str]) -> list[str]:
    """Top-level keys that no config of the bundle has; those that begin with ``_`` are the user's own."""
    return sorted(key for key in config if not key.startswith("_") and key not in set(known))


def refuse_unknown_keys() -> None:
    """Refuse what MONAI silently accepts: top-level keys, from overlays or the command line, that no config of the
    bundle has, and ``--key false``, which arrives as a text and would count as true.

    Called first from a config's ``initialize``; from here on a ``UserError`` prints its sentence alone.

    Raises:
        UserError: naming the keys and the nearest known ones.
    """
    workflow = _calling(ConfigWorkflow)
    if workflow is None:
        return
    show_user_errors_plainly()
    known: set[str] = set(TRACKING_KEYS)
    for path in sorted(Path(workflow.config_root_path).glob("*.json")):
        known |= ConfigParser.load_config_file(path).keys()
    unknown = unknown_keys(workflow.parser.get(), known)
    if unknown:
        hints = [_with_hint(key, known) for key in unknown]
        raise UserError(f"No config of the bundle in {workflow.config_root_path} has the key {', '.join(hints)}.")
    for key, value in workflow.parser.get().items():
        if value in ("true", "false", "null", "none"):
            word = {"t": "True", "f": "False", "n": "None"}[value[0]]
            raise UserError(f"{key} is the text '{value}': write --{key} {word} on the command line.")


def require_sound_settings() -> None:
    """Refuse settings that cannot be meant before the scans are read, which may take minutes.

    Raises:
        UserError: naming the keys, their values and what they may be.
    """
    workflow = _calling(ConfigWorkflow)
    wrong = [] if workflow is None else list(wrong_settings(workflow.parser.get()))
    if wrong:
        raise UserError(" ".join(wrong))


def _with_hint(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"'{key}' (did you mean '{near[0]}'?)" if near else f"'{key}'"


def config_text(key: str, *without: str) -> str:
    """A key of the running config as it is written, for the settings that a continued run must share.

    Args:
        key: of the config.
        without: keys of its content that may differ, or are compared elsewhere.
    """
    parser = _calling(ConfigParser)
    if parser is None:
        return ""
    content = parser.get(key)
    if without and isinstance(content, dict):
        content = {name: value for name, value in content.items() if name not in without}
    return json.dumps(content)


def model_overlay(weights: str | None = None) -> dict[str, Any]:
    """All that evaluation and inference must know about the model in training: the content of ``model.json``.

    It is an overlay for evaluate.json and inference.json, so that preprocessing and network cannot differ from those
    of the training. Empty outside a config.

    Args:
        weights: pretrained 2D network that the training starts from; it is written down with its license, since a
            license that restricts use may bind the trained model as well. None: random weights.
    """
    parser = _calling(ConfigParser)
    if parser is None:
        return {}
    config = parser.get()
    content = {key: config[key] for key in MODEL_KEYS if key in config}
    content["_pretrained_weights"] = _origin(weights)
    return content


def model_metadata(weights: str | None = None) -> dict[str, Any]:
    """The bundle's metadata for the model in training, for those who receive it: its channels, its patch, and the
    license of the weights that it started from. The content of ``run_dir/metadata.json``; empty outside a config.

    Args:
        weights: as for ``model_overlay``.
    """
    parser = _calling(ConfigParser)
    meta = {} if parser is None else copy.deepcopy(parser.get().get("_meta_") or {})
    if not meta:
        return {}
    config = {key: parser.get_parsed_content(key) for key in MODEL_KEYS if key in parser.get()}
    names = [str(name) for name in config.get("class_names", ())]
    formats = meta.get("network_data_format", {})
    for kind, channels in (("inputs", ["image"] * config.get("in_channels", 0)), ("outputs", names)):
        for entry in formats.get(kind, {}).values():
            entry["spatial_shape"] = list(config.get("patch_size", config.get("image_size", entry["spatial_shape"])))
            if kind == "outputs" or len(channels) != entry["num_channels"]:
                entry["num_channels"] = len(channels)
                entry["channel_def"] = {str(index): channel for index, channel in enumerate(channels)}
    meta["pretrained_weights"] = _origin(weights)
    return meta


def _origin(weights: str | None) -> dict[str, Any]:
    licence = None if weights is None else license_of(weights)
    return {"model_2d": weights, "license": licence, "license_restricts_use": is_restrictive(licence)}
