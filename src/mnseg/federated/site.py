"""One simulated hospital: its own data, its own folder, ``MonaiAlgo`` as its client."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, WeightType
from monai.fl.utils.exchange_object import ExchangeObject
from torch import Tensor

from mnseg.errors import UserError, user_error_in
from mnseg.federated.exchange import write_update
from mnseg.files import atomic_write

__all__ = ["Site"]


class Site:
    """Trains the bundle on the scans of one folder.

    Args:
        name: of the site, in messages.
        dataset_dir: folder with the site's ``datalist.json``.
        run_dir: what the site writes: checkpoint, history, and ``update.pt``, the only file that the server reads.
        config_files: train.json, federated.json, overlays.
        overrides: config keys.

    Raises:
        UserError: here and in ``train``, naming the site.
    """

    def __init__(
        self,
        name: str,
        dataset_dir: str | Path,
        run_dir: str | Path,
        config_files: Sequence[Path],
        overrides: Mapping[str, Any],
    ) -> None:
        self.name = name
        self.run_dir = Path(run_dir)
        self.update_path = self.run_dir / "update.pt"
        with self._naming_the_site("does not start"):
            if not Path(dataset_dir).is_dir():
                raise UserError(f"{dataset_dir} is not a folder; name the one that holds its datalist.json.")
            self.algo = MonaiAlgo(
                bundle_root=str(config_files[0].parent.parent),
                send_weight_diff=False,
                config_train_filename=[str(path) for path in config_files],
                config_evaluate_filename=None,
                train_kwargs={**overrides, "dataset_dir": str(dataset_dir), "run_dir": str(self.run_dir)},
            )
            with warnings.catch_warnings():
                # The user of a simulation is also the one who provides the bundle.
                warnings.filterwarnings("ignore", message="executing the bundle config")
                self.algo.initialize({ExtraItems.CLIENT_NAME: name})
            self._require_class_names()

    @property
    def epoch(self) -> int:
        """Epochs that the site has trained, over all rounds."""
        return self.algo.trainer.state.epoch

    def send(self) -> Path:
        """Write the weights as they are to ``update.pt``."""
        return write_update(self.algo.get_weights(), self.update_path)

    def train(self, global_weights: dict[str, Tensor], start: int, end: int) -> Path:
        """Train epochs ``start + 1 .. end`` from the global weights and send the result.

        A site that had finished them when the federation was stopped only sends.
        """
        with self._naming_the_site(f"failed in epochs {start + 1} to {end}"):
            if self.epoch not in (start, end):
                raise UserError(
                    f"its checkpoint in {self.run_dir} is of epoch {self.epoch}, the federation at {start}: use a new "
                    "run folder."
                )
            if self.epoch == start:
                self.algo.local_epochs = end - start
                self.algo.train(ExchangeObject(weights=global_weights, weight_type=WeightType.WEIGHTS))
            return self.send()

    def _require_class_names(self) -> None:
        parser = self.algo.train_workflow.parser
        wanted = parser.get_parsed_content("class_names")
        found = parser.get_parsed_content("datalist").get("class_names", wanted)
        if list(found) != list(wanted):
            raise UserError(
                f"its datalist names the classes {', '.join(found)}, the configuration {', '.join(wanted)}: all sites "
                "must label the same structures, in the same order."
            )

    @contextmanager
    def _naming_the_site(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            plain = user_error_in(error)
            if plain is not None:
                raise UserError(f"Site {self.name} {what}: {plain}") from error
            path, text = self.run_dir / "error.txt", traceback.format_exc()
            atomic_write(path, lambda temporary: temporary.write_text(text))
            line = (str(error).strip().splitlines() or [""])[0][:200]
            raise UserError(
                f"Site {self.name} {what}: {type(error).__name__}: {line} (the traceback is in {path})."
            ) from error
