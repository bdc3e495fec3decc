"""model.json and metadata.json are written when a run starts, and only then."""

from __future__ import annotations

import json

import pytest
from ignite.engine import Events

from mnseg.errors import UserError
from mnseg.handlers import ModelOverlayHandler


def test_written_at_the_start(make_engine, tmp_path):
    engine = make_engine()
    ModelOverlayHandler(tmp_path / "run", {"lite": True}).attach(engine)
    assert not (tmp_path / "run").exists()
    engine.run([0, 1], max_epochs=1)
    assert json.loads((tmp_path / "run" / "model.json").read_text()) == {"lite": True}
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["model.json"]


def test_metadata_beside_it(make_engine, tmp_path):
    engine = make_engine()
    ModelOverlayHandler(tmp_path, {"lite": True}, {"version": "1"}).attach(engine)
    engine.run([0, 1], max_epochs=1)
    assert json.loads((tmp_path / "metadata.json").read_text()) == {"version": "1"}


def test_a_refused_run_leaves_the_old_one(make_engine, tmp_path):
    (tmp_path / "model.json").write_text("old")

    def refuse(engine):
        raise UserError("other settings")

    engine = make_engine()
    engine.add_event_handler(Events.STARTED, refuse)
    ModelOverlayHandler(tmp_path, {"lite": True}).attach(engine)
    with pytest.raises(UserError):
        engine.run([0, 1], max_epochs=1)
    assert (tmp_path / "model.json").read_text() == "old"


def test_a_folder_that_cannot_be_written_is_named(make_engine, tmp_path):
    (tmp_path / "file").write_text("")
    engine = make_engine()
    ModelOverlayHandler(tmp_path / "file" / "run", {}).attach(engine)
    with pytest.raises(UserError, match="set run_dir to another folder"):
        engine.run([0, 1], max_epochs=1)
