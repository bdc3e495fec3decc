"""A bundle's logging.conf closes all logging handlers; pytest's capture files outlive that (see conftest.py)."""

from __future__ import annotations

import sys

import pytest


def test_capture_outlives_the_handlers(capsys):
    absl_logging = pytest.importorskip("absl.logging")
    handler = absl_logging.get_absl_handler().python_handler
    assert handler.stream is sys.__stderr__
    handler.close()
    assert not sys.__stderr__.closed
    with capsys.disabled():  # resumes the capture of the whole session afterwards
        pass
