"""The page of a run of sam_mining."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from fake_mining import ToldMiner
from mnseg.data.datalist import load_datalist
from mnseg.data.phantom_polyps import write_polyp_dataset
from mnseg.data.pictures import read_mask
from mnseg.mining import KEPT, MinedImage
from mnseg.mining.training.rounds import Rounds
from mnseg.reports.html import write_report
from mnseg.reports.mining import is_planar
from mnseg.reports.run_data import Run


def test_image_prompt_mined_mask_and_truth_are_shown(tmp_path):
    path = write_polyp_dataset(tmp_path / "data", 1, 3, 0, 2, size=(40, 48))
    content = load_datalist(path)
    run_dir = tmp_path / "run"
    rounds, images = Rounds(run_dir / "mined", 2), {i["case"]: i["image"] for i in content["unlabeled"]}
    masks = {i["case"]: read_mask(i["hidden_label"], 2) for i in content["unlabeled"]}
    for number, kept in ((1, 1), (2, 2)):
        mined = [MinedImage(case, mask if index < kept else None, KEPT if index < kept else "agreement too low")
                 for index, (case, mask) in enumerate(masks.items())]
        for case, mask in masks.items():
            rounds.write_network(number, case, mask, images[case])
        writer, miner = rounds.writer(number, images), ToldMiner(mined)
        for case, mask in masks.items():
            writer.mine(miner, case, mask, mask[None].astype(np.float32))
        writer.finish(epoch=3 * number, pseudo_dice_2d=0.75)
    (run_dir / "eval" / "predictions").mkdir(parents=True)
    for item in content["testing"]:
        shutil.copy(item["label"], run_dir / "eval" / "predictions" / f"{item['case']}_pred.png")
    (run_dir / "model.json").write_text(json.dumps({"image_size": [32, 32]}))
    page = write_report(tmp_path / "report.html", path, {"mining": run_dir}).read_text()
    assert "Mined labels: mining" in page and "2D segmentation" in page
    assert "Prompts, mined masks and truth of unlabeled_000, unlabeled_002, unlabeled_001" in page
    assert "image, truth, mining" in page and page.count("data:image/png;base64") == 2
    cells = [row.split("<td>") for row in page.split("<tr") if "0.750" in row]
    assert [[cell.partition("<")[0] for cell in row[1:]] for row in cells] == [["3", "1", "2", "0.750"],
                                                                              ["6", "2", "1", "0.750"]]
    assert np.array_equal(dict(rounds.read(2, images))["unlabeled_001"], masks["unlabeled_001"])


def test_volumes_are_not_planar():
    volumes = {"labeled": [{"image": "a.nii.gz"}], "class_names": ["background", "a"]}
    assert not is_planar(volumes, [Run("a", Path("a"), settings={"patch_size": [32, 32, 32]})])
    assert is_planar({"labeled": [], "testing": [{"image": "a.JPG"}]}, [])
    assert is_planar(volumes, [Run("a", Path("a"), settings={"image_size": [32, 32]})]), "NIfTI of one slice"
