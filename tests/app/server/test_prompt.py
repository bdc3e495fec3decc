"""The promptable model for the first scans, asked as 3D Slicer and OHIF ask models of the type "deepgrow"."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import requests
import SimpleITK as sitk
from monailabel.client.client import MONAILabelClientException

IMAGE = "001"
SLICER = {"result_extension": ".nrrd", "result_dtype": "uint8"}


@pytest.fixture(scope="module")
def shown(server):
    """The box around the bean of a phantom, a point deep inside, and its true mask."""
    truth = np.asarray(nib.load(server.studies / "truth" / f"{IMAGE}.nii.gz").dataobj) == 2
    where = np.argwhere(truth)
    box = np.stack([where.min(0) - 1, where.max(0) + 1], axis=1).ravel().tolist()
    middle = where[np.abs(where - where.mean(0)).sum(1).argmin()].tolist()
    return truth, box, middle


def dice(mask, truth):
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


def test_viewers_find_it_among_their_interactive_models(server):
    info = server.client().info()["models"]["prompt"]
    assert (info["type"], info["dimension"]) == ("deepgrow", 3)
    assert info["labels"] == {"lobe": 1, "bean": 2, "tube": 3}
    assert "random-walker" in info["description"] and "not for diagnosis" in info["description"]


def test_a_point_and_a_box_become_a_mask_before_anything_is_trained(server, shown, tmp_path, monkeypatch):
    monkeypatch.setattr(server.app.registry, "servable", lambda: iter(()))
    truth, box, middle = shown
    params = {"label": "bean", "foreground": [middle], "background": [], "roi": box, **SLICER}
    file, answer = server.client(folder=tmp_path).infer("prompt", IMAGE, params)
    mask, scan = sitk.ReadImage(file), sitk.ReadImage(str(server.studies / f"{IMAGE}.nii.gz"))
    assert mask.GetPixelID() == sitk.sitkUInt8 and mask.GetSize() == scan.GetSize()
    assert np.allclose(mask.GetOrigin(), scan.GetOrigin()) and np.allclose(mask.GetDirection(), scan.GetDirection())
    voxels = sitk.GetArrayFromImage(mask).T
    assert set(np.unique(voxels)) == {0, 2}
    assert dice(voxels == 2, truth) > 0.6
    assert (answer["model"], answer["version"], answer["notice"]) == ("random-walker", None, "not for diagnosis")
    assert answer["label_names"] == {"bean": 2} and answer["latencies"]["total"] > 0


def test_the_mask_is_a_persons_once_it_is_saved(server, shown, unlabeled, tmp_path):
    """Somebody pointed at it: other than a mask that the network made alone, it may train and validate."""
    truth, box, middle = shown
    client = server.client(folder=tmp_path)
    file, _ = client.infer("prompt", IMAGE, {"label": "bean", "foreground": [middle], "roi": box})
    client.save_label(IMAGE, file, params={"label_info": [{"name": "bean", "idx": 2}]})
    assert server.app.provenance.of(IMAGE)["unedited"] is False
    assert IMAGE not in server.app.provenance.unedited()


def test_ohif_does_not_name_the_structure(server, shown, tmp_path):
    """Its panel gives whatever is not 0 to the label that is chosen there."""
    truth, box, middle = shown
    file, answer = server.client(folder=tmp_path).infer("prompt", IMAGE, {"foreground": [middle], "roi": box})
    voxels = np.asarray(nib.load(file).dataobj)
    assert set(np.unique(voxels)) == {0, 1} and dice(voxels == 1, truth) > 0.6
    assert answer["label_names"] == answer["centroids"] == {} and answer["missing"] == []


def test_a_box_that_reaches_out_of_the_scan_is_cut(server, shown, tmp_path):
    _, _, middle = shown
    params = {"label": "bean", "foreground": [middle], "roi": [40, -5, -9, 99, 3, 28]}
    file, _ = server.client(folder=tmp_path).infer("prompt", IMAGE, params)
    found = np.argwhere(np.asarray(nib.load(file).dataobj))
    assert found[:, 2].min() >= 3 and found[:, 2].max() <= 28


@pytest.mark.parametrize(("params", "status", "sentence"), [
    ({"label": "heart", "foreground": [[1, 2, 3]]}, 400,
     "label is 'heart'; name the structure that the points are of: lobe, bean, tube."),
    ({"label": ["bean"], "foreground": [[1, 2, 3]]}, 400, "label is ['bean']"),
    ({"label": "bean"}, 422, "bean: set at least one point inside the structure, or a box around it."),
    ({"label": "bean", "foreground": [[1, 2]]}, 400, "it is a list of voxels such as [[10, 20, 30]]"),
    ({"label": "bean", "foreground": "$import os"}, 400, "foreground is '$import os'"),
    ({"label": "bean", "foreground": [[1, 2, 0.5]]}, 400, "it is a list of voxels"),
    ({"label": "bean", "foreground": [[1, 2, float("nan")]]}, 400, ""),
    ({"label": "bean", "foreground": [[1, 2, 99]]}, 422, "[1, 2, 99] lies outside the scan of 32x32x32 voxels"),
    ({"label": "bean", "foreground": [[1, 2, 3]] * 1001}, 400, "at most 1000"),
    ({"label": "bean", "roi": [1, 2, 3]}, 400, "it is a box of voxels"),
    ({"label": "bean", "roi": [50, 60, 1, 2, 3, 4]}, 422, "The box lies outside the scan"),
    ({"label": "bean", "foreground": [[1, 2, 3]], "result_extension": ".exe"}, 400, "result_extension is '.exe'"),
])
def test_what_cannot_be_meant_gets_one_sentence(server, tmp_path, params, status, sentence):
    with pytest.raises(MONAILabelClientException) as caught:
        server.client(folder=tmp_path).infer("prompt", IMAGE, params)
    assert f"Status: {status}" in caught.value.msg and sentence in caught.value.msg


def test_a_file_that_is_no_scan(server):
    files = {"file": ("bad.nii.gz", b"no scan at all")}
    params = '{"label": "bean", "foreground": [[1, 2, 3]]}'
    answer = requests.post(f"{server.url}/infer/prompt", files=files, data={"params": params})
    assert answer.status_code == 422 and "bad.nii.gz cannot be segmented" in answer.text
    assert "/tmp" not in answer.text


@pytest.mark.parametrize(("promptable", "sentence"), [
    ("/no/such/sam", "The promptable model /no/such/sam cannot be loaded"),
    (str(Path(__file__).parent), "holds no config.json"),
])
def test_a_server_without_its_model_does_not_start(tmp_path, promptable, sentence):
    (tmp_path / "scans").mkdir()
    root = Path(__file__).parents[3]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "mnseg.cli", "serve", str(tmp_path / "scans"), "--labels", "bean", "--port", port,
               "--conf", "promptable", promptable]  # fmt: skip
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode != 0 and sentence in said and "Traceback" not in said, said
