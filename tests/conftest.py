"""What all tests share: few threads, fixed seeds, and the place of the real data."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """Every test starts from the same seeds, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with real data and weights: ``MNSEG_SHARED``, or ``shared`` beside the repository."""
    folder = Path(os.environ.get("MNSEG_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data in {folder}; set MNSEG_SHARED to the folder that holds data/ and weights/")
    return folder
