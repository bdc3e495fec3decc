"""Scans unlike the rest are named, and an ordinary data set gives no warning."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from mnseg.data.integrity import Finding, check_datalist
from mnseg.data.outliers import ScanProfile, peculiarities, scan_profile

USUAL = ScanProfile((1.0, 1.0, 2.0), (200.0, 200.0, 160.0), 0.0, 1000.0)


def remarks(*others: ScanProfile, usual: int = 19, like: ScanProfile = USUAL) -> dict[int, str]:
    return dict(peculiarities([*[like] * usual, *others]))


class TestProfile:
    def test_by_hand_whatever_the_axis_order(self):
        """Rows head to foot (3 mm), columns right to left (1 mm), slices front to back (2 mm)."""
        affine = np.array([[0, -1.0, 0, 5], [0, 0, 2.0, 0], [-3.0, 0, 0, 0], [0, 0, 0, 1]])
        voxels = np.arange(10 * 20 * 30).reshape(10, 20, 30).astype(np.float32)
        profile = scan_profile(voxels, affine, "MR")
        assert profile.spacing == (1, 2, 3)
        assert profile.extent == (20, 60, 30)
        assert profile.low == pytest.approx(np.percentile(voxels, 0.5))
        assert profile.high == pytest.approx(np.percentile(voxels, 99.5))
        assert profile.modality == "MR"

    def test_the_sample_of_a_large_scan_and_the_first_channel(self):
        rng = np.random.default_rng(0)
        voxels = rng.normal(size=(200, 150, 70, 2)) * [1, 1000]
        profile = scan_profile(voxels, np.eye(4))
        assert profile.high == pytest.approx(2.576, abs=0.1)
        assert profile.low == pytest.approx(-2.576, abs=0.1)

    def test_voxels_that_are_not_finite_do_not_count(self):
        voxels = np.ones((4, 4, 4))
        voxels[0], voxels[1, 0, 0] = np.nan, np.inf
        assert scan_profile(voxels, np.eye(4)).high == 1
        assert np.isnan(scan_profile(np.full((2, 2, 2), np.nan), np.eye(4)).high)


class TestPeculiarities:
    def test_equal_scans(self):
        assert remarks() == {}

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"spacing": (1.0, 1.0, 5.0)}, "voxel spacing 5 mm foot-head (usual: 2 mm)"),
            ({"spacing": (0.4, 1.0, 2.0)}, "voxel spacing 0.4 mm left-right (usual: 1 mm)"),
            ({"extent": (200.0, 90.0, 160.0)}, "field of view 90 mm front-back (usual: 200 mm)"),
            ({"high": 1.0}, "intensities span 1 (usual: 1e+03)"),
            ({"high": 90000.0}, "intensities span 9e+04 (usual: 1e+03)"),
            ({"low": -1000.0}, "lowest intensities near -1000 (usual: no values below -500, unlike CT)"),
        ],
    )
    def test_one_scan(self, change, text):
        assert remarks(replace(USUAL, **change)) == {19: text}

    @pytest.mark.parametrize(
        "change",
        [{"spacing": (1.0, 1.9, 1.1)}, {"extent": (105.0, 200.0, 310.0)}, {"high": 20000.0}, {"low": -400.0}],
    )
    def test_ordinary_variation(self, change):
        assert remarks(replace(USUAL, **change)) == {}

    def test_several_reasons_make_one_line(self):
        odd = replace(USUAL, spacing=(1.0, 1.0, 5.0), extent=(200.0, 200.0, 20.0))
        assert remarks(odd) == {19: "voxel spacing 5 mm foot-head (usual: 2 mm); "
                                    "field of view 20 mm foot-head (usual: 160 mm)"}

    def test_a_second_kind_of_scan_is_no_outlier(self):
        """Two of twenty thick-slice scans are named; three of twenty are a part of the study."""
        thick = replace(USUAL, spacing=(1.0, 1.0, 5.0))
        assert sorted(remarks(thick, thick, usual=18)) == [18, 19]
        assert remarks(thick, thick, thick, usual=17) == {}

    def test_two_different_outliers_are_both_named(self):
        assert len(remarks(replace(USUAL, high=1.0), replace(USUAL, high=1e7))) == 2

    def test_too_few_to_compare(self):
        thick = replace(USUAL, spacing=(1.0, 1.0, 5.0))
        assert remarks(thick, usual=8) == {}
        assert list(remarks(thick, usual=9)) == [9]

    def test_among_ct_the_scan_without_air(self):
        ct = replace(USUAL, low=-1000.0)
        assert remarks(replace(ct, low=24.0), like=ct) == {
            19: "lowest intensities near 24 (usual: values below -500, like CT)"
        }

    def test_stated_modality(self):
        """Scans are compared within their modality: the one CT is named for being CT, not for its intensities."""
        mr = replace(USUAL, modality="MR")
        assert remarks(replace(mr, modality="CT", low=-1000.0, high=90000.0), like=mr) == {
            19: "modality CT (usual: MR)"
        }

    def test_some_state_no_modality(self):
        """NIfTI files beside DICOM: compared with all of the only modality stated, apart where there are several."""
        mr = replace(USUAL, modality="MR")
        thick = {"spacing": (1.0, 1.0, 5.0)}
        spacing = "voxel spacing 5 mm foot-head (usual: 2 mm)"
        assert remarks(replace(mr, **thick)) == {19: spacing}
        assert remarks(replace(USUAL, **thick), like=mr) == {19: spacing}
        assert remarks(replace(USUAL, low=-1000.0), like=mr) == {
            19: "lowest intensities near -1000 (usual: no values below -500, unlike CT)"
        }
        assert remarks(replace(USUAL, modality="CT"), mr) == {}, "one of each among 19 that state none"

    def test_unknown_intensities_are_not_judged(self):
        assert remarks(replace(USUAL, low=float("nan"), high=float("nan"))) == {}


def of_scans(items: list[dict]) -> list[Finding]:
    """What the check says of unlabeled scans, not of the list as a whole."""
    report = check_datalist({"labeled": [], "validation": [], "unlabeled": items})
    return [finding for finding in report.findings if finding.case]


def test_the_check_names_the_scan_and_still_passes(tmp_path):
    rng = np.random.default_rng(0)
    items = []
    for i in range(10):
        affine = np.diag([1, 1, 5.0 if i == 3 else 2.0, 1])
        path = tmp_path / f"c{i}.nii.gz"
        nib.save(nib.Nifti1Image(rng.normal(size=(6, 5, 4)).astype(np.float32), affine), path)
        items.append({"image": str(path)})
    findings = of_scans(items)
    assert [str(finding) for finding in findings] == [
        "warning: unlabeled/c3: unlike the rest: voxel spacing 5 mm foot-head (usual: 2 mm); "
        "field of view 20 mm foot-head (usual: 8 mm)."
    ]


def test_dicom_states_its_modality(tmp_path, write_series):
    """Ten series of equal voxels; the PET is named for what its header says, and for that alone."""
    rng = np.random.default_rng(0)
    items = []
    for i in range(10):

        def stated(dataset, _, i=i):
            dataset.Modality = "PT" if i == 3 else "CT"

        series = write_series(tmp_path / f"c{i}", rng.integers(0, 2000, (3, 4, 5)), edit=stated)
        items.append({"image": str(series)})
    findings = of_scans(items)
    assert [str(finding) for finding in findings] == [
        "warning: unlabeled/c3: unlike the rest: modality PT (usual: CT)."
    ]
    items[3]["modality"] = "CT"  # the datalist knows better
    assert not of_scans(items)
