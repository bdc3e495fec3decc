"""A label that was accepted is stored, whenever the server is killed."""

from __future__ import annotations

import errno
import json

import nibabel as nib
import numpy as np
import pytest
import requests
from lib.server.inbox import Inbox

from mnseg.data.content_digests import ContentDigests

IMAGE = "001"


def test_a_submission_is_there_whole_or_not_at_all(tmp_path):
    inbox = Inbox(tmp_path / "inbox")

    def fails(path):
        path.write_bytes(b"half")
        raise OSError("the disk is full")

    with pytest.raises(OSError):
        inbox.put(fails, {"image": "a"})
    assert inbox.waiting() == [] and not list(inbox.root.iterdir())
    inbox.put(lambda path: path.write_bytes(b"1"), {"image": "a"})
    inbox.put(lambda path: path.write_bytes(b"2"), {"image": "b"})
    (inbox.root / ".draft").mkdir()  # of a server killed while it wrote
    inbox = Inbox(inbox.root)
    first, second = inbox.waiting()
    assert [first.facts["image"], second.facts["image"]] == ["a", "b"] and second.mask.read_bytes() == b"2"
    assert not (inbox.root / ".draft").exists()
    inbox.done(first)
    assert [submission.facts["image"] for submission in inbox.waiting()] == ["b"]


def test_a_draft_of_this_server_is_left_alone(tmp_path):
    """A client may save while the server still looks for what its forerunner left."""
    (tmp_path / ".00000000000000000001-dead").mkdir()
    inbox = Inbox(tmp_path)

    def write(file):
        assert inbox.waiting() == [] and file.parent.is_dir()
        file.write_bytes(b"mask")

    inbox.put(write, {"image": "a", "tag": "final"})
    assert len(inbox.waiting()) == 1 and [path.name[0] for path in tmp_path.iterdir()] == ["0"]


@pytest.mark.parametrize("where", ["save_label", "submitted", "label_saved"])
def test_a_label_survives_a_kill_at_every_step(server, unlabeled, monkeypatch, where):
    """A killed process is an exception that nobody handles; what it left is replayed."""
    owner = {"save_label": server.app.datastore(), "submitted": server.app.provenance,
             "label_saved": server.app.training}[where]
    label = nib.load(server.studies / "truth" / f"{IMAGE}.nii.gz")
    lines = len(server.app.provenance.history(IMAGE))

    def killed(*args):
        raise SystemError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(owner, where, killed)
        answer = requests.put(f"{server.url}/datastore/label", params={"image": IMAGE},
                              files={"label": ("l.nii", label.to_bytes())})
        assert answer.status_code == 500
    assert len(server.app.submissions.inbox.waiting()) == 1
    assert server.app.submissions.replay() == 1
    stored = nib.load(server.app.datastore().get_label_uri(IMAGE, "final"))
    assert np.array_equal(stored.dataobj, label.dataobj) and server.app.training.saved == [IMAGE]
    assert len(server.app.provenance.history(IMAGE)) == lines + 1  # noted once
    assert server.app.submissions.inbox.waiting() == []


def test_a_submission_that_cannot_be_stored_does_not_stop_the_others(server, unlabeled, caplog):
    label = nib.load(server.studies / "truth" / f"{IMAGE}.nii.gz")
    for image in ("a scan that was removed", IMAGE):
        facts = {"image": image, "tag": "final", "author": "anna", "time": 0, "params": {}}
        server.app.submissions.inbox.put(lambda path: nib.save(label, path), facts)
    server.app.submissions.replay()
    assert server.app.datastore().get_labeled_images() == [IMAGE]
    left = server.app.submissions.inbox.waiting()
    assert [submission.facts["image"] for submission in left] == ["a scan that was removed"]
    server.app.submissions.inbox.done(left[0])


def test_an_older_label_whose_storing_failed_does_not_come_back_over_a_newer_one(server, unlabeled, monkeypatch):
    label = nib.load(server.studies / "truth" / f"{IMAGE}.nii.gz")
    older = nib.Nifti1Image(np.where(np.asarray(label.dataobj) == 1, 1, 0).astype(np.uint8), label.affine)

    def put(image):
        return requests.put(f"{server.url}/datastore/label", params={"image": IMAGE},
                            files={"label": ("l.nii", image.to_bytes())})

    with monkeypatch.context() as patch:
        def full(*args):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(server.app.datastore(), "save_label", full)
        answer = put(older)
        assert answer.status_code == 507
        assert answer.json()["detail"].startswith(f"The label of {IMAGE} was received and is kept, but it cannot be "
                                                  "stored now (the server's disk is full)")
    assert len(server.app.submissions.inbox.waiting()) == 1
    assert put(label).status_code == 200
    assert server.app.submissions.inbox.waiting() == [] and server.app.submissions.replay() == 0
    stored = nib.load(server.app.datastore().get_label_uri(IMAGE, "final"))
    assert np.array_equal(stored.dataobj, label.dataobj)
    assert put(older).status_code == 200
    (kept,) = (server.app.submissions.replaced.root / IMAGE).iterdir()
    assert np.array_equal(nib.load(kept).dataobj, label.dataobj), "what was replaced can be had again"


def test_a_clock_that_is_set_back_does_not_turn_the_order(tmp_path, monkeypatch):
    times = iter([5_000, 1_000, 900, 800])
    monkeypatch.setattr("lib.server.inbox.time.time_ns", lambda: next(times))
    facts = {"image": "a", "tag": "final"}
    failed = Inbox(tmp_path).put(lambda path: path.write_bytes(b"older"), facts)
    inbox = Inbox(tmp_path)  # the server was started again
    newer = [inbox.put(lambda path: path.write_bytes(b"newer"), facts) for _ in range(3)]
    names = [submission.folder.name for submission in (failed, *newer)]
    assert names == sorted(names) and len(set(names)) == 4
    inbox.supersede(newer[0], {failed.folder.name})
    assert [submission.folder for submission in inbox.waiting()] == [one.folder for one in newer]


def test_a_label_that_waits_does_not_outlive_its_deletion(server, unlabeled, monkeypatch):
    """Its file was stored already when something else failed; who deletes it means it."""
    label = nib.load(server.studies / "truth" / f"{IMAGE}.nii.gz")
    with monkeypatch.context() as patch:
        def full(*args):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(server.app.provenance, "submitted", full)
        answer = requests.put(f"{server.url}/datastore/label", params={"image": IMAGE},
                              files={"label": ("l.nii", label.to_bytes())})
        assert answer.status_code == 507 and server.app.datastore().get_labeled_images() == [IMAGE]
    answer = requests.delete(f"{server.url}/datastore/label", params={"id": IMAGE, "tag": "final"})
    assert answer.status_code == 200
    assert server.app.submissions.replay() == 0 and server.app.datastore().get_labeled_images() == []


def test_a_label_that_waited_for_another_scan_is_set_aside(server, unlabeled, caplog):
    label = nib.load(server.studies / "truth" / f"{IMAGE}.nii.gz")
    facts = {"image": IMAGE, "tag": "final", "author": "anna", "time": 0, "params": {}, "scan": "of another file"}
    inbox = server.app.submissions.inbox
    submission = inbox.put(lambda path: nib.save(label, path), facts)
    server.app.submissions.replay()
    assert server.app.datastore().get_labeled_images() == [] and inbox.waiting() == []
    kept = inbox.root.parent / "inbox_set_aside" / submission.folder.name / "mask.nii.gz"
    assert kept.is_file() and f"another scan has the name {IMAGE} now" in caplog.text


def test_a_label_that_was_deleted_is_not_imported_again(server, unlabeled, monkeypatch, tmp_path):
    from lib.server.start import import_labels

    truth = (server.studies / "truth" / f"{IMAGE}.nii.gz").read_bytes()
    (tmp_path / f"{IMAGE}.nii.gz").write_bytes(truth)
    monkeypatch.setattr(server.app, "app_conf", _with(server.app.app_conf, import_labels=tmp_path,
                                                      workspace=tmp_path / "workspace"))
    assert import_labels(server.app) == 1
    requests.delete(f"{server.url}/datastore/label", params={"id": IMAGE, "tag": "final"})
    assert import_labels(server.app) == 0 and server.app.datastore().get_labeled_images() == []
    other = nib.load(server.studies / "truth" / f"{IMAGE}.nii.gz")
    changed = np.asarray(other.dataobj).copy()
    changed[:2] = 0
    nib.save(nib.Nifti1Image(changed, other.affine), tmp_path / f"{IMAGE}.nii.gz")
    assert import_labels(server.app) == 1, "another file is another label"


def test_only_older_labels_of_the_same_scan_and_tag_are_superseded(tmp_path):
    inbox = Inbox(tmp_path)
    facts = [{"image": "a", "tag": "final"}, {"image": "b", "tag": "final"}, {"image": "a", "tag": "draft"},
             {"image": "a", "tag": "final"}, {"image": "a", "tag": "final"}]
    facts.insert(1, facts[0])  # made[1]: of another client, on its way
    made = [inbox.put(lambda path: path.write_bytes(b"x"), one) for one in facts]
    draft = tmp_path / ".00000000000000000001-draft"  # another client's, which is just being written
    draft.mkdir()
    (draft / "facts.json").write_text(json.dumps(facts[0]))
    inbox.supersede(made[4], {one.folder.name for one in made if one is not made[1]} | {draft.name})
    assert draft.is_dir()
    assert [submission.folder for submission in inbox.waiting()] == [made[i].folder for i in (1, 2, 3, 4, 5)]


def test_labels_are_taken_in_by_their_whole_names(tmp_path, monkeypatch, caplog):
    """Names may hold dots: two series of an examination, dates, DICOM UIDs."""
    from types import SimpleNamespace

    from lib.server.start import import_labels

    for name in ("case.2.nii.gz", "1.2.840.9.nrrd", "twice.nii", "twice.nii.gz", "CASE.3.NII.GZ", ".hidden.nii.gz"):
        (tmp_path / name).write_bytes(b"label")
    scans = ["case.1", "case.2", "1.2.840.8", "1.2.840.9", "twice", "CASE.3"]
    taken = {}
    app = SimpleNamespace(
        app_conf=SimpleNamespace(import_labels=tmp_path, workspace=tmp_path / "workspace"),
        datastore=lambda: SimpleNamespace(get_labeled_images=lambda: [], list_images=lambda: scans),
        submissions=SimpleNamespace(take=lambda image, path, *_, **__: taken.__setitem__(image, path.name)),
    )
    (tmp_path / "nobody.nii.gz").write_bytes(b"label")
    with caplog.at_level("WARNING"):
        assert import_labels(app) == 3
    assert taken == {"case.2": "case.2.nii.gz", "1.2.840.9": "1.2.840.9.nrrd", "CASE.3": "CASE.3.NII.GZ"}
    assert "nobody.nii.gz is not taken in: there is no scan of this name" in caplog.text
    assert "twice.nii is not taken in: there is twice.nii.gz too" in caplog.text and "hidden" not in caplog.text


def test_labels_of_a_folder_are_taken_in(server, unlabeled, monkeypatch, tmp_path):
    from lib.server.start import import_labels

    truth = server.studies / "truth"
    (tmp_path / f"{IMAGE}.nii.gz").write_bytes((truth / f"{IMAGE}.nii.gz").read_bytes())
    (tmp_path / "002.nii.gz").write_bytes(b"no image")
    (tmp_path / "other.nii.gz").write_bytes(b"of no scan")
    monkeypatch.setattr(server.app, "app_conf", _with(server.app.app_conf, import_labels=tmp_path,
                                                      workspace=tmp_path / "workspace"))
    assert import_labels(server.app) == 1
    assert server.app.datastore().get_labeled_images() == [IMAGE]
    assert import_labels(server.app) == 0  # again: it has a label
    facts = json.loads((server.studies / "datastore_v2.json").read_text())["objects"][IMAGE]["labels"]["final"]
    assert facts["info"]["author"] == "imported"
    scan = server.app.datastore().get_image_uri(IMAGE)
    assert facts["info"]["scan"] == ContentDigests(tmp_path).of(scan), "it belongs to this scan"


def _with(conf, **changes):
    import dataclasses

    return dataclasses.replace(conf, **changes)


def test_what_a_reader_submits_during_the_import_stays(server, unlabeled, monkeypatch, tmp_path):
    from lib.server import start

    truth = server.studies / "truth"
    (tmp_path / f"{IMAGE}.nii.gz").write_bytes((truth / f"{IMAGE}.nii.gz").read_bytes())
    monkeypatch.setattr(server.app, "app_conf", _with(server.app.app_conf, import_labels=tmp_path,
                                                      workspace=tmp_path / "workspace"))
    list_files = start._labels_by_name

    def slow(folder):
        files = list_files(folder)
        labeled = server.app.datastore().get_labeled_images
        # The import has asked who is labeled, then a reader saves.
        monkeypatch.setattr(server.app.datastore(), "get_labeled_images", lambda *_: [])
        server.app.submissions.take(IMAGE, truth / f"{IMAGE}.nii.gz", "final", {}, "ada")
        assert labeled() == [IMAGE]
        return files

    monkeypatch.setattr(start, "_labels_by_name", slow)
    assert start.import_labels(server.app) == 0
    facts = json.loads((server.studies / "datastore_v2.json").read_text())["objects"][IMAGE]["labels"]["final"]
    assert facts["info"]["author"] == "ada"


def test_labels_keep_their_meaning(server, unlabeled):
    from lib.server.start import require_labels_fit

    from mnseg.errors import UserError

    store, conf = server.app.datastore(), server.app.app_conf
    require_labels_fit(store, _with(conf, labels=("something else",)))  # nothing is labeled yet
    server.app.submissions.take(IMAGE, server.studies / "truth" / f"{IMAGE}.nii.gz", "final", {}, "ada")
    require_labels_fit(store, conf)
    for other in (conf.labels[::-1], conf.labels[:1], (*conf.labels, "one more")):
        with pytest.raises(UserError, match=f"The label of {IMAGE} was saved as {', '.join(conf.labels)}"):
            require_labels_fit(store, _with(conf, labels=other))
