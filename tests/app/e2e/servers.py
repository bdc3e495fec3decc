"""Orthanc and the label server as processes of the tests."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pydicom
import requests

ROOT = Path(__file__).parents[3]
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
ORTHANC = Path("/usr/sbin/Orthanc")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait for something that another process does; its value."""
    ends = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < ends, f"{what}: not within {seconds:g} s"
        time.sleep(0.2)


class Process:
    """A program that is ended with the tests, its output in a file."""

    def __init__(self, command: list[Any], log: Path, **options: Any) -> None:
        self.log = log
        with log.open("ab") as output:
            self.child = subprocess.Popen([str(part) for part in command], stdout=output, stderr=subprocess.STDOUT,
                                          **options)

    def wait_for(self, url: str, seconds: float) -> None:
        def answers() -> bool:
            assert self.child.poll() is None, f"it ended at once:\n{self.log.read_text(errors='replace')[-3000:]}"
            try:
                return requests.get(url, timeout=5).ok
            except requests.RequestException:
                return False

        until(answers, seconds, url)

    def end(self) -> None:
        self.child.terminate()
        try:
            self.child.wait(20)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait(10)


class Orthanc(Process):
    """Debian's Orthanc with its DICOMweb plugin, on free ports of the loopback."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        folder.mkdir(parents=True)
        config = {
            "Name": "mnseg tests", "HttpPort": port, "DicomPort": free_port(), "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"),
            "Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True},
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(config))
        self.url = f"http://127.0.0.1:{port}"
        self.dicomweb = f"{self.url}/dicom-web"
        super().__init__([ORTHANC, folder / "orthanc.json"], folder / "orthanc.log")
        self.wait_for(f"{self.url}/system", 30)

    def send(self, path: Path) -> None:
        """Store a DICOM file, or all files of a folder."""
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            requests.post(f"{self.url}/instances", data=file.read_bytes(), timeout=30).raise_for_status()

    def segmentations(self) -> list[pydicom.Dataset]:
        """All SEG objects, read."""
        query = {"Level": "Instance", "Query": {"Modality": "SEG"}}
        found = requests.post(f"{self.url}/tools/find", json=query, timeout=30).json()
        files = [requests.get(f"{self.url}/instances/{key}/file", timeout=30).content for key in found]
        return [pydicom.dcmread(pydicom.filebase.DicomBytesIO(content)) for content in files]


class LabelServer(Process):
    """``mnseg serve`` on a DICOMweb server."""

    def __init__(self, dicomweb: str, modality: str, labels: str, workspace: Path, conf: Mapping[str, Any]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.workspace = workspace
        workspace.mkdir(parents=True, exist_ok=True)
        pairs = [text for key, value in conf.items() for text in ("--conf", key, value)]
        command = [sys.executable, "-m", "mnseg.cli", "serve", dicomweb, "--labels", labels, "--modality", modality,
                   "--port", self.port, "--workspace", workspace, *pairs]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
        super().__init__(command, workspace / "server.log", cwd=ROOT, env=environment)
        self.wait_for(f"{self.url}/info/", 120)

    def client(self, folder: Path, name: str = "anna") -> Any:
        from monailabel.client import MONAILabelClient

        return MONAILabelClient(self.url, tmpdir=str(folder), client_id=name)

    def get(self, path: str) -> Any:
        answer = requests.get(f"{self.url}{path}", timeout=120)
        assert answer.ok, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        answer = requests.post(f"{self.url}{path}", json=body, timeout=120)
        assert answer.status_code == status, answer.text
        return answer.json()
