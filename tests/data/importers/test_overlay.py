"""The first overlay of a data set that has none: window and patch by hand."""

from __future__ import annotations

import nibabel as nib
import numpy as np

from mnseg.data.importers.overlay import describe_volumes, foreground_window


def test_the_window_is_percentiles_of_the_structures(tmp_path):
    """1000 voxels with 0 to 999 in one scan and one structure; all around is air."""
    voxels, label = np.full((20, 10, 10), -1000.0, np.float32), np.zeros((20, 10, 10), np.uint8)
    voxels[:10], label[:10] = np.random.default_rng(0).permutation(1000).reshape(10, 10, 10), 2
    item = {"image": str(tmp_path / "a.nii"), "label": str(tmp_path / "a_label.nii")}
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), item["image"])
    nib.save(nib.Nifti1Image(label, np.eye(4)), item["label"])
    # 0.005 and 0.995 of the way from 0 to 999.
    assert foreground_window([item]) == (5.0, 994.0)


def test_the_patch_follows_the_axes_of_the_body_not_of_the_file(tmp_path):
    """Stored with the slices, 3 mm apart, along the first axis."""
    affine = np.array([[0.0, 1, 0, 0], [0, 0, -1.0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]])
    path = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(np.zeros((20, 70, 50), np.float32), affine), path)
    datalist = {"class_names": ["background", "organ"], "labeled": [{"image": str(path)}], "unlabeled": []}
    assert describe_volumes(datalist, is_ct=False) == {
        "class_names": ["background", "organ"], "in_channels": 1, "patch_size": [64, 48, 16], "slice_axis": 2,
        "slice_scale": 2.0}  # fmt: skip
