"""Kvasir-SEG and COVID-QU-Ex: pairs of 2D images and masks."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mnseg.data.importers.run import import_dataset
from mnseg.errors import UserError

NAMES = [f"p{i:02d}" for i in range(20)]


def stems(split: list[dict]) -> list[str]:
    return [Path(item["image"]).stem for item in split]


def test_kvasir_is_drawn(tmp_path, files):
    files.write_pairs(tmp_path / "images", tmp_path / "masks", NAMES, suffix=".jpg")
    imported = import_dataset("kvasir", tmp_path, tmp_path / "out")
    assert imported.counts == {"labeled": 8, "unlabeled": 8, "validation": 2, "testing": 2}
    assert "bundles/sam_mining/configs/train.json','configs/datasets/kvasir.json'" in imported.command
    content = files.load(tmp_path / "out")
    assert content["class_names"] == ["background", "polyp"]
    item = content["labeled"][0]
    assert (item["image"], item["label"]) == (
        str(tmp_path / f"images/{stems([item])[0]}.jpg"), str(tmp_path / f"masks/{stems([item])[0]}.jpg")
    )
    assert sorted(name for split in ("labeled", "unlabeled", "validation", "testing")
                  for name in stems(content[split])) == NAMES


def test_kvasirs_own_lists(tmp_path, files):
    src = tmp_path / "src/Kvasir-SEG"
    files.write_pairs(src / "images", src / "masks", NAMES)
    (src / "train.txt").write_text("\n".join(NAMES[4:]))
    (src / "val.txt").write_text("\n".join(NAMES[:4]))
    import_dataset("kvasir", tmp_path / "src", tmp_path / "out", labeled="3")
    content = files.load(tmp_path / "out")
    assert stems(content["testing"]) == NAMES[:4]
    assert (len(content["labeled"]), len(content["unlabeled"]), content["validation"]) == (3, 13, [])


def test_unsound_pairs_leave_no_datalist(tmp_path, files):
    files.write_pairs(tmp_path / "images", tmp_path / "masks", NAMES)
    Image.new("L", (16, 11), 255).save(tmp_path / "masks/p03.png")
    (tmp_path / "images/p04.jpg").write_bytes(b"no image")
    with pytest.raises(UserError) as caught:
        import_dataset("kvasir", tmp_path, tmp_path / "out")
    assert "p03.png has 16x11 pixels, its image 16x12" in str(caught.value)
    assert "p04.jpg cannot be read" in str(caught.value)
    assert not (tmp_path / "out/datalist.json").exists()


def test_a_missing_mask_is_named(tmp_path, files):
    files.write_pairs(tmp_path / "images", tmp_path / "masks", NAMES)
    (tmp_path / "masks/p07.png").unlink()
    with pytest.raises(UserError, match=r"no mask for 1 image \(p07\)"):
        import_dataset("kvasir", tmp_path, tmp_path / "out")


@pytest.mark.parametrize("inner", ["", "Lung Segmentation Data", "Lung Segmentation Data/Lung Segmentation Data"])
def test_covid_qu_ex_keeps_its_own_parts(tmp_path, files, inner):
    counts = {"Train": 6, "Val": 2, "Test": 3}
    for split, count in counts.items():
        for group in ("COVID-19", "Non-COVID", "Normal"):
            folder = tmp_path / "src" / inner / split / group
            files.write_pairs(folder / "images", folder / "lung masks", NAMES[:count])
    imported = import_dataset("covid_qu_ex", tmp_path / "src", tmp_path / "out")
    assert imported.counts == {"labeled": 9, "unlabeled": 9, "validation": 6, "testing": 9}
    content = files.load(tmp_path / "out")
    for split, folder in (("labeled", "Train"), ("unlabeled", "Train"), ("validation", "Val"), ("testing", "Test")):
        assert all(f"/{folder}/" in item["image"] for item in content[split])
    assert content["testing"][0]["case"] == "Test_COVID-19_p00"
    cases = [item["case"] for split in ("labeled", "unlabeled", "validation", "testing") for item in content[split]]
    assert len(set(cases)) == 33, "file names repeat, case ids do not"


def test_real_images(shared_dir, tmp_path):
    imported = import_dataset("kvasir", shared_dir / "data/kvasir", tmp_path / "out")
    assert imported.counts == {"labeled": 160, "unlabeled": 160, "validation": 40, "testing": 40}
