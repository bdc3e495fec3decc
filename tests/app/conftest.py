"""The app's folder on the path, as MONAI Label puts it there."""

from __future__ import annotations

import sys
from pathlib import Path

APP = Path(__file__).parents[2] / "monailabel_app"
sys.path[:0] = [str(APP), str(Path(__file__).parent)]  # the second for the modules beside it
