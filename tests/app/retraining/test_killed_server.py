"""The server is killed in the middle of a training: the next one goes on, and nothing is lost or done twice."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from bench import FREE, case_names
from fakes import behave, until
from lib.trainers.job import Job

from mnseg.data.content_digests import ContentDigests

STEPS = ["datalist", "train", "fold 0", "fold 1", "compare", "version", "judge", "score"]


def killed(b, prepare) -> None:
    """A server in a process of its own that kills itself where ``prepare`` puts the kill."""
    pid = os.fork()
    if pid == 0:
        try:
            prepare()
            b.started()
            time.sleep(60)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_before(method: str, step: str):
    """Kill when ``Job.method`` is called for a step, before it has written anything."""

    def prepare():
        original = getattr(Job, method)
        setattr(Job, method, lambda self, name, *more: die() if name == step else original(self, name, *more))

    return prepare


def sound(b, service, outcome="published"):
    job = b.ended(service)
    assert (job["status"], job["outcome"], job["version"]) == ("DONE", outcome, "0001") and job["done"] == STEPS
    assert len(service.runs.all()) == 1 and len(b.registry.versions()) == 1
    kinds = b.kinds()
    assert [kinds.count(kind) for kind in ("started", "created", "continued")] == [1, 1, 1]
    assert kinds.count("published") + kinds.count("refused") == 1
    state = service.store.load()
    assert state.in_run == () and state.waiting == () and state.failures == 0


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_the_end_of_a_step(bench, step):
    """All of the step is done, but nothing says so: it is done again, and the result is the same."""
    b = bench()
    b.fill(free=4, held=1)
    killed(b, kill_before("finish", step))
    assert (b.registry.published() is not None) == (step in ("judge", "score"))
    sound(b, b.started())
    assert b.registry.published().id == "0001"


def test_killed_after_a_refusal(bench):
    b = bench()
    b.fill(free=4, held=1)
    behave(b.workspace, dice=0.1)
    killed(b, kill_before("finish", "judge"))
    sound(b, b.started(), "kept")
    assert b.registry.published() is None


def test_killed_before_the_job_is_under_way(bench):
    """The job is written, the policy's state is not: labels may train twice, never not at all."""
    b = bench()
    b.fill()

    def prepare():
        from lib.retraining.policy import PolicyState

        PolicyState.started = die

    killed(b, prepare)
    service = b.started()
    b.ended(service)
    # On a quick machine the second training has ended as well by now.
    published = [event["version"] for event in b.registry.history() if event["kind"] == "published"]
    assert published[0] == "0001" and len(published) <= 2


def killed_while_a_command_runs(b, before=lambda: None):
    """The server is killed as soon as a command of its training runs; ``before`` happens first."""

    def prepare():
        original = Job.update

        def update(self, **facts):
            original(self, **facts)
            if facts.get("pid"):
                before()
                die()

        Job.update = update

    killed(b, prepare)


def test_the_command_under_way_is_killed_too_and_run_again(bench):
    b = bench()
    b.fill()
    behave(b.workspace, sleep={"train": 60})

    killed_while_a_command_runs(b)
    facts = Job(b.workspace / "runs" / "0001", json.loads(
        (b.workspace / "runs" / "0001" / "job.json").read_text())).facts  # fmt: skip
    until(lambda: not Path(f"/proc/{facts['pid']}/cmdline").exists()
          or not Path(f"/proc/{facts['pid']}/cmdline").read_bytes())
    behave(b.workspace)
    service = b.started()
    assert b.ended(service)["status"] == "DONE" and b.registry.published().id == "0001"


def test_labels_saved_before_the_kill_train_after_it(bench):
    """A label that came while the killed training ran is in the next one."""
    b = bench()
    b.fill()
    behave(b.workspace, sleep={"train": 60})

    killed_while_a_command_runs(b, before=lambda: b.label(b.services[0], FREE[0], b"newer"))
    behave(b.workspace)
    service = b.started()
    b.ended(service, 2)
    shas = [{item["image"]: item["sha256"] for item in b.datalist(run)["labeled"]} for run in ("0001", "0002")]
    assert sum(shas[0][image] != shas[1][image] for image in shas[0]) == 1


def test_a_scan_that_was_replaced_while_the_server_was_away_does_not_train_with_its_old_label(bench):
    b = bench()
    b.fill()
    for name in b.store.get_labeled_images():
        image = b.store.get_image_uri(name)
        b.store.label_infos[name] = {"scan": ContentDigests(b.store.root).of(image)}
    behave(b.workspace, sleep={"train": 60})
    killed_while_a_command_runs(b)

    Path(b.store.get_image_uri(FREE[0])).write_bytes(b"another patient")
    behave(b.workspace)
    service = b.started()
    b.ended(service, 2)
    first, second = service.runs.all()
    assert first.facts["status"] == "STOPPED" and f"were replaced after their labels were saved ({FREE[0]})" in (
        first.facts["error"]
    )
    assert FREE[0] in case_names(b.datalist("0001")["labeled"])
    assert second.facts["status"] == "DONE" and FREE[0] not in case_names(b.datalist("0002")["labeled"])
    assert "the scan was replaced" in second.facts["left_out"][FREE[0]]
