"""The real server in a process of its own: it starts, answers, refuses what it was not meant for, and ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed (pip install 'mnseg[app]')")
requests = pytest.importorskip("requests")  # comes with MONAI Label

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def port():
    return free_port()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def serve(studies, port, *options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mnseg.cli", "serve", str(studies), "--port", str(port), *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_starts_answers_and_ends(tmp_path, tmp_path_factory, port):
    import nibabel as nib
    import numpy as np

    from mnseg.data.phantom import make_phantom

    scan = nib.Nifti1Image(make_phantom(0, 32)[0].astype("int16"), np.diag([2, 2, 2, 1]))
    nib.save(scan, tmp_path / "a.nii.gz")
    (tmp_path / "datastore_v2.json").write_text("{")  # of a server that was killed while it wrote
    server = serve(tmp_path, port, "--labels", "lobe,bean")
    try:
        status = _status(server, port)
        assert status["labels"] == {"lobe": 1, "bean": 2} and status["model"] is None
        assert status["datastore"]["total"] == 1
        second = serve(tmp_path, port, "--labels", "lobe,bean")
        assert second.wait(60) == 1 and "choose another with --port" in second.stdout.read()
        elsewhere = str(tmp_path_factory.mktemp("workspace"))
        second = serve(tmp_path, free_port(), "--labels", "lobe,bean", "--workspace", elsewhere)
        output, _ = second.communicate(timeout=120)
        assert second.returncode == 1 and "Traceback" not in output
        assert output.splitlines()[-1].startswith(f"mnseg: Another server uses the scans in {tmp_path}: stop it")
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) in (0, -signal.SIGTERM)
    finally:
        server.kill()
    assert "Traceback" not in server.stdout.read()


def test_settings_that_cannot_be_meant_end_it_with_a_sentence(tmp_path, port):
    server = serve(tmp_path, port, "--labels", "lobe", "--conf", "retrain_aftr", "3")
    output, _ = server.communicate(timeout=120)
    assert server.returncode == 1 and "Traceback" not in output
    assert output.splitlines()[-1] == "mnseg: --conf retrain_aftr: there is no such key; did you mean 'retrain_after'?"


def _status(server, port):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, server.stdout.read()
        try:
            return requests.get(f"http://127.0.0.1:{port}/mnseg/status", timeout=5).json()
        except requests.ConnectionError:
            time.sleep(0.2)
    raise AssertionError("the server did not start")
