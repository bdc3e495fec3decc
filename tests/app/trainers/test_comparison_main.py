"""The masks of a comparison: what becomes of a model that cannot be loaded."""

from __future__ import annotations

import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed (pip install 'mnseg[app]')")

from lib.trainers.comparison_main import predict  # noqa: E402

from mnseg.errors import UserError  # noqa: E402


def test_a_published_model_that_cannot_be_loaded_ends_no_training(tmp_path, caplog):
    (tmp_path / "model.pt").write_bytes(b"half a file")
    task = {"model_file": str(tmp_path / "model.pt"), "overlay": str(tmp_path / "model.json"), "cases": ["a"],
            "folder": str(tmp_path / "masks")}
    assert predict({"tasks": [{**task, "needed": False}]}, tmp_path) == {}
    assert "the published version makes no masks of a: " in caplog.text
    with pytest.raises(UserError, match="model.pt cannot be read"):
        predict({"tasks": [{**task, "needed": True}]}, tmp_path)
