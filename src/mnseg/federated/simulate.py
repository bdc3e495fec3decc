"""A federation on one machine: the sites train one after another, the server averages."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from mnseg.errors import UserError
from mnseg.federated.averaging import federated_average
from mnseg.federated.exchange import bare, read_update
from mnseg.federated.shared_weights import product_of
from mnseg.federated.site import Site
from mnseg.files import atomic_save, atomic_write

__all__ = ["OWN_KEYS", "round_ends", "simulate"]

logger = logging.getLogger(__name__)

# Set for every site by the simulation itself.
OWN_KEYS = ("dataset_dir", "data_list_file_path", "run_dir", "ckpt_dir", "output_dir", "bundle_root", "resume")


def simulate(
    sites: Mapping[str, str | Path],
    rounds: int,
    config_files: Sequence[str | Path],
    run_dir: str | Path,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Train one model on the scans of several sites, which exchange weights only.

    Every site writes to ``run_dir/NAME``, the server to ``run_dir/global``: ``state.pt`` after every round,
    ``models/model.pt`` and ``model.json``. Repeated after a stop it continues behind the last finished round.

    Args:
        sites: name -> folder with the site's ``datalist.json``.
        rounds: how often the weights are averaged, evenly over the schedule's epochs.
        config_files: the bundle's train.json, then overlays; federated.json, beside the first, is added.
        run_dir: see above.
        overrides: config keys, for all sites.

    Returns:
        ``run_dir/global/models/model.pt``.

    Raises:
        UserError: bad input, or a site that fails, by its name.
    """
    overrides = dict(overrides or {})
    _require_free_keys(overrides)
    # Absolute: MonaiAlgo takes relative ones from the bundle's folder.
    files = _with_federated([Path(path).absolute() for path in config_files])
    config = _server_config(files, overrides)
    ends = round_ends(config.get_parsed_content("max_epochs"), rounds)
    server = _Server(Path(run_dir) / "global", list(sites), ends)
    clients = [Site(name, folder, Path(run_dir) / name, files, overrides) for name, folder in sites.items()]
    if server.weights is None:
        server.begin(clients)
    _write_overlay(config, Path(run_dir) / "global" / "model.json")
    while server.round < rounds:
        start, end = ([0, *ends][server.round], ends[server.round])
        logger.info("round %d of %d: epochs %d to %d", server.round + 1, rounds, start + 1, end)
        server.average({client.name: client.train(server.weights, start, end) for client in clients})
    return atomic_save(product_of(server.weights), Path(run_dir) / "global" / "models" / "model.pt")


def round_ends(max_epochs: int, rounds: int) -> list[int]:
    """The last epoch of every round; rounds differ by at most one epoch."""
    if not 1 <= rounds <= max_epochs:
        raise UserError(f"--rounds is {rounds}; it must lie between 1 and the schedule's {max_epochs} epochs.")
    return [max_epochs * (k + 1) // rounds for k in range(rounds)]


class _Server:
    """Sees update files, never a site's folder of scans."""

    def __init__(self, folder: Path, names: list[str], ends: list[int]) -> None:
        self.path = folder / "state.pt"
        self.plan = {"sites": names, "round_ends": ends}
        self.round = 0
        self.weights: dict[str, Tensor] | None = None
        if self.path.exists():
            self._load()

    def begin(self, clients: Sequence[Site]) -> None:
        """All sites start from the first one's initial weights."""
        begun = [client for client in clients if client.epoch]
        if begun:
            raise UserError(
                f"{begun[0].run_dir} holds a checkpoint, but {self.path} is missing: use a new run folder."
            )
        self.weights = read_update(clients[0].send()).weights
        self._save()

    def average(self, updates: Mapping[str, Path]) -> None:
        """End a round."""
        self.weights = federated_average({name: read_update(path) for name, path in updates.items()})
        self.round += 1
        self._save()

    def _save(self) -> None:
        atomic_save({"plan": self.plan, "round": self.round, "weights": bare(self.weights)}, self.path)

    def _load(self) -> None:
        try:
            content = torch.load(self.path, weights_only=True)
            plan, self.round, self.weights = content["plan"], content["round"], content["weights"]
        except Exception as error:
            raise UserError(f"{self.path} cannot be read ({type(error).__name__}): use a new run folder.") from error
        if plan != self.plan:
            raise UserError(
                f"{self.path} belongs to a federation of the sites {', '.join(plan['sites'])} with rounds that end at "
                f"epochs {_shortened(plan['round_ends'])}: repeat its command, or use a new run folder."
            )
        logger.info("continuing behind round %d", self.round)


def _shortened(epochs: list[int]) -> str:
    return ", ".join(map(str, epochs if len(epochs) < 5 else [*epochs[:2], "…", epochs[-1]]))


def _require_free_keys(overrides: Mapping[str, Any]) -> None:
    for key in overrides:
        if key in OWN_KEYS:
            raise UserError(f"{key} is set by the federation for every site: leave --{key} out.")
        if key == "max_minutes":  # a checkpoint within a round belongs to no state of the federation
            raise UserError("max_minutes ends a training of its own, no federation: leave --max_minutes out.")


def _with_federated(files: list[Path]) -> list[Path]:
    """federated.json directly behind train.json, so that overlays win over it."""
    federated = files[0].parent / "federated.json"
    for path in [*files, federated]:
        if not path.is_file():
            raise UserError(f"{path} does not exist: --config-file takes the bundle's train.json, then overlays.")
    return [files[0], federated, *(path for path in files[1:] if path.resolve() != federated.resolve())]


def _server_config(files: Sequence[Path], overrides: Mapping[str, Any]) -> ConfigParser:
    parser = ConfigParser()
    try:
        parser.read_config([str(path) for path in files])
    except ValueError as error:
        raise UserError(f"--config-file {', '.join(map(str, files))}: not valid JSON ({error}).") from error
    parser.update(dict(overrides))
    return parser


def _write_overlay(config: ConfigParser, path: Path) -> None:
    """model.json of the global model, from the configuration that all share."""
    config["_overlay"] = "$model_overlay(@model_2d if @pretrained else None)"
    text = json.dumps(config.get_parsed_content("_overlay"), indent=4) + "\n"
    atomic_write(path, lambda temporary: temporary.write_text(text))
