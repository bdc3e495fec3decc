"""The app's folder on the path, as MONAI Label puts it there; a browser."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "monailabel_app"
sys.path[:0] = [str(APP), str(Path(__file__).parent)]  # the second for the modules beside it


@pytest.fixture(scope="session")
def chromium():
    """Debian's Chromium, driven by Playwright, one for all tests: a second driver cannot begin beside the first."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium (make test-e2e installs it)")
    playwright = pytest.importorskip("playwright.sync_api", reason="there is no Playwright (make test-e2e installs it)")
    # Drawing in software: OHIF needs WebGL, and there may be no graphics card.
    arguments = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
                 "--ignore-gpu-blocklist"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()
