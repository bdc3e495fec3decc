"""The model that clients see: whatever version is published at the moment of the request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from lib.conf import AppConf
from lib.errors import RequestError
from lib.infers.masks import centroids, keep_largest, label_colors, removed_on_error, temporary_file, write_mask
from lib.infers.options import Options
from lib.infers.serving import Serving
from lib.infers.traffic import Traffic
from mnseg.data.content_digests import ContentDigests

__all__ = ["MODEL_NAME", "PublishedInfer"]

MODEL_NAME = "mnseg"
NOTICE = "not for diagnosis"

logger = logging.getLogger(__name__)


class PublishedInfer(InferTask):
    """Segments a scan with the published version.

    A request keeps the version it began with: predictors are looked up once per request, and one that has been
    replaced lives as long as a request holds it.

    Args:
        conf: the server's configuration.
        registry: which version is published is asked at every request.
        traffic: told about every inference.
        provenance: keeps the mask of every scan of the studies (``request["image_id"]``) that is served.
        labeled: how many scans have a label, for the answer while there is no model.
        training: `lib.retraining.service.TrainingService.status`, for the same answer.
    """

    def __init__(
        self,
        conf: AppConf,
        registry: Any,
        traffic: Traffic,
        provenance: Any,
        labeled: Callable[[], int],
        training: Callable[[], Mapping[str, Any]],
    ) -> None:
        super().__init__(
            type=InferType.SEGMENTATION,
            labels=conf.label_indices,
            dimension=3,
            description="",
            config={"largest_component": conf.largest_component},
        )
        self.conf, self.registry, self.traffic, self.provenance = conf, registry, traffic, provenance
        self.labeled, self.training = labeled, training
        self.serving = Serving(conf, registry)
        self._digests = ContentDigests(conf.workspace)  # of scans; each is read once while it stays as it is
        self.colors = label_colors(conf.labels)

    def info(self) -> dict[str, Any]:
        version, fault = self.serving.version(), self.serving.fault()
        self.description = f"{version.name}, {NOTICE}" if version else self._no_model()
        self.description += f". {fault}" if fault else ""
        return {**super().info(), "label_colors": self.colors, "version": version.id if version else None}

    def is_valid(self) -> bool:
        return True  # shown from the start: clients hide what is not, and say nothing of why

    def get_path(self, validate: bool = True) -> str | None:
        """File of the weights in use: what MONAI Label's model routes offer."""
        version = self.serving.version()
        return str(version.model_file) if version else None

    def warm_up(self) -> None:
        """Load what takes seconds, the published version and the libraries, before somebody waits for it."""
        path = temporary_file(".nrrd")
        try:
            write_mask(path, np.zeros((1, 1, 1), np.uint8), np.eye(4), NOTICE)
            if self.registry.published() is not None:
                self.serving.current()
        except Exception:
            logger.exception("the first mask will have to wait")
        finally:
            path.unlink()

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Segment ``request["image"]``, a path that the server itself has chosen.

        Returns:
            a temporary file with the mask, and what the answer says about it.

        Raises:
            RequestError: 409 while there is no model; 400 for a request key of the wrong kind; 422 for a bad scan; 503
                when no version can be loaded.
        """
        options = Options.of(request, self.conf)
        if self.registry.published() is None:
            raise RequestError(409, self._no_model())
        begun = time.perf_counter()
        with self.traffic.inference():
            version, predictor = self.serving.current()
            loaded = time.perf_counter()
            scan = self._digest(request)
            prediction = predictor.predict(request["image"], request.get("name", ""))
            after = time.perf_counter()
            mask = prediction.mask.numpy().astype(np.uint8)
            if options.largest_component:
                mask = keep_largest(mask)
            cleaned = time.perf_counter()
            path = options.write(mask, prediction.affine.numpy(), f"{version.name}; {NOTICE}")
        latencies = {
            "load": loaded - begun,
            **prediction.seconds,
            "post": cleaned - after,
            "write": time.perf_counter() - cleaned,
            "total": time.perf_counter() - begun,
        }
        if image_id := request.get("image_id"):
            with removed_on_error(path):
                self._note(image_id, mask, prediction.affine.numpy(), version, scan)
        return str(path), self._answer(version, mask, latencies)

    def _digest(self, request: Mapping[str, Any]) -> str | None:
        """Of a scan of the studies: the file may be replaced under its name."""
        if not request.get("image_id"):
            return None
        try:
            return self._digests.of(request["image"])
        except OSError:  # predicting it says why
            return None

    def _note(self, image_id: str, mask: np.ndarray, affine: np.ndarray, version: Any, scan: str | None) -> None:
        """Keep what was served: without it nobody could tell later what a person changed."""
        path = temporary_file(".nii.gz")
        try:
            write_mask(path, mask, affine, f"{version.name}; {NOTICE}")
            self.provenance.served(image_id, path, version.id, scan)
        finally:
            path.unlink()

    def _answer(self, version: Any, mask: np.ndarray, latencies: Mapping[str, float]) -> dict[str, Any]:
        found = centroids(mask, self.conf.labels)
        return {
            "label_names": self.labels,
            "label_colors": self.colors,
            "centroids": found,
            "missing": [name for name in self.conf.labels if name not in found],
            "latencies": {name: round(seconds, 3) for name, seconds in latencies.items()},
            "model": version.name,
            "version": version.id,
            "notice": NOTICE,
        }

    def _no_model(self) -> str:
        wanted, have = self.conf.min_labels, self.labeled()
        if have < wanted:
            return f"no model yet: label at least {wanted} scans ({have} so far)"
        training = self.training()
        if training["running"]:
            return f"no model yet: {have} scans are labeled, and a training is running"
        return f"no model yet: {have} scans are labeled, but no training is running: {training['reason']} See /mnseg/."
