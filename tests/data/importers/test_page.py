"""The commands of docs/how-to/import-public-data.md run, on small sets in the layouts of the archives."""

from __future__ import annotations

import numpy as np
import pytest

from data.importers.test_decathlon import write_task
from data.importers.test_pancreas_ct import MC_NET_TEST, MC_NET_TRAIN, on_grid, write_case
from mnseg.cli import main
from page_commands import commands


@pytest.fixture
def downloads(tmp_path, monkeypatch, files):
    """All that the page's commands read."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(14):
        folder = tmp_path / "2018LA_Seg_Training Set" / f"CASE{number:02d}"
        mask = np.zeros((12, 10, 8), np.uint8)
        mask[3:8, 3:7, 2:6] = 255
        files.write_nrrd(folder / "lgemri.nrrd", rng.integers(0, 255, mask.shape).astype(np.uint8))
        files.write_nrrd(folder / "laendo.nrrd", mask)
    for number in (*MC_NET_TRAIN[:7], MC_NET_TEST[0]):
        write_case(tmp_path / "downloads/pancreas", files, number, on_grid("LPS"))
    write_task(tmp_path / "downloads/Task09_Spleen", files)
    names = [f"p{number:02d}" for number in range(20)]
    files.write_pairs(tmp_path / "downloads/kvasir-seg/images", tmp_path / "downloads/kvasir-seg/masks", names, ".jpg")
    for part in ("Train", "Val", "Test"):
        for kind in ("COVID-19", "Non-COVID", "Normal"):
            folder = tmp_path / "downloads/covidqu/Lung Segmentation Data/Lung Segmentation Data" / part / kind
            files.write_pairs(folder / "images", folder / "lung masks", [f"{part}{kind}{i}" for i in range(2)])
    return tmp_path


def test_every_command_writes_a_datalist(downloads, capsys):
    lines = [line for line in commands("import-public-data.md") if line[1] == "import" and len(line) == 5]
    assert [line[2] for line in lines] == ["la", "pancreas_ct", "decathlon", "kvasir", "covid_qu_ex"]
    for line in lines:
        assert main(line[1:]) == 0, f"{line}: {capsys.readouterr().err}"
        assert (downloads / line[4] / "datalist.json").is_file()
        assert "train with:" in capsys.readouterr().out
