"""What a training is made of, where it starts, what becomes of its model. Commands are fakes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from bench import FREE, HELD, case_names
from fakes import NoProvenance, behave, until

from mnseg.data.content_digests import ContentDigests


def test_labels_that_are_there_train_and_the_version_is_published(bench):
    b = bench()
    b.fill()
    service = b.started()
    job = b.ended(service)
    assert (job["status"], job["outcome"], job["version"]) == ("DONE", "published", "0001")
    assert job["done"] == ["datalist", "train", "compare", "version", "judge", "score"], "three patients: no folds"
    published = b.registry.published()
    assert published.id == "0001" and published.facts["verdict"]["dice"] == pytest.approx(0.8)
    files = {"model.pt", "model.json", "checkpoint.pt", "scores.json", "datalist.json", "predictions", "history.jsonl"}
    assert {path.name for path in published.path.iterdir()} >= files
    assert {p.name.removesuffix(".nii.gz") for p in published.predictions.iterdir()} == set(HELD[:3])
    assert b.kinds() == ["started", "created", "published"]
    status, task = service.status(), service.task()
    assert status["waiting"] == [] and not status["running"] and status["failures"] == 0
    assert task["status"] == "DONE" and "mnseg 0001 is published" in task["details"][-1] and task["end_ts"]
    assert service.progress().epoch == 4 and service.progress().dice_3d == 0.5


def test_the_datalist_names_who_trains_with_hashes_of_copies(bench):
    import hashlib

    b = bench()
    b.fill(free=2, held=3, unlabeled=4)
    b.store.add(HELD[5])
    b.provenance = NoProvenance(FREE[1], HELD[2])
    b.ended(b.started(retrain_after=1))
    lists = b.datalist("0001")
    assert case_names(lists["labeled"]) == {FREE[0]}
    assert case_names(lists["unlabeled"]) == {FREE[1], *FREE[2:6]}, "an unedited mask of ours is no label"
    assert case_names(lists["validation"]) == set(HELD[:2]), "and never in validation"
    assert set(lists["held_out"]) == {HELD[2], HELD[5]}
    item = lists["labeled"][0]
    assert item["sha256"] == hashlib.sha256(b"label 1 of " + FREE[0].encode()).hexdigest()
    assert item["label"].startswith("labels/") and all("label" not in item for item in lists["unlabeled"])
    assert b.registry.published().facts["labels"] == {FREE[0]: item["sha256"]}
    scored = json.loads((b.workspace / "runs/0001/scoring_datalist.json").read_text())
    assert case_names(scored["unlabeled"]) == {*FREE[2:6], HELD[5]}, "validation needs labels, too"


def test_unedited_masks_train_where_that_is_wished(bench):
    b = bench(unedited="train")
    b.fill(free=2, held=3)
    b.provenance = NoProvenance(FREE[1], HELD[2])
    b.ended(b.started())
    lists = b.datalist("0001")
    assert case_names(lists["labeled"]) == set(FREE[:2]) and case_names(lists["validation"]) == set(HELD[:2])


def test_all_scans_labeled_trains_without_unlabeled_ones(bench):
    b = bench()
    b.fill(unlabeled=0)
    assert b.ended(b.started())["status"] == "DONE"
    overlay = json.loads((b.workspace / "runs/0001/overlay.json").read_text())
    assert overlay["allow_empty_unlabeled"] is True and b.datalist("0001")["unlabeled"] == []


def test_a_newer_label_trains_again_from_the_published_version(bench):
    b = bench()
    b.fill()
    service = b.started()
    b.ended(service)
    b.label(service, FREE[0], b"corrected")
    job = b.ended(service, 2)
    assert job["parent"] == "0001" and job["starts"]["main"] == "from mnseg 0001"
    overlay = json.loads((b.workspace / "runs/0002/overlay.json").read_text())
    assert (overlay["stage_1_epochs"], overlay["stage_2_epochs"]) == (1, 1), "half of the epochs"
    assert "warm_start.pt" in overlay["warm_start"]
    assert b.registry.published().id == "0002" and b.registry.published().facts["parent"] == "0001"


def test_a_stored_mask_counts_only_for_the_scan_that_it_was_made_of(bench):
    b = bench()
    b.fill()
    service = b.started()
    b.ended(service)
    first = b.registry.get("0001")
    known = first.predicted_images()
    assert known.keys() == set(HELD[:3])
    Path(b.store.get_image_uri(HELD[0])).write_bytes(b"another scan under the same name")
    b.label(service, HELD[0], b"label of the other scan")
    b.ended(service, 2)
    plan = json.loads((b.workspace / "runs/0002/comparison/plan.json").read_text())
    again = [task for task in plan["tasks"] if "/predicted/0001" in task["folder"]]
    assert [(task["model_file"], task["cases"]) for task in again] == [(str(first.model_file), [HELD[0]])]
    assert "/predicted/0001/" in plan["published"][HELD[0]] and "/0001/predictions/" in plan["published"][HELD[1]]
    now = first.predicted_images()
    assert now[HELD[0]] != known[HELD[0]] and now[HELD[1]] == known[HELD[1]]
    mask = json.loads((first.predictions / f"{HELD[0]}.nii.gz").read_text())
    assert mask == {"by": str(first.model_file)}, "the new one took its place"


def test_a_label_of_a_scan_that_was_replaced_does_not_train(bench):
    b = bench()
    b.fill(free=4)
    digest = ContentDigests(b.workspace).of(b.store.get_image_uri(FREE[0]))
    b.store.label_infos = {FREE[0]: {"scan": digest}, FREE[1]: {"scan": "of another file"}, HELD[0]: {"author": "a"}}
    job = b.ended(b.started())
    lists = b.datalist("0001")
    assert case_names(lists["labeled"]) == {FREE[0], *FREE[2:4]} and HELD[0] in case_names(lists["validation"])
    assert job["left_out"] == {
        FREE[1]: "the scan was replaced after its label was saved; check the label and save it again"
    }


def test_from_scratch_on_request(bench):
    b = bench(retrain=False)
    b.fill()
    service = b.started()
    service.now("anna")
    b.ended(service)
    service.now("anna", from_scratch=True)
    job = b.ended(service, 2)
    assert job["starts"]["main"] == "from scratch, as asked for" and job["by"] == "anna"
    overlay = json.loads((b.workspace / "runs/0002/overlay.json").read_text())
    assert overlay["warm_start"] is None and overlay["stage_1_epochs"] == 2


def test_other_structures_begin_from_scratch_and_say_so(bench):
    b = bench()
    b.fill()
    first = b.started()
    b.ended(first)
    first.close()
    second = b.service(labels=("organ", "vessel"))
    second.start()
    b.label(second, FREE[0], b"with a vessel")
    job = b.ended(second, 2)
    assert job["starts"]["main"] == "from scratch: class_names differs from mnseg 0001"
    assert any("class_names" in note for note in job["notes"])


def test_an_adopted_model_gives_its_3d_network(bench, tmp_path):
    b = bench()
    b.fill()
    service = b.service()
    settings = json.loads((b.conf.bundle / "configs" / "train.json").read_text())
    keys = ("in_channels", "orientation", "spacing", "intensity", "network_def")
    model = {key: settings[key] for key in keys} | {"class_names": ["background", "organ"]}
    (tmp_path / "packed" / "models").mkdir(parents=True)
    (tmp_path / "packed" / "models" / "model.pt").write_bytes(b"weights")
    (tmp_path / "packed" / "models" / "model.json").write_text(json.dumps(model))
    b.registry.publish(b.registry.adopt(tmp_path / "packed", "admin").id, "admin", "cold start")
    service.start()
    job = b.ended(service)
    assert job["starts"]["main"].startswith("from the 3D network of mnseg 0001; the 2D network begins anew")
    overlay = json.loads((b.workspace / "runs/0001/overlay.json").read_text())
    assert overlay["warm_start"].endswith("warm_start.pt") and overlay["stage_1_epochs"] == 2, "all epochs, for f"
    assert b.registry.published().id == "0002"
    assert (b.registry.get("0001").predictions / f"{HELD[0]}.nii.gz").is_file(), "its masks were made and kept"


def test_a_worse_model_is_kept_back_with_a_reason(bench):
    b = bench()
    b.fill()
    service = b.started()
    b.ended(service)
    behave(b.workspace, dice=0.4)
    b.label(service, FREE[0], b"wrong")
    job = b.ended(service, 2)
    assert (job["status"], job["outcome"]) == ("DONE", "kept")
    assert b.registry.published().id == "0001" and len(b.registry.versions()) == 2
    assert b.kinds()[-1] == "refused" and "worse" in b.registry.history()[-1]["reason"]
    assert "kept back" in service.task()["details"][-1] and "score" in job["done"]
    assert (b.registry.get("0002").scores).exists(), "a person may publish it"
    assert service.status()["waiting"] == [], "the same labels do not train again"


def test_a_pinned_version_stays(bench):
    b = bench()
    b.fill()
    service = b.started()
    b.ended(service)
    b.registry.pin("0001", "anna")
    b.label(service, FREE[0], b"better")
    assert b.ended(service, 2)["outcome"] == "kept" and b.registry.published().id == "0001"


def test_few_patients_in_validation_make_folds(bench):
    b = bench()
    b.fill(free=4, held=1, unlabeled=6)
    service = b.started()
    job = b.ended(service)
    assert job["done"] == ["datalist", "train", "fold 0", "fold 1", "compare", "version", "judge", "score"]
    version = b.registry.published()
    assert version.fold_checkpoint(0).is_file() and version.fold_checkpoint(1).is_file()
    predicted = {p.name.removesuffix(".nii.gz"): json.loads(p.read_text())["by"] for p in version.predictions.iterdir()}
    assert set(predicted) == {*FREE[:4], HELD[0]}
    for index in (0, 1):
        lists = b.datalist("0001", index)
        trained = case_names(lists["labeled"] + lists["unlabeled"])
        asked = {case for case, by in predicted.items() if f"/folds/{index}/" in by}
        assert asked and asked.isdisjoint(trained) and HELD[0] not in trained and lists["validation"] == []


def test_weights_that_no_fold_measured_are_run_before_they_are_served(bench):
    """Without scans of validation only fold models are compared; what would be served is the main model."""
    b = bench()
    b.fill(free=5, held=0)
    service = b.started()
    assert b.ended(service)["outcome"] == "published"
    own = b.workspace / "runs/0001/own"
    assert {path.name.removesuffix(".nii.gz") for path in own.iterdir()} == set(sorted(FREE[:5])[:3])
    assert json.loads((own / f"{FREE[0]}.nii.gz").read_text())["by"].endswith("runs/0001/models/model.pt")
    assert "fold models" in b.registry.published().facts["verdict"]["reason"]
    behave(b.workspace, dice=0.9, own_dice=0.0)
    b.label(service, FREE[0], b"corrected")
    job = b.ended(service, 2)
    assert (job["outcome"], job["verdict"]["dice"]) == ("kept", pytest.approx(0.9))
    assert "the new model itself" in job["verdict"]["reason"] and b.registry.published().id == "0001"


def test_fold_models_are_warm_started_from_their_own_fold_alone(bench):
    b = bench()
    b.fill(free=4, held=1, unlabeled=6)
    service = b.started()
    b.ended(service)
    b.label(service, FREE[5], b"new")  # was unlabeled: unseen by its own fold's model, seen by the other
    job = b.ended(service, 2)
    assert job["starts"] == dict.fromkeys(("main", "fold 0", "fold 1"), "from mnseg 0001")
    for index in (0, 1):
        with zipfile.ZipFile(b.workspace / f"runs/0002/folds/{index}/warm_start.pt") as start:
            assert start.read("run").decode().endswith(f"runs/0001/folds/{index}")
        seen = next(fold for fold in b.datalist("0002")["folds"] if fold["index"] == index)
        old = case_names(b.datalist("0001", index)["labeled"] + b.datalist("0001", index)["unlabeled"])
        assert set(seen["predicted"]).isdisjoint(old | set(seen["seen"]))
    masks = b.workspace / "runs/0002/predicted/0001"
    made = {p.name.removesuffix(".nii.gz"): json.loads(p.read_text())["by"] for p in masks.iterdir()}
    assert set(made) == {FREE[5]}, "the published version's other masks were there"
    assert "/folds/" in made[FREE[5]], "its main model had seen the scan, its fold's model had not"


def test_a_version_that_saw_todays_validation_gives_no_start(bench):
    b = bench(retrain=False)
    b.fill(free=6, held=3)
    first = b.started(validation_fraction=0.0, folds=0, settings=b.conf.settings)
    first.now("anna")
    b.ended(first)
    version = b.registry.versions()[-1]
    b.registry.publish(version.id, "anna", "by hand")
    first.close()
    second = b.started(retrain=False)
    second.now("anna")
    job = b.ended(second, 2)
    assert "was trained on" in job["starts"]["main"] and job["starts"]["main"].startswith("from scratch")
    assert job["outcome"] == "kept", "no scan on which both can be compared"


def test_old_runs_are_removed_and_numbers_never_given_twice(bench):
    b = bench()
    b.fill()
    service = b.started()
    b.ended(service)
    for number in range(2, 6):
        b.label(service, FREE[0], str(number).encode())
        until(lambda number=number: (service.status()["job"]["id"] == f"{number:04d}") and not service.running)
    until(lambda: [job.id for job in service.runs.all()] == ["0003", "0004", "0005"])
    assert [version.facts["run"] for version in b.registry.versions()] == [f"{n:04d}" for n in range(1, 6)]
