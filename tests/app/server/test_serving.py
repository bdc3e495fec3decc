"""A version that cannot be loaded stops nobody."""

from __future__ import annotations

import shutil

import pytest
import requests
from fakes import make_conf
from lib.infers.serving import Serving
from lib.registry.versions import Registry
from lib.server.start import publish_first_model, require_same_labels
from server_parts import LABELS, tiny_run

from mnseg.errors import UserError


def infer(server):
    return requests.post(f"{server.url}/infer/mnseg", params={"image": "000", "output": "json"})


@pytest.fixture
def broken(server, published, tmp_path):
    """A version whose weights were cut off; nobody knows it behind the test."""
    version = server.app.registry.create(tiny_run(tmp_path / "run", 3), {})
    version.model_file.write_bytes(version.model_file.read_bytes()[:1000])
    yield version
    shutil.rmtree(version.path)


def test_while_the_published_model_cannot_be_loaded_an_earlier_one_makes_the_masks(server, published, broken):
    server.app.registry.publish(broken.id, "a script", "It looked well.")
    assert infer(server).json()["version"] == published.id
    said = f"{broken.name} cannot be loaded: its files are missing or damaged, or belong to another network (the " \
           f"server's log says more). {published.name} makes the masks until another version is published."
    status = requests.get(f"{server.url}/mnseg/status").json()
    assert status["model"]["version"] == published.id and status["model_fault"] == said
    info = requests.get(f"{server.url}/info/").json()["models"]["mnseg"]
    assert info["version"] == published.id and info["description"].endswith(said)
    assert requests.get(f"{server.url}/model/mnseg").content == published.model_file.read_bytes()
    server.app.registry.publish(published.id, "anna", "As before.")
    assert requests.get(f"{server.url}/mnseg/status").json()["model_fault"] is None


def test_without_any_model_that_can_be_loaded_the_answer_says_so(server, broken, monkeypatch):
    monkeypatch.setattr(server.app.registry, "servable", lambda: iter([broken]))
    answer = infer(server)
    assert answer.status_code == 503 and answer.json()["detail"].startswith(f"{broken.name} cannot be loaded: its fil")
    assert str(server.workspace) not in answer.text and "PytorchStreamReader" not in answer.text
    assert requests.get(f"{server.url}/mnseg/status").json()["model_fault"].endswith("or train anew.")


def test_a_model_that_cannot_be_loaded_is_not_published(server, published, broken):
    for path in ("publish", "pin"):
        answer = requests.post(f"{server.url}/mnseg/{path}/{broken.id}")
        assert answer.status_code == 409
        assert answer.json()["detail"].startswith(f"Not published: {broken.name} cannot be loaded")
    assert server.app.registry.published().id == published.id and server.app.registry.pinned is None


def test_what_could_not_be_loaded_is_tried_again_later(server, published, broken, monkeypatch):
    """A network disk that was away for a moment must not cost the newest model for good."""
    now = [0.0]
    serving = Serving(server.app.app_conf, server.app.registry, lambda: now[0])
    server.app.registry.publish(broken.id, "a script", "It looked well.")
    assert serving.current()[0].id == published.id and serving.version().id == published.id
    shutil.copyfile(published.model_file, broken.model_file)
    now[0] += 59
    assert serving.current()[0].id == published.id
    now[0] += 1
    assert serving.current()[0].id == broken.id and serving.fault() == ""


def test_what_was_mended_makes_the_masks_at_once_when_it_is_published(server, published, broken):
    serving = Serving(server.app.app_conf, server.app.registry, lambda: 0.0)
    server.app.registry.publish(broken.id, "a script", "It looked well.")
    assert serving.current()[0].id == published.id and serving.fault()
    server.app.registry.publish(published.id, "anna", "As before.")
    shutil.copyfile(published.model_file, broken.model_file)
    serving.require_usable(broken)
    server.app.registry.publish(broken.id, "anna", "It was mended.")
    assert serving.fault() == "" and serving.version().id == broken.id == serving.current()[0].id


def test_a_version_is_tried_on_the_cpu(server, published, broken, monkeypatch):
    """The GPU may be full of the model in use, or of a training."""
    import lib.infers.predictor

    devices = []
    predictor = lib.infers.predictor.Predictor

    def recorded(version, bundle, device=None, **options):
        devices.append(device)
        return predictor(version, bundle, device, **options)

    monkeypatch.setattr(lib.infers.predictor, "Predictor", recorded)
    shutil.copyfile(published.model_file, broken.model_file)
    Serving(server.app.app_conf, server.app.registry).require_usable(broken)
    assert devices == ["cpu"]


def test_nobody_goes_back_to_a_model_that_cannot_be_loaded(server, published, versions, broken):
    registry = server.app.registry
    for version in (broken, versions[1]):
        registry.publish(version.id, "a script", "It looked well.")
    before = registry.previous
    assert before[0] == broken.id
    answer = requests.post(f"{server.url}/mnseg/rollback")
    assert answer.status_code == 409
    assert answer.json()["detail"].startswith(f"Not published: {broken.name} cannot be loaded")
    assert registry.published().id == versions[1].id and registry.previous == before
    registry.pin(versions[1].id, "anna")
    assert "is pinned" in requests.post(f"{server.url}/mnseg/rollback").json()["detail"]
    registry.pin(None, "anna")


@pytest.mark.parametrize("overlay", [None, '{"class_names": ["back', "[]", '{"class_names": "a"}', "\udcff"])
def test_a_damaged_model_json_ends_no_start(tmp_path, overlay):
    """An earlier version makes the masks; the workspace's labels are still its labels."""
    registry = Registry(tmp_path / "registry")
    for seed in (1, 2):
        registry.publish(registry.create(tiny_run(tmp_path / str(seed), seed), {}).id, "x", "x")
    registry.get("0002").overlay.unlink()
    if overlay is not None:
        registry.get("0002").overlay.write_bytes(overlay.encode(errors="surrogateescape"))
    require_same_labels(registry, make_conf(tmp_path, labels=LABELS))
    with pytest.raises(UserError, match="^mnseg 0001 in .* segments lobe, bean, tube, but the labels given are liver"):
        require_same_labels(registry, make_conf(tmp_path, labels=("liver",)))
    registry.get("0001").overlay.unlink()
    require_same_labels(registry, make_conf(tmp_path, labels=("liver",)))


def test_a_packed_bundle_that_cannot_be_loaded_ends_the_start(tmp_path):
    bundle = tmp_path / "packed"
    weights = tiny_run(bundle, 1) / "model.pt"
    (bundle / "models").mkdir()
    conf, registry = make_conf(tmp_path, labels=LABELS, model=bundle), Registry(tmp_path / "registry")
    (bundle / "models" / "model.pt").write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=f"--conf model {bundle}: Not published: mnseg 0001 cannot be loaded"):
        publish_first_model(registry, conf)
    assert registry.published() is None
    weights.rename(bundle / "models" / "model.pt")
    publish_first_model(registry, conf)
    assert registry.published().id == "0002"
