"""A training that is to be planned, as its config and datalist describe it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from mnseg.data.datalist import SPLITS, load_datalist
from mnseg.errors import UserError
from mnseg.files import read_json
from mnseg.planning.estimate import kinds_of
from mnseg.planning.schedule import EpochWork, epochs_of
from mnseg.planning.steps import Kind
from mnseg.settings import wrong_settings

__all__ = ["Training", "open_training", "read_training"]

SCHEDULE_KEYS = (
    "stage_1_epochs", "stage_2_epochs", "warmup_epochs", "restart", "sampling", "roles", "batch_size", "min_labeled",
    "num_unlabeled", "refresh_interval", "refresh_cases", "val_interval", "epoch_length", "val_cases", "hidden_cases",
    "cache_dir", "cache_rate", "cache_on_device",
)  # fmt: skip


@dataclass(frozen=True)
class Training:
    """A training as its config and datalist describe it.

    Attributes:
        settings: values of train.json's keys that decide what happens when.
        datalist: its sections.
        scans: labeled, unlabeled and validation scans that it uses, those of the pool with a hidden label, and all
            that it checks before ("checked").
        epochs: of the training.
        kinds: of its steps.
    """

    settings: dict[str, Any]
    datalist: dict[str, Any]
    scans: dict[str, int]
    epochs: list[EpochWork]
    kinds: list[Kind]


def read_training(config_file: Sequence[str] | str, overrides: Mapping[str, Any]) -> Training:
    """What config and datalist say about a training, without reading a scan.

    Args:
        config_file: of the training, as ``monai.bundle run`` takes it.
        overrides: its top-level keys.

    Raises:
        UserError: no labeled scan; a training of another bundle; settings that cannot be meant; a config file or a
            datalist that does not exist.
    """
    whole = open_training(config_file, overrides).parser
    if "network_2d_def" not in whole:
        raise UserError("only trainings of the bundle mn_cotraining can be planned: name its train.json.")
    if wrong := list(wrong_settings(whole.get())):
        raise UserError(" ".join(wrong))
    settings = {key: whole.get_parsed_content(key) for key in SCHEDULE_KEYS}
    datalist = load_datalist(*(whole.get_parsed_content(key) for key in ("data_list_file_path", "dataset_dir")))
    hidden = sum("hidden_label" in item for item in datalist.get("unlabeled", []))
    scans = {"labeled": len(datalist.get("labeled", [])), "unlabeled": len(_unlabeled(whole, datalist)),
             "validation": len(datalist.get("validation", [])[: settings["val_cases"]]),
             "hidden": min(hidden, settings["hidden_cases"]),
             "checked": sum(len(datalist.get(split, [])) for split in SPLITS)}  # fmt: skip
    if not scans["labeled"]:
        raise UserError("the datalist has no labeled scan, so nothing can be planned.")
    epochs = epochs_of(settings, scans["labeled"], scans["unlabeled"])
    kinds = kinds_of(epochs, settings["batch_size"] - settings["min_labeled"])
    return Training(settings, datalist, scans, epochs, kinds)


def _unlabeled(whole: ConfigParser, datalist: Mapping[str, Any]) -> Sequence[Any]:
    """An overlay may give the scans itself, such as none; train.json's expression would check the datalist."""
    given = whole.get("unlabeled")
    return datalist.get("unlabeled", []) if isinstance(given, str) else given


def open_training(config_file: Sequence[str] | str, overrides: Mapping[str, Any]) -> ConfigWorkflow:
    """The workflow of a training's config, not initialized; arguments as in ``read_training``.

    Raises:
        UserError: for a config file that does not exist, or is no JSON.
    """
    for path in [config_file] if isinstance(config_file, str) else config_file:
        if not Path(path).is_file():
            raise UserError(f"{path} does not exist: name train.json and its overlays.")
        if Path(path).suffix == ".json":
            read_json(path, "the config")
        elif Path(path).suffix not in (".yaml", ".yml"):
            raise UserError(f"{path} is no config: name train.json and its overlays.")
    return ConfigWorkflow(config_file, workflow_type="train", logging_file=False, **overrides)
