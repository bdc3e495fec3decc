"""What a request for a mask may ask for; all other keys are ignored and go nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lib.conf import AppConf
from lib.errors import RequestError
from lib.infers.masks import DTYPES, EXTENSIONS, removed_on_error, temporary_file, write_mask

__all__ = ["Options", "shown"]


class Options:
    """The keys of a request that mean something here, checked; all others are ignored and go nowhere."""

    def __init__(self, extension: str, dtype: str, compress: bool, largest_component: bool) -> None:
        self.extension, self.dtype, self.compress = extension, dtype, compress
        self.largest_component = largest_component

    @classmethod
    def of(cls, request: Mapping[str, Any], conf: AppConf) -> Options:
        return cls(
            _word(request, "result_extension", EXTENSIONS, ".nii.gz"),
            _word(request, "result_dtype", DTYPES, "uint8"),
            _switch(request, "result_compress", True),
            _switch(request, "largest_component", conf.largest_component),
        )

    def write(self, mask: np.ndarray, affine: np.ndarray, notice: str) -> Path:
        """A temporary file with the mask as it was asked for; see `lib.infers.masks.write_mask`."""
        path = temporary_file(self.extension)
        with removed_on_error(path):
            return write_mask(path, mask.astype(self.dtype), affine, notice, self.compress)


def _word(request: Mapping[str, Any], key: str, words: tuple[str, ...], default: str) -> str:
    value = request.get(key)
    if value is None or value == "":
        return default
    if value not in words:
        raise RequestError(400, f"{key} is {shown(value)}; it may be {', '.join(words)}.")
    return value


def _switch(request: Mapping[str, Any], key: str, default: bool) -> bool:
    value = request.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise RequestError(400, f"{key} is {shown(value)}; it may be true or false.")
    return value


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
