"""configs/recipes/distillation.json: the mean of an earlier run's networks teaches g."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Events

from mnseg.cli import main
from mnseg.networks.both import BothNetworks
from one_thread import one_thread
from short_training import CONFIGS, ROOT, history, refusal, settings, train, weights, workflow, write_data

OVERLAY = ROOT / "configs" / "recipes" / "distillation.json"
PHASE = {"stage_2_epochs": 4, "warmup_epochs": 0, "checkpoint_interval": 1}

_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> tuple[Path, Path]:
    """Data, and the checkpoint of a run on them."""
    folder = tmp_path_factory.mktemp("earlier")
    data = write_data(folder / "data")
    train(settings(data, folder / "run", stage_1_epochs=2, stage_2_epochs=2, learning_rate=0.01))
    return data, folder / "run" / "models" / "checkpoint.pt"


def phase(earlier: tuple[Path, Path], run_dir: Path, **more) -> dict:
    own = settings(earlier[0], run_dir, **({"warm_start": str(earlier[1]), "learning_rate": 0.01} | PHASE | more))
    return {key: value for key, value in own.items() if key != "stage_1_epochs"}


def parts(run_dir: Path, name: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in weights(run_dir).items() if key.startswith(f"/{name}/")}


def test_g_learns_from_the_mean_of_both_and_f_stays(earlier, tmp_path):
    made = train(phase(earlier, tmp_path), OVERLAY)
    lines = history(tmp_path)
    assert [(line["student"], line["num_unlabeled"]) for line in lines] == [("3d", 3)] * 4
    assert lines[0]["lr_3d"] == pytest.approx(0.3 * 0.01) and all("loss_unlabeled_3d" in line for line in lines)
    before = earlier[1].parent.parent
    assert all(torch.equal(value, parts(before, "network_2d")[name])
               for name, value in parts(tmp_path, "network_2d").items())  # fmt: skip
    moved = parts(tmp_path, "network")
    assert not all(torch.equal(value, moved[name]) for name, value in parts(before, "network").items())
    teacher = made.parser.get_parsed_content("train::trainer").teachers["3d"]
    assert isinstance(teacher, BothNetworks) and not any(p.requires_grad for p in teacher.parameters())
    old = torch.load(before / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(value, old[name]) for name, value in teacher.network.state_dict().items()), "it stayed"
    image = torch.randn(1, 1, 16, 16, 8)
    with torch.no_grad():
        expected = teacher.network(image).softmax(1) / 2 + teacher.network_2d(image).softmax(1) / 2
        torch.testing.assert_close(teacher(image).softmax(1), expected)


def test_a_phase_that_was_stopped_goes_on_as_if_it_had_not_been(earlier, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(phase(earlier, whole), OVERLAY)
    cut = workflow(phase(earlier, stopped), OVERLAY)
    trainer = cut.parser.get_parsed_content("train::trainer")
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda engine: engine.terminate())
    cut.run()
    cut.finalize()
    assert [line["epoch"] for line in history(stopped)] == [1, 2]
    train(phase(earlier, stopped), OVERLAY)
    assert [line["epoch"] for line in history(stopped)] == [1, 2, 3, 4]
    ours = weights(stopped)
    assert all(torch.equal(value, ours[name]) for name, value in weights(whole).items())


def test_its_time_is_planned(earlier, tmp_path, capsys):
    own = phase(earlier, tmp_path)
    argv = ["plan", "--config_file", str([str(CONFIGS / "train.json"), str(OVERLAY)])]
    argv += [part for key, value in own.items() for part in (f"--{key}", str(value))]
    assert main(argv) == 0
    assert "3D" in capsys.readouterr().out
    assert not (tmp_path / "models").exists()


def test_what_cannot_teach_is_refused(earlier, tmp_path):
    assert "warm_start is null" in refusal(phase(earlier, tmp_path, warm_start=None), OVERLAY)
    model = earlier[1].with_name("model.pt")
    for path, why in ((tmp_path / "gone.pt", "There is no checkpoint"), (model, "not a checkpoint")):
        sentence = refusal(phase(earlier, tmp_path, warm_start=str(path)), OVERLAY)
        assert why in sentence and str(path) in sentence and "set warm_start to the checkpoint.pt" in sentence
        assert "run_dir" not in sentence
    names = ["background", "bean", "lobe", "tube"]
    assert "class_names" in refusal(phase(earlier, tmp_path, class_names=names), OVERLAY)
    assert not (tmp_path / "models" / "checkpoint.pt").exists()
