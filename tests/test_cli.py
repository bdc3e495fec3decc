"""The command line: exit codes, messages, and the files it leaves or does not leave."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import mnseg.cli
from mnseg import __version__
from mnseg.cli import main
from mnseg.errors import UserError


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Eight small scans c0-c7, the first five with labels."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for i in range(8):
        scan = rng.normal(size=(5, 4, 3)).astype(np.float32)
        nib.save(nib.Nifti1Image(scan, np.eye(4)), tmp_path / f"images/c{i}.nii.gz")
        if i < 5:
            nib.save(nib.Nifti1Image((scan > 0).astype(np.uint8), np.eye(4)), tmp_path / f"labels/c{i}.nii.gz")
    return tmp_path


def datalist(folder: Path, *options: str) -> int:
    return main(["datalist", "--images", f"{folder}/images", "--labels", f"{folder}/labels",
                 "-o", f"{folder}/new/datalist.json", *options])


def break_scan(folder: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((5, 4, 3), np.uint8), np.eye(4)), folder / "images/c7.nii.gz")


def test_datalist_then_check(folders, capsys):
    assert datalist(folders, "--labeled", "first:2", "--validation", "2", "--class-names", "background, organ") == 0
    path = folders / "new/datalist.json"
    content = json.loads(path.read_text())
    assert content["class_names"] == ["background", "organ"]
    assert {key: len(content[key]) for key in ("labeled", "unlabeled", "validation", "testing")} == {
        "labeled": 2, "unlabeled": 4, "validation": 2, "testing": 0
    }
    assert capsys.readouterr().out == f"{path}: 2 labeled, 4 unlabeled, 2 validation, 0 testing\n"
    assert main(["check", str(path)]) == 0
    assert capsys.readouterr().out.endswith("0 errors, 0 warnings\n")


def test_group_by_keeps_patients_together(folders, capsys):
    (folders / "patients.csv").write_text("case,patient\n" + "".join(f"c{i},p{i // 2}\n" for i in range(8)))
    options = ("--labeled", "first:2", "--validation", "1")
    assert datalist(folders, "--group-by", f"{folders}/patients.csv", *options) == 0
    content = json.loads((folders / "new/datalist.json").read_text())
    pools = [{item["patient"] for split in splits for item in content[split]}
             for splits in (("labeled", "unlabeled"), ("validation",))]
    assert pools[1] and not pools[0] & pools[1]
    assert "left out: other scans of validation or test patients" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--group-by", "--patients"])
def test_group_by_pattern_and_its_former_name(folders, option):
    assert datalist(folders, option, "^c.", "--labeled", "first:2") == 0
    content = json.loads((folders / "new/datalist.json").read_text())
    assert [item["patient"] for item in content["labeled"]] == ["c0", "c1"]


def test_group_by_what_is_not_there(folders, capsys):
    assert datalist(folders, "--group-by", "PatientID") == 1
    assert datalist(folders, "--group-by", f"{folders}/none.csv") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "c0.nii.gz is not DICOM" in lines[0] and "none.csv does not exist" in lines[1]
    assert not (folders / "new").exists()


def test_a_patient_in_training_and_validation_fails_the_check(folders, capsys):
    datalist(folders, "--group-by", r"\d", "--labeled", "first:2", "--validation", "1")
    path = folders / "new/datalist.json"
    content = json.loads(path.read_text())
    content["validation"][0]["patient"] = content["labeled"][0]["patient"]
    path.write_text(json.dumps(content))
    assert main(["check", str(path)]) == 1
    assert "patient 0 has scans in more than one of training, validation and testing" in capsys.readouterr().err


def test_ignored_structures(folders, capsys):
    (folders / "ignored.csv").write_text("case,class\nc0,tumor\nc7,tumor\n")
    options = ("--class-names", "background,organ,tumor", "--ignored", f"{folders}/ignored.csv")
    assert datalist(folders, *options) == 0
    content = json.loads((folders / "new/datalist.json").read_text())
    assert [item.get("ignored") for item in content["labeled"]] == [["tumor"], None, None, None, None]
    assert not any("ignored" in item for item in content["unlabeled"])
    (folders / "ignored.csv").write_text("case,class\nc1,organ\n")
    assert datalist(folders, *options) == 1
    assert 'error: labeled/c1: "ignored" names class 1 (organ)' in capsys.readouterr().err
    (folders / "ignored.csv").write_text("case,class\nc1,organs\n")
    assert datalist(folders, *options, "--no-check") == 1
    assert "'organs', which is none of the classes" in capsys.readouterr().err


def test_unsound_scan_leaves_no_datalist(folders, capsys):
    break_scan(folders)
    assert datalist(folders) == 1
    assert not (folders / "new").exists()
    message = capsys.readouterr().err
    assert "unlabeled/c7" in message
    assert "was not written" in message
    assert "Traceback" not in message


def test_unchecked_datalist_fails_the_check(folders, capsys):
    break_scan(folders)
    assert datalist(folders, "--no-check") == 0
    capsys.readouterr()
    assert main(["check", f"{folders}/new/datalist.json"]) == 1
    shown = capsys.readouterr()
    assert "constant" in shown.err
    assert "1 error, 0 warnings" in shown.out


def test_check_as_json(folders, capsys):
    datalist(folders, "--labeled", "3")
    capsys.readouterr()
    assert main(["check", f"{folders}/new/datalist.json", "--num-classes", "1", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["errors"] == 3
    assert {finding["case"] for finding in report["findings"]} <= {"c0", "c1", "c2", "c3", "c4"}


def test_warnings_alone_are_success(folders, capsys):
    nib.save(nib.Nifti1Image(np.zeros((5, 4, 3), np.uint8), np.eye(4)), folders / "labels/c4.nii.gz")
    assert datalist(folders, "--labeled", "first:4", "--test", "first:1:4") == 0
    assert main(["check", f"{folders}/new/datalist.json"]) == 0
    assert "warning: testing/c4: " in capsys.readouterr().err


def test_an_old_datalist_survives_a_failed_one(folders):
    datalist(folders)
    before = (folders / "new/datalist.json").read_text()
    break_scan(folders)
    assert datalist(folders, "--labeled", "1") == 1
    assert (folders / "new/datalist.json").read_text() == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["check", "nowhere.json"], "nowhere.json does not exist"),
        (["datalist", "--images", "nowhere", "-o", "d.json"], "nowhere is not a folder"),
        (["phantom", "out", "--size", "32", "32"], "--size takes one number or three"),
    ],
)
def test_bad_input_is_one_sentence(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert len(shown.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["unknown"],
        ["check"],
        ["check", "d.json", "--jobs", "0"],
        ["check", "d.json", "--num-classes", "two"],
        ["datalist", "--images", "x", "-o", "d.json", "--class-names", "liver"],
    ],
)
def test_wrong_usage_is_2(argv):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (UserError("do this."), 1, "mnseg: do this.\n"),
        (KeyboardInterrupt(), 130, "mnseg: interrupted\n"),
        (RuntimeError("a defect"), 3, "RuntimeError: a defect\n"),
    ],
)
def test_exit_codes(monkeypatch, capsys, error, code, shown):
    def fail(_):
        raise error

    monkeypatch.setattr(mnseg.cli, "_run_check", fail)
    assert main(["check", "d.json"]) == code
    err = capsys.readouterr().err
    assert err.endswith(shown)
    assert ("Traceback" in err) == (code == 3)


def test_phantom_passes_on_what_was_given(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr("mnseg.data.phantom.write_phantom_dataset", lambda *a, **k: calls.append((a, k)) or "written")
    assert main(["phantom", "out", "--labeled", "2", "--size", "32", "--seed", "0"]) == 0
    assert main(["phantom", "out", "--size", "32", "32", "24"]) == 0
    assert calls == [(("out",), {"num_labeled": 2, "size": 32, "seed": 0}), (("out",), {"size": (32, 32, 24)})]
    assert capsys.readouterr().out == "written\nwritten\n"


def test_phantom_data_is_sound(tmp_path):
    counts = [f"--{split}=1" for split in ("labeled", "unlabeled", "validation", "testing")]
    assert main(["phantom", str(tmp_path / "p"), "--size", "24", *counts]) == 0
    assert main(["check", str(tmp_path / "p/datalist.json")]) == 0


def test_report_takes_its_options_from_the_report(monkeypatch, capsys, tmp_path):
    stub = types.ModuleType("mnseg.reports.html")
    stub.add_report_arguments = lambda parser: parser.add_argument("--output")
    stub.run_report = lambda args: Path(args.output)
    monkeypatch.setitem(sys.modules, "mnseg.reports.html", stub)
    assert main(["report", "--output", "runs/report.html"]) == 0
    assert capsys.readouterr().out == f"{Path('runs/report.html')}\n"
    stub.run_report = lambda args: pytest.fail("started although the output cannot be written")
    (tmp_path / "file").write_text("")
    assert main(["report", "--output", str(tmp_path / "file/report.html")]) == 1
    assert f"{tmp_path / 'file'} is not a folder" in capsys.readouterr().err


def test_version_and_help_import_nothing_heavy():
    code = ("import sys\nfrom mnseg.cli import main\n"
            "try: main(sys.argv[1:])\n"
            "except SystemExit as stopped: assert stopped.code == 0\n"
            "print(sorted({'torch', 'monai', 'nibabel', 'transformers'} & set(sys.modules)))")
    for option, text in (("--version", f"mnseg {__version__}"), ("--help", "datalist")):
        done = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True, check=True)
        assert text in done.stdout
        assert done.stdout.splitlines()[-1] == "[]"


def test_atrial_protocol_in_one_command(shared_dir, tmp_path):
    data = shared_dir / "data/la"
    argv = ["datalist", "--images", str(data / "images"), "--labels", str(data / "labels"), "--no-check",
            "--order", str(data / "train.list"), "--labeled", "first:8", "--validation", "last:10",
            "--test", "last:10:10", "-o", str(tmp_path / "la.json")]
    assert main(argv) == 0
    content = json.loads((tmp_path / "la.json").read_text())
    order = (data / "train.list").read_text().split()
    assert [Path(item["image"]).name for item in content["labeled"]] == [f"{case}.nii.gz" for case in order[:8]]
    assert [Path(item["image"]).name for item in content["testing"]] == [f"{case}.nii.gz" for case in order[60:70]]
    assert len(content["unlabeled"]) == 52


def test_two_dimensional_pair_is_named_without_a_traceback(tmp_path, capsys):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(np.eye(9, dtype=np.uint8), np.eye(4)), tmp_path / folder / "flat.nii.gz")
    folders = ["--images", str(tmp_path / "images"), "--labels", str(tmp_path / "labels")]
    assert main(["datalist", *folders, "-o", str(tmp_path / "list.json")]) == 1
    errors = capsys.readouterr().err
    assert "flat.nii.gz" in errors and "2 dimensions" in errors and "Traceback" not in errors


def test_output_below_a_file_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["phantom", str(tmp_path / "file" / "x"), "--labeled", "1"]) == 1
    errors = capsys.readouterr().err
    assert str(tmp_path / "file") in errors and "Traceback" not in errors


def test_phantom_does_not_mix_with_what_is_there(tmp_path, capsys):
    (tmp_path / "datalist.json").write_text("{}")
    assert main(["phantom", str(tmp_path)]) == 1
    assert "holds a datalist already" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["datalist.json"]


def test_phantom_completes_an_interrupted_run(tmp_path):
    """Only the datalist, written last, tells that a folder is complete."""
    counts = ["--labeled=1", "--unlabeled=1", "--validation=1", "--testing=0", "--size=24"]
    assert main(["phantom", str(tmp_path), *counts]) == 0
    before = (tmp_path / "images/labeled_000.nii.gz").read_bytes()
    (tmp_path / "datalist.json").unlink()
    (tmp_path / "images/labeled_000.nii.gz").write_bytes(before[:100])
    assert main(["phantom", str(tmp_path), *counts]) == 0
    assert (tmp_path / "images/labeled_000.nii.gz").read_bytes() == before


def test_labels_in_the_folder_of_the_images(folders, capsys):
    (folders / "link").symlink_to(folders / "images")
    for option in ("--labels", "--hidden-labels"):
        assert datalist(folders, option, f"{folders}/link") == 1
        assert "its own label" in capsys.readouterr().err
    assert not (folders / "new").exists()


@pytest.mark.parametrize("output", ["file/datalist.json", "file/deeper/datalist.json", "images"])
def test_datalist_that_cannot_be_written_is_said_before_the_check(folders, capsys, monkeypatch, output):
    monkeypatch.setattr("mnseg.data.integrity.check_datalist", lambda *a, **k: pytest.fail("scans were read"))
    (folders / "file").write_text("")
    assert main(["datalist", "--images", f"{folders}/images", "-o", f"{folders}/{output}"]) == 1
    shown = capsys.readouterr().err
    assert str(folders / output) in shown and len(shown.splitlines()) == 1


def test_two_dimensional_pair_beside_a_sound_one(folders, capsys):
    for name in ("images", "labels"):
        nib.save(nib.Nifti1Image(np.eye(9, dtype=np.uint8), np.eye(4)), folders / f"{name}/c0.nii.gz")
    assert datalist(folders, "--no-check", "--validation", "1") == 0
    capsys.readouterr()
    assert main(["check", f"{folders}/new/datalist.json"]) == 1
    shown = capsys.readouterr()
    assert "images/c0.nii.gz has 2 dimensions" in shown.err
    assert "1 error, 0 warnings" in shown.out


def test_full_disk_names_the_file(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["phantom", str(tmp_path), "--size=24"]) == 1
    shown = capsys.readouterr().err
    assert f"{tmp_path}/images/labeled_000.nii.gz" in shown and "No space left" in shown
