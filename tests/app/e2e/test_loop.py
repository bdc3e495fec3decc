"""The whole loop over DICOMweb: a person labels, the server trains and publishes, its masks go back to the PACS."""

from __future__ import annotations

import os
import signal
import time

import nibabel as nib
import numpy as np
import pydicom
import pytest
import requests
import SimpleITK as sitk
from patients import HELD, TRAIN, VIEWED
from servers import until

from mnseg.data.dicom_seg_write import Origin, write_dicom_seg
from mnseg.data.volume_io import open_volume

INFO = [{"name": "organ", "idx": 1}]
SLICER = {"largest_component": False, "result_extension": ".nrrd", "result_dtype": "uint8"}


def image_of(server, uid, folder):
    """A scan as a client gets it."""
    answer = requests.get(f"{server.url}/datastore/image", {"image": uid}, timeout=120)
    assert answer.ok, answer.text
    (folder / "image.nii.gz").write_bytes(answer.content)
    return nib.load(folder / "image.nii.gz")


def mask_file(server, uid, mask, folder):
    path = folder / "mask.nii.gz"
    nib.save(nib.Nifti1Image(mask, image_of(server, uid, folder).affine), path)
    return path


def segs_of(orthanc, uid):
    return [seg for seg in orthanc.segmentations() if seg.ReferencedSeriesSequence[0].SeriesInstanceUID == uid]


def dice(one, other):
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def from_a_viewer(orthanc, name, folder):
    """The true mask, stored by some program with a person's name."""
    series = orthanc.folders[name]
    nib.save(nib.Nifti1Image(orthanc.masks[name], open_volume(series).affine), folder / "truth.nii.gz")
    path = write_dicom_seg(series, folder / "truth.nii.gz", folder / "viewer.dcm", ["background", "ORGAN"],
                           origin=Origin("MANUAL", "Doe^Jane"))
    dataset = pydicom.dcmread(path)
    dataset.Manufacturer = "some viewer"
    dataset.save_as(path)
    orthanc.send(path)


@pytest.fixture(scope="module")
def labeled(orthanc, mr_server, tmp_path_factory):
    """All but one of the training patients and all of validation have a label: one from a viewer, the others sent."""
    folder = tmp_path_factory.mktemp("labels")
    client = mr_server.client(folder)
    from_a_viewer(orthanc, TRAIN[0], folder)
    for name in (*TRAIN[1:3], *HELD):
        uid = orthanc.uids[name]
        client.save_label(uid, str(mask_file(mr_server, uid, orthanc.masks[name], folder)), params={"label_info": INFO})
    mr_server.post("/mnseg/segs")


@pytest.fixture(scope="module")
def trained(labeled, mr_server, tmp_path_factory):
    """A version was trained and published."""
    mr_server.client(tmp_path_factory.mktemp("train")).train_start("mnseg", {})
    until(lambda: not mr_server.get("/mnseg/status")["training"]["running"], 900, "the training")
    status = mr_server.get("/mnseg/status")
    assert status["model"] == {"version": "0001", "name": "mnseg 0001"}, status["history"]
    return status


def test_only_series_of_the_modality_are_offered(orthanc, mr_server, ct_server, tmp_path):
    mr, ct = (server.client(tmp_path).datastore()["objects"] for server in (mr_server, ct_server))
    assert {orthanc.uids[name] for name in (*TRAIN, *HELD)} <= mr.keys()
    assert {orthanc.uids[name] for name in VIEWED} <= ct.keys()
    assert {entry["image"]["info"]["Modality"] for entry in mr.values()} == {"MR"} and not mr.keys() & ct.keys()
    sample = mr_server.client(tmp_path).next_sample("first", {})
    assert sample["Modality"] == "MR" and sample["id"] in orthanc.uids.values()
    answer = requests.get(f"{mr_server.url}/datastore/image", {"image": orthanc.uids["look up"]}, timeout=30)
    assert answer.status_code == 404 and "no image" in answer.json()["detail"]


def test_an_image_lies_where_its_series_lies(orthanc, mr_server, tmp_path):
    for name in TRAIN[:2]:
        image, series = image_of(mr_server, orthanc.uids[name], tmp_path), open_volume(orthanc.folders[name])
        assert np.array_equal(image.dataobj, np.asarray(series.dataobj)) and np.allclose(image.affine, series.affine)


def test_a_label_is_stored_as_a_segmentation(orthanc, mr_server, labeled):
    uid = orthanc.uids[HELD[0]]
    (seg,) = until(lambda: segs_of(orthanc, uid), 60, "the segmentation in Orthanc")
    assert [segment.SegmentAlgorithmType for segment in seg.SegmentSequence] == ["MANUAL"]
    assert (str(seg.ContentCreatorName), seg.Manufacturer) == ("anna", "mnseg")
    assert seg.PatientID == HELD[0] and "not for diagnosis" in seg.ContentDescription


def test_a_viewers_segmentation_is_a_label(orthanc, mr_server, labeled, tmp_path):
    uid = orthanc.uids[TRAIN[0]]
    answer = requests.get(f"{mr_server.url}/datastore/label", {"label": uid, "tag": "final"}, timeout=60)
    (tmp_path / "label.nii.gz").write_bytes(answer.content)
    label = nib.load(tmp_path / "label.nii.gz")
    assert np.array_equal(label.dataobj, orthanc.masks[TRAIN[0]])
    assert np.allclose(label.affine, open_volume(orthanc.folders[TRAIN[0]]).affine, atol=1e-4)
    assert mr_server.get(f"/datastore/label/info?label={uid}&tag=final")["author"] == "Doe Jane"
    assert len(segs_of(orthanc, uid)) == 1, "it is not stored once more"


def test_training_learns_from_all_of_them(orthanc, mr_server, trained, tmp_path):
    job = trained["training"]["job"]
    assert job["counts"]["labeled"] == 3 and job["counts"]["validation"] == 3 and job["folds"] == []
    uid = orthanc.uids[TRAIN[3]]  # nobody labeled it
    file, params = mr_server.client(tmp_path).infer("mnseg", uid, dict(SLICER))
    mask, series = sitk.ReadImage(file), image_of(mr_server, uid, tmp_path)
    assert params["notice"] == "not for diagnosis" and params["version"] == "0001"
    found = sitk.GetArrayFromImage(mask).transpose(2, 1, 0)
    assert found.shape == series.shape and dice(found > 0, orthanc.masks[TRAIN[3]] > 0) > 0.5


def test_a_corrected_mask_says_so(orthanc, mr_server, trained, tmp_path):
    uid = orthanc.uids[TRAIN[3]]
    stored = mr_server.post(f"/mnseg/masks/{uid}")
    (automatic,) = segs_of(orthanc, uid)
    assert automatic.SOPInstanceUID == stored["SOPInstanceUID"]
    assert automatic.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"
    assert automatic.SegmentSequence[0].SegmentAlgorithmName == "mnseg 0001"
    assert "not for diagnosis" in automatic.SeriesDescription
    mr_server.post("/mnseg/segs")
    assert uid not in [entry.get("image") for entry in mr_server.get("/mnseg/segs")["reports"]], "no label of ours"
    path = mask_file(mr_server, uid, orthanc.masks[TRAIN[3]], tmp_path)
    edit = mr_server.client(tmp_path).save_label(uid, str(path), params={"label_info": INFO})["edit"]
    assert edit["served"] == "0001" and edit["edited_voxels"] > 0
    kinds = until(lambda: len(found := segs_of(orthanc, uid)) == 2 and
                  {seg.SegmentSequence[0].SegmentAlgorithmType for seg in found}, 60, "the corrected mask")
    assert kinds == {"AUTOMATIC", "SEMIAUTOMATIC"}


def test_a_mask_as_dicom_seg_in_the_answer(orthanc, mr_server, trained, tmp_path):
    uid = orthanc.uids[HELD[1]]
    answer = requests.post(f"{mr_server.url}/infer/mnseg", params={"image": uid, "output": "dicom_seg"}, timeout=120)
    assert answer.ok, answer.text
    (tmp_path / "seg.dcm").write_bytes(answer.content)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == uid


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_real_series(orthanc, mr_server, ct_server, shared_series, tmp_path, modality):
    """Fetched, shown on their own grid, labeled, stored; for CT with the model's mask as well."""
    server, folder = {"MR": mr_server, "CT": ct_server}[modality], shared_series[modality]
    uid = str(pydicom.dcmread(next(folder.glob("*.dcm"))).SeriesInstanceUID)
    until(lambda: requests.get(f"{server.url}/datastore/image/info", {"image": uid}, timeout=30).ok, 30, "the series")
    image, series = image_of(server, uid, tmp_path), open_volume(folder)
    assert image.shape == series.shape and np.allclose(image.affine, series.affine, atol=1e-4)
    assert np.array_equal(image.dataobj, np.asarray(series.dataobj))
    label = np.zeros(image.shape, np.uint8)
    label[3:20, 5:30, 2:9] = 1
    server.client(tmp_path).save_label(uid, str(mask_file(server, uid, label, tmp_path)), params={"label_info": INFO})
    (seg,) = until(lambda: segs_of(orthanc, uid), 60, "the segmentation in Orthanc")
    assert seg.SegmentSequence[0].SegmentLabel == "organ"
    if modality == "CT":
        file, _ = server.client(tmp_path).infer("mnseg", uid, {**SLICER, "result_extension": ".nii.gz"})
        mask = nib.load(file)
        assert mask.shape == image.shape and np.allclose(mask.affine, image.affine, atol=1e-3)
        assert np.asarray(image.dataobj)[np.asarray(mask.dataobj) > 0].min() > 200, "bone and the like, in HU"


def test_a_pacs_that_stands_still(orthanc, ct_server):
    """The list stays, and no answer waits for it."""
    before = ct_server.get("/info/")["datastore"]["total"]
    os.kill(orthanc.child.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        while time.monotonic() < begun + 12:  # longer than a list is good
            asked = time.monotonic()
            assert ct_server.get("/mnseg/status")["datastore"]["total"] == before
            assert time.monotonic() - asked < 5
            time.sleep(1)
    finally:
        os.kill(orthanc.child.pid, signal.SIGCONT)
    until(lambda: ct_server.get("/mnseg/status")["dicom"]["fault"] == "", 120, "Orthanc's answer")
    assert ct_server.get("/info/")["datastore"]["total"] == before
