"""The calls that 3D Slicer's plugin makes, with its own parameters, against a running server."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import requests
import SimpleITK as sitk
from lib.errors import RequestError
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException
from server_parts import LABELS

# As the plugin sends them: every key of the model's config, lists reduced to their first element, then its own.
SLICER = {"largest_component": False, "result_extension": ".nrrd", "result_dtype": "uint8"}
IMAGE = "000"


def truth(server, image=IMAGE):
    return nib.load(server.studies / "truth" / f"{image}.nii.gz")


def stored(server, image=IMAGE):
    return nib.load(server.app.datastore().get_label_uri(image, "final"))


def test_info_shows_the_model_before_and_after_it_is_trained(server, versions, monkeypatch):
    info = server.client().info()
    assert info["labels"] == list(LABELS)
    assert info["models"]["mnseg"]["labels"] == {"lobe": 1, "bean": 2, "tube": 3}
    assert info["models"]["mnseg"]["description"] == "mnseg 0001, not for diagnosis"
    assert info["trainers"].keys() == info["train_stats"].keys() == {"mnseg"}
    assert {"first", "random"} <= info["strategies"].keys()
    monkeypatch.setattr(server.app.registry, "servable", lambda: iter(()))
    assert "label at least 3 scans" in server.client().info()["models"]["mnseg"]["description"]


def test_without_a_model_the_answer_says_what_to_do(server, monkeypatch):
    monkeypatch.setattr(server.app.registry, "servable", lambda: iter(()))
    with pytest.raises(MONAILabelClientException) as caught:
        server.client().infer("mnseg", IMAGE, dict(SLICER))
    assert "Status: 409" in caught.value.msg
    assert "no model yet: label at least 3 scans (0 so far)" in caught.value.msg


@pytest.mark.parametrize(("running", "hint"), [
    (True, "4 scans are labeled, and a training is running"),
    (False, "4 scans are labeled, but no training is running: Retraining by itself is switched off. See /mnseg/."),
])
def test_without_a_model_the_answer_says_whether_one_is_coming(server, monkeypatch, running, hint):
    task = server.app.infer_task("mnseg")
    monkeypatch.setattr(server.app.registry, "servable", lambda: iter(()))
    monkeypatch.setattr(task, "labeled", lambda: 4)
    state = {"running": running, "reason": "Retraining by itself is switched off."}
    monkeypatch.setattr(task, "training", lambda: {**server.app.training.status(), **state})
    with pytest.raises(MONAILabelClientException) as caught:
        server.client().infer("mnseg", IMAGE, {})
    assert hint in caught.value.msg


def test_a_mask_lies_on_the_grid_of_its_scan(server, published, tmp_path):
    file, params = server.client(folder=tmp_path).infer("mnseg", IMAGE, dict(SLICER))
    mask, scan = sitk.ReadImage(file), sitk.ReadImage(str(server.studies / f"{IMAGE}.nii.gz"))
    assert mask.GetPixelID() == sitk.sitkUInt8 and file.endswith(".nrrd")
    assert mask.GetSize() == scan.GetSize() and np.allclose(mask.GetOrigin(), scan.GetOrigin())
    assert np.allclose(mask.GetSpacing(), scan.GetSpacing()) and np.allclose(mask.GetDirection(), scan.GetDirection())
    assert set(np.unique(sitk.GetArrayFromImage(mask))) <= {0, 1, 2, 3}
    assert mask.GetMetaData("notice") == "mnseg 0001; not for diagnosis"
    assert params["label_names"] == {"lobe": 1, "bean": 2, "tube": 3}
    assert (params["model"], params["version"], params["notice"]) == ("mnseg 0001", "0001", "not for diagnosis")
    assert params["latencies"]["total"] >= params["latencies"]["infer"] > 0
    assert params["label_colors"].keys() == set(LABELS)


def test_a_mask_equals_that_of_the_bundle(server, published, tmp_path):
    """What a clinician sees is what inference.json writes on the command line."""
    from monai.bundle import ConfigWorkflow

    configs = server.app.app_conf.bundle / "configs"
    flow = ConfigWorkflow(
        [str(configs / "inference.json"), str(published.overlay)], workflow_type="infer", logging_file=False,
        dataset_dir=str(server.studies), image_pattern=f"{IMAGE}.nii.gz", run_dir=str(tmp_path), device="cpu",
        model_file=str(published.model_file), bundle_root=str(server.app.app_conf.bundle),
    )  # fmt: skip
    flow.initialize()
    flow.run()
    expected = nib.load(tmp_path / "eval" / f"{IMAGE}_seg.nii.gz")
    params = {"result_extension": ".nii.gz"}
    file, _ = server.client(folder=tmp_path).infer("mnseg", IMAGE, params)
    found = nib.load(file)
    assert np.array_equal(found.dataobj, expected.dataobj) and np.allclose(found.affine, expected.affine)
    assert bytes(found.header["descrip"]).startswith(b"mnseg 0001; not for diagnosis")


def test_centroids_and_largest_component(server, published, tmp_path):
    from scipy.ndimage import center_of_mass, label

    client = server.client(folder=tmp_path)
    file, params = client.infer("mnseg", IMAGE, {"result_extension": ".nii.gz", "largest_component": True})
    mask = np.asarray(nib.load(file).dataobj)
    assert mask.any()
    for value, name in enumerate(LABELS, 1):
        if (mask == value).any():
            assert label(mask == value, np.ones((3, 3, 3)))[1] == 1
            assert params["centroids"][name] == [str(round(c)) for c in center_of_mass(mask == value)]
        else:
            assert name in params["missing"] and name not in params["centroids"]


@pytest.mark.parametrize("extension", [".nrrd", ".nii.gz"])
def test_a_mask_sent_back_unchanged_is_known_as_our_own(server, published, unlabeled, tmp_path, extension):
    client = server.client(folder=tmp_path)
    file, _ = client.infer("mnseg", IMAGE, {**SLICER, "result_extension": extension})
    answer = client.save_label(IMAGE, file, params={"label_info": [{"name": n, "idx": i}
                                                                   for i, n in enumerate(LABELS, 1)]})
    assert answer["edit"]["unedited"] is True and answer["edit"]["served"] == "0001"
    assert server.app.provenance.unedited() == {IMAGE}


def test_a_mask_of_ours_does_not_replace_what_a_person_drew(server, published, unlabeled, tmp_path):
    """Segment once more, then submit by mistake: the drawn label stays; drawn over, the mask is a label."""
    from monailabel.client.client import MONAILabelClientException

    client, image = server.client(folder=tmp_path), truth(server)
    nib.save(image, tmp_path / "drawn.nii.gz")
    client.save_label(IMAGE, str(tmp_path / "drawn.nii.gz"))
    before = Path(server.app.datastore().get_label_uri(IMAGE, "final")).read_bytes()
    file, _ = client.infer("mnseg", IMAGE, {**SLICER, "result_extension": ".nii.gz"})
    with pytest.raises(MONAILabelClientException) as error:
        client.save_label(IMAGE, file)
    assert "Status: 409" in error.value.msg and "the model's own, unchanged" in error.value.msg
    assert Path(server.app.datastore().get_label_uri(IMAGE, "final")).read_bytes() == before
    assert IMAGE not in server.app.provenance.unedited() and server.app.submissions.replay() == 0
    mask = nib.load(file)
    edited = np.asarray(mask.dataobj).astype(np.uint8)
    edited[0, 0, 0] = 1
    nib.save(nib.Nifti1Image(edited, mask.affine), tmp_path / "edited.nii.gz")
    assert client.save_label(IMAGE, str(tmp_path / "edited.nii.gz"))["edit"]["edited_voxels"] == 1


def test_a_label_of_a_replaced_scan_did_not_begin_as_a_mask_of_the_old_one(server, published, tmp_path):
    scan, client = server.studies / "copy.nii.gz", server.client(folder=tmp_path)
    nib.save(truth(server), tmp_path / "drawn.nii.gz")
    source = nib.load(server.app.datastore().get_image_uri(IMAGE))
    one, other = (nib.Nifti1Image(np.asarray(source.dataobj) * factor, source.affine) for factor in (1, 2))
    for image, is_segmented, version in ((one, True, "0001"), (other, False, None), (other, True, "0001")):
        nib.save(image, scan)
        server.app.datastore().refresh()
        if is_segmented:
            client.infer("mnseg", "copy", dict(SLICER))
        assert client.save_label("copy", str(tmp_path / "drawn.nii.gz"))["edit"]["served"] == version
    requests.delete(f"{server.url}/datastore/image", params={"id": "copy"}).raise_for_status()
    server.app.training.saved.clear()


def test_a_label_is_taken_by_names_not_by_numbers(server, unlabeled, tmp_path):
    """Slicer numbers segments as they come; here tube, lobe, bean."""
    image = truth(server)
    label = np.asarray(image.dataobj)
    sent = np.zeros_like(label)
    for index, name in enumerate(("tube", "lobe", "bean"), 1):
        sent[label == LABELS.index(name) + 1] = index
    path = tmp_path / "tmp.nii.gz"
    nib.save(nib.Nifti1Image(sent, image.affine), path)
    sitk.WriteImage(sitk.ReadImage(str(path)), str(tmp_path / "tmp.nrrd"))
    info = [{"name": "tube", "idx": 1}, {"name": "lobe", "idx": 2}, {"name": "bean", "idx": 3}]
    answer = server.client("anna").save_label(IMAGE, str(tmp_path / "tmp.nrrd"), params={"label_info": info})
    assert (answer["image"], answer["label"]) == (IMAGE, IMAGE) and answer["edit"]["author"] == "anna"
    assert np.array_equal(stored(server).dataobj, label) and np.allclose(stored(server).affine, image.affine)
    assert server.app.training.saved == [IMAGE]
    assert server.client().info()["datastore"]["completed"] == 1
    content = server.client().datastore()["objects"][IMAGE]["labels"]["final"]["info"]
    assert content["label_info"][0] == {"name": "lobe", "idx": 1} and content["author"] == "anna"


def test_a_label_edited_again_replaces_the_first(server, unlabeled, tmp_path):
    image = truth(server)
    first, second = np.asarray(image.dataobj), np.asarray(image.dataobj).copy()
    second[:4] = 0
    for label in (first, second):
        nib.save(nib.Nifti1Image(label, image.affine), tmp_path / "l.nii.gz")
        server.client().save_label(IMAGE, str(tmp_path / "l.nii.gz"))
    assert np.array_equal(stored(server).dataobj, second)
    assert server.app.training.saved == [IMAGE, IMAGE]


def test_next_sample(server):
    sample = server.client("anna").next_sample("first", {})
    assert sample["id"] in server.app.datastore().list_images() and sample["path"].endswith(".nii.gz")
    assert requests.get(f"{server.url}/datastore/image", {"image": sample["id"]}).content[:2] == b"\x1f\x8b"


def test_train_start_status_stop(server, monkeypatch, tmp_path):
    client = server.client("anna")
    assert client.train_status(check_if_running=True) is False
    task = client.train_start("mnseg", {"from_scratch": True})
    assert task["status"] == "RUNNING" and task["request"]["model"] == "mnseg"
    assert server.app.training.calls[-1] == ("now", "anna", True)
    assert client.train_status(check_if_running=True) is True and client.train_status()["details"] == ["epoch 1 of 9"]
    with pytest.raises(MONAILabelClientException) as caught:
        client.train_start("mnseg", {})
    assert "429" in caught.value.msg
    assert "epoch 1 of 9 <b>" in requests.get(f"{server.url}/logs/?text=true").text
    assert "epoch 1 of 9 &lt;b&gt;" in requests.get(f"{server.url}/logs/").text
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = requests.get(f"{server.url}/logs/gpu")
    assert answer.status_code == 404 and "no nvidia-smi" in answer.json()["detail"]
    stopped = client.train_stop()
    assert stopped["status"] == "STOPPED" and stopped["details"][-1]  # the plugin shows the last line
    everything = client.train_start("", {"mnseg": {"from_scratch": False}})
    assert everything["mnseg"]["result"]["status"] == "RUNNING"
    client.train_stop()


def test_a_status_poll_does_not_wait_for_an_inference(server, published, monkeypatch):
    task, entered = server.app._infers["mnseg"], threading.Event()
    _, predictor = task.serving.current()
    predict = predictor.predict

    def slow(*args):
        entered.set()
        time.sleep(1.5)
        return predict(*args)

    monkeypatch.setattr(predictor, "predict", slow)
    readers = [threading.Thread(target=server.client().infer, args=("mnseg", IMAGE, dict(SLICER))) for _ in range(6)]
    for reader in readers:
        reader.start()
    assert entered.wait(5)
    waited = []
    for path in ("/train/", "/mnseg/status", "/info/", "/datastore/", "/activelearning/first") * 2:
        begun = time.monotonic()
        (requests.post if "active" in path else requests.get)(server.url + path)
        waited.append(time.monotonic() - begun)
    assert server.app.traffic.busy and max(waited) < 1
    for reader in readers:
        reader.join()


def test_a_request_keeps_the_version_that_it_began_with(server, published, versions, monkeypatch, tmp_path):
    task, entered, go_on = server.app._infers["mnseg"], threading.Event(), threading.Event()
    _, predictor = task.serving.current()
    predict = predictor.predict

    def held(*args):
        entered.set()
        assert go_on.wait(20)
        return predict(*args)

    monkeypatch.setattr(predictor, "predict", held)
    answers = []
    (tmp_path / "a").mkdir()
    client = server.client(folder=tmp_path / "a")
    reader = threading.Thread(target=lambda: answers.append(client.infer("mnseg", IMAGE, dict(SLICER))))
    reader.start()
    assert entered.wait(5)
    requests.post(f"{server.url}/mnseg/publish/{versions[1].id}").raise_for_status()
    file, params = server.client(folder=tmp_path).infer("mnseg", IMAGE, dict(SLICER))
    assert params["version"] == versions[1].id
    go_on.set()
    reader.join()
    old_file, old_params = answers[0]
    assert old_params["version"] == versions[0].id
    assert not np.array_equal(*(sitk.GetArrayFromImage(sitk.ReadImage(path)) for path in (file, old_file)))


def test_a_file_can_be_sent_instead_of_an_image_of_the_studies(server, published, tmp_path):
    file, params = server.client(folder=tmp_path).infer(
        "mnseg", "", dict(SLICER), file=str(server.studies / f"{IMAGE}.nii.gz"))
    by_id, _ = server.client(folder=tmp_path).infer("mnseg", IMAGE, dict(SLICER))
    assert np.array_equal(*(sitk.GetArrayFromImage(sitk.ReadImage(path)) for path in (file, by_id)))


def test_a_session(server, published, tmp_path):
    client = server.client(folder=tmp_path)
    session = client.create_session(str(server.studies / f"{IMAGE}.nii.gz"))["session_id"]
    file, _ = client.infer("mnseg", "", dict(SLICER), session_id=session)
    assert sitk.ReadImage(file).GetSize() == (32, 32, 32)
    assert str(server.workspace) in client.get_session(session)["image"]
    client.remove_session(session)
    with pytest.raises(MONAILabelClientException) as caught:
        client.infer("mnseg", "", dict(SLICER), session_id=session)
    assert "no session" in caught.value.msg


def test_ohif_asks_for_raw_voxels(server, published, tmp_path):
    """Its panel posts a form with JSON and copies the voxels of an uncompressed NRRD."""
    params = '{"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": false}'
    answer = requests.post(f"{server.url}/infer/mnseg", {"params": params}, params={"image": IMAGE, "output": "image"})
    header, _, voxels = answer.content.partition(b"\n\n")
    assert b"encoding: raw" in header and len(voxels) == 32**3


def test_slicer_reloads_the_model(server, published):
    info = requests.get(f"{server.url}/model/info/mnseg").json()
    assert info["checksum"].startswith("SHA256:") and info["train_stats"]["best_metric"] == 0.0
    assert requests.get(f"{server.url}/model/mnseg").content == published.model_file.read_bytes()
    assert isinstance(MONAILabelClient(server.url).auth_enabled(), bool)


def test_a_model_is_loaded_although_another_thread_imports(server, published, monkeypatch):
    """MONAI walks through sys.modules, which an import in another thread changes."""
    import lib.infers.predictor as predictor

    real, calls = predictor.Predictor, []

    def disturbed(*args, **options):
        calls.append(args)
        if len(calls) < 3:
            raise RuntimeError("dictionary changed size during iteration")
        return real(*args, **options)

    monkeypatch.setattr(predictor, "Predictor", disturbed)
    serving = server.app._infers["mnseg"].serving
    monkeypatch.setattr(serving, "_predictors", {})
    assert serving.current()[1].class_names[1:] == list(LABELS) and len(calls) == 3


def test_the_next_sample_is_never_one_that_turns_out_to_be_no_volume(server, monkeypatch):
    """A DICOM server offers localizers as well; whether a series is a volume is known when it is fetched."""
    store = server.app.datastore()
    images = sorted(store.list_images())
    monkeypatch.setattr(server.app.reservations, "_open", {})
    unusable, left_out = set(images[:3]), set()
    path_of, list_images = store.get_image_uri, store.list_images

    def get_image_uri(image_id):
        if image_id in unusable:
            left_out.add(image_id)
            raise RequestError(422, "slices have different orientations")
        return path_of(image_id)

    monkeypatch.setattr(store, "get_image_uri", get_image_uri)
    monkeypatch.setattr(store, "list_images", lambda: [image for image in list_images() if image not in left_out])
    monkeypatch.setattr(store, "get_unlabeled_images",
                        lambda *tags: [image for image in list_images() if image not in left_out])
    sample = server.client("a new reader").next_sample("first", {})
    assert sample["id"] == images[3] and left_out and left_out <= unusable  # one of them was labeled before
    unusable |= set(images)
    assert server.client("another reader").next_sample("first", {}) == {}
