"""Which version makes the masks: the published one, or an earlier one while that cannot be loaded."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from lib.conf import AppConf
from lib.errors import RequestError

__all__ = ["Serving"]

logger = logging.getLogger(__name__)

RETRY = 60.0


class Serving:
    """Loads versions, and keeps the one that was used last. All methods may be called by many threads at once.

    Args:
        conf: the server's configuration.
        registry: its ``servable()`` is asked at every request.
        clock: seconds. What could not be loaded is tried again after `RETRY` of them: a disk may come back.
    """

    def __init__(self, conf: AppConf, registry: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self.conf, self.registry, self.clock = conf, registry, clock
        self._lock = threading.Lock()
        self._predictors: dict[str, Any] = {}
        self._failed: dict[str, tuple[float, RequestError]] = {}

    def current(self) -> tuple[Any, Any]:
        """The version that makes the masks, and its `lib.infers.predictor.Predictor`.

        Raises:
            RequestError: 409, nothing was ever published; else why the published version cannot be used, when no
                earlier one can either.
        """
        first = None
        for version in self.registry.servable():
            try:
                return version, self._predictor(version)
            except RequestError as error:
                first = first or error
        raise first or RequestError(409, "No model is published yet.")

    def version(self) -> Any:
        """The version of `current`, as far as is known without loading it; None while nothing is published."""
        usable = (version for version in self.registry.servable() if version.id not in self._failed)
        return next(usable, None) or self.registry.published()

    def fault(self) -> str:
        """Why the published version does not make the masks; nothing while it does."""
        published, version = self.registry.published(), self.version()
        failed = self._failed.get(published.id) if published is not None else None
        if failed is None:
            return ""
        _, error = failed
        if version is None or version.id == published.id:
            return f"{error.sentence} Publish another version, or train anew."
        return f"{error.sentence} {version.name} makes the masks until another version is published."

    def require_usable(self, version: Any) -> None:
        """Load a version that shall be published, beside the one in use, and forget it again.

        Raises:
            RequestError: 409, it cannot be loaded or segments other structures.
        """
        if version.id in self._predictors:
            return
        try:
            self._load(version, device="cpu")
        except RequestError as error:
            raise RequestError(409, f"Not published: {error.sentence}") from error
        self._failed.pop(version.id, None)  # mended since: the next request takes it

    def _predictor(self, version: Any) -> Any:
        with self._lock:
            if version.id in self._predictors:
                return self._predictors[version.id]
            when, error = self._failed.get(version.id, (-RETRY, None))
            if error is not None and self.clock() - when < RETRY:
                raise RequestError(error.status, error.sentence)
            try:
                predictor = self._load(version, openvino=self.conf.openvino, bfloat16=self.conf.bfloat16)
            except RequestError as error:
                self._failed[version.id] = (self.clock(), error)
                raise
            self._failed.pop(version.id, None)
            self._predictors = {version.id: predictor}  # requests under way hold what they began with
            return predictor

    def _load(self, version: Any, **options: Any) -> Any:
        import torch  # here: it takes long, and the server should start quickly

        from lib.infers.predictor import Predictor

        try:
            predictor = _undisturbed(lambda: Predictor(version, self.conf.bundle, **options))
        except (MemoryError, torch.OutOfMemoryError):  # an earlier version would not be smaller
            raise
        except Exception as error:  # whatever damaged weights or configs make torch and MONAI say
            logger.exception("%s cannot be loaded", version.name)
            raise RequestError(503, f"{version.name} cannot be loaded: its files are missing or damaged, or belong to "
                                    "another network (the server's log says more).") from error
        if predictor.class_names != list(self.conf.class_names):
            raise RequestError(409, f"{version.name} segments {', '.join(predictor.class_names[1:])}, but the server "
                                    f"was started for {', '.join(self.conf.labels)}.")
        return predictor


def _undisturbed(build: Callable[[], Any], attempts: int = 5) -> Any:
    """MONAI looks through all imported modules when it reads a config, and fails when another thread imports one."""
    for _ in range(attempts - 1):
        try:
            return build()
        except RuntimeError as error:
            if "changed size during iteration" not in str(error):
                raise
            time.sleep(0.2)
    return build()
