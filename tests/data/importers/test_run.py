"""What every import shares: continued when stopped, not repeated when finished, refused when it is another one."""

from __future__ import annotations

import json

import numpy as np
import pytest

import mnseg.data.importers.la as la
from mnseg.cli import main
from mnseg.data.importers import NAMES
from mnseg.data.importers.run import import_dataset
from mnseg.errors import UserError


@pytest.fixture
def src(tmp_path, files):
    rng = np.random.default_rng(0)
    for i in range(12):
        mask = np.zeros((5, 4, 3), np.uint8)
        mask[1:3, 1:3] = 255
        files.write_nrrd(tmp_path / f"src/C{i:02d}/lgemri.nrrd", rng.integers(0, 99, (5, 4, 3), dtype=np.uint8))
        files.write_nrrd(tmp_path / f"src/C{i:02d}/laendo.nrrd", mask)
    return tmp_path / "src"


def test_a_stopped_import_continues(src, tmp_path, monkeypatch):
    converted = []

    def stop_at_third(path, voxels, affine, write=la.write_volume):
        if len(converted) == 5:  # between the image and the label of the third case
            raise KeyboardInterrupt
        converted.append(path.name)
        write(path, voxels, affine)

    monkeypatch.setattr(la, "write_volume", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        import_dataset("la", src, tmp_path / "out")
    assert not (tmp_path / "out/datalist.json").exists()
    converted.clear()
    monkeypatch.setattr(la, "write_volume", lambda p, v, a, write=stop_at_third.__defaults__[0]:
                        (converted.append(p.name), write(p, v, a)))
    import_dataset("la", src, tmp_path / "out")
    assert converted[0] == "C02.nii.gz" and len(converted) == 20, "two of twelve cases were whole"
    assert not list((tmp_path / "out").rglob("*.tmp"))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    again = import_dataset("la", src, tmp_path / "out")
    assert "finished before" in again.notes[0]
    assert again.counts == {"labeled": 8, "unlabeled": 1, "validation": 1, "testing": 2}
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before


def test_other_settings_and_sources_are_refused(src, tmp_path):
    import_dataset("la", src, tmp_path / "out")
    with pytest.raises(UserError, match="labeled None then, 4 now"):
        import_dataset("la", src, tmp_path / "out", labeled="4")
    (tmp_path / "out/datalist.json").unlink()
    assert import_dataset("la", src, tmp_path / "out", labeled="4").counts["labeled"] == 4
    src.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="holds an import of la from .*src: choose another folder"):
        import_dataset("la", tmp_path / "moved", tmp_path / "out", labeled="4")


def test_a_foreign_datalist_is_not_overwritten(src, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/datalist.json").write_text("{}")
    with pytest.raises(UserError, match="no import made"):
        import_dataset("la", src, tmp_path / "out")
    assert (tmp_path / "out/datalist.json").read_text() == "{}"


def test_an_unsound_scan_leaves_no_datalist(src, tmp_path, files, capsys):
    files.write_nrrd(src / "C03/lgemri.nrrd", np.zeros((5, 4, 3), np.uint8))
    assert main(["import", "la", str(src), str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "C03.nii.gz is constant" in message and "--no-check" in message and "Traceback" not in message
    assert not (tmp_path / "out/datalist.json").exists()
    assert "remove the files named, repair what they were converted from" in message
    assert main(["import", "la", str(src), str(tmp_path / "out"), "--no-check"]) == 0


def test_command_line(src, tmp_path, capsys):
    assert main(["import", "la", str(src), str(tmp_path / "out"), "--labeled", "3", "--test", "2", "--seed", "1"]) == 0
    shown = capsys.readouterr()
    path = tmp_path / "out/datalist.json"
    assert shown.out.startswith(f"{path}: 3 labeled, 6 unlabeled, 1 validation, 2 testing\ntrain with:\n")
    assert f"--dataset_dir {tmp_path / 'out'} " in shown.out
    assert "note: no train.list" in shown.err
    assert json.loads(path.read_text())["class_names"] == ["background", "left atrium"]


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_layout_is_one_sentence(name, tmp_path, capsys):
    (tmp_path / "src/photos").mkdir(parents=True)
    (tmp_path / "src/readme.txt").touch()
    assert main(["import", name, str(tmp_path / "src"), str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    assert "looked for " in message and message.endswith("found photos/, readme.txt.\n")
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_is_one_sentence(tmp_path, capsys):
    assert main(["import", "la", str(tmp_path / "none"), str(tmp_path / "out")]) == 1
    assert "none is not a folder" in capsys.readouterr().err
