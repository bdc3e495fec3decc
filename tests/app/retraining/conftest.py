"""Services on a workspace, closed in the end."""

from __future__ import annotations

import os

import pytest
from bench import Bench


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # seconds a test, where others use the disk
    made: list[Bench] = []

    def make(**conf) -> Bench:
        made.append(Bench(tmp_path, **conf))
        return made[0]

    yield make
    for service in [service for one in made for service in one.services]:
        service.close()
