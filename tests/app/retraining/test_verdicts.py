"""What the gate is told of a version's past. Commands are fakes."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from bench import FREE, HELD
from fakes import FakePrograms, NoProvenance, behave, until
from lib.trainers.steps import Steps


def trained(b, service, number: int, **wishes) -> dict:
    """The facts of the training of this number, which one more label starts."""
    behave(b.workspace, **wishes)
    b.label(service, FREE[0], str(number).encode())
    until(lambda: service.status()["job"]["id"] == f"{number:04d}" and not service.running)
    return service.status()["job"]


def test_losses_add_up_from_version_to_version(bench):
    """The fake measures the published version as 0.8, whichever it is."""
    b = bench()
    b.fill()
    service = b.started()
    b.ended(service)
    dice = {2: 0.794, 3: 0.794, 4: 0.803, 5: 0.794}
    outcomes = [trained(b, service, number, dice=value)["outcome"] for number, value in dice.items()]
    assert outcomes == ["published", "kept", "published", "published"]
    assert b.registry.published().facts["verdict"]["behind"] == pytest.approx(0.009)
    assert b.registry.get("0003").facts["verdict"]["behind"] == pytest.approx(0.012)
    # A person wants the version that was kept back: what is lost counts from there.
    b.registry.publish("0003", "anna", "by hand")
    assert trained(b, service, 6, dice=0.794)["outcome"] == "published"
    assert b.registry.published().facts["verdict"]["behind"] == pytest.approx(0.006)


def test_the_verdict_says_how_many_labels_began_as_masks_of_the_published_version(bench):
    b = bench()
    b.fill()
    b.provenance = NoProvenance(began={"0001": {HELD[0], FREE[1]}, "0002": {HELD[1]}})
    service = b.started()
    b.ended(service)
    verdict = trained(b, service, 2, dice=0.82)["verdict"]
    assert verdict["cases"] == 3
    assert "1 of 3 labels began as masks of the present model" in verdict["reason"]


def test_a_published_version_that_cannot_be_loaded_keeps_no_other_back(bench):
    b = bench()
    b.fill()
    b.provenance = NoProvenance(began={"0001": {HELD[0]}})
    service = b.started()
    b.ended(service)
    assert trained(b, service, 2)["outcome"] == "published"
    shutil.rmtree(b.registry.get("0002").predictions)
    job = trained(b, service, 3, damaged=["0002"], dice=0.79)
    assert job["outcome"] == "published" and b.registry.published().id == "0003"
    assert "the present model by 0.800" in job["verdict"]["reason"], "the one that makes the masks meanwhile"
    assert "1 of 3 labels began as masks of the present model" in job["verdict"]["reason"]
    assert job["verdict"]["reason"].endswith("mnseg 0002 cannot be loaded, so the present model is mnseg 0001.")


def test_without_a_version_that_can_be_loaded_the_next_is_judged_as_a_first_model(bench):
    b = bench()
    b.fill()
    service = b.started()
    b.ended(service)
    shutil.rmtree(b.registry.get("0001").predictions)
    bad = trained(b, service, 2, damaged=["0001"], dice=0.1)
    assert bad["outcome"] == "kept" and "it needs a mean Dice of" in bad["verdict"]["reason"]
    good = trained(b, service, 3, damaged=["0001"], dice=0.7)
    assert good["outcome"] == "published" and good["verdict"]["reason"].startswith("The first model.")
    assert good["verdict"]["reason"].endswith("mnseg 0001 cannot be loaded, so it is judged as a first model.")


def test_a_comparison_that_was_broken_off_is_made_again_before_it_is_judged(bench):
    """Between two versions that it tries, its results are of one that cannot be loaded."""
    b = bench()
    b.fill()
    service = b.started()
    b.ended(service)
    trained(b, service, 2, dice=0.1)
    job, commands = service.runs.all()[-1], []

    def execute(command, folder):
        commands.append(command)
        subprocess.run(command, check=True)

    steps = Steps(b.conf, b.store, b.registry, b.provenance, job, execute, programs=FakePrograms())
    steps.judge()
    assert not commands
    file = job.folder / "comparison" / "results.json"
    results = json.loads(file.read_text())
    del results["while_published"], results["unusable"]
    file.write_text(json.dumps(results | {"published": []}))
    steps.judge()
    assert len(commands) == 1 and "worse by more than" in job.facts["verdict"]["reason"]
