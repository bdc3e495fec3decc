"""OHIF in Chromium: the model's mask, drawing, correcting, exporting; and the label that comes of it."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import requests
from ohif_page import Ohif
from servers import until


def study_of(orthanc, name):
    import pydicom

    return str(pydicom.dcmread(orthanc.folders[name] / "0.dcm").StudyInstanceUID)


def label_of(server, uid, folder):
    """The final label as the server gives it, (columns, rows, slices)."""
    answer = requests.get(f"{server.url}/datastore/label", {"label": uid, "tag": "final"}, timeout=60)
    assert answer.ok, answer.text
    (folder / "label.nii.gz").write_bytes(answer.content)
    return np.asarray(nib.load(folder / "label.nii.gz").dataobj)


def segs_of(server, uid):
    """What the server says of the segmentations of a scan, but its own; newest last."""
    status = server.post("/mnseg/segs")
    return [entry for entry in status["reports"] + status["pending"] if entry.get("image") == uid]


@pytest.mark.parametrize("order", ["up", "down"])
def test_the_panel_runs_the_model_and_draws_the_mask(orthanc, ct_server, chromium, pictures, order):
    ohif = Ohif(chromium, ct_server, "monai-label", study_of(orthanc, f"look {order}"))
    try:
        assert ohif.page.locator("#monailabelServerURL").input_value() == f"{ct_server.url}/"
        before, _ = ohif.colored()
        ohif.run_model()
        ohif.picture(pictures / f"ohif-mask-{order}.png")
        after, on_the_organ = ohif.colored()
        assert before < 100 and after > 3000 and on_the_organ > 0.9 and ohif.errors == []
    finally:
        ohif.close()


@pytest.mark.parametrize("order", ["up", "down"])
def test_a_point_in_the_panel_becomes_a_mask(orthanc, ct_server, chromium, pictures, order):
    """The promptable model: a click on the organ colors it; a mirrored stack would put the mask elsewhere."""
    ohif = Ohif(chromium, ct_server, "monai-label", study_of(orthanc, f"look {order}"))
    try:
        before, _ = ohif.colored()
        sent = ohif.point_at("organ", 372, 481)
        ohif.picture(pictures / f"ohif-point-{order}.png")
        after, on_the_organ = ohif.colored()
        assert before < 100 and after > 1000 and on_the_organ > 0.9 and ohif.errors == [], sent
    finally:
        ohif.close()


@pytest.mark.parametrize("order", ["up", "down"])
def test_what_is_drawn_and_exported_becomes_the_label(orthanc, ct_server, chromium, pictures, tmp_path, order):
    uid = orthanc.uids[f"draw {order}"]
    ohif = Ohif(chromium, ct_server, "segmentation", study_of(orthanc, f"draw {order}"))
    try:
        ohif.new_segmentation("Organ")
        ohif.scroll(5)
        place = ohif.slice_number()
        ohif.paint("Organ")
        ohif.picture(pictures / f"ohif-draw-{order}.png")
        ohif.export()
    finally:
        ohif.close()
    (entry,) = until(lambda: segs_of(ct_server, uid), 30, "the segmentation")
    assert (entry["state"], entry["author"]) == ("taken", "unknown"), entry
    label = label_of(ct_server, uid, tmp_path)
    drawn = np.flatnonzero(label.any((0, 1)))
    shown = place - 1 if order == "up" else label.shape[2] - place
    assert list(drawn) == [shown], "drawn on one slice; a mirrored stack would put it on another"
    columns, rows, _ = np.nonzero(label)
    assert 300 < len(columns) < 3000 and 25 < columns.mean() < 65 and 25 < rows.mean() < 65
    info = ct_server.get(f"/datastore/label/info?label={uid}&tag=final")
    assert info["origin"]["program"] == "OHIF-VIEWER-2.0.0"


@pytest.mark.parametrize("order", ["up", "down"])
def test_the_models_mask_is_corrected_in_ohif(orthanc, ct_server, chromium, pictures, tmp_path, order):
    name = f"correct {order}"
    uid, truth = orthanc.uids[name], orthanc.masks[name]
    answer = ct_server.post(f"/mnseg/masks/{uid}")
    assert answer["notice"] == "not for diagnosis" and study_of(orthanc, name) in answer["ohif"]
    ohif = Ohif(chromium, ct_server, "segmentation", study_of(orthanc, name))
    try:
        ohif.open_segmentation("mnseg 0001 mask")
        ohif.export()
        (entry,) = until(lambda: segs_of(ct_server, uid), 30, "the unchanged export")
        assert entry["state"] == "ignored" and "nobody has changed it" in entry["reason"], entry
        largest = int(np.argmax(truth.sum((0, 1))))
        ohif.scroll(largest if order == "up" else truth.shape[2] - 1 - largest)
        place = ohif.slice_number()
        masked, on_the_organ = ohif.colored()
        assert masked > 3000 and on_the_organ > 0.9, "the opened mask lies on the organ"
        ohif.paint("organ")
        ohif.picture(pictures / f"ohif-correct-{order}.png")
        ohif.export()
    finally:
        ohif.close()
    entries = until(lambda: len(found := segs_of(ct_server, uid)) > 1 and found, 30, "the corrected export")
    assert [entry["state"] for entry in entries] == ["ignored", "taken"], entries
    label = label_of(ct_server, uid, tmp_path)
    changed = (label > 0) != (truth > 0)
    shown = place - 1 if order == "up" else truth.shape[2] - place
    assert list(np.flatnonzero(changed.any((0, 1)))) == [shown] and (label[truth > 0] == 1).all()
    status = ct_server.get("/mnseg/status")
    assert status["datastore"]["completed"] >= 1 and status["dicom"]["fault"] == ""
