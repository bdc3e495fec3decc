"""What cannot be done is a 4xx with one sentence, and nothing is left behind."""

from __future__ import annotations

import io
import json
import threading

import nibabel as nib
import numpy as np
import pytest
import requests

IMAGE = "000"


def scan(server, image=IMAGE):
    return server.studies / f"{image}.nii.gz"


def refused(answer, status, hint):
    assert answer.status_code == status, answer.text[:500]
    sentence = answer.json()["detail"]
    assert hint in sentence and "\n" not in sentence and "Traceback" not in sentence
    return sentence


def infer(server, image=IMAGE, params=None, **query):
    return requests.post(f"{server.url}/infer/mnseg", {"params": json.dumps(params or {})},
                         params={"image": image, **query})


def save(server, content, image=IMAGE, name="label.nii", params="{}", **query):
    return requests.put(f"{server.url}/datastore/label", {"params": params}, params={"image": image, **query},
                        files={"label": (name, content)})


def label_bytes(server, edit=lambda array: array, shape=None, affine=None):
    image = nib.load(server.studies / "truth" / f"{IMAGE}.nii.gz")
    array = np.ones(shape, np.uint8) if shape else edit(np.asarray(image.dataobj).astype(np.float32))
    return nib.Nifti1Image(array, image.affine if affine is None else affine).to_bytes()


@pytest.mark.parametrize("image", ["nobody", "/etc/hostname", "../000", "000.nii.gz", "", "$__import__('os')"])
def test_only_images_of_the_studies(server, published, image):
    hint = "Name an image" if not image else "no image"
    refused(infer(server, image), 400 if not image else 404, hint)


def test_paths_of_the_server_are_no_images(server, published):
    refused(infer(server, str(scan(server))), 404, "no image")
    for path in ("/datastore/image", "/datastore/image/info"):
        refused(requests.get(server.url + path, {"image": str(scan(server))}), 404, "no image")


def test_unknown_names(server, published):
    url = server.url
    refused(requests.post(f"{url}/infer/other", params={"image": IMAGE}), 404, "no model 'other'")
    refused(requests.post(f"{url}/train/other"), 404, "no model 'other'")
    refused(requests.post(f"{url}/activelearning/other"), 404, "no strategy 'other'")
    refused(requests.get(f"{url}/datastore/label", {"label": IMAGE, "tag": "other"}), 404, "has no label 'other'")
    refused(requests.delete(f"{url}/datastore/label", params={"id": IMAGE, "tag": "final"}), 404, "no label 'final'")
    refused(requests.delete(f"{url}/datastore/image", params={"id": "nobody"}), 404, "no image")
    refused(requests.post(f"{url}/mnseg/publish/9999"), 404, "no model version")
    refused(requests.post(f"{url}/mnseg/pin/..$"), 404, "no model version")
    assert requests.delete(f"{url}/train/").json() is None  # as MONAI Label
    refused(requests.post(f"{url}/mnseg/stop"), 404, "No training is running")
    refused(requests.get(f"{url}/proxy/dicom/studies"), 404, "no DICOMweb server")
    refused(requests.post(f"{url}/batch/infer/mnseg"), 400, "one scan at a time")
    refused(requests.post(f"{url}/infer/mnseg", params={"session_id": "../../x"}), 404, "no session")
    refused(requests.get(f"{url}/datastore/dataset"), 404, "no scan has a final label".capitalize())


def test_requests_that_are_no_json(server, published):
    answer = requests.post(f"{server.url}/infer/mnseg", {"params": "{no"}, params={"image": IMAGE})
    refused(answer, 400, "no valid JSON")
    answer = requests.post(f"{server.url}/infer/mnseg", {"params": "[1]"}, params={"image": IMAGE})
    refused(answer, 400, "JSON object, not list")
    refused(save(server, label_bytes(server), params="{"), 400, "no valid JSON")
    refused(requests.put(f"{server.url}/datastore/image/info", {"info": "{"}, params={"image": IMAGE}), 400, "JSON")
    refused(requests.post(f"{server.url}/activelearning/first", json=[1]), 422, "body")


@pytest.mark.parametrize(("key", "value"), [
    ("result_extension", ".exe"), ("result_extension", "$__import__('os').system('touch /tmp/mnseg_was_here')"),
    ("result_extension", "/../../x.nrrd"), ("result_dtype", "object"), ("result_dtype", ["uint8"]),
    ("largest_component", "$__import__('os')"), ("largest_component", 1), ("result_compress", "@device"),
])
def test_keys_of_a_request_are_checked(server, published, key, value):
    refused(infer(server, params={key: value}), 400, key)


def test_other_keys_of_a_request_reach_nothing(server, published, tmp_path):
    """As config keys, as paths, as devices: a mask comes as always."""
    trap = tmp_path / "was_here"
    call = f"$__import__('pathlib').Path('{trap}').touch()"
    keys = ("bundle_root", "network_def", "device", "imports", "image", "image_id", "name", "model", "run", "spacing")
    plain = infer(server, params={"result_extension": ".nii"}, output="image")
    tricked = infer(server, params={**dict.fromkeys(keys, call), "result_extension": ".nii"}, output="image")
    assert tricked.status_code == 200 and tricked.content == plain.content and not trap.exists()
    answer = requests.post(f"{server.url}/train/mnseg", json=dict.fromkeys(keys, call))
    assert answer.status_code == 200 and not trap.exists()
    requests.delete(f"{server.url}/train/")
    refused(requests.post(f"{server.url}/train/mnseg", json={"from_scratch": call}), 400, "from_scratch")


def test_labels_that_are_none(server, unlabeled):
    refused(save(server, b"no image at all"), 415, "cannot be used")
    refused(save(server, b"", name="label.exe"), 400, "whose name ends in")
    refused(save(server, label_bytes(server, lambda a: a * 0)), 400, "empty")
    refused(save(server, label_bytes(server, lambda a: a + 7)), 400, "value")
    refused(save(server, label_bytes(server, lambda a: a / 2)), 400, "fractional")
    refused(save(server, label_bytes(server, shape=(40, 40, 40))), 409, "voxels of its scan")
    refused(save(server, label_bytes(server, affine=np.eye(4))), 409, "another place")
    refused(save(server, label_bytes(server), image="nobody"), 404, "no image 'nobody'")
    refused(save(server, label_bytes(server), tag="../../x"), 400, "cannot be saved as")
    info = json.dumps({"label_info": [{"name": "liver", "idx": 1}]})
    refused(save(server, label_bytes(server, lambda a: (a > 0) * 1.0), params=info), 400, "liver")
    answer = requests.put(f"{server.url}/datastore/label", params={"image": IMAGE})
    refused(answer, 422, "label")
    assert server.app.datastore().get_labeled_images() == [] and server.app.training.saved == []
    assert not list((server.workspace / "inbox").glob("*"))


def test_scans_that_are_none(server, published):
    def sent(content, name):
        return requests.post(f"{server.url}/infer/mnseg", files={"file": (name, content)})

    refused(sent(b"no image", "x.nii.gz"), 422, "x.nii.gz cannot be segmented")
    refused(sent(b"#!/bin/sh", "x.sh"), 400, "whose name ends in")
    two = nib.Nifti1Image(np.zeros((8, 8), np.float32), np.eye(4)).to_bytes()
    sentence = refused(sent(two, "two.nii"), 422, "two.nii cannot be segmented")
    assert "2-D" in sentence and "/tmp" not in sentence
    flat = nib.Nifti1Image(np.full((8, 8, 8), 7, np.float32), np.eye(4)).to_bytes()
    assert "constant" in refused(sent(flat, "flat.nii"), 422, "flat.nii cannot be segmented")
    two = nib.Nifti1Image(np.random.default_rng(0).random((32, 32, 32), np.float32), np.diag([1.0, 1, 3, 1]))
    two.header["pixdim"][3] = 1  # MONAI would go by it, and by the qform; other programs go by the sform
    assert "contradicts itself" in refused(sent(two.to_bytes(), "two.nii"), 422, "two.nii cannot be segmented")


def test_an_image_is_looked_at_before_it_joins(server, unlabeled):
    def add(content, name, **query):
        return requests.put(f"{server.url}/datastore/image", params=query, files={"file": (name, content)})

    whole = scan(server).read_bytes()
    refused(add(b"no image", "new.nii.gz"), 422, "no scan that can be read")
    refused(add(whole[: len(whole) // 2], "new.nii.gz"), 422, "no scan that can be read")
    refused(add(whole, "new.txt"), 400, "whose name ends in")
    refused(add(whole, "000.nii.gz"), 409, "already")
    refused(add(whole, "x.nii.gz", image="../../new"), 400, "cannot name an image")
    refused(add(whole, "x.nii.gz", image="ü" * 150), 400, "is too long to name a file")
    longest = "ü" * 100
    assert add(whole, "x.nii.gz", image=longest).json() == {"image": longest}
    assert save(server, label_bytes(server), image=longest).status_code == 200
    assert requests.delete(f"{server.url}/datastore/image", params={"id": longest}).status_code == 200
    assert add(whole, "new.nii.gz").json() == {"image": "new"}
    assert (server.studies / "new.nii.gz").read_bytes() == whole
    assert add(whole, "patient_0001").json() == {"image": "patient_0001"}, "no letters are lost with a suffix"
    for image in ("new", "patient_0001"):
        assert requests.delete(f"{server.url}/datastore/image", params={"id": image}).status_code == 200


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", '"\\ud800"'])
def test_what_cannot_be_stored_is_refused_everywhere(server, unlabeled, value):
    content = f'{{"x": [{value}]}}'
    refused(save(server, label_bytes(server), params=content), 400, "The field params holds")
    for what in ("image", "label"):
        query = {"image": IMAGE} if what == "image" else {"label": IMAGE, "tag": "final"}
        answer = requests.put(f"{server.url}/datastore/{what}/info", {"info": content}, params=query)
        refused(answer, 400, "The field info holds")
    for kind in ("application/json", "Application/vnd.x+JSON; charset=utf-8", None):
        for path in ("activelearning/random", "mnseg/off", "train/mnseg?enqueue=true"):
            body = content.replace("x", "client_id").encode()
            answer = requests.post(f"{server.url}/{path}", body, headers={"content-type": kind})
            refused(answer, 400, "The request holds")
    assert requests.get(f"{server.url}/mnseg/status").status_code == 200
    assert requests.get(f"{server.url}/datastore/", params={"output": "all"}).status_code == 200


def test_a_client_whose_name_is_no_text_keeps_no_scan(server, unlabeled):
    headers = {"content-type": "application/vnd.x+json"}
    answer = requests.post(f"{server.url}/activelearning/random", b'{"client_id": "\\ud800"}', headers=headers)
    refused(answer, 400, "which is no character")
    assert requests.get(f"{server.url}/mnseg/status").status_code == 200


def test_info_must_be_an_object(server):
    answer = requests.put(f"{server.url}/datastore/image/info", {"info": "[1]"}, params={"image": IMAGE})
    refused(answer, 400, "must hold a JSON object, not list")


@pytest.mark.parametrize(("info", "hint"), [
    ({"ts": "x", "name": 5, "label_info": 7}, "ts in info must be a time"), ({"ts": True}, "ts in info"),
    ({"name": 5}, "name in info must be a text, not 5"), ({"author": ["anna"]}, "author in info"),
    ({"label_info": 7}, "label_info must be a list"), ({"label_info": [{"name": 1, "idx": 1}]}, "text as name"),
    ({"scan": "0" * 32}, "scan in info is the server's own"),
    ({"classes": ["a"]}, "classes in info is the server's own"),
    ({"label_info": "ab"}, "label_info must be a list"), ({"origin": {}}, "origin in info is the server's own"),
])
def test_what_is_known_of_a_label_keeps_its_kinds(server, unlabeled, info, hint):
    assert save(server, label_bytes(server)).status_code == 200
    query = {"label": IMAGE, "tag": "final"}
    before = requests.get(f"{server.url}/datastore/label/info", query).json()

    def put(info):
        return requests.put(f"{server.url}/datastore/label/info", {"info": json.dumps(info)}, params=query)

    refused(put(info), 400, hint)
    assert requests.get(f"{server.url}/datastore/label/info", query).json() == before
    sound = {"ts": 5, "author": "ben", "label_info": [{"name": "lobe", "idx": 1}], "level": "easy"}
    assert put(sound).status_code == 200
    after = requests.get(f"{server.url}/datastore/label/info", query).json()
    assert after["level"] == "easy" and after["author"] == "ben"


def test_scoring_is_not_started_by_hand(server):
    refused(requests.post(f"{server.url}/scoring/disagreement"), 409, "scored behind every training")


def test_scans_that_cannot_be_trained_on_do_not_join(server):
    def add(voxels):
        content = nib.Nifti1Image(voxels, np.eye(4)).to_bytes()
        return requests.put(f"{server.url}/datastore/image", files={"file": ("new.nii", content)})

    refused(add(np.full((8, 8, 8), np.nan, np.float32)), 422, "NaN or infinite")
    refused(add(np.zeros((8, 8, 8, 2), np.float32)), 422, "has shape (8, 8, 8, 2); a scan has three axes")
    assert "new" not in server.app.datastore().list_images()


def test_a_session_takes_scans_alone(server):
    def sent(content, name):
        return requests.put(f"{server.url}/session/", files={"files": (name, content)})

    refused(sent(b"no image", "x.nii.gz"), 422, "no scan that can be read")
    refused(sent(b"no image", "x.txt"), 400, "whose name ends in")
    assert sent(scan(server).read_bytes(), "x.nii.gz").status_code == 200


def test_a_huge_upload_is_refused_while_it_streams(server, unlabeled):
    huge = b"\0" * 4_000_000
    refused(save(server, huge), 413, "larger than 2 MB")

    def chunks():  # no content-length: it can only be found while it streams
        boundary = b"--x\r\nContent-Disposition: form-data; name=\"label\"; filename=\"l.nii.gz\"\r\n\r\n"
        yield boundary
        for _ in range(40):
            yield huge[:100_000]
        yield b"\r\n--x--\r\n"

    answer = requests.put(f"{server.url}/datastore/label", params={"image": IMAGE}, data=chunks(),
                          headers={"content-type": "multipart/form-data; boundary=x"})
    refused(answer, 413, "larger than 2 MB")
    assert save(server, label_bytes(server)).status_code == 200  # below the limit


def test_the_model_cannot_be_overwritten(server, published):
    before = published.model_file.read_bytes()
    refused(requests.put(f"{server.url}/model/mnseg", files={"file": io.BytesIO(b"x")}), 403, "cannot be replaced")
    refused(requests.delete(f"{server.url}/model/mnseg"), 403, "cannot be replaced")
    assert published.model_file.read_bytes() == before


def test_pages_of_other_sites_are_kept_out(server, published):
    """A form on any page can send a POST from the browser of somebody who may use the server."""
    foreign = {"origin": "http://evil.example"}
    refused(requests.post(f"{server.url}/mnseg/off", headers=foreign), 403, "Pages of http://evil.example")
    refused(requests.post(f"{server.url}/mnseg/off", headers={"origin": "null"}), 403, "Pages of null")
    assert "access-control-allow-origin" not in requests.get(f"{server.url}/info/", headers=foreign).headers
    assert requests.post(f"{server.url}/mnseg/on", headers={"origin": server.url}).status_code == 200


def test_what_nobody_foresaw_is_one_sentence(server, published, monkeypatch):
    monkeypatch.setattr(server.app, "next_sample", lambda request: 1 / 0)
    refused(requests.post(f"{server.url}/activelearning/first"), 500, "ZeroDivisionError")


def test_buttons(server, published, versions):
    def press(path, **body):
        return requests.post(f"{server.url}/mnseg/{path}", json=body)

    status = press(f"publish/{versions[1].id}", by="anna").json()
    assert status["model"]["version"] == versions[1].id and status["history"][-1]["by"] == "anna"
    assert press("rollback").json()["model"]["version"] == versions[0].id
    assert press(f"pin/{versions[0].id}").json()["pinned"] == versions[0].id
    refused(press(f"publish/{versions[1].id}"), 409, "pinned")
    assert press("unpin").json()["pinned"] is None
    refused(press("unpin"), 409, "No version is pinned")
    assert press("off").json()["training"]["on"] is False and press("on").json()["training"]["on"] is True
    assert press("train", from_scratch=True).json()["training"]["running"] is True
    assert server.app.training.calls[-1] == ("now", "the page", True)
    press("stop")
    refused(press("train", from_scratch="yes"), 400, "from_scratch")
    refused(press("train", by=[1]), 400, "by must be a text")


def test_eight_clients_at_once_lose_nothing(server, published, unlabeled):
    """Each labels its own scans and some of the others'; counted by what is stored."""
    images = [f"{k:03d}" for k in range(6)]
    failures = []

    def work(k):
        try:
            for image in (images[k % 6], images[(k + 1) % 6]):
                label = nib.load(server.studies / "truth" / f"{image}.nii.gz")
                answer = save(server, label.to_bytes(), image=image, name="l.nii")
                assert answer.status_code == 200, answer.text
                assert infer(server, image, output="json").json()["version"] == published.id
                assert requests.post(f"{server.url}/activelearning/random", json={}).status_code == 200
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    datastore = server.app.datastore()
    assert sorted(datastore.get_labeled_images()) == images and len(server.app.training.saved) == 16
    for image in images:
        truth = nib.load(server.studies / "truth" / f"{image}.nii.gz")
        assert np.array_equal(nib.load(datastore.get_label_uri(image, "final")).dataobj, truth.dataobj)
    assert not list((server.workspace / "inbox").glob("*"))
    on_disk = json.loads((server.studies / "datastore_v2.json").read_text())
    assert all(on_disk["objects"][image]["labels"]["final"]["info"]["name"] for image in images)
