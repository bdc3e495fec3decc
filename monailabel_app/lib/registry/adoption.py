"""A bundle that was packed earlier, as the parts of a version."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.errors import RequestError
from lib.registry.parts import sha256_of
from mnseg.errors import UserError
from mnseg.files import read_json

__all__ = ["bundle_parts"]

_REFERENCE = re.compile(r"@(\w+)")
_NEEDED = ("class_names", "network_def")


def bundle_parts(bundle_dir: Path) -> tuple[dict[str, Path | bytes], dict[str, Any]]:
    """What a version of this bundle consists of, and what its version.json says.

    Raises:
        RequestError: 400, the folder holds no bundle of mnseg's kind with weights.
    """
    weights = bundle_dir / "models" / "model.pt"
    if not weights.is_file():
        raise RequestError(400, f"{bundle_dir} is no packed bundle: it has no models/model.pt.")
    try:
        overlay = _overlay(bundle_dir)
        metadata = _content(bundle_dir / "configs" / "metadata.json")
    except UserError as error:
        raise RequestError(400, str(error)) from error
    facts = {
        "adopted_from": str(bundle_dir.absolute()),
        "bundle": {key: metadata[key] for key in ("name", "version") if key in metadata},
        "model_sha256": sha256_of(weights),
    }
    return {"model.pt": weights, "model.json": json.dumps(overlay, indent=1).encode()}, facts


def _overlay(bundle_dir: Path) -> Mapping[str, Any]:
    for place in (bundle_dir, bundle_dir / "models", bundle_dir / "configs"):
        if (place / "model.json").is_file():
            overlay = _content(place / "model.json")
            _require_whole(overlay, place / "model.json")
            return overlay
    config = bundle_dir / "configs" / "inference.json"
    if not config.is_file():
        raise RequestError(400, f"{bundle_dir} is no packed bundle: it has neither model.json nor "
                                "configs/inference.json.")
    from mnseg.bundle import MODEL_KEYS  # here, because importing MONAI takes seconds

    content = _content(config)
    overlay = {key: content[key] for key in MODEL_KEYS if key in content}
    _require_whole(overlay, config)
    foreign = set(_REFERENCE.findall(json.dumps(overlay))) - {*MODEL_KEYS, "num_classes"}
    if foreign:
        raise RequestError(400, f"{config} describes its model by the key {sorted(foreign)[0]!r}, which mnseg's "
                                "bundles do not have; pack the model with a model.json beside it.")
    return overlay


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = read_json(path, "config")
    if not isinstance(content, dict):
        raise UserError(f"config {path} holds no JSON object.")
    return content


def _require_whole(overlay: Mapping[str, Any], path: Path) -> None:
    if missing := [key for key in _NEEDED if key not in overlay]:
        raise RequestError(400, f"{path} has no {missing[0]!r}: it does not say which model the weights belong to.")
