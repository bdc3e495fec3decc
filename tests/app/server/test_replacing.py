"""A label takes another one's place only when that one is kept."""

from __future__ import annotations

import errno

import nibabel as nib
import numpy as np
import pytest
import requests

IMAGE = "004"


@pytest.fixture
def labels(server, unlabeled):
    """Two labels of the scan; the first one is stored."""
    truth = nib.load(server.studies / "truth" / f"{IMAGE}.nii.gz")
    made = [nib.Nifti1Image((np.asarray(truth.dataobj) == value).astype(np.uint8), truth.affine) for value in (1, 2)]
    assert put(server, made[0]).status_code == 200
    return made


def put(server, label):
    return requests.put(f"{server.url}/datastore/label", params={"image": IMAGE},
                        files={"label": ("l.nii", label.to_bytes())})


def is_stored(server, label):
    return np.array_equal(nib.load(server.app.datastore().get_label_uri(IMAGE, "final")).dataobj, label.dataobj)


def test_a_label_stays_while_no_copy_of_it_can_be_written(server, labels, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    first, second = labels
    with monkeypatch.context() as patch:
        patch.setattr("lib.labels.replaced.durable_write", full)
        answer = put(server, second)
        assert answer.status_code == 507
        assert f"The label of {IMAGE} was received and is kept" in answer.json()["detail"]
    assert is_stored(server, first)
    assert server.app.submissions.replay() == 1 and is_stored(server, second)
    newest = max((server.app.submissions.replaced.root / IMAGE).iterdir())
    assert np.array_equal(nib.load(newest).dataobj, first.dataobj), "what was replaced can be had again"


def test_a_label_that_cannot_be_read_keeps_no_newer_one_out(server, labels, monkeypatch, caplog):
    def fails(*args):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("lib.datastores.local.LocalScans.label_files", fails)
        assert put(server, labels[1]).status_code == 200
    assert is_stored(server, labels[1]) and f"the label of {IMAGE} that is replaced is not kept" in caplog.text
