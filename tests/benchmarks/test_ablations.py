"""ablations.py: rows and seeds, a small run that is stopped and goes on, its tables."""

from __future__ import annotations

import csv
import os
import sys
import time
from argparse import Namespace

import ablations
import pytest
import rows
import torch
from ablation_rows import INGREDIENTS, ROWS, SCALES, for_patches, jobs_of, rows_of
from ablations import main
from bring_home import LIMIT, bring_home, bring_home_once
from bring_home import main as join_parts
from monai.networks.nets import BasicUNet

from mnseg.data.datalist import load_datalist
from mnseg.data.phantom import write_phantom_dataset
from mnseg.errors import UserError

TINY = (
    "network_def#features=[4,4,8,8,16,4] batch_size=2 epoch_length=2 stage_1_epochs=1 stage_2_epochs=2 "
    "warmup_epochs=0 sampling=fixed num_unlabeled=1 hidden_cases=0 val_interval=9 refresh_cases=2 val_cases=1"
)


@pytest.mark.parametrize("name", sorted(SCALES))
def test_every_row_of_a_scale_has_an_overlay_and_what_is_left_out_a_reason(name):
    scale = SCALES[name]
    found = rows_of(scale, None)
    assert {*found, *scale.left_out} - set(INGREDIENTS) == set(ROWS)
    assert set(scale.seeded) <= {*found, *scale.left_out}
    for row in found:
        rows.ablation_of(row)
    assert all(scale.left_out.values())


def test_every_ingredient_is_an_overlay_and_alone():
    files = {path.stem for path in (rows.ROOT / "configs" / "ingredients").glob("*.json")}
    assert files == set(INGREDIENTS)
    assert rows_of(SCALES["tiny"], ["mn", *INGREDIENTS]) == ["mn", *INGREDIENTS]
    assert not files & set(rows_of(SCALES["tiny"], None))


def test_unknown_and_impossible_rows_are_named():
    with pytest.raises(UserError, match="no row 'mnn'"):
        rows_of(SCALES["lite"], ["mnn"])
    with pytest.raises(UserError, match="'resunet50' needs microsoft/resnet-50"):
        rows_of(SCALES["lite"], ["resunet50"])


def test_swin_unetr_has_a_row_with_patches_that_it_takes():
    with pytest.raises(UserError, match=r"multiples of 32, not 80x64x32 \(--extra patch_size="):
        rows_of(for_patches(SCALES["lite"], "seed=1"), ["swin_unetr"])
    own = for_patches(SCALES["lite"], "seed=1 patch_size=[96,64,32]")
    assert rows_of(own, ["mn", "swin_unetr"]) == ["mn", "swin_unetr"]
    assert set(own.left_out) == set(SCALES["lite"].left_out) - {"swin_unetr"}


def test_an_open_quote_is_said_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match="--extra cannot be read, No closing quotation: seed=1 'x"):
        rows.run_once("mn", ["python"], tmp_path, Namespace(extra="seed=1 'x"))
    assert not list(tmp_path.iterdir())


def test_a_list_in_extra_may_have_spaces():
    assert rows.words_of("seed=1 patch_size=[96, 64, 32] a={'b': (1, 2)} c='x y'") == [
        "seed=1", "patch_size=[96, 64, 32]", "a={b: (1, 2)}", "c=x y"]  # fmt: skip
    assert rows.words_of("") == []


def test_the_first_seed_is_for_all_rows():
    jobs = jobs_of(["mn", "linear", "uniform"], range(2), SCALES["lite"].seeded)
    assert jobs == [("mn", 0), ("linear", 0), ("uniform", 0), ("mn", 1), ("uniform", 1)]


def line(case: str, dice: float) -> dict[str, str]:
    return {"case": case, "class_name": "x", "dice": str(dice), "jaccard": "0.5", "hd95_voxel": "1", "asd_voxel": "1"}


def test_differences_are_those_of_shared_seeds():
    results = {
        ("mn", "g"): {0: [line("a", 0.5), line("b", 0.6)], 1: [line("a", 0.9), line("b", 0.9)]},
        ("linear", "g"): {0: [line("a", 0.6), line("b", 0.8)]},
    }
    assert ablations._against_mn(results, "linear", "g").startswith("+15.00 [")
    assert ablations._against_mn(results, "mn", "g") == "-"
    assert ablations.dice_of_seeds(results["mn", "g"]) == pytest.approx([55.0, 90.0])
    lines = list(csv.DictReader(ablations.as_csv(results).splitlines()))
    assert [(x["row"], x["seed"], x["case"], x["dice"]) for x in lines[2:5]] == [
        ("mn", "1", "a", "0.9"), ("mn", "1", "b", "0.9"), ("linear", "0", "a", "0.6")
    ]  # fmt: skip


def test_a_stopped_comparison_goes_on(tmp_path, capsys, monkeypatch):
    argv = ["--scale", "tiny", "--rows", "supervised", "mn", "--out", str(tmp_path), "--extra", TINY, "--jobs", "2"]
    assert main([*argv, "--minutes", "0"]) == 1, "no time at all"
    assert "0 of 2 have finished; left: supervised, seed 0, mn, seed 0" in capsys.readouterr().out
    assert main([*argv, "--bring-home", str(tmp_path / "home")]) == 0
    assert "2 of 2 have finished" in capsys.readouterr().out
    found = list(csv.DictReader((tmp_path / "ablations.csv").open()))
    assert {(x["row"], x["network"]) for x in found} == {(r, n) for r in ("supervised", "mn") for n in ("g", "f")}
    assert len(found) == 4 * 8 * 3, "networks, test scans, structures"
    mean = sum(100 * float(x["dice"]) for x in found if (x["row"], x["network"]) == ("mn", "g")) / 24
    assert f"| M&N | g | {mean:.2f} |" in (tmp_path / "ablations.md").read_text()
    assert (tmp_path / "ablations.png").stat().st_size > 5000
    assert (tmp_path / "home" / tmp_path.name / "ablations.csv").read_text() == (tmp_path / "ablations.csv").read_text()
    monkeypatch.setattr(ablations, "START", -1e9)  # as if the time were over
    assert main([*argv, "--networks", "both", "--minutes", "1"]) == 1
    assert "2 evaluations are left" in capsys.readouterr().out
    monkeypatch.undo()
    assert main([*argv, "--split", "validation", "--table-only"]) == 0
    chosen_on = {x["case"] for x in csv.DictReader((tmp_path / "ablations_validation.csv").open())}
    assert main([*argv, "--networks", "both", "flips", "--table-only"]) == 0
    others = list(csv.DictReader((tmp_path / "ablations_both_flips.csv").open()))
    assert {x["network"] for x in others} == {"both", "flips"}
    by_network = {name: [x["dice"] for x in [*found, *others] if x["network"] == name] for name in ("g", "flips")}
    assert len(by_network["g"]) == len(by_network["flips"]) and by_network["g"] != by_network["flips"]
    assert (tmp_path / "ablations_both_flips.png").stat().st_size > 5000
    assert chosen_on and not chosen_on & {x["case"] for x in found}, "a recipe is chosen on other scans"
    assert list(csv.DictReader((tmp_path / "ablations.csv").open())) == found
    home = torch.load(tmp_path / "home" / tmp_path.name / "mn_seed0_g.pt", weights_only=True)
    trained = torch.load(tmp_path / "seed_0" / "mn" / "models" / "model.pt", weights_only=True)
    assert home.keys() == trained.keys()
    for name, value in trained.items():
        torch.testing.assert_close(home[name].float(), value.float(), rtol=2**-8, atol=0)


@pytest.mark.parametrize("name", sorted(SCALES))
def test_the_ingredients_of_a_scale_are_those_that_it_can_train(name, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(ablations, "prepare", lambda args: None)
    monkeypatch.setattr(ablations, "jobs_of", lambda rows, *_: asked.extend(rows) or [])
    assert main(["--scale", name, "--ingredients", "--table-only"]) == 0
    assert asked == ["mn", *(row for row in INGREDIENTS if row not in SCALES[name].left_out)]


def test_an_unpacked_datalist_is_taken_in_place_of_the_protocols(tmp_path, capsys):
    datalist = write_phantom_dataset(tmp_path / "data", 2, 1, 1, 1, size=20)
    argv = ["--scale", "lite", "--labels", "2", "--weights", "W", "--out", str(tmp_path / "out"), "--datalist"]
    args = ablations.build_parser().parse_args([*argv, str(datalist)])
    ablations.prepare(args)
    assert (args.datalist, args.folder) == (datalist, datalist.parent)
    for more, words in (
        ([*argv, str(tmp_path / "none.json")], f"--datalist {tmp_path / 'none.json'} does not exist"),
        ([*argv, str(datalist), "--labels", "4"], "has 2 labeled scans, not 4: give --labels"),
        ([*argv, str(datalist), "--data", str(tmp_path)], "--data and --datalist both name scans"),
        (["--scale", "tiny", "--out", str(tmp_path / "out"), "--datalist", str(datalist)], "--datalist is for other"),
    ):
        with pytest.raises(SystemExit):
            main([*more, "--table-only"])
        assert words in capsys.readouterr().err


def test_what_is_not_measured_in_time_is_left_to_the_next_call(tmp_path, monkeypatch, capsys):
    (tmp_path / "seed_0" / "mn" / "models").mkdir(parents=True)
    (tmp_path / "seed_0" / "mn" / "models" / "model.pt").touch()
    asked = []
    monkeypatch.setattr(ablations, "evaluate", lambda _, network, __: asked.append(network) or [])
    monkeypatch.setattr(ablations, "is_measured", lambda _, network, __: network == "g")
    args = Namespace(out=tmp_path, networks=["g", "f"], until=time.monotonic() - 1)
    assert ablations.measured([("mn", 0)], args) == {("mn", "g"): {0: []}}
    assert asked == ["g"] and "mn, seed 0: f is measured next time" in capsys.readouterr().out
    ablations.measured([("mn", 0)], Namespace(**vars(args) | {"until": None}))
    assert asked == ["g", "g", "f"]


def test_other_labels_need_another_folder(tmp_path, capsys):
    argv = ["--scale", "tiny", "--table-only", "--out", str(tmp_path)]
    assert main(argv) == 1, "nothing has finished"
    with pytest.raises(SystemExit):
        main([*argv, "--labels", "2"])
    assert "has 4 labeled scans, not 2: give another --out" in capsys.readouterr().err
    args = ablations.build_parser().parse_args(["--scale", "tiny", "--labels", "2", "--out", str(tmp_path / "other")])
    ablations.prepare(args)
    assert len(load_datalist(args.datalist)["labeled"]) == 2


def test_the_network_of_the_papers_width_comes_home_in_parts(tmp_path, capsys):
    network = BasicUNet(3, 1, 2, features=(32, 64, 128, 256, 512, 32))
    torch.save(network.state_dict(), tmp_path / "model.pt")
    parts = bring_home(tmp_path / "model.pt", tmp_path / "g.pt")
    assert [part.name for part in parts] == [f"g_{i}of{len(parts)}.pt" for i in range(1, len(parts) + 1)]
    assert len(parts) > 1 and all(part.stat().st_size <= LIMIT for part in parts)
    assert join_parts([*map(str, parts), str(tmp_path / "joined.pt")]) == 0
    joined = torch.load(tmp_path / "joined.pt", weights_only=True)
    assert list(joined) == list(network.state_dict())
    for name, value in network.state_dict().items():
        torch.testing.assert_close(joined[name].float(), value, rtol=2**-8, atol=0)
    before = parts[-1].read_bytes()
    for named, words in (
        ([*parts, parts[0], tmp_path / "other.pt"], "name each part once"),
        ([*parts[:-1], tmp_path / "other.pt"], f"{parts[-1].name} is missing"),
        (parts, f"{parts[-1]} looks like a part"),
        ([*parts[:-1], parts[-1].parent / "h_2of2.pt"], "looks like a part"),
        ([tmp_path / "nowhere.pt", tmp_path / "other.pt"], "nowhere.pt does not exist"),
    ):
        with pytest.raises(SystemExit):
            join_parts([*map(str, named)])
        assert words in capsys.readouterr().err and not (tmp_path / "other.pt").exists()
    assert parts[-1].read_bytes() == before
    parts[0].write_bytes(parts[0].read_bytes()[:1000])
    with pytest.raises(SystemExit):
        join_parts([*map(str, parts), str(tmp_path / "other.pt")])
    assert f"{parts[0]} cannot be read" in capsys.readouterr().err


def test_weights_come_home_once_to_a_place(tmp_path):
    weights = tmp_path / "models" / "model.pt"
    weights.parent.mkdir()
    torch.save({"weight": torch.ones(2)}, weights)
    home, other = tmp_path / "home" / "g.pt", tmp_path / "other" / "g.pt"
    assert bring_home_once(weights, home) == [home]
    home.unlink()  # taken away
    assert bring_home_once(weights, home) == [] and not home.exists()
    assert bring_home_once(weights, other) == [other]
    later = weights.with_name("brought_home.txt").stat().st_mtime + 5
    os.utime(weights, (later, later))  # trained anew
    assert bring_home_once(weights, other) == [other]


def test_a_tensor_that_no_file_can_hold_is_named(tmp_path):
    torch.save({"steps": torch.tensor(3), "weight": torch.ones(2**20)}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="weight alone has 2.0 MiB in bfloat16; a file may have 1.0 MiB"):
        bring_home(tmp_path / "model.pt", tmp_path / "home.pt", limit=2**20)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_command_is_stopped_at_its_time(tmp_path):
    start = time.monotonic()
    args = Namespace(extra="", threads=1, jobs=1, until=start + 1)
    code = rows.run_once("slow", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, args)
    assert code == 0 and 0.9 < time.monotonic() - start < 20
    assert rows.run_once("slow", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, args) == 0


@pytest.mark.parametrize("option", ["--seeds", "--labels", "--jobs", "--threads"])
def test_none_of_what_must_be_at_least_one_is_refused(option, capsys):
    for number in ("0", "-1"):
        with pytest.raises(SystemExit):
            main(["--scale", "tiny", "--table-only", option, number])
        assert f"argument {option}: '{number}' is not a whole number of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--out", "--bring-home"])
def test_a_file_in_a_folders_place_is_said_before_anything_is_trained(option, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        main(["--scale", "tiny", "--rows", "mn", "--out", str(tmp_path / "out"), option, str(tmp_path / "file")])
    out, error = capsys.readouterr()
    assert str(tmp_path / "file") in error and error.startswith("ablations.py: ") and error.count("\n") == 1
    assert "training" not in out


def test_a_row_named_twice_is_trained_once():
    assert rows_of(SCALES["tiny"], ["mn", "supervised", "mn"]) == ["mn", "supervised"]


@pytest.mark.parametrize("argv", [["--scale", "lite"], ["--scale", "full", "--data", "/nowhere"]])
def test_data_that_is_missing_is_named(argv, capsys):
    with pytest.raises(SystemExit):
        main(argv)
    assert "--data must name the folder that holds la/images" in capsys.readouterr().err
