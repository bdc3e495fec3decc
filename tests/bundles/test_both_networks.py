"""configs/inference/network_2d.json and both_networks.json over inference.json and evaluate.json."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from mnseg.errors import UserError, user_error_in
from one_thread import one_thread
from short_training import CONFIGS, ROOT, settings, train, write_data

OVERLAYS = {"g": [], "f": ["network_2d.json"], "both": ["both_networks.json"]}

_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("run")
    data = write_data(folder / "data")
    train(settings(data, folder / "run", stage_1_epochs=4, stage_2_epochs=2, learning_rate=0.01))
    return folder / "run", data


def workflow(config: str, network: str, run_dir: Path, output: Path, **more) -> ConfigWorkflow:
    overlays = [ROOT / "configs" / "inference" / name for name in OVERLAYS[network]]
    files = [CONFIGS / config, run_dir / "model.json", *overlays]
    made = ConfigWorkflow(
        [str(path) for path in files], meta_file=str(CONFIGS / "metadata.json"), logging_file=False,
        workflow_type="infer", run_dir=str(run_dir), output_dir=str(output), device="cpu", **more,
    )  # fmt: skip
    made.initialize()
    return made


def probabilities(network: str, run_dir: Path, data: Path, output: Path) -> np.ndarray:
    """One window sees the whole scan: of overlapping ones MONAI averages logits, which is not linear."""
    flow = workflow("inference.json", network, run_dir, output, dataset_dir=str(data / "images"),
                    image_pattern="validation_000*", save_probabilities=True, patch_size=[20, 20, 20])  # fmt: skip
    flow.run()
    flow.finalize()
    (path,) = output.glob("*_prob.nii.gz")
    return nib.load(path).get_fdata()


def test_both_are_the_mean_of_the_two(run, tmp_path, caplog):
    run_dir, data = run
    found = {name: probabilities(name, run_dir, data, tmp_path / name) for name in OVERLAYS}
    assert np.abs(found["g"] - found["f"]).max() > 0.05, "else nothing is shown"
    np.testing.assert_allclose(found["both"], (found["g"] + found["f"]) / 2, atol=1e-4)
    records = {name: json.loads((tmp_path / name / "provenance.json").read_text()) for name in OVERLAYS}
    files = {name: Path(record["model_file"]) for name, record in records.items()}
    assert files["g"] == run_dir / "models" / "model.pt"
    assert files["f"] == files["both"] == run_dir / "models" / "checkpoint.pt"
    assert "random" not in caplog.text.lower()


def test_they_are_evaluated_as_any_network(run, tmp_path):
    run_dir, data = run
    flow = workflow("evaluate.json", "both", run_dir, tmp_path, dataset_dir=str(data), evaluate_split="validation")
    flow.run()
    flow.finalize()
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert record["model_file"] == str(run_dir / "models" / "checkpoint.pt")
    assert (tmp_path / "predictions" / "validation_000_pred.nii.gz").is_file()


@pytest.mark.parametrize("network", ["f", "both"])
@pytest.mark.parametrize("other", [{"spacing": [1.0, 1.0, 2.0]}, {"class_names": ["background", "a", "b", "c"]},
                                   {"intensity": {"_target_": "Compose", "transforms": []}}])  # fmt: skip
def test_scans_are_shown_as_in_training_or_not_at_all(network, other, run, tmp_path):
    """Weights fit any voxel size: a forgotten model.json would give worse masks without a word."""
    run_dir, data = run
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011
        workflow("inference.json", network, run_dir, tmp_path / "out", dataset_dir=str(data / "images"), **other)
    sentence = str(user_error_in(caught.value))
    assert re.search(f"trained with other settings .{next(iter(other))} .* model.json", sentence)
    assert not (tmp_path / "out").exists()


def test_another_checkpoint_by_its_name(run, tmp_path):
    run_dir, data = run
    copy = shutil.copy(run_dir / "models" / "checkpoint.pt", tmp_path / "kept.pt")
    flow = workflow("evaluate.json", "both", run_dir, tmp_path / "out", dataset_dir=str(data),
                    ckpt_dir=str(tmp_path / "nowhere"), model_file=str(copy))  # fmt: skip
    assert flow.parser.get_parsed_content("weights_file") == str(copy)


@pytest.mark.parametrize("network", ["f", "both"])
def test_a_run_without_checkpoint_is_named(network, run, tmp_path):
    run_dir, data = run
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011
        workflow("inference.json", network, run_dir, tmp_path / "out", dataset_dir=str(data / "images"),
                 ckpt_dir=str(tmp_path))  # fmt: skip
    assert f"There is no checkpoint {tmp_path / 'checkpoint.pt'}" in str(user_error_in(caught.value))
    assert isinstance(user_error_in(caught.value), UserError) and not (tmp_path / "out").exists()
