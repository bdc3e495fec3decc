"""Image embeddings on disk: the encoder of a large model is paid for once an image."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mnseg.errors import UserError
from mnseg.files import shared_write
from mnseg.mining.promptable import PromptableModel

__all__ = ["EmbeddingCache"]

logger = logging.getLogger(__name__)

SUFFIXES = (".safetensors", ".tmp")
START = time.time()


class EmbeddingCache:
    """A bounded folder of embeddings, a safetensors file an image.

    A file's name is a digest of the image's pixels and of the model's ``identity``: a changed image or other weights
    are never answered from an old file. When the folder would grow beyond ``max_gb``, files that nobody has used since
    this process began go first, the oldest ahead; then caching stops, and the remaining images are embedded each time.
    A model that embeds nothing (the random walker) leaves no files.

    Args:
        folder: runs may share it.
        max_gb: most gigabytes (1e9 bytes) in the folder. SAM takes 4 MB an image, SAM 2 17 MB.
        needed: whether it is an error when the folder cannot be written; otherwise caching stops.
    """

    def __init__(self, folder: str | Path, max_gb: float = 20.0, needed: bool = True) -> None:
        if not max_gb >= 0:
            raise UserError(f"the embedding cache's size is {max_gb} GB; it must be at least 0.")
        self.folder = Path(folder).absolute()
        self.limit = max_gb * 1e9
        self.full = False
        self.needed = needed

    def get(self, model: PromptableModel, image: np.ndarray) -> dict[str, Tensor]:
        """The model's embedding of an image (H, W) or (H, W, 3) uint8, from disk if it is there.

        Raises:
            UserError: the folder cannot be written, and is needed.
        """
        path = self.folder / f"{_key(model, image)}.safetensors"
        try:
            embedding = load_file(path)
            with contextlib.suppress(OSError):  # a folder that may only be read
                os.utime(path)  # used: others make room first
            return embedding
        except FileNotFoundError:
            pass
        except (OSError, SafetensorError) as error:
            logger.warning("%s cannot be read (%s): it is made again.", path, error)
        embedding = model.embed(image)
        if embedding and not self.full:
            try:
                self._store(embedding, path)
            except OSError as error:
                if not self.needed:
                    self.full = True
                    logger.warning("the embedding cache %s cannot be written (%s): it is no longer used.",
                                   self.folder, error.strerror or error)
                    return embedding
                raise UserError(f"the embedding cache {self.folder} cannot be written ({error.strerror or error}): "
                                "name another folder, or allow it fewer gigabytes.") from error
        return embedding

    def _store(self, embedding: dict[str, Tensor], path: Path) -> None:
        size = 4096 + sum(value.nbytes for value in embedding.values())
        if self._make_room(size):
            shared_write(path, _saver(embedding))
        else:
            self.full = True
            logger.warning("the embedding cache %s is full (%g GB): the remaining images are embedded anew each time.",
                           self.folder, self.limit / 1e9)

    def _make_room(self, size: int) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        files = []
        for entry in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):  # another run has just renamed or removed it
                if entry.name.endswith(SUFFIXES):
                    files.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
        files.sort()
        excess = sum(file[1] for file in files) + size - self.limit
        for used, freed, name in files:
            if excess <= 0 or used >= START:
                break
            Path(name).unlink(missing_ok=True)
            excess -= freed
        return excess <= 0


def _saver(embedding: dict[str, Tensor]) -> Callable[[Path], None]:
    return lambda temporary: save_file({name: value.contiguous() for name, value in embedding.items()}, temporary)


def _key(model: PromptableModel, image: np.ndarray) -> str:
    digest = sha256(f"{model.identity} {image.shape} {image.dtype}".encode())
    digest.update(np.ascontiguousarray(image))
    return digest.hexdigest()
