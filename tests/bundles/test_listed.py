"""How the bundles find files, and list those that cannot be used: the first few, and how many more there are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
SCANS, PICTURES = BUNDLES / "mn_cotraining/scripts/scans.py", BUNDLES / "sam_mining/scripts/checks.py"


def ask(script: Path, program: str) -> Any:
    """What a program prints, in a process of its own: both bundles have modules of the same names."""
    paths = [str(script.parents[1]), str(script.parent)]
    start = f"import json, runpy, sys\nsys.path[:0] = {paths}\nscript = runpy.run_path({str(script)!r})\n"
    command = [sys.executable, "-c", start + program]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


@pytest.mark.parametrize("script", [SCANS, PICTURES], ids=["scans", "pictures"])
def test_no_more_than_there_are(script):
    files = "{f'{i}.nii': 'is damaged' for i in range(number)}"
    found = ask(script, f"print(json.dumps([script['listed']({files}) for number in (1, 5, 6, 7)]))")
    first = [f"{index}.nii (is damaged)" for index in range(5)]
    five = "; ".join(first)
    assert found == [first[0], five, f"{five}; and 1 more", f"{five}; and 2 more"]


@pytest.mark.parametrize(
    ("script", "call"),
    [(SCANS, "script['find_scans'](folder, '*.nii')"), (PICTURES, "script['find_pictures'](folder, '*.nii', bool)")],
    ids=["scans", "pictures"],
)
def test_a_folder_with_brackets_in_its_name(script, call, tmp_path):
    folder = tmp_path / "study [2024] *"
    folder.mkdir()
    (folder / "a.nii").touch(), (folder / "b.txt").touch()
    assert ask(script, f"folder = {str(folder)!r}\nprint(json.dumps({call}))") == [str(folder / "a.nii")]
