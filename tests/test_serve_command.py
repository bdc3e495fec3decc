"""`mnseg serve` says in one sentence what keeps the server from starting, before anything is imported."""

from __future__ import annotations

import os
import socket
import sys
import types
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.machinery import ModuleSpec
from threading import Thread

import pytest

import mnseg.serve_command as serve
from mnseg.cli import main


@pytest.fixture
def started(monkeypatch):
    """An environment that has everything; instead of a server, what it would be started with."""
    calls = []
    packages = {"pydicom": "2.4.5"}

    class Main:
        def run(self):
            calls.append(sys.argv[1:])

    monkeypatch.setitem(sys.modules, "monailabel", types.ModuleType("monailabel"))
    module = types.ModuleType("monailabel.main")
    module.Main = Main
    monkeypatch.setitem(sys.modules, "monailabel.main", module)
    present = {"monailabel": ModuleSpec("monailabel", None), "torchvision": None}
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: present[name])
    monkeypatch.setattr(serve, "version", lambda name: packages[name])
    monkeypatch.setattr(serve, "_require_dcmqi", lambda: None)
    monkeypatch.setattr(sys, "argv", ["mnseg"])
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return types.SimpleNamespace(calls=calls, packages=packages, present=present)


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run(*argv, port=1):
    return main(["serve", *map(str, argv), "--port", str(port)])


def refused(capsys, hint):
    err = capsys.readouterr().err
    assert err.startswith("mnseg: ") and hint in err and err.count("\n") == 1
    return True


def test_starts_monai_label_on_this_computer_alone(started, tmp_path, port, capsys):
    (tmp_path / "a.nii.gz").touch()
    assert run(tmp_path, "--labels", "left atrium", "--conf", "retrain_after", "4", port=port) == 0
    (argv,) = started.calls
    assert argv[0] == "start_server" and argv[argv.index("--host") + 1] == "127.0.0.1"
    assert argv[argv.index("--studies") + 1] == str(tmp_path) and argv[argv.index("--port") + 1] == str(port)
    pairs = [argv[i + 1 : i + 3] for i, part in enumerate(argv) if part == "--conf"]
    assert sorted(pairs) == [["labels", "left atrium"], ["retrain_after", "4"]]
    assert os.environ["MONAI_LABEL_TRACKING_ENABLED"] == os.environ["MONAI_LABEL_AUTO_UPDATE_SCORING"] == "false"
    out = capsys.readouterr()
    assert f"http://127.0.0.1:{port}/mnseg/" in out.out and "ohif" not in out.out and out.err == ""


def test_a_folder_without_scans_is_said(started, tmp_path, port, capsys):
    assert run(tmp_path, "--labels", "a", "--host", "0.0.0.0", port=port) == 0
    err = capsys.readouterr().err
    assert "holds no scan yet" in err and "without a password" in err


def test_names_in_capital_letters_are_said(started, tmp_path, port, capsys):
    (tmp_path / "UPPER.NII.GZ").write_bytes(b"")
    assert run(tmp_path, "--labels", "a", port=port) == 0
    err = capsys.readouterr().err
    assert "UPPER.NII.GZ (1 here) are not taken for scans: rename them" in err and "holds no scan yet" in err
    (tmp_path / "UPPER.NII.GZ").rename(tmp_path / "lower.nii.gz")
    assert run(tmp_path, "--labels", "a", port=port) == 0
    assert capsys.readouterr().err == ""


def test_missing_and_unfit_packages(started, tmp_path, capsys, monkeypatch):
    started.packages["pydicom"] = "3.0.1"
    assert run(tmp_path, "--labels", "a") == 1 and refused(capsys, "pip install 'pydicom<3'")
    started.packages["pydicom"] = "2.4.5"
    started.present["torchvision"] = ModuleSpec("torchvision", None)

    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist\nmore")

    monkeypatch.setattr(serve.importlib, "import_module", broken)
    assert run(tmp_path, "--labels", "a") == 1 and refused(capsys, "pip uninstall torchvision")
    started.present["monailabel"] = None
    assert run(tmp_path, "--labels", "a") == 1 and refused(capsys, "pip install 'mnseg[app]'")
    assert not started.calls


def test_bad_input(started, tmp_path, port, capsys):
    file = tmp_path / "scan.nii.gz"
    file.touch()
    assert run(file, "--labels", "a") == 1 and refused(capsys, "is no folder")
    assert run(tmp_path / "no", "--labels", "a") == 1 and refused(capsys, "is no folder")
    assert run(tmp_path) == 1 and refused(capsys, "Name the structures")
    assert run(tmp_path, "--labels", "a", "--conf", "labels", "b") == 1 and refused(capsys, "given twice")
    assert run(tmp_path, "--labels", "a", "--modality", "CT") == 1 and refused(capsys, "belongs to a DICOMweb server")
    assert run(tmp_path, "--labels", "a", "--app", tmp_path) == 1 and refused(capsys, "no MONAI Label app")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert run(tmp_path, "--labels", "a", port=port) == 1 and refused(capsys, "choose another with --port")
    assert run(tmp_path, "--labels", "a", port=99999) == 1 and refused(capsys, "from 1 to 65535")
    assert run(tmp_path, "--labels", "a", "--host", "no.such.host.invalid") == 1 and refused(capsys, "cannot listen")
    assert not started.calls


def test_a_folder_that_may_not_be_written_to(started, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(serve.os, "access", lambda path, mode: False)
    assert run(tmp_path, "--labels", "a") == 1 and refused(capsys, "may not be written to")


class Pacs(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path.startswith("/dicom-web/series") else 404)
        self.end_headers()

    def log_message(self, *args):
        pass


def test_dicomweb(started, port, capsys):
    pacs = HTTPServer(("127.0.0.1", 0), Pacs)
    Thread(target=pacs.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{pacs.server_port}"
    assert run(f"{url}/dicom-web", "--labels", "a", port=port) == 1 and refused(capsys, "--modality CT")
    assert run(f"{url}/other", "--labels", "a", "--modality", "MR") == 1 and refused(capsys, "answers 404")
    assert run(f"{url}/dicom-web/", "--labels", "a", "--modality", "MR", port=port) == 0
    assert os.environ["MONAI_LABEL_DICOMWEB_SEARCH_FILTER"] == '{"Modality": "MR"}'
    assert f"http://127.0.0.1:{port}/ohif/" in capsys.readouterr().out
    pacs.shutdown()
    pacs.server_close()
    assert run(f"{url}/dicom-web", "--labels", "a", "--modality", "MR") == 1 and refused(capsys, "cannot be reached")


def test_dicomweb_needs_dcmqi(monkeypatch, capsys):
    monkeypatch.setattr(serve.shutil, "which", lambda name: None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(serve.UserError, match="pip install dcmqi"):
        serve._require_dcmqi()
