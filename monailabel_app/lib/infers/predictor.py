"""One version of the model, ready to segment scans.

The network and what is done before and behind it come from the bundle's inference.json with the version's model.json on
top, as on the command line: what a clinician sees is what ``python -m monai.bundle run`` would have written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from lib.errors import RequestError
from mnseg.engines.micro_batches import halve_where_memory_ends, unless_memory_ends
from mnseg.errors import UserError

__all__ = ["Prediction", "Predictor"]

logger = logging.getLogger(__name__)

TOLERANCE_VOXELS = 0.1  # as inference.json's


@dataclass
class Prediction:
    """A mask on the grid of its scan.

    mask: (H, W, D) with whole numbers 0..N.
    affine: (4, 4), voxel indices to mm (RAS).
    seconds: what each step took.
    """

    mask: torch.Tensor
    affine: torch.Tensor
    seconds: dict[str, float] = field(default_factory=dict)


class Predictor:
    """Loads a version once; `predict` may be called by several threads.

    Args:
        version: has ``id``, ``model_file`` and ``overlay``.
        bundle_dir: the mn_cotraining bundle.
        device: where the network runs; None leaves it to the config (a GPU if there is one).
        openvino: whether OpenVINO runs the network on a CPU.
        bfloat16: whether the network computes in bfloat16, where the device has instructions for it.

    Raises:
        UserError: the weights are missing, damaged, or do not fit the network.
    """

    def __init__(
        self,
        version: Any,
        bundle_dir: str | Path,
        device: str | None = None,
        openvino: bool = False,
        bfloat16: bool = False,
    ) -> None:
        self.version = version
        parser = _parser(version, Path(bundle_dir), openvino, bfloat16)
        if device is not None:
            parser["device"] = f"$torch.device('{torch.device(device)}')"
        self.class_names: list[str] = list(parser.get_parsed_content("class_names"))
        self.in_channels = int(parser.get_parsed_content("in_channels"))
        self.device: torch.device = parser.get_parsed_content("device")
        self.scans = parser.get_parsed_content("scans") if "scans" in parser else None
        self._before = parser.get_parsed_content("preprocessing")
        self._inferer = parser.get_parsed_content("inferer")
        self._behind = parser.get_parsed_content("postprocessing")
        self._network = _load(parser.get_parsed_content("network_def"), Path(version.model_file)).to(self.device).eval()
        # One forward pass at a time: two would need twice the memory and end no sooner. And while a scan is mapped
        # back, MONAI changes a flag of the transforms, so no two threads may do that at once.
        self._forward, self._invert = threading.Lock(), threading.Lock()

    def predict(self, image: str | Path, name: str = "") -> Prediction:
        """Segment a scan: a NIfTI, NRRD or MetaImage file, or the folder of a DICOM series.

        Args:
            image: where it lies.
            name: what the client calls it, for error messages; default: the file's name.

        Raises:
            RequestError: 422 when the file is not a scan that the model can be used on.
        """
        clock = _Clock()
        data = self._prepare(str(image), name or Path(image).name)
        clock.lap("pre")
        with self._forward, torch.inference_mode():
            clock.lap("wait")
            data["pred"] = self._run_network(data["image"])
        clock.lap("infer")
        with self._invert:
            mask = self._mask(data)
        clock.lap("invert")
        return Prediction(mask.as_tensor()[0].cpu(), mask.affine.cpu(), clock.laps)

    def _prepare(self, image: str, name: str) -> dict[str, Any]:
        try:
            data = self._before({"image": image})
            why = _fault(data["image"], self.in_channels) or _moved(image, data["image"])
        except Exception as error:
            why = self._explain(image) or f"it cannot be read ({type(error).__name__})"
            logger.info("%s was refused", image, exc_info=True)
        if why:
            raise RequestError(422, f"{name} cannot be segmented: {(self._explain(image) or why).replace(image, name)}")
        return data

    def _explain(self, image: str) -> str:
        """What the bundle's own check says of the file; it reads it once more, so only when something is wrong."""
        if self.scans is None:
            return ""
        if cache_clear := getattr(getattr(self.scans, "file_fault", None), "cache_clear", None):
            cache_clear()
        return self.scans.find_faults([image], self.in_channels).get(image, "")

    def _run_network(self, image: MetaTensor) -> MetaTensor:
        """Logits ``(K, H, W, D)``; where a GPU's memory ends, which a training may share, with less of it."""
        batch = image[None]
        return unless_memory_ends(
            lambda: self._inferer(batch.to(self.device), self._network)[0].float(),
            lambda: self._run_in_less_memory(batch),
            f"not enough GPU memory for a volume of {tuple(image.shape)}: it and its scores are kept outside",
        )

    def _run_in_less_memory(self, batch: MetaTensor) -> MetaTensor:
        """The scan and its scores stay in the computer's memory, and fewer windows pass at once until they fit."""
        inferer, outside = self._inferer, {"sw_device": self.device, "device": torch.device("cpu")}
        names = [name for name in (*outside, "sw_batch_size") if hasattr(inferer, name)]
        before = {name: getattr(inferer, name) for name in names}  # a packed bundle may have an inferer of its own
        batch = batch.to("cpu" if "sw_device" in before else self.device)

        def run(sw_batch_size: int) -> MetaTensor:
            for name, value in {**outside, "sw_batch_size": sw_batch_size}.items():
                if name in before:
                    setattr(inferer, name, value)
            return inferer(batch, self._network)[0].float()

        try:
            return halve_where_memory_ends(run, before.get("sw_batch_size", 1), "windows (sw_batch_size)")
        finally:
            vars(inferer).update(before)


    def _mask(self, data: dict[str, Any]) -> MetaTensor:
        """The mask on the scan's grid."""
        scores = data["pred"]
        return unless_memory_ends(
            lambda: self._behind(data)["pred"],
            lambda: self._behind({**data, "pred": scores.cpu()})["pred"],
            f"not enough GPU memory for the mask of {tuple(scores.shape[1:])} voxels: it is made outside",
        )


def _parser(version: Any, bundle_dir: Path, openvino: bool, bfloat16: bool) -> ConfigParser:
    configs = bundle_dir / "configs"
    parser = ConfigParser()
    parser.read_meta(str(configs / "metadata.json"))
    parser.read_config([str(configs / "inference.json"), str(version.overlay)])
    parser["bundle_root"] = str(bundle_dir)
    # Not the overlays of configs/inference: a packed bundle of somebody else has an inferer of its own.
    if parser["inferer"].get("_target_") == "SlidingWindowInferer":
        if openvino:
            parser["inferer"] |= {"_target_": "mnseg.inferers.OpenVINOInferer", "bfloat16": bfloat16}
        elif bfloat16:
            parser["inferer"]["_target_"] = "mnseg.inferers.BFloat16Inferer"
    parser["postprocessing"]["transforms"] = [
        step for step in parser["postprocessing"]["transforms"] if step.get("_target_") != "SaveImaged"
    ]
    return parser


def _load(network: torch.nn.Module, weights: Path) -> torch.nn.Module:
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        network.load_state_dict(state.get("model", state))
    except FileNotFoundError as error:
        raise UserError(f"The model {weights} is not there.") from error
    except Exception as error:  # whatever a damaged file makes torch say
        line = (str(error).strip().splitlines() or [""])[0][:200]
        raise UserError(f"The model {weights} cannot be used ({type(error).__name__}: {line}).") from error
    return network


def _fault(image: torch.Tensor, channels: int) -> str:
    if image.ndim != 4:
        return f"it is {image.ndim - 1}-D, not 3-D"
    if image.shape[0] != channels:
        return f"it has {image.shape[0]} channel(s), but the model takes {channels}"
    if not torch.isfinite(image).all():
        return "it has NaN or infinite voxels"
    return "all its voxels are equal" if image.min() == image.max() else ""


def _moved(path: str, image: MetaTensor) -> str:
    """Of a NIfTI header with two geometries MONAI takes the one, viewers and the labels' check the other."""
    if not path.lower().endswith((".nii", ".nii.gz")):
        return ""
    theirs = nib.load(path)
    moved = np.linalg.inv(theirs.affine) @ np.asarray(image.meta["original_affine"]) - np.eye(4)
    voxels = np.abs(moved[:3] * [*theirs.shape[:3], 1]).sum(axis=1).max()
    return "" if voxels <= TOLERANCE_VOXELS else f"its header contradicts itself, by {voxels:.3g} voxels"


class _Clock:
    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now, self.last, self.laps = now, now(), {}

    def lap(self, name: str) -> None:
        before, self.last = self.last, self.now()
        self.laps[name] = self.last - before
