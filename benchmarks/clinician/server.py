"""A label server in a process of its own, and what a client asks it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monailabel.client import MONAILabelClient

__all__ = ["LabelServer", "free_port"]

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class LabelServer:
    """``mnseg serve`` on a folder, as a context manager.

    Args:
        studies: folder of scans.
        labels: the structures.
        conf: further ``--conf`` keys.
        log: file that the server's output is appended to.
        who: name of the client.
    """

    def __init__(self, studies: Path, labels: list[str], conf: Mapping[str, Any], log: Path, who: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = MONAILabelClient(self.url, client_id=who)
        self.log = log
        pairs = [text for key, value in conf.items() for text in ("--conf", key, str(value))]
        self.command = [sys.executable, "-m", "mnseg.cli", "serve", str(studies), "--labels", ",".join(labels),
                        "--port", str(self.port), *pairs]
        self.seconds_to_start = 0.0

    def __enter__(self) -> LabelServer:
        start = time.perf_counter()
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
        while not self._answers():
            if self.process.poll() is not None:
                raise SystemExit(f"The server ended at once; see the end of {self.log}.")
            time.sleep(0.2)
        self.seconds_to_start = time.perf_counter() - start
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def _answers(self) -> bool:
        try:
            return bool(self.get("/info/"))
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def get(self, path: str, timeout: float = 60.0) -> Any:
        """The JSON behind a path."""
        with urllib.request.urlopen(self.url + path, timeout=timeout) as answer:
            return json.load(answer)

    def status(self) -> dict[str, Any]:
        return self.get("/mnseg/status")

    def wait(self, until: Callable[[dict[str, Any]], bool], seconds: float, what: str) -> dict[str, Any]:
        """Ask for the status until it is as wanted."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status = self.status()
            if until(status):
                return status
            if self.process.poll() is not None:
                raise SystemExit(f"The server died; see the end of {self.log}.")
            time.sleep(0.5)
        raise SystemExit(f"Waited {seconds:.0f} s in vain for {what}; see {self.log}.")
