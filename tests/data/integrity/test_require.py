"""What a training asks of its datalist before it begins."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from mnseg.data.integrity import require_sound_datalist
from mnseg.errors import UserError
from small_dataset import SHAPE, save


class TestRequire:
    def test_returns_all_splits_resolved(self, dataset):
        del dataset.content["testing"]
        datalist = require_sound_datalist(dataset.write(), num_classes=3, batch_size=4)
        assert {key: len(datalist[key]) for key in ("labeled", "unlabeled", "validation", "testing")} == {
            "labeled": 2, "unlabeled": 2, "validation": 1, "testing": 0
        }
        assert datalist["unlabeled"][0] == {"image": str(dataset.folder / "u0.nii.gz"), "case": "u0"}

    @pytest.mark.parametrize("key", ["labeled", "unlabeled", "validation"])
    def test_missing_key(self, dataset, key):
        del dataset.content[key]
        with pytest.raises(UserError, match=rf'datalist\.json has no "{key}"'):
            require_sound_datalist(dataset.write())

    def test_no_labeled_case(self, dataset):
        dataset.content["labeled"] = []
        with pytest.raises(UserError, match="has no labeled case"):
            require_sound_datalist(dataset.write())

    def test_empty_pool(self, dataset):
        dataset.content["unlabeled"] = []
        with pytest.raises(UserError, match="allow_empty_unlabeled"):
            require_sound_datalist(dataset.write())
        assert require_sound_datalist(dataset.write(), allow_empty_unlabeled=True)["unlabeled"] == []

    @pytest.mark.parametrize(("batch_size", "min_labeled"), [(0, 1), (2, 3), (-1, 0)])
    def test_batch_without_labeled_item(self, dataset, batch_size, min_labeled):
        with pytest.raises(UserError, match=f"batch_size {batch_size}"):
            require_sound_datalist(dataset.write(), batch_size=batch_size, min_labeled=min_labeled)

    def test_settings_that_weaken_training_are_logged(self, dataset, caplog):
        dataset.content["validation"] = []
        with caplog.at_level(logging.WARNING, "mnseg.data.integrity"):
            require_sound_datalist(dataset.write(), batch_size=2, min_labeled=1)
            assert "no case under \"validation\"" in caplog.text
            assert "equals min_labeled" not in caplog.text
            require_sound_datalist(dataset.write(), batch_size=2, min_labeled=2)
        assert "equals min_labeled" in caplog.text

    def test_errors_stop(self, dataset):
        path = dataset.write()
        with pytest.raises(UserError, match=r"(?s)datalist\.json: .*labeled/l0: .*values outside 0\.\.1"):
            require_sound_datalist(path, num_classes=2)

    def test_channels_that_the_network_does_not_take(self, dataset):
        save(dataset.folder / "u1.nii.gz", dataset.rng.normal(size=(*SHAPE, 2)).astype(np.float32))
        path = dataset.write()
        with pytest.raises(UserError, match=r"has 1 error:\n.*u1\.nii\.gz has 2 channels, but in_channels is 1"):
            require_sound_datalist(path, in_channels=1)
        with pytest.raises(UserError, match="has 5 errors") as error:
            require_sound_datalist(path, in_channels=2)
        assert "l0.nii.gz has 1 channel, but in_channels is 2" in str(error.value)

    def test_warnings_are_logged(self, dataset, caplog):
        save(Path(dataset.content["testing"][0]["label"]), np.zeros(SHAPE, np.uint8))
        with caplog.at_level(logging.WARNING, "mnseg.data.integrity"):
            require_sound_datalist(dataset.write())
        assert "testing/t0" in caplog.text
        assert "is empty" in caplog.text

    @pytest.mark.parametrize("label", [np.full(SHAPE, 9, np.uint8), np.ones((2, 2, 2), np.uint8), None])
    def test_defective_hidden_labels_are_left_out_and_said(self, dataset, caplog, label):
        """They only log a figure, and would stop the training when it is first measured."""
        bad, good = dataset.content["unlabeled"]
        bad["hidden_label"], good["hidden_label"] = str(dataset.folder / "h0.nii.gz"), str(dataset.folder / "h1.nii.gz")
        save(Path(good["hidden_label"]), np.ones(SHAPE, np.uint8))
        if label is None:
            Path(bad["hidden_label"]).write_bytes(b"cut")
        else:
            save(Path(bad["hidden_label"]), label)
        with caplog.at_level(logging.WARNING, "mnseg.data.integrity"):
            found = require_sound_datalist(dataset.write(), num_classes=3, hidden_cases=1)["unlabeled"]
        assert [item.get("hidden_label") for item in found] == [None, good["hidden_label"]]
        assert "h0.nii.gz" in caplog.text and "It is not used." in caplog.text
        assert "hidden_label" in require_sound_datalist(dataset.write(), num_classes=3)["unlabeled"][0]

    def test_the_label_that_takes_a_defective_ones_place_is_looked_at_as_well(self, dataset):
        for item in dataset.content["unlabeled"]:
            item["hidden_label"] = save(dataset.folder / f"h{Path(item['image']).name}", np.full(SHAPE, 9, np.uint8))
        found = require_sound_datalist(dataset.write(), num_classes=3, hidden_cases=1)["unlabeled"]
        assert not any("hidden_label" in item for item in found)
