"""What an installation holds: every package, the command, and every library that the code imports."""

from __future__ import annotations

import ast
import sys
from configparser import ConfigParser
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from mnseg._version import __version__

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src/mnseg").rglob("*.py"))
# Import name -> what in setup.cfg's install_requires brings it; extras of MONAI stand in its brackets.
BROUGHT_BY = {
    "torch": "torch",
    "numpy": "monai",
    "monai": "monai",
    "ignite": "ignite",
    "nibabel": "nibabel",
    "tqdm": "tqdm",
    "scipy": "scipy",
    "matplotlib": "matplotlib",
    "transformers": "transformers",
    "huggingface_hub": "transformers",
    "peft": "peft",
    "fire": "fire",
    "itk": "itk",
    "pydicom": "pydicom",
    "PIL": "matplotlib",
    "safetensors": "transformers",
}
# Imported where they are needed only, with a sentence when they are missing: import name -> extra.
OPTIONAL = {"h5py": "import", "highdicom": "dicom", "monailabel": "app", "skimage": "mining"}
INSTALLED_AS = {"skimage": "scikit-image"}


def _setup_cfg() -> ConfigParser:
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


def test_every_folder_with_code_is_a_package() -> None:
    # find: leaves out folders without __init__.py, and only an installed copy would show it.
    assert all((path.parent / "__init__.py").is_file() for path in SOURCES)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_imported_libraries_are_required(path: Path) -> None:
    required = _setup_cfg()["options"]["install_requires"]
    third_party = _imports(path) - set(sys.stdlib_module_names) - {"mnseg"} - OPTIONAL.keys()
    assert not third_party - BROUGHT_BY.keys()
    assert all(BROUGHT_BY[name] in required for name in third_party)


@pytest.mark.parametrize("name", OPTIONAL)
def test_optional_libraries_are_extras_that_the_tests_install(name: str) -> None:
    extras = _setup_cfg()["options.extras_require"]
    distribution = INSTALLED_AS.get(name, name)
    assert distribution in extras[OPTIONAL[name]]
    assert distribution in extras["test"] or f"mnseg[{OPTIONAL[name]}]" in extras["test-app"]


def test_tensorboard_is_required_because_torch_imports_it_lazily() -> None:
    assert "tensorboard" in _setup_cfg()["options"]["install_requires"]


def test_the_command_is_installed() -> None:
    (command,) = entry_points(group="console_scripts", name="mnseg")
    assert command.value == "mnseg.cli:main"
    assert callable(command.load())


def test_one_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
