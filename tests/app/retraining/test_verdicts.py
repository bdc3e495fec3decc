"""What the gate is told of a version's past. Commands are fakes."""

from __future__ import annotations

import pytest
from bench import FREE, HELD
from fakes import NoProvenance, behave, until


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
