"""The report of a whole datalist: sound data passes, all defects are listed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mnseg.data.integrity import check_datalist
from mnseg.errors import UserError
from small_dataset import SHAPE, only, save


def test_sound_data_passes(dataset):
    report = dataset.check()
    assert report.findings == []
    assert report.counts == {"labeled": 2, "unlabeled": 2, "validation": 1, "testing": 1}
    assert report.summary() == "2 labeled, 2 unlabeled, 1 validation, 1 testing: 0 errors, 0 warnings"
    report.raise_for_errors()


class TestReport:
    def test_all_defects_are_reported_errors_first(self, dataset):
        save(Path(dataset.content["validation"][0]["label"]), np.zeros(SHAPE, np.uint8))
        save(Path(dataset.content["testing"][0]["image"]), np.zeros(SHAPE, np.uint8))
        Path(dataset.content["labeled"][1]["label"]).unlink()
        report = dataset.check()
        assert [(finding.level, finding.case) for finding in report.findings] == [
            ("error", "l1"), ("error", "t0"), ("warning", "v0")
        ]
        with pytest.raises(UserError) as error:
            report.raise_for_errors(limit=1)
        lines = str(error.value).splitlines()
        assert lines[0] == "the datalist has 2 errors:"
        assert "labeled/l1" in lines[1]
        assert "1 more" in lines[2]
        assert len(lines) == 3

    def test_jobs_do_not_change_the_result(self, dataset):
        for item in dataset.content["unlabeled"]:
            save(Path(item["image"]), np.zeros(SHAPE, np.uint8))
        assert dataset.check(jobs=1).findings == dataset.check(jobs=4).findings

    def test_misspelled_key(self, dataset):
        dataset.content["unlabelled"] = dataset.content.pop("unlabeled")
        error, warning = dataset.check().findings
        assert 'has no "unlabeled"' in error.message
        assert '"unlabelled" is not one of' in warning.message

    @pytest.mark.parametrize("key", ["labeled", "unlabeled", "validation"])
    def test_missing_key(self, dataset, key):
        del dataset.content[key]
        assert f'has no "{key}"' in only(dataset.check(), "error").message

    def test_testing_may_be_missing(self, dataset):
        del dataset.content["testing"]
        assert dataset.check().findings == []

    def test_empty_unlabeled(self, dataset):
        dataset.content["unlabeled"] = []
        assert "allow_empty_unlabeled" in only(dataset.check(), "warning").message
        assert dataset.check(allow_empty_unlabeled=True).findings == []

    def test_no_labeled_case(self, dataset):
        dataset.content["labeled"] = []
        assert "nothing can be trained" in only(dataset.check(), "warning").message

    def test_no_scan_at_all(self):
        assert "names no scan" in only(check_datalist({"labeled": []}), "error").message

    def test_relative_paths_of_a_dict(self, dataset):
        content = {"labeled": [{"image": "l0.nii.gz", "label": "l0_label.nii.gz"}],
                   "unlabeled": [{"image": "u0.nii.gz"}], "validation": []}
        assert check_datalist(content, dataset.folder, 3).findings == []


def test_real_hippocampus_passes(shared_dir):
    """All 208 scans; two of the label files are float32."""
    data = shared_dir / "data/hippocampus"
    items = [{"image": str(path), "label": str(data / "labels" / path.name)}
             for path in sorted((data / "images").glob("*.nii.gz"))]
    assert len(items) == 208
    assert check_datalist({"labeled": items[:120], "unlabeled": [{"image": item["image"]} for item in items[120:160]],
                           "validation": items[160:]}, num_classes=3).findings == []


def test_findings_are_json(dataset):
    report = dataset.check(num_classes=2)
    again = json.loads(json.dumps(report.as_dict()))
    assert again["errors"] == 4
    assert again["findings"][0] == {"level": "error", "split": "labeled", "case": "l0",
                                    "message": report.findings[0].message}
