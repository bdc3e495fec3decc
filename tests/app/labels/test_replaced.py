"""Labels that were replaced: the newest few stay, whatever the scan is called."""

from __future__ import annotations

import pytest
from lib.labels.replaced import KEPT, Replaced


@pytest.mark.parametrize("image_id", ["scan 1", "../../etc", "..", "ü" * 150, "1.2.840.9"])
def test_the_newest_few_are_kept_inside_the_folder(tmp_path, image_id):
    kept, label = Replaced(tmp_path / "replaced"), tmp_path / "label.nii.gz"
    for index in range(KEPT + 2):
        label.write_bytes(b"%d" % index)
        assert kept.keep(image_id, label).suffixes[-2:] == [".nii", ".gz"]
        assert kept.keep(image_id, label) is None, "the same again"
    (folder,) = (tmp_path / "replaced").iterdir()
    assert [int(path.read_bytes()) for path in sorted(folder.iterdir())] == list(range(2, KEPT + 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["label.nii.gz", "replaced"]


def test_the_newest_stay_when_the_clock_is_set_back(tmp_path, monkeypatch):
    kept, label = Replaced(tmp_path / "replaced"), tmp_path / "label.nii.gz"
    for index in range(KEPT + 3):
        monkeypatch.setattr("lib.labels.replaced.time.time_ns", lambda index=index: 10**18 - index * 3600 * 10**9)
        label.write_bytes(b"%d" % index)
        newest = kept.keep("a", label)
    left = sorted((tmp_path / "replaced" / "a").iterdir())
    assert [int(path.read_bytes()) for path in left] == list(range(3, KEPT + 3)) and left[-1] == newest
