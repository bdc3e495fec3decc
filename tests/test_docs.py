"""The documentation names what exists: every config key with its true default, files, links, make targets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KEYS_PAGE = ROOT / "docs/reference/config-keys.md"
TRAIN = json.loads((ROOT / "bundles/mn_cotraining/configs/train.json").read_text())
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROW = re.compile(r"^\| `(?P<key>\w+)` \| (?P<default>[^|]+) \|", re.MULTILINE)
# Folders of the repository; other paths in the pages are the reader's own.
REPOSITORY_PATH = re.compile(r"(?<![\w/…<])(?:bundles|configs|src|tests|benchmarks)/[\w./-]*\w")


def _documented() -> dict[str, str]:
    return {match["key"]: match["default"].strip() for match in ROW.finditer(KEYS_PAGE.read_text())}


def _is_computed(value: object) -> bool:
    text = json.dumps(value)
    return isinstance(value, dict) or '"$' in text


def test_every_key_is_documented_once_and_exists() -> None:
    rows = [match["key"] for match in ROW.finditer(KEYS_PAGE.read_text())]
    assert sorted(rows) == sorted(TRAIN)


@pytest.mark.parametrize("key", sorted(TRAIN))
def test_documented_default_is_the_default(key: str) -> None:
    wanted = "computed" if _is_computed(TRAIN[key]) else f"`{json.dumps(TRAIN[key])}`"
    assert _documented().get(key) == wanted


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_named_in_a_page_exist(page: Path) -> None:
    named = set(REPOSITORY_PATH.findall(page.read_text()))
    # What training writes into the bundle when no run_dir is given is not part of the repository.
    missing = {n for n in named if not (ROOT / n).exists() and "/models" not in n and "/eval/" not in n}
    assert not missing, f"{page.name} names {sorted(missing)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text())
    missing = [t for t in targets if not (page.parent / t).exists()]
    assert not missing, f"{page.name} links to {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_keys_set_in_commands_exist(page: Path) -> None:
    configs = (ROOT / "bundles/mn_cotraining/configs").glob("*.json")
    known = {key for path in configs for key in json.loads(path.read_text())}
    commands = re.findall(r"python -m monai\.bundle run((?:.*\\\n)*.*)", page.read_text())
    used = {key for command in commands for key in re.findall(r"--(\w+)", command)} - {"config_file"}
    assert used <= known, f"{page.name} sets {sorted(used - known)}"


def test_make_targets_named_in_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^    )make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= named <= targets
