"""How the bundles list files that cannot be used: the first few, and how many more there are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
# In a process of its own: both bundles have modules of the same names.
PROGRAM = """
import json, runpy, sys
sys.path[:0] = sys.argv[2:]
listed = runpy.run_path(sys.argv[1])["listed"]
print(json.dumps([listed({f"{i}.nii": "is damaged" for i in range(number)}) for number in (1, 5, 6, 7)]))
"""


@pytest.mark.parametrize("script", ["mn_cotraining/scripts/scans.py", "sam_mining/scripts/checks.py"])
def test_no_more_than_there_are(script):
    path = BUNDLES / script
    command = [sys.executable, "-c", PROGRAM, str(path), str(path.parents[1]), str(path.parent)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    first = [f"{index}.nii (is damaged)" for index in range(5)]
    five = "; ".join(first)
    assert found == [first[0], five, f"{five}; and 1 more", f"{five}; and 2 more"]
