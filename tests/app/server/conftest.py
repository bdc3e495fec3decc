"""One server for all tests of this folder, in a thread of this process: a tiny model, a training that is none."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from server_parts import LABELS, SIZE, tiny_run, use_fakes  # noqa: E402

monailabel = pytest.importorskip("monailabel", reason="MONAI Label is not installed (pip install 'mnseg[app]')")

APP = Path(__file__).parents[3] / "monailabel_app"


@pytest.fixture(scope="session")
def studies(tmp_path_factory):
    """Six phantom scans; their true labels lie in ``truth``."""
    from mnseg.data.phantom import write_phantom_dataset

    made = tmp_path_factory.mktemp("made")
    write_phantom_dataset(made, 6, 0, 0, 0, size=SIZE)
    folder = tmp_path_factory.mktemp("studies")
    for scan in (made / "images").iterdir():
        scan.rename(folder / scan.name.removeprefix("labeled_"))
    (folder / "truth").mkdir()
    for label in (made / "labels").iterdir():
        label.rename(folder / "truth" / label.name.removeprefix("labeled_"))
    return folder


class Server:
    """The running server: its address, its app, MONAI Label's client."""

    def __init__(self, url, app, studies):
        self.url, self.app, self.studies = url, app, studies
        self.workspace = app.app_conf.workspace

    def client(self, name="reader", folder="/tmp"):
        from monailabel.client import MONAILabelClient

        return MONAILabelClient(self.url, tmpdir=str(folder), client_id=name)


@pytest.fixture(scope="session")
def server(studies):
    use_fakes()
    conf = {"labels": ",".join(LABELS), "max_upload_mb": "2", "promptable": "random-walker"}
    yield from running(studies, conf)


def running(studies, conf):
    import uvicorn
    from monailabel.config import settings

    os.environ["MONAI_LABEL_RELOAD_APP_LIB"] = "false"  # or the server's classes would be others than the tests'
    settings.MONAI_LABEL_APP_DIR, settings.MONAI_LABEL_STUDIES = str(APP), str(studies)
    settings.MONAI_LABEL_APP_CONF = conf
    from monailabel.app import app as api
    from monailabel.interfaces.utils.app import app_instance

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = uvicorn.Server(uvicorn.Config(api, port=port, log_level="warning"))
    thread = threading.Thread(target=served.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not served.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
        time.sleep(0.05)
    yield Server(f"http://127.0.0.1:{port}", app_instance(), Path(studies))
    served.should_exit = True
    thread.join(10)


@pytest.fixture(scope="session")
def versions(server, tmp_path_factory):
    """Two versions that differ; the first is published."""
    folder = tmp_path_factory.mktemp("runs")
    made = [server.app.registry.create(tiny_run(folder / str(seed), seed), {"seconds": 1}) for seed in (1, 2)]
    server.app.registry.publish(made[0].id, "the tests", "The first one.")
    return made


@pytest.fixture
def published(server, versions):
    """The first version, published again behind every test."""
    yield versions[0]
    server.app.registry.publish(versions[0].id, "the tests", "As before.")


@pytest.fixture
def unlabeled(server):
    """Whatever a test labels is unlabeled behind it."""
    yield
    for image in server.app.datastore().get_labeled_images():
        server.app.datastore().remove_label(image, "final")
    server.app.datastore().refresh()
    server.app.training.saved.clear()
