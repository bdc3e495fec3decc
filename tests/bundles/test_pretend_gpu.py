"""Both bundles on a device of their own: no tensor is forgotten on the host, and the numbers are those of the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.data import MetaTensor

import short_mining
import short_training
from mnseg.data.pictures import read_mask
from mnseg.engines import CoTrainer
from one_thread import one_thread
from pretend_gpu import DEVICE, on_pretend_gpu, waits

ROOT = Path(__file__).resolve().parents[2]

_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)


def what_a_gpu_refuses() -> list[str]:
    far, near = torch.ones(2, 3, device=DEVICE), torch.ones(2, 3)
    network = torch.nn.Linear(3, 1).to(DEVICE)
    tries = {
        "sum": lambda: far + near, "in place": lambda: near.add_(far), "network": lambda: network(near),
        "host's indexed": lambda: near[far.long()], "to numpy": lambda: far.numpy(),
        "stack": lambda: torch.stack([far, near]), "scan": lambda: MetaTensor(near).to(DEVICE) * near,
        "times a number": lambda: far * torch.tensor(2.0), "indexed": lambda: far[torch.tensor([1])],
        "list": lambda: far[[1]], "scan to numpy": lambda: MetaTensor(near).to(DEVICE).cpu().numpy(),
        "number": lambda: far.sum().item() + far.tolist()[0][0], "loss": lambda: network(far).sum().backward(),
    }  # fmt: skip
    return [name for name, each in tries.items() if _refused(each)]


def _refused(each: Callable[[], Any]) -> bool:
    try:
        each()
    except (RuntimeError, TypeError):
        return True
    return False


def test_the_device_refuses_what_a_gpu_does():
    refused = on_pretend_gpu(what_a_gpu_refuses)
    assert refused == ["sum", "in place", "network", "host's indexed", "to numpy", "stack", "scan"]


def losses_and_dice(lines: Sequence[dict]) -> dict[str, float]:
    return {f"{key} {line['epoch']}": value for line in lines for key, value in line.items()
            if key.startswith(("loss_", "val_dice", "pseudo_dice"))}  # fmt: skip


def read_volume(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def same_on_both(
    run: Callable[[str, str, str], dict[str, float]], data: Path, folder: Path, suffix: str,
    read: Callable[[Path], np.ndarray],
) -> list[Path]:  # fmt: skip
    """Run on the device and on the CPU; compare losses, Dice and masks. Returns where the masks lie in a run."""
    far, near = folder / "far", folder / "near"
    found, expected = on_pretend_gpu(run, str(data), str(far), DEVICE), run(str(data), str(near), "cpu")
    assert found == pytest.approx(expected, rel=1e-3) and {key[:4] for key in found} == {"loss", "val_", "pseu"}
    masks = [path.relative_to(near) for path in near.glob(f"*/**/*{suffix}")]
    pairs = [(read(near / mask), read(far / mask)) for mask in masks]
    assert all(np.mean(one != other) < 0.01 for one, other in pairs)
    assert any(one.any() for one, _ in pairs), "something to compare"
    return masks


SETTINGS = {
    "stage_1_epochs": 1, "stage_2_epochs": 3, "epoch_length": 1, "val_interval": 2, "refresh_interval": 1,
    "checkpoint_interval": 1, "roles": "joint_teacher", "ema_momentum": 0.1, "mix_share": 0.5, "micro_batch_size": 2,
    "slice_stride": 2, "slice_context": 3, "max_grad_norm": 1.0, "loss#unlabeled#max_entropy": 0.75,
}  # fmt: skip


def train_evaluate_and_infer(data: str, run: str, device: str) -> dict[str, float]:
    """A training that is stopped and goes on, its evaluation, and masks of the test scan."""
    overrides = short_training.settings(Path(data), Path(run), device=device, **SETTINGS)
    short_training.train(overrides | {"max_epochs": 2})
    short_training.train(overrides)
    overlays = [f"{run}/model.json", str(ROOT / "configs" / "inference" / "flips.json")]
    images = {"dataset_dir": f"{data}/images", "image_pattern": "testing*"}
    for kind, name, more in (("eval", "evaluate.json", {"dataset_dir": data}), ("infer", "inference.json", images)):
        flow = ConfigWorkflow([str(short_training.CONFIGS / name), *overlays], workflow_type=kind, logging_file=False,
                              run_dir=run, device=device, output_dir=f"{run}/{kind}", flip_axes=[0], **more)
        flow.initialize()
        flow.run()
        flow.finalize()
    return losses_and_dice(short_training.history(Path(run)))


def test_cotraining_evaluation_and_inference(tmp_path):
    data = short_training.write_data(tmp_path / "data")
    masks = same_on_both(train_evaluate_and_infer, data, tmp_path, ".nii.gz", read_volume)
    assert {mask.parts[0] for mask in masks} == {"eval", "infer"}


def train_with_scans_on_the_device(data: str, run: str, device: str) -> tuple[dict[str, float], list[str]]:
    """Losses and Dice of a training, and where its scans and the patches of its last batch lay."""
    places = []
    made = short_training.workflow(
        short_training.settings(Path(data), Path(run), device=device, cache_on_device=True, **SETTINGS | AUGMENTATION)
    )
    trainer = made.parser.get_parsed_content("train::trainer")
    trainer.add_event_handler(Events.GET_BATCH_COMPLETED, lambda it: places.append(it.state.batch["image"].device.type))
    made.run()
    places += [item["image"].device.type for item in made.parser.get_parsed_content("pool")]
    made.finalize()
    return losses_and_dice(short_training.history(Path(run))), sorted(set(places))


AUGMENTATION = {"flip_axes": [0, 1, 2], "min_zoom": 0.75, "max_zoom": 1.35, "gamma": [0.6, 1.6]}


def test_scans_on_the_device_give_the_same_patches(tmp_path):
    data = str(short_training.write_data(tmp_path / "data"))
    found, there = on_pretend_gpu(train_with_scans_on_the_device, data, str(tmp_path / "far"), DEVICE)
    expected, here = train_with_scans_on_the_device(data, str(tmp_path / "near"), "cpu")
    assert found == pytest.approx(expected, rel=1e-3)
    assert (there, here) == (["pretend"], ["cpu"])


def waits_of_patches(data: str, run: str) -> tuple[list[str], str]:
    """For what the host waits while patches are cut from scans on the device, and where the patches lie."""
    settings = short_training.settings(
        Path(data), Path(run), device=DEVICE, cache_on_device=True, patch_size=[16, 24, 8], **AUGMENTATION
    )
    parser = short_training.workflow(settings).parser
    preprocessing, pool = (parser.get_parsed_content(key) for key in ("train::preprocessing", "pool"))
    items = [pool[index] for index in range(3)]
    waits.clear()
    patches = [preprocessing(item)["image"] for item in items for _ in range(4)]
    return list(waits), patches[0].device.type


def test_the_host_waits_for_no_patch_that_the_device_makes(tmp_path):
    """Also not where the patch, longer than the scan along one axis, is padded."""
    data = str(short_training.write_data(tmp_path / "data"))
    assert on_pretend_gpu(waits_of_patches, data, str(tmp_path / "run")) == ([], "pretend")


def waits_of_steps(data: str, run: str) -> list[tuple[str, int]]:
    """Who learned in each step of a training, and how often the host waited for the device meanwhile."""
    found, step = [], CoTrainer._iteration

    def counted(trainer: CoTrainer, *args: Any) -> Any:
        waits.clear()
        losses = step(trainer, *args)
        found.append((trainer.state.student, len(waits)))
        return losses

    CoTrainer._iteration = counted
    short_training.train(short_training.settings(Path(data), Path(run), device=DEVICE, **SETTINGS))
    return found


def test_the_host_waits_once_for_each_update(tmp_path):
    found = on_pretend_gpu(waits_of_steps, str(short_training.write_data(tmp_path / "data")), str(tmp_path / "run"))
    assert found == [("both", 2), ("3d", 1), ("2d", 1), ("3d", 1)]


def mine_evaluate_and_infer(data: str, run: str, device: str) -> dict[str, float]:
    """A training with mined masks, its evaluation, and masks of all images."""
    overrides = short_mining.settings(Path(data), Path(run), device=device, stage_1_epochs=1, stage_2_epochs=2)
    short_mining.run("train.json", overrides)
    for kind, name, images in (("eval", "evaluate.json", data), ("infer", "inference.json", f"{data}/images")):
        places = {"run_dir": run, "dataset_dir": images, "device": device, "output_dir": f"{run}/{kind}"}
        short_mining.run(name, places, f"{run}/model.json")
    return losses_and_dice(short_mining.history(Path(run)))


def test_knowledge_mining(tmp_path):
    data = short_mining.write_data(tmp_path / "data")
    masks = same_on_both(mine_evaluate_and_infer, data, tmp_path, ".png", lambda path: read_mask(path, 2))
    assert {mask.parts[0] for mask in masks} == {"eval", "infer", "mined"}
