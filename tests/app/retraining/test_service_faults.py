"""What keeps a training from starting or ending well, and what is said of it. Commands are fakes."""

from __future__ import annotations

import json

import pytest
from bench import FREE, case_names
from fakes import behave, until
from lib.errors import RequestError
from lib.retraining.policy import PolicyState
from lib.retraining.resume import config_of
from lib.trainers.process import Child


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_failure_is_told_and_tried_again_later(bench, command):
    b = bench()
    b.fill()
    text = "Traceback (most recent call last):\n  File x\nmnseg: The disk of pine is full."
    behave(b.workspace, fail={command: text})
    service = b.started()
    job = b.ended(service)
    assert (job["status"], job["error"]) == ("ERROR", "The disk of pine is full.")
    assert service.task()["details"][-1] == "The disk of pine is full." and service.task()["status"] == "ERROR"
    assert b.registry.published() is None and b.kinds()[-1] == "failed"
    status = until(lambda: service.status() if service.status()["not_before"] else None)
    assert status["failures"] == 1 and status["not_before"] == pytest.approx(b.now + 60, abs=1)
    behave(b.workspace)
    b.now += 61
    service.enable(False, "anna")  # anything wakes the thread; the clock is ours
    service.enable(True, "anna")
    assert b.ended(service, 2)["status"] == "DONE" and service.status()["failures"] == 0


@pytest.mark.parametrize("failures", [0, 1])
def test_a_clock_that_was_set_back_costs_one_pause(bench, failures):
    b = bench(retrain_pause=5.0)
    b.fill()
    year = 365 * 86400
    service = b.service()
    service.store.save(PolicyState(waiting=(FREE[0], FREE[1]), last_end=b.now + year, failures=failures))
    service.start()
    begin, pause = b.now, 300 * 2**failures
    until(lambda: service.status()["not_before"] == pytest.approx(begin + pause, abs=1))
    assert json.loads((b.workspace / "state.json").read_text())["last_end"] == begin, "a restart does not begin anew"
    b.now += pause - 10
    service.enable(False, "anna")  # anything wakes the thread; the clock is ours
    service.enable(True, "anna")
    until(lambda: service.status()["on"] and service.status()["not_before"])
    assert service.status()["not_before"] == pytest.approx(begin + pause, abs=1)
    b.now += 11
    service.enable(False, "anna")
    service.enable(True, "anna")
    assert b.ended(service)["status"] == "DONE"


def test_a_failed_scoring_does_no_harm(bench):
    b = bench()
    b.fill()
    behave(b.workspace, fail={"score": "mnseg: No memory."})
    job = b.ended(b.started())
    assert (job["status"], job["outcome"]) == ("DONE", "published")
    assert any("No memory." in note for note in job["notes"]) and b.kinds()[-1] == "not scored"


def test_damaged_scans_are_left_out_and_named(bench):
    b = bench()
    b.fill()
    behave(b.workspace, once=True, fail={"train": "mnseg: the datalist has 1 error:"},
           faults={FREE[4]: "cannot be read"})
    job = b.ended(b.started())
    assert job["status"] == "DONE" and job["left_out"] == {FREE[4]: "cannot be read"}
    assert FREE[4] not in case_names(b.datalist("0001")["unlabeled"])
    assert any(FREE[4] in note for note in job["notes"])


def test_a_damaged_checkpoint_of_the_published_version_costs_its_start_alone(bench):
    b = bench()
    b.fill()
    service = b.started()
    b.ended(service)
    b.registry.published().checkpoint.write_bytes(b"PK half a file")
    b.label(service, FREE[0], b"corrected")
    job = b.ended(service, 2)
    assert job["status"] == "DONE" and job["parent"] == "0001"
    assert "main: from the 3D network of mnseg 0001; the 2D network begins anew: its checkpoint is damaged." \
        in job["notes"]


def test_an_image_that_cannot_be_had_is_left_out(bench):
    b = bench()
    b.fill()
    original = b.store.get_image_uri
    b.store.get_image_uri = lambda image_id: "" if image_id == FREE[3] else original(image_id)
    job = b.ended(b.started())
    assert job["status"] == "DONE" and list(job["left_out"]) == [FREE[3]]


def test_too_few_labels(bench):
    b = bench(min_labels=3)
    b.fill(free=1, held=1)
    service = b.started()
    with pytest.raises(RequestError, match="Label at least 3 scans before a training; 2 are labeled.") as caught:
        service.now("anna")
    assert caught.value.status == 409
    until(lambda: "label 1 more" in service.status()["reason"])


def test_labels_for_validation_alone_are_not_enough(bench):
    b = bench()
    b.fill(free=0, held=3)
    service = b.started()
    with pytest.raises(RequestError, match="All labeled scans are kept for validation.*label another"):
        service.now("anna")
    until(lambda: "label another" in service.status()["reason"])
    assert not service.runs.all()


def test_a_step_that_breaks_the_server_again_and_again_is_given_up(bench):
    b = bench()
    b.fill()
    service = b.service()
    job = service.runs.create(by="x", reason="", from_scratch=False, created=0, config=config_of(b.conf),
                              status="RUNNING", started=0, step="datalist", begun={"datalist": 5})
    service.start()
    until(lambda: service.runs.all()[0].ended)
    assert "broken off 5 times" in service.runs.all()[0].facts["error"] and job.id == "0001"


def test_a_child_that_cannot_be_started_is_an_error_and_no_crash(bench, monkeypatch):
    b = bench()
    b.fill()
    monkeypatch.setattr(Child, "_start", lambda self: (_ for _ in ()).throw(OSError(12, "Cannot allocate memory")))
    job = b.ended(b.started())
    assert job["status"] == "ERROR" and "Cannot allocate memory" in job["error"]
