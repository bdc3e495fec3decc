"""Licenses of pretrained weights: what a model declares, and whether that may forbid some uses."""

from __future__ import annotations

from pathlib import Path

from mnseg.networks.hub import TINY_SEGFORMER, find_file, is_local_only, read_json

__all__ = ["is_restrictive", "license_of"]

NVIDIA_PREFIXES = ("nvidia/segformer", "nvidia/mit-b")
NVIDIA_LICENSE = "NVIDIA Source Code License for SegFormer (non-commercial)"
_RESTRICTIVE_WORDS = ("other", "nvidia", "non-commercial", "noncommercial", "research", "unknown")


def license_of(name_or_dir: str) -> str | None:
    """The licence that a model declares (model card or config.json), or None. Needs no network for a local model."""
    name = str(name_or_dir)
    if name == TINY_SEGFORMER:
        return None
    if name.startswith(NVIDIA_PREFIXES):
        return NVIDIA_LICENSE
    local_only = is_local_only(name)
    config = read_json(find_file(name, "config.json", local_only)) or {}
    card = find_file(name, "README.md", local_only)
    declared = (_card_license(card) if card else None) or config.get("license")
    if declared:
        return str(declared)
    # A fine-tuned copy keeps the terms of the weights that it started from.
    return NVIDIA_LICENSE if str(config.get("_name_or_path", "")).startswith(NVIDIA_PREFIXES) else None


def is_restrictive(licence: str | None) -> bool:
    """Whether a declared licence may forbid some uses (non-commercial, research only, "other"); None is not."""
    if licence is None:
        return False
    text = licence.lower()
    return any(word in text for word in _RESTRICTIVE_WORDS) or "nc" in text.replace("_", "-").split("-")


def _card_license(path: str) -> str | None:
    """The `license` (or, for "other", `license_name`) of a model card's YAML header."""
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    found: dict[str, str] = {}
    for line in lines[1:]:
        if line.strip() == "---":
            break
        key, _, value = line.partition(":")
        if key in ("license", "license_name") and value.strip():
            found[key] = value.strip().strip("\"'")
    if "license" in found and "license_name" in found:
        return f"{found['license']} ({found['license_name']})"
    return found.get("license") or found.get("license_name")
