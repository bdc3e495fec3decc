"""A promptable model for the first scans: clicks and a box of one structure become its mask."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from lib.conf import AppConf
from lib.errors import RequestError
from lib.infers.masks import centroids, keep_largest, label_colors
from lib.infers.options import Options, shown
from lib.infers.published import NOTICE
from lib.infers.traffic import Traffic
from mnseg.data.volume_io import open_volume, read_voxels
from mnseg.errors import UserError
from mnseg.mining.clicks import Clicks, segment_clicks
from mnseg.mining.embedding_cache import EmbeddingCache
from mnseg.mining.models.build import build_promptable

__all__ = ["PROMPT_NAME", "PromptedInfer"]

PROMPT_NAME = "prompt"
MAX_CLICKS = 1000
CACHE_GB = 10


class PromptedInfer(InferTask):
    """Segments one structure from what a person showed of it, before anything was trained and afterwards.

    Viewers know it as MONAI Label's type "deepgrow". Its masks were guided by a person, so they are not kept as served
    ones: a label that begins as one counts as that person's.

    Args:
        conf: the server's configuration; ``promptable`` names the model.
        traffic: told about every inference.

    Raises:
        UserError: there is no such model.
    """

    def __init__(self, conf: AppConf, traffic: Traffic) -> None:
        import torch  # here: the server knows nothing of devices otherwise

        super().__init__(
            type=InferType.DEEPGROW,
            labels=conf.label_indices,
            dimension=3,
            description=f"{conf.promptable}: click inside the structure, or draw a box around it; {NOTICE}",
        )
        self.conf, self.traffic, self.colors = conf, traffic, label_colors(conf.labels)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = build_promptable(conf.promptable, device=device)
        self.cache = EmbeddingCache(conf.workspace / "embeddings", CACHE_GB, needed=False)

    def info(self) -> dict[str, Any]:
        return {**super().info(), "label_colors": self.colors, "version": None}

    def is_valid(self) -> bool:
        return True

    def get_path(self, validate: bool = True) -> str | None:
        return None  # its weights are somebody else's

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Segment one structure of ``request["image"]``, a path that the server itself has chosen.

        Args:
            request: ``label``, the structure; OHIF, which keeps it to itself, gets the value 1. ``foreground`` and
                ``background``, lists of voxels [i, j, k]; ``roi`` [i0, i1, j0, j1, k0, k1], a box, as 3D Slicer sends
                it.

        Returns:
            a temporary file with the mask, whose only value is the structure's, and what the answer says about it.

        Raises:
            RequestError: 400 for a request key of the wrong kind, 422 for a bad scan or clicks that cannot be used.
        """
        options, name = Options.of(request, self.conf), self._structure(request)
        points = {key: _points(request, key) for key in ("foreground", "background")}
        begun = time.perf_counter()
        with self.traffic.inference():
            voxels, affine = _scan(request)
            read = time.perf_counter()
            clicks = Clicks(**points, box=_box(request, voxels.shape))
            try:
                found = segment_clicks(self.model, voxels, affine, clicks, self.cache)
            except UserError as error:
                raise RequestError(422, f"{name or 'The structure'}: {error}") from error
            mask = found.astype(np.uint8) * self.conf.label_indices.get(name, 1)
            if options.largest_component:
                mask = keep_largest(mask)
            segmented = time.perf_counter()
            path = options.write(mask, affine, f"{self.conf.promptable}, prompted; {NOTICE}")
        latencies = {"pre": read - begun, "infer": segmented - read, "total": time.perf_counter() - begun}
        return str(path), self._answer(name, mask, latencies)

    def _structure(self, request: Mapping[str, Any]) -> str:
        """The label's name, empty where the request does not say it."""
        name = request.get("label", "")
        if name != "" and name not in self.conf.labels:
            raise RequestError(400, f"label is {shown(name)}; name the structure that the points are of: "
                                    f"{', '.join(self.conf.labels)}.")
        return name

    def _answer(self, name: str, mask: np.ndarray, latencies: Mapping[str, float]) -> dict[str, Any]:
        found = centroids(mask, self.conf.labels) if name else {}
        return {
            "label_names": {name: self.conf.label_indices[name]} if name else {},
            "label_colors": self.colors,
            "centroids": found,
            "missing": [] if mask.any() else [name or "structure"],
            "latencies": {step: round(seconds, 3) for step, seconds in latencies.items()},
            "model": self.conf.promptable,
            "version": None,
            "notice": NOTICE,
        }


def _scan(request: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(X, Y, Z) voxels, of several channels the first, and the affine."""
    path = request["image"]
    name = request.get("name") or "the scan"
    try:
        image = open_volume(path)
        voxels = read_voxels(image, path)
    except UserError as error:
        raise RequestError(422, f"{name} cannot be segmented: {str(error).replace(path, name)}") from error
    if voxels.ndim < 3 or voxels.dtype.kind not in "iuf":
        raise RequestError(422, f"{name} cannot be segmented: it is no volume of gray values.")
    return voxels.reshape(*voxels.shape[:3], -1)[..., 0], image.affine


def _points(request: Mapping[str, Any], key: str) -> np.ndarray:
    """(N, 3) voxel indices."""
    value = request.get(key) or []
    sound = isinstance(value, list) and all(isinstance(point, list) and len(point) == 3 for point in value)
    if not sound or not all(_is_whole(number) for point in value for number in point):
        raise RequestError(400, f"{key} is {shown(request.get(key))}; it is a list of voxels such as [[10, 20, 30]].")
    if len(value) > MAX_CLICKS:
        raise RequestError(400, f"{key} has {len(value)} points; at most {MAX_CLICKS} are taken.")
    return np.array(value, int).reshape(-1, 3)


def _box(request: Mapping[str, Any], shape: tuple[int, ...]) -> np.ndarray | None:
    """(3, 2) first and last voxel, cut to the scan; a direction of the scan may turn them round."""
    value = request.get("roi") or []
    if value == []:
        return None
    if not isinstance(value, list) or len(value) != 6 or not all(_is_whole(number) for number in value):
        raise RequestError(400, f"roi is {shown(value)}; it is a box of voxels such as [10, 20, 10, 20, 5, 15] (from "
                                "and to of every axis).")
    box, last = np.sort(np.array(value, int).reshape(3, 2), axis=1), np.array(shape) - 1
    if (box[:, 0] > last).any() or (box[:, 1] < 0).any():
        raise RequestError(422, "The box lies outside the scan; draw it anew.")
    return np.clip(box, 0, last[:, None])


def _is_whole(number: Any) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and abs(number) < 1e6 and number % 1 == 0
