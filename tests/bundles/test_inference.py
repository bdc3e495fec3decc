"""inference.json: the mask lies where the scan lies, on any grid, and carries what it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, verify_net_in_out
from monai.networks.nets import BasicUNet

CONFIGS = Path(__file__).resolve().parents[2] / "bundles" / "mn_cotraining" / "configs"
NO_INTENSITY = {"_target_": "Compose", "transforms": []}
THRESHOLD_NET = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}

ROTATION = np.linalg.qr(np.array([[1.0, 0.2, -0.1], [-0.15, 1.0, 0.3], [0.1, -0.25, 1.0]]))[0]
AFFINES = {
    "ras": np.diag([1.0, 1.0, 1.0]),
    "lps": np.diag([-0.8, -0.8, 2.5]),
    "permuted": np.array([[0.0, 0.0, 2.0], [-1.0, 0.0, 0.0], [0.0, 1.5, 0.0]]),
    "oblique": ROTATION @ np.diag([0.9, -1.1, 3.0]),
    "oblique_permuted": ROTATION @ np.array([[0.0, 3.0, 0.0], [0.0, 0.0, -1.0], [0.7, 0.0, 0.0]]),
}


BRIGHT = np.linspace(0.6, 1, 512).reshape(8, 8, 8)


def write_scan(path: Path, data: np.ndarray, affine3: np.ndarray) -> nib.Nifti1Image:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = affine3, (-12.5, 30.25, 7.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data.astype(np.float32), affine), path)
    return nib.load(path)


def threshold_model(path: Path, threshold: float = 0.5) -> None:
    """Logits (0, x - threshold): the mask is where the image is above the threshold, if every voxel stays in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weight = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1)
    torch.save({"weight": weight, "bias": torch.tensor([0.0, -threshold])}, path)


def workflow(run: Path, **override: Any) -> ConfigWorkflow:
    defaults = {
        "run_dir": str(run),
        "dataset_dir": str(run / "scans"),
        "device": "cpu",
        "patch_size": [16, 16, 16],
        "intensity": NO_INTENSITY,
        "network_def": THRESHOLD_NET,
    }
    return ConfigWorkflow(
        str(CONFIGS / "inference.json"), workflow_type="infer", logging_file=False, **{**defaults, **override}
    )


def infer(run: Path, **override: Any) -> None:
    flow = workflow(run, **override)
    flow.initialize()
    assert flow.check_properties() == []
    flow.run()
    flow.finalize()


def ball(shape: tuple[int, ...], affine3: np.ndarray) -> np.ndarray:
    """A soft, slightly off-center ball in mm: 1 in its center, 0.5 at a radius of 0.4 of the smallest extent."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    distance = np.linalg.norm((index - 0.45 * np.array(shape)) @ affine3.T, axis=-1)
    radius = 0.4 * np.min(np.array(shape) * np.linalg.norm(affine3, axis=0))
    return np.clip(1 - 0.5 * distance / radius, 0, 1)


@pytest.mark.parametrize("name", AFFINES)
def test_every_voxel_comes_back_to_its_place(tmp_path, name):
    data = np.random.default_rng(1).random((21, 18, 13))
    scan = write_scan(tmp_path / "scans" / "a.nii.gz", data, AFFINES[name])
    threshold_model(tmp_path / "models" / "model.pt")
    infer(tmp_path)
    mask = nib.load(tmp_path / "eval" / "a_seg.nii.gz")
    assert mask.shape == scan.shape
    assert np.abs(mask.affine - scan.affine).max() < 2e-6
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(mask.dataobj), scan.get_fdata(dtype=np.float32) > 0.5)


@pytest.mark.parametrize("name", ["lps", "oblique_permuted"])
def test_resampled_inside_exact_grid_outside(tmp_path, name):
    shape = (51, 56, 42)
    scan = write_scan(tmp_path / "scans" / "a.nii", ball(shape, AFFINES[name]), AFFINES[name])
    threshold_model(tmp_path / "models" / "model.pt")
    infer(tmp_path, spacing=[1.3, 1.3, 1.3])
    mask = nib.load(tmp_path / "eval" / "a_seg.nii.gz")
    assert mask.shape == shape
    assert np.abs(mask.affine - scan.affine).max() < 2e-6
    truth, result = scan.get_fdata() > 0.5, np.asarray(mask.dataobj) > 0
    assert 2 * (truth & result).sum() / (truth.sum() + result.sum()) > 0.97
    centers = [np.argwhere(m).mean(0) for m in (truth, result)]
    assert np.abs(centers[0] - centers[1]).max() < 0.1  # a shift by one voxel would show as 1


def test_one_slice_and_smaller_than_the_patch(tmp_path):
    rng = np.random.default_rng(2)
    shapes = {"slice": (20, 24, 1), "tiny": (5, 3, 7), "sagittal": (1, 20, 20)}
    scans = {
        n: write_scan(tmp_path / "scans" / f"{n}.nii.gz", rng.random(s), AFFINES["lps"]) for n, s in shapes.items()
    }
    threshold_model(tmp_path / "models" / "model.pt")
    infer(tmp_path)
    for name, scan in scans.items():
        mask = nib.load(tmp_path / "eval" / f"{name}_seg.nii.gz")
        assert mask.shape == shapes[name]
        np.testing.assert_array_equal(np.asarray(mask.dataobj), scan.get_fdata(dtype=np.float32) > 0.5)


def test_overlapping_windows_are_averaged(tmp_path):
    data = np.random.default_rng(3).random((12, 8, 8)).astype(np.float32)
    write_scan(tmp_path / "scans" / "a.nii.gz", data, AFFINES["ras"])
    net = "$torch.nn.Sequential(torch.nn.InstanceNorm3d(1, eps=0.0), torch.nn.Conv3d(1, 2, 1))"
    (tmp_path / "models").mkdir()
    weight = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1)
    torch.save({"1.weight": weight, "1.bias": torch.zeros(2)}, tmp_path / "models" / "model.pt")
    infer(tmp_path, network_def=net, patch_size=[8, 8, 8], save_probabilities=True)
    # Patches start at 0 and 4; each normalizes itself, so they disagree where they overlap (4 to 8).
    first, second = ((data[s : s + 8] - data[s : s + 8].mean()) / data[s : s + 8].std() for s in (0, 4))
    logits = np.concatenate([first[:4], (first[4:] + second[:4]) / 2, second[4:]])
    assert np.abs(first[4:] - second[:4]).max() > 0.02
    expected = 1 / (1 + np.exp(-logits))
    probabilities = nib.load(tmp_path / "eval" / "a_prob.nii.gz").get_fdata()
    assert probabilities.shape == (12, 8, 8, 2)
    np.testing.assert_allclose(probabilities[..., 1], expected, atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    mask = np.asarray(nib.load(tmp_path / "eval" / "a_seg.nii.gz").dataobj)
    np.testing.assert_array_equal(mask, expected > 0.5)


def test_default_intensity_ignores_the_scale_of_the_scanner(tmp_path):
    data = np.random.default_rng(4).random((16, 16, 16))
    write_scan(tmp_path / "scans" / "a.nii.gz", data, AFFINES["ras"])
    write_scan(tmp_path / "scans" / "b.nii.gz", data * 1.7e6 + 300, AFFINES["ras"])
    threshold_model(tmp_path / "models" / "model.pt", threshold=0.0)
    intensity = json.loads((CONFIGS / "inference.json").read_text())["intensity"]
    infer(tmp_path, intensity=intensity)
    a, b = (np.asarray(nib.load(tmp_path / "eval" / f"{n}_seg.nii.gz").dataobj) for n in "ab")
    assert (a != b).mean() < 0.001
    assert a.mean() == pytest.approx(0.5, abs=0.05)  # standardized: half of a uniform image lies above 0


def test_outputs_say_what_made_them(tmp_path):
    write_scan(tmp_path / "scans" / "a.nii.gz", BRIGHT, AFFINES["ras"])
    threshold_model(tmp_path / "models" / "model.pt")
    infer(tmp_path)
    version = json.loads((CONFIGS / "metadata.json").read_text())["version"]
    header = nib.load(tmp_path / "eval" / "a_seg.nii.gz").header
    assert bytes(header["descrip"]).decode().rstrip("\0") == f"mn_cotraining {version}; not for diagnosis"
    provenance = json.loads((tmp_path / "eval" / "provenance.json").read_text())
    assert (provenance["model"], provenance["version"]) == ("mn_cotraining", version)
    assert "Not for diagnosis" in provenance["notice"]
    assert provenance["model_file"] == str(tmp_path / "models" / "model.pt")
    assert sorted(p.name for p in (tmp_path / "eval").iterdir()) == ["a_seg.nii.gz", "provenance.json"]


def test_an_interrupted_write_leaves_no_mask(tmp_path, monkeypatch):
    write_scan(tmp_path / "scans" / "a.nii.gz", BRIGHT, AFFINES["ras"])
    threshold_model(tmp_path / "models" / "model.pt")
    save = nib.save

    def half_save(image, path):
        save(image, path)
        raise ValueError("stopped")

    monkeypatch.setattr(nib, "save", half_save)
    with pytest.raises(RuntimeError):
        infer(tmp_path)
    assert list((tmp_path / "eval").iterdir()) == []


def test_pattern_selects_scans(tmp_path):
    for name in ("a_t1.nii.gz", "a_t2.nii.gz"):
        write_scan(tmp_path / "scans" / name, BRIGHT, AFFINES["ras"])
    threshold_model(tmp_path / "models" / "model.pt")
    infer(tmp_path, image_pattern="*_t1.nii*")
    assert [p.name for p in (tmp_path / "eval").glob("*.nii.gz")] == ["a_t1_seg.nii.gz"]


def test_scans_that_lie_deeper_are_told(tmp_path, caplog):
    threshold_model(tmp_path / "models" / "model.pt")
    for name in ("p1/a.nii.gz", "p2/study/b.nii.gz"):
        write_scan(tmp_path / "scans" / name, BRIGHT, AFFINES["ras"])
    hint = r"its sub-folders \(p1, p2\) hold volumes that are found with --image_pattern '\*\*/\*'"
    with pytest.raises(SystemExit, match=rf"no scan matches .* or --image_pattern; {hint}"):
        workflow(tmp_path).initialize()
    write_scan(tmp_path / "scans" / "c.nii.gz", BRIGHT, AFFINES["ras"])
    infer(tmp_path, output_dir=str(tmp_path / "scans" / "masks"))
    (told,) = [line for line in caplog.messages if "sub-folders" in line]
    assert told.startswith("1 scans of ") and "(p1, p2)" in told
    caplog.clear()
    shutil.rmtree(tmp_path / "scans" / "masks")
    infer(tmp_path, output_dir=str(tmp_path / "masks"), image_pattern="**/*")
    assert len(list((tmp_path / "masks").glob("*_seg.nii.gz"))) == 3 and "sub-folders" not in caplog.text


def test_bad_input_is_one_clear_sentence(tmp_path):
    threshold_model(tmp_path / "models" / "model.pt")
    with pytest.raises(SystemExit, match=r"no scan matches .*scans.*set --dataset_dir"):
        workflow(tmp_path).initialize()
    write_scan(tmp_path / "scans" / "a.nii.gz", BRIGHT, AFFINES["ras"])
    with pytest.raises(SystemExit, match=r"no model at .*other.pt"):
        workflow(tmp_path, model_file=str(tmp_path / "other.pt")).initialize()
    write_scan(tmp_path / "scans" / "a.nii", BRIGHT, AFFINES["ras"])
    with pytest.raises(SystemExit, match=r"/a.nii and .*/a.nii.gz would share the output name a_seg.nii.gz"):
        workflow(tmp_path).initialize()
    (tmp_path / "scans" / "a.nii").write_bytes(b"")
    workflow(tmp_path, skip_unreadable=True).initialize()


def spoiled_scans(scans: Path) -> dict[str, str]:
    """One scan per fault, and the reason that must be given for it."""
    cube = np.random.default_rng(5).random((8, 8, 8))
    write_scan(scans / "cut.nii.gz", cube, AFFINES["ras"])
    (scans / "cut.nii.gz").write_bytes((scans / "cut.nii.gz").read_bytes()[:900])
    write_scan(scans / "flat.nii.gz", cube[0], AFFINES["ras"])
    write_scan(scans / "nan.nii.gz", np.where(cube > 0.9, np.nan, cube), AFFINES["ras"])
    write_scan(scans / "series.nii.gz", np.stack([cube] * 3, -1), AFFINES["ras"])
    (scans / "zero.nii").write_bytes(b"")
    return {
        "cut.nii.gz": "cannot be read (Compressed file ended",
        "flat.nii.gz": "is 2-D",
        "nan.nii.gz": "has NaN or infinite voxels",
        "series.nii.gz": "has shape (8, 8, 8, 3), but 1 channel",
        "zero.nii": "cannot be read as NIfTI (Empty file",
    }


def test_scans_that_cannot_be_used_are_named_before_anything_is_written(tmp_path):
    threshold_model(tmp_path / "models" / "model.pt")
    write_scan(tmp_path / "scans" / "good.nii.gz", BRIGHT, AFFINES["ras"])
    reasons = spoiled_scans(tmp_path / "scans")
    with pytest.raises(SystemExit) as refusal:
        workflow(tmp_path).initialize()
    sentence = str(refusal.value)
    assert sentence.startswith("5 of 6 scans cannot be used: ")
    assert [f"{name} ({why}" for name, why in reasons.items() if f"/{name} ({why}" not in sentence] == []
    assert "good.nii.gz" not in sentence
    assert not (tmp_path / "eval").exists()


@pytest.mark.parametrize("stock", [False, True], ids=["mnseg", "stock"])
def test_what_nibabel_takes_but_monai_or_other_programs_read_otherwise(tmp_path, monkeypatch, stock):
    if stock:
        monkeypatch.setitem(sys.modules, "mnseg.data.dicom_series", None)
    scans = tmp_path / "scans"
    threshold_model(tmp_path / "models" / "model.pt")
    cube = np.random.default_rng(5).random((8, 8, 8))
    write_scan(scans / "sum.nii.gz", cube, AFFINES["ras"])
    data = bytearray((scans / "sum.nii.gz").read_bytes())
    data[-8] ^= 1  # the checksum
    (scans / "sum.nii.gz").write_bytes(data)
    image = nib.Nifti1Image(cube, np.diag([2.0, 2, 2, 1]))
    image.set_sform(np.diag([-2.0, 3, 2, 1]), 1)  # leaves pixdim and qform
    image.to_filename(scans / "two.nii")
    os.mkfifo(scans / "pipe.nii")
    with pytest.raises(SystemExit) as refusal:
        workflow(tmp_path).initialize()
    for name, why in {"sum.nii.gz": ".*CRC", "two.nii": "contradicts itself", "pipe.nii": "is a link to nothing, or no",
                      }.items():  # fmt: skip
        assert re.search(rf"/{name} \({why}", str(refusal.value))
    assert not (tmp_path / "eval").exists()


def test_scans_that_cannot_be_used_are_left_out_on_request_and_said(tmp_path, caplog):
    threshold_model(tmp_path / "models" / "model.pt")
    spoiled_scans(tmp_path / "scans")
    with pytest.raises(SystemExit, match=r"^5 of 5 scans cannot be used: .*, or set --dataset_dir to others$"):
        workflow(tmp_path, skip_unreadable=True).initialize()
    write_scan(tmp_path / "scans" / "good.nii.gz", BRIGHT, AFFINES["ras"])
    infer(tmp_path, skip_unreadable=True)
    assert [p.name for p in (tmp_path / "eval").glob("*.nii.gz")] == ["good_seg.nii.gz"]
    assert "5 of 6 scans are left out" in caplog.text


def test_a_model_or_output_folder_that_cannot_be_used_is_one_sentence(tmp_path):
    write_scan(tmp_path / "scans" / "a.nii.gz", BRIGHT, AFFINES["ras"])
    model = tmp_path / "models" / "model.pt"
    threshold_model(model)
    with pytest.raises(SystemExit, match=r"output folder .*a.nii.gz/eval \(unusable, NotADirectoryError.*--output_dir"):
        workflow(tmp_path, output_dir=str(tmp_path / "scans" / "a.nii.gz" / "eval")).initialize()
    with pytest.raises(SystemExit, match=r"model.pt cannot be used \(conv_0.* in network_def\): add the model.json"):
        workflow(tmp_path, network_def={"_target_": "BasicUNet", "features": [4] * 6}).initialize()
    model.write_bytes(model.read_bytes()[:100])
    with pytest.raises(SystemExit, match=r"model.pt cannot be used \(unusable, "):
        workflow(tmp_path).initialize()


def test_random_weights_only_on_request_and_said(tmp_path, caplog):
    write_scan(tmp_path / "scans" / "a.nii.gz", BRIGHT, AFFINES["ras"])
    infer(tmp_path, load_checkpoint=False)
    assert "RANDOM weights" in caplog.text
    assert json.loads((tmp_path / "eval" / "provenance.json").read_text())["model_file"] == "none: random weights"


def test_network_fits_the_metadata():
    shape = "_meta_::network_data_format::inputs::image::spatial_shape"
    small = {shape: [32, 32, 32], "network_def::features": [4, 4, 8, 8, 8, 4]}
    args = {"meta_file": str(CONFIGS / "metadata.json"), "config_file": str(CONFIGS / "inference.json")}
    verify_net_in_out("network_def", device="cpu", **args, **small)
    with pytest.raises(ValueError, match="output channel number `3`"):
        verify_net_in_out("network_def", device="cpu", **args, **small, class_names=["background", "a", "b"])


def test_metadata_has_what_the_zoo_asks_for():
    meta = json.loads((CONFIGS / "metadata.json").read_text())
    required = ["schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version",
                "task", "description", "authors", "copyright", "network_data_format"]  # fmt: skip
    assert [key for key in required if not meta.get(key)] == []
    assert meta["version"] in meta["changelog"]
    config = json.loads((CONFIGS / "inference.json").read_text())
    for port in (meta["network_data_format"]["inputs"]["image"], meta["network_data_format"]["outputs"]["pred"]):
        assert port["spatial_shape"] == config["patch_size"]
        assert len(port["channel_def"]) == port["num_channels"]
    assert "not for diagnosis" in meta["intended_use"]
    assert "NVIDIA" in meta["weights_notice"]


def test_real_scan_lies_on_its_own_grid(tmp_path, shared_dir):
    scan_path = sorted((shared_dir / "data" / "hippocampus" / "images").glob("*.nii.gz"))[0]
    features = [4, 4, 8, 8, 8, 4]
    (tmp_path / "models").mkdir()
    torch.save(BasicUNet(3, 1, 3, features).state_dict(), tmp_path / "models" / "model.pt")
    config = json.loads((CONFIGS / "inference.json").read_text())
    infer(
        tmp_path,
        dataset_dir=str(scan_path.parent),
        image_pattern=scan_path.name,
        intensity=config["intensity"],
        network_def=config["network_def"] | {"features": features},
        class_names=["background", "anterior", "posterior"],
        patch_size=[32, 48, 32],
    )
    scan = nib.load(scan_path)
    mask = nib.load(tmp_path / "eval" / scan_path.name.replace(".nii.gz", "_seg.nii.gz"))
    assert mask.shape == scan.shape
    assert np.abs(mask.affine - scan.affine).max() < 2e-6
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1, 2}
