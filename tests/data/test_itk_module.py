"""ITK in threads: sound files stay sound, the working directory stays where it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from mnseg.data import itk_module

READ = """
import os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from mnseg.data.itk_module import load_itk
from mnseg.data.volume_io import open_volume, read_voxels
if sys.argv[2] == "before":
    load_itk()
moves = []
original = os.chdir
os.chdir = lambda path: (moves.append(path), original(path))[1]
with ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda path: read_voxels(open_volume(path), path), sorted(Path(sys.argv[1]).glob("*.nrrd"))))
print(len(moves))
"""


@pytest.mark.parametrize("when", ["before", "in the threads"])
def test_scans_are_read_in_threads(tmp_path, when):
    """In a process of its own: once loaded, ITK stays loaded."""
    for number in range(6):
        sitk.WriteImage(sitk.GetImageFromArray(np.full((4, 4, 4), number, np.int16)), tmp_path / f"{number}.nrrd")
    run = subprocess.run([sys.executable, "-c", READ, str(tmp_path), when], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert (int(run.stdout.split()[-1]) == 0) == (when == "before"), "loaded before: the process stays where it is"


def test_only_what_needs_it_loads_it(monkeypatch):
    loaded = []
    monkeypatch.setattr(itk_module, "load_itk", lambda: loaded.append(1))
    itk_module.load_itk_for(["a.nii.gz", Path("b.NII"), "c.png"])
    assert not loaded
    itk_module.load_itk_for(["a.nii.gz", f"folder{os.sep}series"])
    assert loaded
