"""Labels that were replaced: the newest few stay, whatever the scan is called."""

from __future__ import annotations

import pytest
from lib.labels.replaced import KEPT, Replaced


@pytest.mark.parametrize("image_id", ["scan 1", "../../etc", "..", "ü" * 150, "1.2.840.9"])
def test_the_newest_few_are_kept_inside_the_folder(tmp_path, image_id):
    kept = Replaced(tmp_path / "replaced")
    for index in range(KEPT + 2):
        assert kept.keep(image_id, "label.nii.gz", b"%d" % index).suffixes[-2:] == [".nii", ".gz"]
        assert kept.keep(image_id, "label.nii.gz", b"%d" % index) is None, "the same again"
    (folder,) = (tmp_path / "replaced").iterdir()
    assert [int(path.read_bytes()) for path in sorted(folder.iterdir())] == list(range(2, KEPT + 2))
    assert [path.name for path in tmp_path.iterdir()] == ["replaced"]


def test_the_newest_stay_when_the_clock_is_set_back(tmp_path, monkeypatch):
    kept = Replaced(tmp_path / "replaced")
    for index in range(KEPT + 3):
        monkeypatch.setattr("lib.labels.replaced.time.time_ns", lambda index=index: 10**18 - index * 3600 * 10**9)
        newest = kept.keep("a", "label.nii.gz", b"%d" % index)
    left = sorted((tmp_path / "replaced" / "a").iterdir())
    assert [int(path.read_bytes()) for path in left] == list(range(3, KEPT + 3)) and left[-1] == newest
