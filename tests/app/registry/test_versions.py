"""The registry: whole versions, one published, numbers never given twice, whatever is killed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from lib.errors import RequestError
from lib.registry.versions import Registry

from mnseg.errors import UserError

APP = Path(__file__).parents[3] / "monailabel_app"
BUNDLE = Path(__file__).parents[3] / "bundles" / "mn_cotraining"


def make_run(folder: Path, weights: bytes = b"weights") -> Path:
    """A run as training leaves it: the product in models/, the rest beside it."""
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "model.pt").write_bytes(weights)
    (folder / "models" / "checkpoint.pt").write_bytes(b"both networks")
    (folder / "model.json").write_text('{"class_names": ["background", "liver"]}')
    (folder / "datalist.json").write_text("{}")
    (folder / "predictions").mkdir()
    (folder / "predictions" / "a.nii.gz").write_bytes(b"mask")
    (folder / "folds" / "1" / "models").mkdir(parents=True)
    (folder / "folds" / "1" / "models" / "checkpoint.pt").write_bytes(b"fold")
    (folder / "log.txt").write_text("not part of a version")
    return folder


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "runs" / "0001")


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "registry", keep=2, clock=lambda: 0.0)


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_version_has_all_that_belongs_to_it(registry, run):
    version = registry.create(run, {"labels": 4, "parent": None, "dice": float("nan")})
    assert version.id == "0001" and version.name == "mnseg 0001"
    assert files_of(version.path) == {"model.pt", "model.json", "checkpoint.pt", "datalist.json", "version.json",
                                      "predictions/a.nii.gz", "folds/1/checkpoint.pt"}
    assert version.model_file.read_bytes() == b"weights"
    assert version.checkpoint.read_bytes() == b"both networks"
    assert version.fold_checkpoint(1).read_bytes() == b"fold"
    assert version.facts == {"id": "0001", "run": "0001", "labels": 4, "parent": None, "dice": None,
                             "created": "1970-01-01T00:00:00+00:00",
                             "model_sha256": hashlib.sha256(b"weights").hexdigest()}
    assert registry.of_run("0001") == version and registry.of_run("0002") is None
    (run / "models" / "model.pt").write_bytes(b"trained on")
    assert version.model_file.read_bytes() == b"weights"


def test_nothing_is_published_by_itself(registry, run):
    assert registry.published() is None and registry.versions() == [] and registry.history() == []
    registry.create(run, {})
    assert registry.published() is None
    assert registry.publish("0001", "gate", "better", {"publish": True, "low": float("nan")}) is True
    assert registry.published().id == "0001"
    created, published = registry.history()
    assert (created["kind"], created["version"]) == ("created", "0001")
    assert (published["kind"], published["by"], published["reason"]) == ("published", "gate", "better")
    assert published["verdict"] == {"publish": True, "low": None}
    assert registry.publish("0001", "gate", "again") is True  # a job that was killed behind it repeats it
    assert len(registry.history()) == 2


def test_a_run_without_its_model_is_no_version(registry, run):
    (run / "models" / "model.pt").unlink()
    with pytest.raises(UserError, match="has no model.pt"):
        registry.create(run, {})
    assert not (registry.root / "versions").exists()


@pytest.mark.parametrize("wrong", ["0002", "..", "", "../../etc", "1", None, 1, "000١"])
def test_unknown_versions(registry, run, wrong):
    registry.create(run, {})
    with pytest.raises(RequestError, match="There is no model version .*0001") as caught:
        registry.publish(wrong, "page", "")
    assert caught.value.status == 404
    assert registry.published() is None


def test_rollback_walks_back(registry, run):
    for _ in range(3):
        registry.publish(registry.create(run, {}).id, "gate", "better")
    assert registry.previous == ["0002", "0001"]
    assert registry.rollback("anna").id == "0002"
    assert registry.rollback("anna").id == "0001" == registry.published().id
    with pytest.raises(RequestError, match="no earlier published version") as caught:
        registry.rollback("anna")
    assert caught.value.status == 409
    assert [event["from"] for event in registry.history() if event["kind"] == "rolled back"] == ["0003", "0002"]
    registry.publish("0003", "anna", "it was good after all")
    assert registry.previous == ["0001"]
    registry.get("0001").path.joinpath("version.json").write_text("{")
    assert registry.previous == [], "the page offers no rollback that is refused"


def test_a_pin_holds_against_the_server_and_asks_people(registry, run):
    for _ in range(2):
        registry.create(run, {})
    registry.publish("0001", "gate", "first")
    registry.pin("0002", "anna")
    assert registry.pinned == "0002" == registry.published().id
    newest = registry.create(run, {}).id
    assert registry.publish(newest, "gate", "better", verdict={"publish": True}) is False
    assert registry.history()[-1]["kind"] == "kept" and registry.history()[-1]["version"] == newest
    for refused in (lambda: registry.publish(newest, "ben", "I want it"), lambda: registry.rollback("ben")):
        with pytest.raises(RequestError, match="0002 is pinned") as caught:
            refused()
        assert caught.value.status == 409
    assert registry.published().id == "0002"
    registry.pin(None, "anna")
    assert registry.pinned is None and registry.published().id == "0002"
    assert registry.publish(newest, "gate", "better", verdict={"publish": True}) is True
    with pytest.raises(RequestError, match="No version is pinned"):
        registry.pin(None, "anna")
    assert registry.previous == ["0002", "0001"]


def test_old_versions_go_and_their_numbers_never_return(registry, run):
    registry.publish(registry.create(run, {}).id, "gate", "first")
    for _ in range(4):
        registry.create(run, {})
    # keep=2: the two newest, and the published one.
    assert [version.id for version in registry.versions()] == ["0001", "0004", "0005"]
    assert [event["version"] for event in registry.history() if event["kind"] == "removed"] == ["0002", "0003"]
    for version in registry.versions():
        for file in sorted(version.path.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        version.path.rmdir()
    assert registry.published() is None  # somebody emptied the folder: an answer, no crash
    assert registry.create(run, {}).id == "0006"
    (registry.root / "last_id").unlink()
    assert registry.create(run, {}).id == "0007"
    (registry.root / "last_id").write_text("3")
    assert registry.create(run, {}).id == "0008"


def test_versions_published_before_stay_for_a_rollback(registry, run):
    for _ in range(5):
        registry.publish(registry.create(run, {}).id, "gate", "better")
    assert registry.previous == ["0004", "0003"]  # keep=2
    registry.create(run, {})
    assert [version.id for version in registry.versions()] == ["0003", "0004", "0005", "0006"]


def test_a_lost_folder_leaves_the_one_published_before(registry, run):
    for _ in range(2):
        registry.publish(registry.create(run, {}).id, "gate", "better")
    os.rename(registry.root / "versions" / "0002", registry.root / "elsewhere")
    assert registry.published().id == "0001"


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff", b'{"version": "0001"}', b"null"])
def test_a_damaged_state_is_read_from_the_history(registry, run, damage):
    for _ in range(2):
        registry.publish(registry.create(run, {}).id, "gate", "better")
    registry.pin("0002", "anna")
    (registry.root / "published.json").write_bytes(damage)
    assert registry.published().id == "0002" and registry.pinned == "0002" and registry.previous == ["0001"]
    registry.pin(None, "anna")
    assert json.loads((registry.root / "published.json").read_text())["version"] == "0002"


def test_a_damaged_version_is_left_out(registry, run):
    registry.create(run, {})
    registry.create(run, {})
    (registry.root / "versions" / "0001" / "version.json").write_text("{")
    (registry.root / "versions" / "notes").mkdir()
    assert [version.id for version in registry.versions()] == ["0002"]
    assert registry.create(run, {}).id == "0003"


def test_facts_are_added(registry, run):
    registry.create(run, {"labels": 4})
    version = registry.annotate("0001", verdict={"publish": False}, id="9999")
    assert version.facts["verdict"] == {"publish": False} and version.facts["labels"] == 4
    assert version.facts["id"] == "0001"
    registry.record("refused", version="0001", by="gate", reason="worse")
    assert registry.history()[-1] | {"kind": "refused", "reason": "worse", "version": "0001"} == registry.history()[-1]


def test_a_full_disk_leaves_nothing(registry, run, monkeypatch):
    def full(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lib.registry.parts.shutil.copyfile", full)
    with pytest.raises(OSError, match="No space"):
        registry.create(run, {})
    assert list((registry.root / "versions").iterdir()) == []


# ------------------------------------------------------------------------------------------------------- adoption


def test_a_packed_bundle_becomes_a_version_once(registry, tmp_path):
    bundle = tmp_path / "bundle"
    (bundle / "models").mkdir(parents=True)
    (bundle / "configs").mkdir()
    (bundle / "models" / "model.pt").write_bytes(b"trained elsewhere")
    (bundle / "configs" / "inference.json").write_bytes((BUNDLE / "configs" / "inference.json").read_bytes())
    (bundle / "configs" / "metadata.json").write_text('{"name": "atrium", "version": "2.0", "changelog": {}}')
    version = registry.adopt(bundle, "anna")
    overlay = json.loads(version.overlay.read_text())
    assert overlay["class_names"] == ["background", "foreground"]
    assert overlay["network_def"]["_target_"] == "BasicUNet" and "files" not in overlay
    assert version.facts["bundle"] == {"name": "atrium", "version": "2.0"} and version.facts["by"] == "anna"
    assert registry.published() is None
    assert registry.adopt(bundle, "ben").id == version.id
    assert len(registry.versions()) == 1
    (bundle / "model.json").write_text('{"class_names": ["background", "liver"], "network_def": {"_target_": "UNet"}}')
    (bundle / "models" / "model.pt").write_bytes(b"another one")
    other = registry.adopt(bundle, "anna")
    assert other.id == "0002" and json.loads(other.overlay.read_text())["class_names"] == ["background", "liver"]


@pytest.mark.parametrize(("config", "sentence"), [
    (None, "neither model.json nor"),
    ("{", "not valid JSON"),
    ("[]", "no JSON object"),
    ('{"class_names": ["a"]}', "has no 'network_def'"),
    ('{"class_names": "@names", "network_def": {}}', "key 'names'"),
])
def test_what_is_no_packed_bundle(registry, tmp_path, config, sentence):
    bundle = tmp_path / "bundle"
    with pytest.raises(RequestError, match="no models/model.pt"):
        registry.adopt(bundle, "anna")
    (bundle / "models").mkdir(parents=True)
    (bundle / "models" / "model.pt").write_bytes(b"weights")
    if config is not None:
        (bundle / "configs").mkdir()
        (bundle / "configs" / "inference.json").write_text(config)
    with pytest.raises(RequestError, match=sentence) as caught:
        registry.adopt(bundle, "anna")
    assert caught.value.status == 400
    assert registry.versions() == []


# ----------------------------------------------------------------------------------------------- threads and kills


def test_eight_threads(tmp_path):
    registry = Registry(tmp_path / "registry", keep=100)
    failures = []

    def work(name):
        try:
            run = make_run(tmp_path / "runs" / name, weights=name.encode())
            for _ in range(3):
                version = registry.create(run, {"by": name})
                registry.publish(version.id, name, "newest")
                assert registry.published().model_file.read_bytes()
                registry.record("looked", by=name)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"thread{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [version.id for version in registry.versions()] == [f"{number:04d}" for number in range(1, 25)]
    assert all(version.facts["by"].encode() == version.model_file.read_bytes() for version in registry.versions())
    kinds = [event["kind"] for event in registry.history()]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"created": 24, "published": 24, "looked": 24}


# A child is killed before its n-th call to the file system, for every n until it comes through; after each kill the
# registry must be whole. Once every child also meets what the killed one before it left behind, once ("tidy") it does
# not, so that the kills reach all steps of a publication. One light process, which forks.
KILLED_AT_EVERY_STEP = """
import hashlib, json, os, shutil, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from lib.registry.versions import Registry
assert "torch" not in sys.modules and "numpy" not in sys.modules

root, run = Path(sys.argv[2]), Path(sys.argv[3])

def work():
    registry = Registry(root, keep=2)
    newest = registry.create(run, {"labels": 1})
    registry.publish(newest.id, "gate", "better", {"publish": True})

def check(before):
    registry = Registry(root, keep=2)
    versions = registry.versions()
    for version in versions:
        assert hashlib.sha256(version.model_file.read_bytes()).hexdigest() == version.facts["model_sha256"]
        assert version.overlay.is_file() and (version.predictions / "a.nii.gz").is_file(), version.id
    ids = [version.id for version in versions]
    published = registry.published()
    assert published is not None and published.id in (before, ids[-1]), (before, ids)
    state = json.loads((root / "published.json").read_text())
    assert state["version"] == published.id
    events = registry.history()
    last = [event for event in events if event["kind"] == "published"][-1]
    assert last["version"] == published.id, "a publication without its event"
    identities = [event["event"] for event in events]
    assert len(identities) == len(set(identities))
    return published.id

work()
published, created, steps, kills = check("0001"), [], 0, 0
while True:
    steps += 1
    for leftover in (root / "versions").glob(".*" if sys.argv[4] == "tidy" else "none"):
        shutil.rmtree(leftover)
    child = os.fork()
    if child == 0:
        count = 0
        def killing(function):
            def call(*args, **kwargs):
                global count
                count += 1
                if count == steps:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)
            return call
        os.fsync = lambda descriptor: None  # costs time; a kill between two calls does not depend on it
        for name in ("replace", "rename", "fsync", "mkdir", "open", "unlink", "rmdir"):
            setattr(os, name, killing(getattr(os, name)))
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    published = check(published)
    created += [version.id for version in Registry(root).versions() if version.id not in created]
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, status
        break
    kills += os.WTERMSIG(status) == signal.SIGKILL
numbers = [int(version) for version in created]
assert numbers == sorted(set(numbers)), numbers
leftovers = [path.name for path in (root / "versions").iterdir() if path.name.startswith(".")]
assert not leftovers, leftovers
print(json.dumps({"kills": kills, "versions": len(numbers), "highest": max(numbers)}))
"""


@pytest.mark.parametrize("way", ["tidy", "untidy"])
def test_killed_at_every_step_of_create_and_publish(tmp_path, way):
    run = make_run(tmp_path / "run", weights=os.urandom(1 << 16))
    command = [sys.executable, "-c", KILLED_AT_EVERY_STEP, str(APP), str(tmp_path / "registry"), str(run), way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["kills"] > 40
    assert result["highest"] > 40  # most kills cost a number, which is not given again
    if way == "tidy":
        assert result["versions"] > 10  # killed behind the rename of the version, and around that of the publication


KILLED_ANYTIME = """
import sys
sys.path[:0] = [sys.argv[1]]
from lib.registry.versions import Registry
registry = Registry(sys.argv[2], keep=3)
print("ready", flush=True)
while True:
    version = registry.create(sys.argv[3], {})
    registry.publish(version.id, "gate", "better", {"publish": True})
    print(version.id, flush=True)
"""


def test_killed_at_random_moments_by_another_process(tmp_path):
    run = make_run(tmp_path / "run", weights=os.urandom(1 << 18))
    digest = hashlib.sha256((run / "models" / "model.pt").read_bytes()).hexdigest()
    registry, seen = Registry(tmp_path / "registry", keep=3), []
    for attempt in range(4):
        command = [sys.executable, "-c", KILLED_ANYTIME, str(APP), str(registry.root), str(run)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            lines = [process.stdout.readline().strip() for _ in range(3)]
            threading.Event().wait(0.01 * attempt)
            process.send_signal(signal.SIGKILL)
            lines += [line.strip() for line in process.stdout]
        seen += lines
        published = registry.published()
        assert int(published.id) >= int(seen[-1])  # what was reported as published is
        assert hashlib.sha256(published.model_file.read_bytes()).hexdigest() == digest
    assert seen == sorted(set(seen))
