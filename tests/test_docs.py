"""The documentation names what exists: every config key with its true default, files, links, make targets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUNDLES = {"mn_cotraining": "config-keys.md", "sam_mining": "mining-keys.md"}
KEYS_PAGE = {name: ROOT / "docs/reference" / page for name, page in BUNDLES.items()}
TRAIN = {name: json.loads((ROOT / "bundles" / name / "configs/train.json").read_text()) for name in BUNDLES}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROW = re.compile(r"^\| `(?P<key>\w+)` \| (?P<default>[^|]+) \|", re.MULTILINE)
# Folders of the repository; other paths in the pages are the reader's own.
REPOSITORY_PATH = re.compile(r"(?<![\w/…<])(?:bundles|configs|src|tests|benchmarks)/[\w./-]*\w")


def _documented(bundle: str) -> dict[str, str]:
    return {match["key"]: match["default"].strip() for match in ROW.finditer(KEYS_PAGE[bundle].read_text())}


def _is_computed(value: object) -> bool:
    text = json.dumps(value)
    return isinstance(value, dict) or '"$' in text


@pytest.mark.parametrize("bundle", BUNDLES)
def test_every_key_is_documented_once_and_exists(bundle: str) -> None:
    rows = [match["key"] for match in ROW.finditer(KEYS_PAGE[bundle].read_text())]
    assert sorted(rows) == sorted(TRAIN[bundle])


@pytest.mark.parametrize(("bundle", "key"), [(bundle, key) for bundle in BUNDLES for key in sorted(TRAIN[bundle])])
def test_documented_default_is_the_default(bundle: str, key: str) -> None:
    value = TRAIN[bundle][key]
    wanted = "computed" if _is_computed(value) else f"`{json.dumps(value)}`"
    assert _documented(bundle).get(key) == wanted


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_named_in_a_page_exist(page: Path) -> None:
    named = set(REPOSITORY_PATH.findall(re.sub(r"\]\([^)]*\)", "]", page.read_text())))  # links are checked below
    # What training writes into the bundle when no run_dir is given is not part of the repository.
    missing = {n for n in named if not (ROOT / n).exists() and "/models" not in n and "/eval/" not in n}
    assert not missing, f"{page.name} names {sorted(missing)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text())
    missing = [t for t in targets if not (page.parent / t).exists()]
    assert not missing, f"{page.name} links to {missing}"


def anchors(page: Path) -> set[str]:
    """What a heading's link is called, as GitHub names it."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_headings_find_them(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#\s]*)#([^)\s]+)\)", page.read_text())
    missing = [f"{target}#{name}" for target, name in links
               if name not in anchors((page.parent / target) if target else page)]  # fmt: skip
    assert not missing, f"{page.name} links to {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_keys_set_in_commands_exist(page: Path) -> None:
    configs = (ROOT / "bundles").glob("*/configs/*.json")
    known = {key for path in configs for key in json.loads(path.read_text())}
    commands = re.findall(r"python -m monai\.bundle run((?:.*\\\n)*.*)", page.read_text())
    used = {key for command in commands for key in re.findall(r"--(\w+)", command)} - {"config_file"}
    assert used <= known, f"{page.name} sets {sorted(used - known)}"


def test_make_targets_named_in_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^    )make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= named <= targets
