"""Slices of volumes: masks of a 3D network become pseudo-labels that co-training takes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

from mining.scenes import Oracle, disk
from mnseg.data.datalist import load_datalist
from mnseg.data.integrity import check_datalist
from mnseg.data.phantom import write_phantom_dataset
from mnseg.errors import UserError
from mnseg.mining import Miner, build_promptable
from mnseg.mining.scans import mine_scans
from mnseg.mining.slices import TOO_FEW, as_image, mine_volume, to_gray

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ["background", "lobe", "bean", "tube"]
EVERYTHING = {"min_predicted_iou": 0, "min_agreement": 0, "min_stability": 0, "jitter_count": 0}


def test_a_slice_is_seen_from_the_front_and_the_feet():
    plane = np.zeros((4, 3))  # R -> 4, A -> 3
    plane[3, 2] = 1  # right, front
    seen = as_image(plane)
    assert seen.shape == (3, 4) and seen[0, 0] == 1  # on top; the patient's right is at the viewer's left


def test_gray_values():
    volume = np.array([[[-1000.0, 0.0, 50.0, 100.0, 3000.0]]])
    assert to_gray(volume, (0, 100)).ravel().tolist() == [0, 0, 128, 255, 255]
    assert to_gray(np.full((2, 2, 2), 7.0)).tolist() == np.zeros((2, 2, 2)).tolist()
    ramp = to_gray(np.arange(1001.0).reshape(7, 11, 13))
    assert ramp.min() == 0 and ramp.max() == 255 and ramp.ravel()[500] in (127, 128)


class Marked:
    """Answers with the component grown by one pixel below, in the image; refuses slices whose first pixel is dark."""

    identity = "marked"

    def embed(self, image):
        return {}

    def segment(self, image, embedding, prompts):
        good = 0.9 if image[-1, -1] else 0.1  # the plane's first pixel
        return [((each.component | np.roll(each.component, 1, axis=0))[None], np.array([good])) for each in prompts]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_go_back_where_they_came_from(axis):
    mask = np.zeros((12, 13, 14), dtype=np.uint8)
    mask[4:7, 5:8, 6:9] = 2
    volume = np.full(mask.shape, 10.0)
    dark = np.moveaxis(volume, axis, 0)
    dark[5 if axis == 0 else 6 if axis == 1 else 7] = 0  # the middle one of three slices
    mined = mine_volume(Miner(Marked()), "a", volume, mask, 3, axis, window=(0, 10), min_kept=0.6)
    # Below in the image: towards the back in an axial slice, towards the feet in the others.
    expected = np.moveaxis(np.where(np.roll(mask, -1, axis=1 if axis == 2 else 2) > 0, 2, mask), axis, 0)
    middle = {0: 5, 1: 6, 2: 7}[axis]
    expected[middle] = np.moveaxis(mask, axis, 0)[middle]  # not kept: the 3D network's own
    np.testing.assert_array_equal(np.moveaxis(mined.label, axis, 0), expected)
    assert [each.case for each in mined.slices] == [f"a slice {middle + i}" for i in (-1, 0, 1)]
    rejected = mine_volume(Miner(Marked()), "a", volume, mask, 3, axis, window=(0, 10), min_kept=0.7)
    assert rejected.label is None and rejected.decision == TOO_FEW
    assert mine_volume(Miner(Marked()), "a", volume, mask * 0, 3, axis).decision == "nothing found"


def test_settings_that_volumes_cannot_have():
    volume = np.zeros((4, 4, 4))
    with pytest.raises(UserError, match="point_selection"):
        mine_volume(Miner(Oracle([]), point_selection="confidence"), "a", volume, volume, 2)
    with pytest.raises(UserError, match="min_kept"):
        mine_volume(Miner(Oracle([])), "a", volume, volume, 2, min_kept=2)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> Path:
    """Two labeled and three unlabeled scans, with masks of the unlabeled ones as inference.json names them."""
    folder = write_phantom_dataset(tmp_path_factory.mktemp("scans"), 2, 3, 1, 1, size=20).parent
    for item in load_datalist(folder / "datalist.json")["unlabeled"]:
        truth = nib.load(item["hidden_label"])
        guess = np.roll(np.asarray(truth.dataobj), 1, axis=0)
        (folder / "masks").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(guess, truth.affine), folder / "masks" / f"{item['case']}_seg.nii.gz")
    return folder


@pytest.fixture(scope="module")
def mined_list(phantom, tmp_path_factory) -> Path:
    """The datalist after one of the unlabeled scans has been mined with the random walker."""
    return mine(phantom, tmp_path_factory.mktemp("mined"), max_cases=1)


def mine(phantom, output_dir, model=None, max_cases=None, **more) -> Path:
    miner = Miner(model or build_promptable("random-walker"), **(EVERYTHING | more))
    return mine_scans(phantom / "datalist.json", phantom / "masks", output_dir, miner, 4, max_cases=max_cases)


def test_the_new_datalist(phantom, mined_list):
    """It is sound, and its labels lie on the scans' grids."""
    before, after = load_datalist(phantom / "datalist.json"), load_datalist(mined_list)
    assert [len(after[split]) for split in ("labeled", "unlabeled", "validation", "testing")] == [3, 2, 1, 1]
    assert check_datalist(mined_list).errors == []
    mined = [item for item in after["labeled"] if item.get("mined")]
    assert [item["case"] for item in mined] == [item["case"] for item in before["unlabeled"][:1]]
    for item in mined:
        assert "hidden_label" not in item
        image, label = nib.load(item["image"]), nib.load(item["label"])
        np.testing.assert_allclose(label.affine, image.affine, atol=1e-6)
        assert label.shape == image.shape and set(np.unique(label.dataobj)) <= {0, 1, 2, 3}
        assert np.asarray(label.dataobj).any()
    with (mined_list.parent / "decisions.csv").open(newline="") as file:
        assert {row["case"].split(" slice ")[0] for row in csv.DictReader(file)} == {item["case"] for item in mined}


def test_co_training_learns_from_mined_scans(phantom, mined_list, tmp_path):
    (mined,) = [item["case"] for item in load_datalist(mined_list)["labeled"] if item.get("mined")]
    steps = {"stage_1_epochs": 1, "warmup_epochs": 0, "stage_2_epochs": 1, "epoch_length": 1, "batch_size": 4}
    workflow = ConfigWorkflow(
        str(ROOT / "bundles/mn_cotraining/configs/train.json"), logging_file=False, workflow_type="train",
        meta_file=str(ROOT / "bundles/mn_cotraining/configs/metadata.json"), dataset_dir=str(phantom),
        data_list_file_path=str(mined_list), run_dir=str(tmp_path / "run"), device="cpu", class_names=CLASSES,
        patch_size=[16, 16, 8], val_interval=9, refresh_interval=9, hidden_cases=0, slice_axis=2, pretrained=False,
        model_2d="segformer-tiny-random", lora_rank=4, **steps,
        network_def={"_target_": "UNet", "spatial_dims": 3, "in_channels": "@in_channels",
                     "out_channels": "@num_classes", "channels": [4, 8], "strides": [2]},
    )  # fmt: skip
    workflow.initialize()
    seen = []
    trainer = workflow.parser.get_parsed_content("train::trainer")
    start = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: seen.append(
        engine.state.batch["case"][: len(engine.state.batch["label"])]))
    workflow.run()
    assert mined in {case for cases in seen for case in cases}
    assert any(not torch.equal(value, start[name]) for name, value in trainer.network.state_dict().items())


def test_a_scan_in_another_axis_order_gets_its_label_there(phantom, mined_list, tmp_path):
    """Mining a scan that is stored otherwise gives the same label, stored in the same way."""
    other = tmp_path / "other"
    content = json.loads((phantom / "datalist.json").read_text())
    content["unlabeled"] = content["unlabeled"][:1]
    item = load_datalist(phantom / "datalist.json")["unlabeled"][0]
    turned = nib.orientations.axcodes2ornt("SPL")
    for source, target in ((item["image"], other / "image.nii.gz"),
                           (phantom / "masks" / f"{item['case']}_seg.nii.gz", other / "masks" / "image_seg.nii.gz")):
        target.parent.mkdir(parents=True, exist_ok=True)
        scan = nib.load(source)
        change = nib.orientations.ornt_transform(nib.orientations.io_orientation(scan.affine), turned)
        nib.save(scan.as_reoriented(change), target)
    (other / "datalist.json").write_text(json.dumps({"labeled": [], "unlabeled": [{"image": "image.nii.gz"}]}))
    straight = load_datalist(mined_list)["labeled"][-1]
    crooked = load_datalist(mine(other, tmp_path / "b"))["labeled"][-1]
    a, b = (nib.as_closest_canonical(nib.load(each["label"])) for each in (straight, crooked))
    assert nib.aff2axcodes(nib.load(crooked["label"]).affine) == ("S", "P", "L")
    np.testing.assert_allclose(a.affine, b.affine, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(a.dataobj), np.asarray(b.dataobj))


def test_a_refused_mining_leaves_nothing_of_an_earlier_one(phantom, tmp_path):
    mine(phantom, tmp_path / "out", max_cases=1)
    (label,) = (tmp_path / "out" / "labels").iterdir()
    with pytest.raises(UserError, match="no scan was kept"):
        mine(phantom, tmp_path / "out", max_cases=1, min_agreement=1.0)
    assert not label.exists() and not (tmp_path / "out" / "datalist.json").exists()


def test_refusals(phantom, tmp_path):
    with pytest.raises(UserError, match="no scan was kept .*3 too few slices kept.*agreement too low.*min_kept"):
        mine(phantom, tmp_path / "out", Oracle([disk((20, 20), (0, 0), 1)]), min_agreement=0.9)
    assert (tmp_path / "out" / "decisions.csv").exists() and not (tmp_path / "out" / "datalist.json").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no CASE_seg.nii.gz"):
        mine_scans(phantom / "datalist.json", tmp_path / "empty", tmp_path / "out", Miner(Oracle([])), 4)
    with pytest.raises(UserError, match=r"no mask of the classes 0 \.\. 2"):
        mine_scans(phantom / "datalist.json", phantom / "masks", tmp_path / "out", Miner(Oracle([])), 3)
