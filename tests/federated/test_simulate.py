"""A federation of two phantom hospitals: what is averaged, what crosses, what goes on after a kill."""

from __future__ import annotations

import json
import pickletools
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import monai.bundle
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.fl.client import MonaiAlgo
from monai.fl.utils.exchange_object import ExchangeObject

from mnseg.errors import UserError
from mnseg.federated import federated_average
from mnseg.federated.simulate import round_ends, simulate
from mnseg.federated.site import Site

from .conftest import EPOCHS, SMALL, TRAIN

SHARED_2D = {"federate_2d": True, "finetuning": "lora"}


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def history(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def whole(hospitals, overlay, tmp_path_factory) -> SimpleNamespace:
    """Two rounds of two sites, the 2D network's trainable part shared too; every round's exchange is kept."""
    folder = tmp_path_factory.mktemp("whole")
    received, sent, begun = [], [], []
    train, run = Site.train, MonaiAlgo.train

    def record(self, weights, start, end):
        received.append({name: value.clone() for name, value in weights.items()})
        path = train(self, weights, start, end)
        sent.append(load(path))
        return path

    def record_start(self, data, extra=None):
        def note(engine):
            begun.append({name: value.clone() for name, value in self.trainer.network.state_dict().items()})

        # Behind every handler's start, so that a checkpoint read there would show.
        self.trainer.add_event_handler(Events.EPOCH_STARTED(once=self.trainer.state.epoch + 1), note)
        run(self, data, extra)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Site, "train", record)
        patch.setattr(MonaiAlgo, "train", record_start)
        model = simulate(hospitals, 2, [TRAIN, overlay], folder, SHARED_2D)
    return SimpleNamespace(folder=folder, model=model, received=received, sent=sent, begun=begun)


def test_the_average_is_weighted_by_labeled_scans(whole):
    assert [update["data_count"] for update in whole.sent] == [3, 1, 3, 1]
    state = load(whole.folder / "global" / "state.pt")["weights"]
    differing = 0
    for averaged, east, west in ((whole.received[2], *whole.sent[:2]), (state, *whole.sent[2:])):
        for name, value in averaged.items():
            a, b = (update["weights"][name] for update in (east, west))
            if value.is_floating_point():
                torch.testing.assert_close(value, 0.75 * a + 0.25 * b, rtol=1e-6, atol=1e-7)
            else:
                assert value == a == b
            differing += not torch.equal(a, b)
    assert differing > 100, "the sites learned something of their own"


def test_sites_start_every_round_from_the_global_weights(whole):
    assert len(whole.begun) == 4
    assert all(same(begun, received) for begun, received in zip(whole.begun, whole.received, strict=True))
    assert same(whole.received[0], whole.received[1]) and same(whole.received[2], whole.received[3])


def test_the_schedule_goes_over_all_rounds(whole):
    for site in ("east", "west"):
        lines = history(whole.folder / site)
        assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
        assert [line["student"] for line in lines] == ["both", "3d", "2d", "3d"]
        # (1 - cos(pi k / 3)) / 2 * 4 = 0, 1, 3
        assert [line["num_unlabeled"] for line in lines] == [0, 0, 1, 3]


def test_only_weights_and_a_count_cross(whole, hospitals):
    for site in hospitals:
        path = whole.folder / site / "update.pt"
        content = load(path)
        assert content.keys() == {"weights", "data_count"} and type(content["data_count"]) is int
        assert all(type(value) is torch.Tensor for value in content["weights"].values())
        assert {name.split(".")[0] for name in content["weights"]} == {"network", "network_2d"}
        with zipfile.ZipFile(path) as archive:
            pickled = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
            stored = sum(info.file_size for info in archive.infolist() if "/data/" in info.filename)
        texts = {str(arg) for _, arg, _ in pickletools.genops(pickled) if isinstance(arg, str)}
        known = {*content, *content["weights"], "cpu", "storage", *map(str, range(len(content["weights"])))}
        others = {text for text in texts - known if not text.startswith(("torch ", "torch._utils ", "collections "))}
        assert others == set(), "names of tensors, and nothing else that can be read"
        assert stored == sum(value.nbytes for value in content["weights"].values()), "no larger storage behind a view"


def test_of_the_2d_network_only_what_trains_is_shared(whole):
    names = {name for name in load(whole.folder / "east" / "update.pt")["weights"] if name.startswith("network_2d.")}
    assert any(".lora_A." in name for name in names) and any("decode_head" in name for name in names)
    assert not any(name.endswith("base_layer.weight") for name in names), "frozen"


def test_evaluate_and_inference_take_the_global_model(whole, hospitals, tmp_path):
    configs, folder = TRAIN.parent, whole.folder / "global"
    assert whole.model == folder / "models" / "model.pt"
    shared = load(folder / "state.pt")["weights"]
    assert all(torch.equal(shared[f"network.{name}"], value) for name, value in load(whole.model).items())
    assert json.loads((folder / "model.json").read_text()) == json.loads(
        (whole.folder / "east" / "model.json").read_text()
    )
    options = {"run_dir": str(folder), "dataset_dir": hospitals["west"], "output_dir": str(tmp_path), "device": "cpu"}
    monai.bundle.run(config_file=[str(configs / "evaluate.json"), str(folder / "model.json")], **options)
    assert (tmp_path / "metrics.csv").exists()
    monai.bundle.run(
        config_file=[str(configs / "inference.json"), str(folder / "model.json")],
        **options | {"dataset_dir": hospitals["west"] + "/images"},
    )
    assert list(tmp_path.glob("*.nii.gz"))


def test_killed_and_continued_is_the_same(whole, hospitals, overlay, tmp_path, monkeypatch):
    """Killed when "east" has trained the second round and written its checkpoint, but the server has not heard of it:
    it must not train that round again, "west" must, with its own optimizers."""
    send, sent = Site.send, []

    class Killed(BaseException):
        pass

    def killing(self):
        sent.append(self.name)
        if len(sent) == 4:  # the first one sends the initial weights
            raise Killed
        return send(self)

    arguments = hospitals, 2, [TRAIN, overlay], tmp_path, SHARED_2D
    monkeypatch.setattr(Site, "send", killing)
    with pytest.raises(Killed):
        simulate(*arguments)
    assert sent == ["east", "east", "west", "east"]
    monkeypatch.setattr(Site, "send", send)
    simulate(*arguments)
    assert same(load(tmp_path / "global" / "models" / "model.pt"), load(whole.model))
    assert [history(tmp_path / site) for site in hospitals] == [history(whole.folder / site) for site in hospitals]


def test_one_site_is_an_ordinary_run(hospitals, overlay, tmp_path):
    """Bit by bit; only the file names and the epochs of validation and checkpoint differ."""
    model = simulate({"east": hospitals["east"]}, 2, [TRAIN, overlay], tmp_path / "fl", {"ema_momentum": 0.1})
    ordinary = ConfigWorkflow(
        config_file=[str(TRAIN), str(overlay)], logging_file=False, dataset_dir=hospitals["east"],
        run_dir=str(tmp_path / "mn"), ema_momentum=0.1,
    )
    ordinary.initialize()
    ordinary.run()
    assert same(load(model), load(tmp_path / "mn" / "models" / "model.pt"))
    network = load(tmp_path / "mn" / "models" / "checkpoint.pt")["objects"]["network"]
    shared = load(tmp_path / "fl" / "global" / "state.pt")["weights"]
    assert all(torch.equal(shared[f"network.{name}"], value) for name, value in network.items())
    assert not same(network, load(model)), "the product is the moving average"
    assert history(tmp_path / "fl" / "east") == history(tmp_path / "mn")


def test_a_finished_federation_stays_as_it_is(hospitals, overlay, tmp_path):
    arguments = {"east": hospitals["east"]}, 1, [TRAIN, overlay], tmp_path, {"stage_2_epochs": 0}
    model = simulate(*arguments)
    checkpoint, before = tmp_path / "east" / "models" / "checkpoint.pt", load(model)
    written = checkpoint.stat().st_mtime_ns
    simulate(*arguments)
    assert checkpoint.stat().st_mtime_ns == written and same(load(model), before)


def test_without_federate_2d_the_2d_network_stays_at_its_site(hospitals, overlay, tmp_path):
    """And a site may have no unlabeled scan."""
    poor = tmp_path / "poor"
    shutil.copytree(hospitals["west"], poor)
    datalist = json.loads((poor / "datalist.json").read_text())
    (poor / "datalist.json").write_text(json.dumps({**datalist, "unlabeled": []}))
    sites = {"poor": poor, "east": hospitals["east"]}
    with pytest.raises(UserError, match="^Site poor does not start: .*no unlabeled case.*allow_empty_unlabeled"):
        simulate(sites, 1, [TRAIN, overlay], tmp_path / "refused")
    simulate(sites, 1, [TRAIN, overlay], tmp_path / "fl", {"allow_empty_unlabeled": True})
    assert {n.split(".")[0] for n in load(tmp_path / "fl" / "poor" / "update.pt")["weights"]} == {"network"}
    assert [line["num_unlabeled"] for line in history(tmp_path / "fl" / "poor")] == [0] * EPOCHS
    assert history(tmp_path / "fl" / "east")[-1]["num_unlabeled"] == 3


def test_other_classes_are_refused(hospitals, overlay, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(hospitals["west"], other)
    datalist = json.loads((other / "datalist.json").read_text())
    names = ["background", "bean", "lobe", "tube"]
    (other / "datalist.json").write_text(json.dumps({**datalist, "class_names": names}))
    with pytest.raises(UserError, match="^Site other does not start: .* names the classes background, bean"):
        simulate({"other": other, "east": hospitals["east"]}, 1, [TRAIN, overlay], tmp_path / "fl")
    assert not (tmp_path / "fl" / "global").exists()


def test_a_failing_site_is_named_and_the_traceback_kept(hospitals, overlay, tmp_path, monkeypatch):
    def fail(self, data, extra=None):
        raise RuntimeError("no memory left\nand much more")

    monkeypatch.setattr(MonaiAlgo, "train", fail)
    with pytest.raises(UserError) as caught:
        simulate({"east": hospitals["east"]}, 2, [TRAIN, overlay], tmp_path)
    assert str(caught.value).startswith("Site east failed in epochs 1 to 2: RuntimeError: no memory left (the trace")
    assert "in fail" in (tmp_path / "east" / "error.txt").read_text()


def test_another_plan_is_refused(whole, hospitals, overlay):
    for sites, rounds in ((hospitals, 4), ({"east": hospitals["east"]}, 2)):  # refused before any scan is read
        with pytest.raises(UserError, match="belongs to a federation of the sites east, west .* epochs 2, 4: repeat"):
            simulate(sites, rounds, [TRAIN, overlay], whole.folder)


@pytest.mark.parametrize(
    ("rounds", "overrides", "sentence"),
    [
        (0, {}, "--rounds is 0; it must lie between 1 and the schedule's 4 epochs"),
        (5, {}, "--rounds is 5"),
        (1, {"run_dir": "x"}, "run_dir is set by the federation"),
        (1, {"max_minutes": 5}, "max_minutes ends a training of its own, no federation"),
        (1, {"federate_3d": True}, "Site east does not start: .*'federate_3d' .did you mean 'federate_2d'"),
    ],
)
def test_bad_settings_are_refused(hospitals, overlay, tmp_path, rounds, overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        simulate(hospitals, rounds, [TRAIN, overlay], tmp_path, overrides)


def test_rounds_divide_the_epochs_evenly():
    assert round_ends(10, 4) == [2, 5, 7, 10]
    assert round_ends(4, 4) == [1, 2, 3, 4]


def test_different_networks_are_refused():
    a, b = (ExchangeObject(weights={"w": torch.zeros(n)}, statistics={"data_count": 1}) for n in (2, 3))
    with pytest.raises(UserError, match=r"Sites a and b have different networks \(w: \(2,\) and \(3,\)\)"):
        federated_average({"a": a, "b": b})


def test_the_overlay_changes_the_handlers_that_it_means():
    """federated.json reaches two handlers by their place in train.json."""
    handlers = json.loads(TRAIN.read_text())["train"]["handlers"]
    assert (handlers[0]["_target_"], handlers[0]["enabled"]) == ("mnseg.handlers.ResumeHandler", "@resume")
    assert handlers[12]["_target_"] == "mnseg.handlers.CheckpointHandler"
    assert SMALL["stage_1_epochs"] + SMALL["stage_2_epochs"] == EPOCHS
