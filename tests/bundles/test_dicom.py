"""The bundle on NRRD, MetaImage and DICOM: found, segmented on their own grid, refused with the reason, SEG written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigWorkflow

from mnseg.data.dicom_series import inspect_series

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "bundles" / "mn_cotraining" / "configs"
STORED = np.random.default_rng(0).integers(0, 2000, (8, 12, 10)).astype(np.int16)
# The mask is where the image is above 0, that is, where 1000 or more is stored.
MODEL = {
    "device": "cpu",
    "patch_size": [16, 16, 16],
    "intensity": {"_target_": "Compose", "transforms": []},
    "network_def": {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 1},
    "class_names": ["background", "left atrium"],
}


@pytest.fixture(params=["mnseg", "stock"])
def inspection(request, monkeypatch):
    """Series are inspected by mnseg, or as where mnseg is not installed."""
    if request.param == "stock":
        monkeypatch.setitem(sys.modules, "mnseg.data.dicom_series", None)
    return request.param


@pytest.fixture
def run(tmp_path):
    (tmp_path / "models").mkdir()
    weight = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1)
    torch.save({"weight": weight, "bias": torch.tensor([0.0, -0.5])}, tmp_path / "models" / "model.pt")
    return tmp_path


def workflow(run, config="inference.json", overlays=(), **override):
    files = [str(CONFIGS / config), *(str(ROOT / overlay) for overlay in overlays)]
    options = {"run_dir": str(run), "dataset_dir": str(run / "scans"), **MODEL, **override}
    kind = "infer" if config.startswith("infer") else "eval"
    return ConfigWorkflow(files, workflow_type=kind, logging_file=False, **options)


def complete(flow) -> None:
    flow.initialize()
    flow.run()
    flow.finalize()


def write_image(path):
    image = sitk.GetImageFromArray(STORED - 1000)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetDirection((0, 0, 1, 1, 0, 0, 0, -1, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def test_every_format_is_segmented_on_its_own_grid(run, write_series, inspection):
    for name in ("a.nrrd", "b.b.mha", "c.nii"):
        write_image(run / "scans" / name)
    for name in ("1.2.840.1", "1.2.840.2"):
        write_series(run / "scans" / name, STORED)
    (run / "scans" / "notes.txt").write_text("no scan")
    (run / "scans" / "other").mkdir()
    complete(workflow(run))
    names = ["1.2.840.1", "1.2.840.2", "a", "b.b", "c"]
    assert sorted(p.name for p in (run / "eval").glob("*.nii.gz")) == [f"{name}_seg.nii.gz" for name in names]
    for name in names:
        mask = nib.load(run / "eval" / f"{name}_seg.nii.gz")
        np.testing.assert_array_equal(np.asarray(mask.dataobj), STORED.T > 1000)
    for name in names[2:]:  # SimpleITK wrote the same grid in three formats; nibabel reads the third
        affine = nib.load(run / "eval" / f"{name}_seg.nii.gz").affine
        np.testing.assert_allclose(affine, nib.load(run / "scans" / "c.nii").affine, atol=1e-5)
    series = nib.load(run / "eval" / "1.2.840.1_seg.nii.gz")
    np.testing.assert_allclose(series.affine, inspect_series(run / "scans" / "1.2.840.1").affine, atol=1e-6)


def test_a_folder_that_is_a_series_is_one_scan_with_a_dicom_seg(run, write_series, caplog):
    series = write_series(run / "scans", STORED)
    flow = workflow(run, overlays=["configs/outputs/dicom_seg.json"])
    complete(flow)
    assert sorted(p.name for p in (run / "eval").iterdir()) == ["provenance.json", "scans_seg.dcm", "scans_seg.nii.gz"]
    segmentation = pydicom.dcmread(run / "eval" / "scans_seg.dcm")
    frames = {round(float(g.PlanePositionSequence[0].ImagePositionPatient[2])): frame for g, frame in
              zip(segmentation.PerFrameFunctionalGroupsSequence, segmentation.pixel_array, strict=True)}
    np.testing.assert_array_equal([frames[2 * k] for k in range(8)], STORED > 1000)
    assert segmentation.SegmentSequence[0].SegmentLabel == "left atrium"
    version = json.loads((CONFIGS / "metadata.json").read_text())["version"]
    assert segmentation.SegmentSequence[0].SegmentAlgorithmName == f"mn_cotraining {version}"
    assert inspect_series(series).shape == (10, 12, 8)


def second_series(dataset, k):
    if k > 4:
        dataset.SeriesInstanceUID = "1.2.3"


def at_4(**elements):
    return lambda dataset, k: [setattr(dataset, *pair) for pair in elements.items() if k == 4]


FAULTS = {  # name: how the series is spoiled, what mnseg says, what stock MONAI with itk says
    "tilt": ({"position": lambda k: (5, 6 + 0.4 * k, 2.0 * k)}, "sheared by", "sheared by a tilted gantry"),
    "missing": ({"keep": [0, 1, 2, 4, 5, 6, 7]}, "slices are missing", "has slices that are missing"),
    "irregular": ({"position": lambda k: (5, 6, 2.0 * k + 0.5 * (k == 3))}, "irregularly spaced", "irregularly spaced"),
    "copies": ({"position": lambda k: (5, 6, 2.0)}, "lie at the position", "repeated"),
    "orientation": ({"edit": at_4(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])}, "different orientations",
                    "of different orientation or size"),
    "thickness": ({"edit": lambda d, k: setattr(d, "SliceThickness", 2 + k // 4)}, "SliceThickness",
                  "or slices of several thicknesses"),
    "two": ({"edit": second_series}, "holds 2 series", "holds 2 DICOM series"),
    "single": ({"keep": [0]}, "single slice", "single slice"),
    "color": ({"edit": lambda d, k: [setattr(d, *pair) for pair in (
        ("SamplesPerPixel", 3), ("PhotometricInterpretation", "RGB"), ("PlanarConfiguration", 0),
        ("PixelData", d.PixelData * 3))]}, "in color", "is in color"),
    "no pixels": ({"edit": lambda d, k: delattr(d, "PixelData")}, "no pixel data", "holds 0 DICOM series"),
}  # fmt: skip


def test_series_that_cannot_be_used_are_named_with_the_reason(run, write_series, inspection):
    for name, (options, *_) in FAULTS.items():
        write_series(run / "scans" / name, STORED, **options)
    write_series(run / "scans" / "good", STORED)
    flow = workflow(run)
    with pytest.raises(SystemExit, match=f"^{len(FAULTS)} of {len(FAULTS) + 1} scans cannot be used: .*and .* more"):
        flow.initialize()
    found = flow.parser.get_parsed_content("faults")
    assert {Path(path).name for path in found} == set(FAULTS)
    for name, (_, *reasons) in FAULTS.items():
        assert reasons[inspection == "stock"] in found[str(run / "scans" / name)]
    assert not (run / "eval").exists()


@pytest.mark.parametrize("overlays", [[], ["configs/metrics/field.json"]], ids=["stock", "field"])
def test_a_series_is_evaluated_on_its_own_grid(run, write_series, overlays):
    series = write_series(run / "scans" / "1.2.840.1", STORED)
    truth = (STORED.T > 1000).astype(np.uint8)
    truth[:5] = 0
    nib.save(nib.Nifti1Image(truth, inspect_series(series).affine), run / "scans" / "label.nii.gz")
    items = [{"image": "1.2.840.1", "label": "label.nii.gz"}]
    (run / "scans" / "datalist.json").write_text(json.dumps({"testing": items}))
    flow = workflow(run, "evaluate.json", overlays)
    complete(flow)
    found = (STORED.T > 1000).sum()
    dice = 2 * truth.sum() / (truth.sum() + found)
    assert float((run / "eval" / "val_mean_dice_raw.csv").read_text().splitlines()[1].split(",")[1]) == pytest.approx(
        dice, abs=1e-4)
    assert (run / "eval" / "predictions" / "1.2.840.1_pred.nii.gz").is_file()
    if overlays:
        assert "\n1.2.840.1,1,left atrium," in (run / "eval" / "field_metrics.csv").read_text().replace("\r", "")


def test_a_label_beside_its_series_is_refused(run, write_series):
    series = write_series(run / "scans" / "s", STORED)
    affine = inspect_series(series).affine.copy()
    affine[2, 3] += 1
    nib.save(nib.Nifti1Image((STORED.T > 1000).astype(np.uint8), affine), run / "scans" / "label.nii.gz")
    (run / "scans" / "datalist.json").write_text(json.dumps({"testing": [{"image": "s", "label": "label.nii.gz"}]}))
    with pytest.raises(SystemExit, match="lies elsewhere than its image"):
        workflow(run, "evaluate.json").initialize()


def test_a_real_series_is_segmented_and_written_back(run, shared_dir):
    folder = shared_dir / "data" / "dicom"
    threshold = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -1000, "a_max": 1000, "b_min": -2,
                 "b_max": 1}  # the mask is above 667 HU: bone
    complete(workflow(run, overlays=["configs/outputs/dicom_seg.json"], dataset_dir=str(folder),
                      image_pattern="ct_abdomen", intensity=threshold, patch_size=[512, 512, 20]))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder / "ct_abdomen")))
    scan = sitk.GetArrayFromImage(reader.Execute())
    truth = np.float32(scan) > 2000 / 3
    assert truth.sum() > 1000
    mask = nib.load(run / "eval" / "ct_abdomen_seg.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj).T, truth)
    segmentation = pydicom.dcmread(run / "eval" / "ct_abdomen_seg.dcm")
    found = np.zeros_like(truth)
    for groups, frame in zip(segmentation.PerFrameFunctionalGroupsSequence, segmentation.pixel_array, strict=True):
        height = float(groups.PlanePositionSequence[0].ImagePositionPatient[2])
        found[round((height + 804.5) / 2)] = frame
    np.testing.assert_array_equal(found, truth)
