"""Which files of a run make up a version, and how they come into its folder."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.durable import durable_json, sync
from mnseg.errors import UserError

__all__ = ["fill_folder", "run_parts", "sha256_of"]

_REQUIRED = ("model.pt", "model.json")
_OPTIONAL = ("checkpoint.pt", "datalist.json", "scores.json", "history.jsonl", "predictions.json")


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def run_parts(run_dir: Path) -> dict[str, Path]:
    """The files of a finished run as ``{place in the version: file}``.

    model.pt, model.json, checkpoint.pt, datalist.json, scores.json, history.jsonl and predictions.json are looked for
    in the run's folder, then in its models/; predictions/*.nii.gz and folds/<k>/checkpoint.pt (or
    folds/<k>/models/checkpoint.pt) are taken where they exist.

    Raises:
        UserError: model.pt or model.json is missing.
    """
    found = {name: file for name in (*_REQUIRED, *_OPTIONAL) if (file := _first(run_dir, name)) is not None}
    for name in _REQUIRED:
        if name not in found:
            raise UserError(f"the run {run_dir} has no {name}; did its training end?")
    for file in sorted((run_dir / "predictions").glob("*.nii.gz")):
        found[f"predictions/{file.name}"] = file
    for fold in sorted((run_dir / "folds").glob("[0-9]*")):
        if (file := _first(fold, "checkpoint.pt")) is not None:
            found[f"folds/{fold.name}/checkpoint.pt"] = file
    return found


def _first(folder: Path, name: str) -> Path | None:
    return next((file for file in (folder / name, folder / "models" / name) if file.is_file()), None)


def fill_folder(folder: Path, parts: Mapping[str, Path | bytes], facts: Mapping[str, Any]) -> None:
    """Make a version's folder; all of it has reached the disk when the call returns. version.json comes last."""
    for place, source in parts.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            target.write_bytes(source)
        else:
            shutil.copyfile(source, target)
        sync(target)
    for inner, _, _ in os.walk(folder):
        sync(inner)
    durable_json(folder / "version.json", {**facts, "model_sha256": sha256_of(folder / "model.pt")})
