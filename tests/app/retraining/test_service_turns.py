"""When a training starts, waits, stops and goes on. Commands are fakes."""

from __future__ import annotations

import json
import threading

import pytest
from bench import FREE
from fakes import behave, until
from lib.errors import RequestError
from lib.retraining.lock import WorkspaceLock


def amid_training(bench):
    """A bench, and its service in a training that takes a minute."""
    b = bench()
    b.fill()
    behave(b.workspace, sleep={"train": 60})
    service = b.started()
    until(lambda: "train begins" in service.task()["details"] if service.task() else False)
    return b, service


def test_retraining_is_switched_by_the_start_only_if_that_says_so(bench):
    b = bench()
    b.started(retrain=False).close()
    for wanted, on in ((None, False), (True, True), (None, True), (False, False)):
        service = b.started(retrain=wanted)
        assert service.status()["on"] is on, wanted
        service.close()


def test_labels_that_arrive_during_a_training_start_the_next(bench):
    b = bench()
    b.fill()
    behave(b.workspace, sleep={"train": 0.7})
    service = b.started()
    until(lambda: (service.status()["job"] or {}).get("step") == "train")
    b.label(service, FREE[0], b"edited meanwhile")
    assert service.status()["waiting"] == [FREE[0]]
    behave(b.workspace)
    b.ended(service, 2)
    old, new = ({i["image"]: i["sha256"] for i in b.datalist(run)["labeled"]} for run in ("0001", "0002"))
    assert old.keys() == new.keys() and sum(old[key] != new[key] for key in old) == 1


def test_a_label_is_remembered_when_the_call_returns(bench):
    b = bench()
    b.store.add(FREE[0], b"x")
    b.service().label_saved(FREE[0])
    assert json.loads((b.workspace / "state.json").read_text())["waiting"] == [FREE[0]]


def test_a_label_that_was_deleted_does_not_count(bench):
    b = bench(retrain_after=2)
    b.fill()
    service = b.started()
    b.ended(service)
    b.label(service, FREE[4])
    (b.store.root / "labels" / f"{FREE[4]}.nii.gz").unlink()
    b.label(service, FREE[5])
    assert service.status()["waiting"] == [FREE[5]]
    until(lambda: "1 of 2 scans labeled" in service.status()["reason"])
    b.label(service, FREE[4])
    b.ended(service, 2)


def test_stop(bench):
    b, service = amid_training(bench)
    task = service.stop("anna")
    assert task["status"] == "STOPPED" and task["details"][-1] == "anna stopped it."
    assert b.registry.published() is None and b.kinds()[-1] == "stopped"
    behave(b.workspace)
    assert not service.running and service.status()["waiting"] == [], "new labels are waited for"
    with pytest.raises(RequestError, match="No training") as caught:
        service.stop("anna")
    assert caught.value.status == 404
    service.now("anna")
    assert b.ended(service, 2)["status"] == "DONE"


def test_never_two_at_once(bench):
    b = bench()
    b.fill()
    behave(b.workspace, sleep={"train": 0.8})
    service = b.started()
    until(lambda: service.running)
    with pytest.raises(RequestError, match="is running") as caught:
        service.now("anna")
    assert caught.value.status == 429
    service.now("anna", enqueue=True)
    b.ended(service, 2)
    assert [job.facts["by"] for job in service.runs.all()] == ["the server", "anna"]


def test_many_askers_get_one_training(bench):
    b = bench(retrain=False)
    b.fill()
    behave(b.workspace, sleep={"train": 0.5})
    service, answers = b.started(), []

    def ask():
        try:
            answers.append(service.now("x")["id"])
        except RequestError as error:
            answers.append(error.status)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, answers)) == ["429"] * 7 + ["mnseg-training-0001"]
    b.ended(service)
    assert len(service.runs.all()) == 1


def test_another_server_on_the_workspace_does_not_train(bench):
    b = bench()
    b.fill()
    other = WorkspaceLock(b.workspace / "training.lock")
    assert other.take()
    service = b.started()
    with pytest.raises(RequestError, match="Another server .process") as caught:
        service.now("anna")
    assert caught.value.status == 409 and not service.runs.all()
    other.free()
    service.enable(False, "anna")
    service.enable(True, "anna")
    b.ended(service)


def test_a_stale_lock_file_is_no_lock(tmp_path):
    (tmp_path / "training.lock").write_text("4194304\n")
    lock = WorkspaceLock(tmp_path / "training.lock")
    assert lock.take() and lock.take() and not WorkspaceLock(lock.path).take()
    lock.free()
    assert WorkspaceLock(lock.path).take()


def test_off_and_on(bench):
    b = bench(retrain=False)
    b.fill()
    service = b.started()
    until(lambda: "off" in service.status()["reason"])
    service.enable(True, "anna")
    b.ended(service)
    assert "retraining on" in b.kinds()


def test_training_stands_still_while_somebody_waits_for_a_mask(bench):
    b = bench()
    b.fill()
    service = b.service()
    with b.traffic.inference():
        service.start()
        until(lambda: service._runner._child is not None)
        until(lambda: service.status()["paused"])
        assert not service._runner._child.lines, "it was paused before its first line"
    assert b.ended(service)["status"] == "DONE"
    b.label(service, FREE[0], b"2")
    with b.traffic.inference():
        pass
    assert b.ended(service, 2)["status"] == "DONE"


def test_closing_goes_on_at_the_next_start(bench):
    b, first = amid_training(bench)
    first.close()
    behave(b.workspace)
    second = b.started()
    job = b.ended(second)
    assert job["status"] == "DONE" and len(second.runs.all()) == 1 and b.kinds().count("continued") == 1


def test_other_settings_after_a_restart_begin_anew(bench):
    b, first = amid_training(bench)
    first.close()
    behave(b.workspace)
    second = b.started(settings={**b.conf.settings, "stage_1_epochs": 3})
    job = b.ended(second, 2)
    assert [j.facts["status"] for j in second.runs.all()] == ["STOPPED", "DONE"] and job["epochs"] == 5
