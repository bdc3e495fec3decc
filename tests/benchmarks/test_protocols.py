"""protocols.py: which scans a row is trained with, and on which it is measured, without the scans themselves."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from protocols import PROTOCOLS, make_datalist

from mnseg.errors import UserError

# Of hippocampus_000 to hippocampus_059.
LABELED = ["hippocampus_006", "hippocampus_021", "hippocampus_024", "hippocampus_047"]
VALIDATION = ["hippocampus_000", "hippocampus_003", "hippocampus_004", "hippocampus_005",
              "hippocampus_007", "hippocampus_009"]  # fmt: skip


def folder_of(root: Path, cases: list[str]) -> Path:
    for kind, dtype in (("images", np.float32), ("labels", np.uint8)):
        (root / kind).mkdir(parents=True)
        content = nib.Nifti1Image(np.zeros((2, 2, 2), dtype), np.eye(4)).to_bytes()
        for case in cases:
            (root / kind / f"{case}.nii").write_bytes(content)
    return root


def cases_of(path: Path) -> dict[str, list[str]]:
    content = json.loads(path.read_text())
    return {split: [Path(item["image"]).stem for item in items] for split, items in content.items() if split in (
        "labeled", "unlabeled", "validation", "testing")}  # fmt: skip


def test_la_is_measured_on_ten_scans_on_which_nothing_is_chosen(tmp_path):
    """Positions in train.list, whose order is not that of the names."""
    order = [f"case_{(7 * i) % 80:02d}" for i in range(80)]
    folder = folder_of(tmp_path / "la", sorted(order))
    (folder / "train.list").write_text("\n".join(order))
    found = cases_of(make_datalist(PROTOCOLS["la"], folder, 8, tmp_path / "datalist.json"))
    named = {split: set(cases) for split, cases in found.items()}
    assert named == {"labeled": set(order[:8]), "unlabeled": set(order[8:60]), "testing": set(order[60:70]),
                     "validation": set(order[70:])}  # fmt: skip
    assert PROTOCOLS["la"].split == "testing"


def test_hippocampus_is_measured_on_forty_drawn_scans_that_more_labels_do_not_change(tmp_path):
    """The draw of seed 0, on which the published figures were measured, does not change."""
    folder = folder_of(tmp_path / "hippocampus", [f"hippocampus_{i:03d}" for i in range(60)])
    found = {labels: cases_of(make_datalist(PROTOCOLS["hippocampus"], folder, labels, tmp_path / f"{labels}.json"))
             for labels in (4, 8)}  # fmt: skip
    assert found[4]["labeled"] == LABELED
    assert set(LABELED) < set(found[8]["labeled"]) and len(found[8]["labeled"]) == 8
    assert found[4]["validation"] == found[8]["validation"] and len(found[4]["validation"]) == 40
    assert found[4]["validation"][:6] == VALIDATION
    assert not found[4]["testing"] and len(found[4]["unlabeled"]) == 16
    assert PROTOCOLS["hippocampus"].split == "validation"
    with pytest.raises(UserError, match="8 labeled scans, not 4"):
        make_datalist(PROTOCOLS["hippocampus"], folder, 4, tmp_path / "8.json")


