"""A new run begins with the networks of another one; a continued run with its own."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from ignite.engine import Events
from torch import nn

from mnseg.errors import UserError
from mnseg.handlers import WarmStartHandler

SETTINGS = {"class_names": "['background', 'a']", "spacing": "None"}


def constant(value: float) -> nn.Module:
    network = nn.Conv3d(1, 2, 1)
    for parameter in network.parameters():
        nn.init.constant_(parameter, value)
    return network


def checkpoint(path, settings=SETTINGS, **values: float):
    objects = {name: constant(value).state_dict() for name, value in values.items()}
    torch.save({"settings": settings, "objects": {**objects, "optimizer": {"state": {}}}}, path)
    return path


def start(make_engine, path, epoch: int = 0, settings=SETTINGS, **networks: nn.Module | None) -> dict[str, set[float]]:
    engine = make_engine()
    engine.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "epoch", epoch))
    WarmStartHandler(path, networks, settings).attach(engine)
    engine.run([0, 1], max_epochs=epoch + 1)
    return {
        name: {float(value) for parameter in network.parameters() for value in parameter.flatten()}
        for name, network in networks.items()
        if network is not None
    }


def test_both_networks_are_loaded(make_engine, tmp_path):
    path = checkpoint(tmp_path / "c.pt", network=2.0, network_2d=3.0)
    found = start(make_engine, path, network=constant(0), network_2d=constant(0), ema=None)
    assert found == {"network": {2.0}, "network_2d": {3.0}}


def test_a_checkpoint_that_was_set_aside_is_found(make_engine, tmp_path):
    """--resume False --warm_start RUN/models/checkpoint.pt in the same RUN, interrupted and repeated."""
    checkpoint(tmp_path / "c.pt.previous", network=2.0, network_2d=3.0)
    assert start(make_engine, tmp_path / "c.pt", network=constant(0)) == {"network": {2.0}}
    checkpoint(tmp_path / "c.pt", network=4.0)
    assert start(make_engine, tmp_path / "c.pt", network=constant(0)) == {"network": {4.0}}


@pytest.mark.parametrize(("saved", "wanted"), [({}, 2.0), ({"ema": 4.0}, 4.0)])
def test_moving_average_is_loaded_or_begins_as_the_network(make_engine, tmp_path, saved, wanted):
    path = checkpoint(tmp_path / "c.pt", network=2.0, network_2d=3.0, **saved)
    found = start(make_engine, path, network=constant(0), network_2d=constant(0), ema=constant(0))
    assert found == {"network": {2.0}, "network_2d": {3.0}, "ema": {wanted}}


def test_a_model_alone_leaves_the_2d_network_and_says_so(make_engine, tmp_path, caplog):
    torch.save(constant(2.0).state_dict(), tmp_path / "model.pt")
    found = start(make_engine, tmp_path / "model.pt", network=constant(0), network_2d=constant(1.0), ema=None)
    assert found == {"network": {2.0}, "network_2d": {1.0}}
    assert "the 2D network begins anew" in caplog.text


def test_a_continued_run_keeps_its_own(make_engine, tmp_path):
    path = checkpoint(tmp_path / "c.pt", network=2.0, network_2d=3.0)
    assert start(make_engine, path, epoch=3, network=constant(0), network_2d=constant(0))["network"] == {0.0}


def test_without_a_path_nothing_happens(make_engine):
    assert start(make_engine, None, network=constant(0), network_2d=constant(0))["network"] == {0.0}


@pytest.mark.parametrize("names", ["['background', 'b']", "['background', 'a', 'b']"])
def test_other_structures_are_refused(make_engine, tmp_path, names):
    path = checkpoint(tmp_path / "c.pt", network=2.0, network_2d=3.0)
    with pytest.raises(UserError, match="class_names.*warm_start to null"):
        start(make_engine, path, settings={**SETTINGS, "class_names": names}, network=constant(0))


def test_other_spacing_is_said(make_engine, tmp_path, caplog):
    path = checkpoint(tmp_path / "c.pt", network=2.0, network_2d=3.0)
    with caplog.at_level(logging.WARNING):
        start(make_engine, path, settings={**SETTINGS, "spacing": "[1, 1, 1]"}, network=constant(0))
    assert "trained with another spacing" in caplog.text


def test_another_network_is_refused_in_one_sentence(make_engine, tmp_path):
    path = checkpoint(tmp_path / "c.pt", network=2.0, network_2d=3.0)
    with pytest.raises(UserError, match="network in warm_start .*c.pt does not fit") as caught:
        start(make_engine, path, network=nn.Conv3d(1, 3, 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"junk", {"settings": {}}, {"objects": {}}, {"objects": 3}, [1], {}])
def test_unusable_files(make_engine, tmp_path, content):
    path = tmp_path / "c.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(copy.deepcopy(content), path)
    with pytest.raises(UserError, match="c.pt (cannot be read|does not exist)") as caught:
        start(make_engine, path, network=constant(0))
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)
