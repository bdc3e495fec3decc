"""The report page, on phantom scans with made-up runs."""

import argparse
import base64
import csv
import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest

from html_page import Page
from mnseg.data.phantom import CLASS_NAMES, write_phantom_dataset
from mnseg.errors import UserError
from mnseg.metrics.field import field_metrics
from mnseg.metrics.handler import COLUMNS
from mnseg.reports.html import add_report_arguments, run_report, write_report
from mnseg.reports.overlays import pick_slice, read_canonical, spread_cases
from mnseg.reports.run_data import load_run
from mnseg.reports.tables import compare


def make_run(folder, dataset, damage):
    """A run whose masks are the truth without the first `damage` slices of each structure's box."""
    masks = folder / "eval" / "predictions"
    masks.mkdir(parents=True)
    datalist = json.loads((dataset / "datalist.json").read_text())
    rows = []
    for position, item in enumerate(datalist["testing"]):
        file = nib.load(dataset / item["label"])
        truth = np.asarray(file.dataobj)
        mask = truth.copy()
        for number in (1, 2, 3):
            where = np.argwhere(truth == number)
            cut = where[:, 2].min() + damage * (position + 1)
            mask[:, :, :cut][truth[:, :, :cut] == number] = 0
        case = f"testing_{position:03d}"
        nib.save(nib.Nifti1Image(mask, file.affine), masks / f"{case}_pred.nii.gz")
        rows += [
            {"case": case, "class": k, "class_name": CLASS_NAMES[k]}
            | field_metrics(mask == k, truth == k, file.header.get_zooms())
            for k in (1, 2, 3)
        ]
    with (folder / "eval" / "field_metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    epochs = [
        {"epoch": e, "stage": 1 + (e > 3), "num_unlabeled": max(0, e - 4), "loss_labeled_3d": 2 / e,
         "val_dice_3d": e / 10, "pseudo_dice_2d": e / 20}
        for e in range(1, 9)
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    (folder / "model.json").write_text(json.dumps({"patch_size": [24, 24, 20], "damage": damage}))
    return folder


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    dataset = root / "data"
    write_phantom_dataset(dataset, 1, 1, 0, 5, size=(24, 24, 20), seed=3)
    make_run(root / "good", dataset, 0)
    make_run(root / "bad", dataset, 1)
    return root


@pytest.fixture(scope="module")
def page(workplace):
    output = workplace / "out" / "report.html"
    runs = {"M&N <new>": workplace / "good", "supervised": workplace / "bad"}
    assert write_report(output, workplace / "data" / "datalist.json", runs, title="A & B") == output
    assert [path.name for path in output.parent.iterdir()] == ["report.html"]
    return Page(output.read_text(encoding="utf-8"))


def test_page_is_self_contained_and_says_what_it_is(page, workplace):
    html = (workplace / "out" / "report.html").read_text(encoding="utf-8")
    assert "script" not in page.tags and "link" not in page.tags
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import|http", html)
    assert str(workplace) not in html
    assert "A &amp; B" in page.text and "not for diagnosis" in page.text
    assert "medpy.metric.binary" in page.text and "voxel" in page.text and "mm" in page.text
    assert "M&amp;N &lt;new&gt;" in page.text and "<new>" not in html


def test_images_are_pngs_with_a_text(page):
    assert len(page.images) == 3  # overlays, curves of two runs
    for image in page.images:
        assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))[:4] == b"\x89PNG"
        assert len(image["alt"]) > 40
    assert "first 0.10, best 0.80, last 0.80" in page.images[1]["alt"]


def test_table_shows_the_numbers_of_the_csv(page, workplace):
    bad = load_run("bad", workplace / "bad")
    dice = [row["dice"] * 100 for row in bad.metrics if row["class"] == 2]
    row = next(row for row in page.rows if row[0] == "bean" and "100.0" not in row[1])
    assert row[1] == f"{np.mean(dice):.1f} ± {np.std(dice, ddof=1):.1f}"
    assert row[-2:] == ["5", str(sum(r["note"] == "empty prediction" for r in bad.metrics if r["class"] == 2))]
    perfect = next(row for row in page.rows if row[0].startswith("M&N <new>"))
    assert perfect[1] == "100.0 ± 0.0" and perfect[3] == "0.00 ± 0.00"


def test_differences_are_paired_and_signed(workplace):
    good, bad = load_run("good", workplace / "good"), load_run("bad", workplace / "bad")
    mean, low, high, pairs = compare(good, bad, "dice")
    per_case = [1 - np.mean([row["dice"] for row in bad.metrics if row["case"] == case]) for case in bad.cases()]
    assert mean == pytest.approx(np.mean(per_case)) and pairs == 5
    assert 0 < low < mean < high
    del bad.metrics[:3]  # one case was not measured
    assert compare(good, bad, "dice")[0] == pytest.approx(np.mean(per_case[1:]))


def test_settings_that_differ_are_marked(workplace):
    html = (workplace / "out" / "report.html").read_text(encoding="utf-8")
    assert '<tr class="settings differs"><th scope="row">damage' in html
    assert '<tr class="settings"><th scope="row">patch_size' in html


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("history.jsonl", "history.jsonl is missing, so it has no curves"),
        ("model.json", "model.json is missing"),
        ("eval/field_metrics.csv", "field_metrics.csv is missing"),
    ],
)
def test_a_missing_part_is_said(workplace, tmp_path, missing, sentence):
    run = make_run(tmp_path / "run", workplace / "data", 0)
    (run / missing).unlink()
    output = write_report(tmp_path / "r.html", workplace / "data" / "datalist.json", {"one": run})
    text = Page(output.read_text(encoding="utf-8")).text
    assert sentence in text and text.count("is missing") == 1


def test_a_run_without_masks_is_drawn_beside_one_that_has_them(workplace, tmp_path):
    (tmp_path / "history.jsonl").write_text('{"epoch": 1, "stage": 1}\n')
    runs = {"full": workplace / "good", "young": tmp_path}
    page = Page(write_report(tmp_path / "r.html", workplace / "data" / "datalist.json", runs).read_text())
    assert "young: " in page.text and "eval/predictions is missing" in page.text
    assert len(page.images) == 3


def test_a_mask_on_another_grid_is_named_and_the_rest_shown(workplace, tmp_path):
    run = make_run(tmp_path / "run", workplace / "data", 0)
    nib.save(nib.Nifti1Image(np.zeros((5, 5, 5), np.uint8), np.eye(4)),
             run / "eval" / "predictions" / "testing_002_pred.nii.gz")
    page = Page(write_report(tmp_path / "r.html", workplace / "data" / "datalist.json", {"one": run}, max_cases=5)
                .read_text(encoding="utf-8"))
    assert "Case testing_002 is not shown" in page.text
    assert "testing_001" in page.images[0]["alt"] and "testing_002" not in page.images[0]["alt"]


def test_command_line(workplace, tmp_path):
    parser = argparse.ArgumentParser()
    add_report_arguments(parser)
    base = ["--datalist", str(workplace / "data" / "datalist.json"), "-o", str(tmp_path / "r.html"), "--max-cases", "0"]
    args = parser.parse_args([*base, "--run", f"a={workplace}/good", "--run", f"b={workplace}/bad", "--baseline", "a"])
    assert "Difference to “a”" in run_report(args).read_text(encoding="utf-8")
    for runs, word in ((["good"], "NAME|name"), (["a=x", "a=y"], "twice"), (["a=/nowhere"], "does not exist")):
        bad = parser.parse_args([*base[:2], "-o", str(tmp_path / "none.html"), *sum((["--run", r] for r in runs), [])])
        with pytest.raises(UserError, match=word):
            run_report(bad)
    assert not (tmp_path / "none.html").exists()


def test_a_datalist_with_the_runs_names_in_another_order_is_refused(workplace, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(workplace / "good", run)
    settings = json.loads((run / "model.json").read_text())
    names = [CLASS_NAMES[0], *CLASS_NAMES[:0:-1]]
    (run / "model.json").write_text(json.dumps({**settings, "class_names": names}))
    with pytest.raises(UserError, match="take the datalist that the run was measured with"):
        write_report(tmp_path / "report.html", workplace / "data" / "datalist.json", {"run": run})
    assert not (tmp_path / "report.html").exists()


def test_empty_folder_unknown_baseline_and_broken_table_are_refused(workplace, tmp_path):
    datalist = workplace / "data" / "datalist.json"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no"):
        write_report(tmp_path / "r.html", datalist, {"e": tmp_path / "empty"})
    with pytest.raises(UserError, match="not among the runs"):
        write_report(tmp_path / "r.html", datalist, {"g": workplace / "good"}, reference="h")
    run = make_run(tmp_path / "run", workplace / "data", 0)
    (run / "eval" / "field_metrics.csv").write_text("case,class\nx,1\n")
    with pytest.raises(UserError, match="field_metrics.csv"):
        write_report(tmp_path / "r.html", datalist, {"g": run})
    assert not (tmp_path / "r.html").exists()


def test_slice_weighs_classes_by_their_own_size():
    truth = np.zeros((20, 20, 6), int)
    truth[:, :10, 1] = 1  # 200 voxels, but class 2 is not there
    truth[:, :8, 4] = 1
    truth[15, 15, 4] = 2
    assert pick_slice(truth, 2) == 4
    assert pick_slice(np.zeros((4, 6, 9)), 1) == 3


def test_spread_takes_best_median_and_worst():
    values = {"a": 0.1, "b": 0.9, "c": 0.5, "d": float("nan"), "e": 0.4, "f": 0.6}
    assert spread_cases(values, 3) == ["b", "c", "a"]
    assert spread_cases(values, 1) == ["c"]
    assert spread_cases(values, 9) == ["b", "f", "c", "e", "a"]
    assert spread_cases({}, 4) == []


def test_canonical_reading_undoes_axis_order_and_direction(tmp_path):
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    turned = nib.Nifti1Image(voxels, affine).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    nib.save(turned, tmp_path / "x.nii.gz")
    volume = read_canonical(tmp_path / "x.nii.gz")
    assert np.array_equal(volume.voxels, voxels) and volume.spacing == (1.0, 2.0, 3.0)
