"""Volumes after the deterministic transforms: in memory, or in a bounded folder on disk."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import os
import pickle
import time
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.data import CacheDataset, Dataset, MetaTensor
from monai.transforms import Compose, ToTensord

from mnseg._version import __version__
from mnseg.data.content_digests import ContentDigests
from mnseg.data.itk_module import load_itk_for
from mnseg.data.volume_formats import case_id
from mnseg.distributed import gather, is_local_main
from mnseg.errors import UserError
from mnseg.files import save_tensors, shared_write

__all__ = ["DiskCacheDataset", "cached_dataset"]

logger = logging.getLogger(__name__)

PATH_KEYS = {"image", "label"}
SUFFIXES = (".pt", ".tmp")
START = time.time()


def cached_dataset(
    data: Sequence[Mapping[str, Any]],
    transform: Compose,
    cache_rate: float = 1.0,
    cache_dir: str | Path | None = None,
    cache_gb: float = 100.0,
    num_workers: int = 2,
    copy_cache: bool = True,
    progress: bool = False,
    device: torch.device | str | None = None,
) -> Dataset:
    """MONAI's ``CacheDataset``, or ``DiskCacheDataset`` where ``cache_dir`` is given; see there.

    With a ``device`` images and labels are kept there, so that patches are cut and zoomed where they are learned from.
    """
    load_itk_for(item[key] for item in data for key in PATH_KEYS & item.keys())
    if cache_dir is not None:
        return DiskCacheDataset(data, transform, cache_dir, cache_gb, num_workers)
    if device is not None:
        away = ToTensord(sorted(PATH_KEYS), device=device, track_meta=False, allow_missing_keys=True)
        transform = Compose([*transform.transforms, away])
    return CacheDataset(
        data, transform, cache_rate=cache_rate, num_workers=num_workers, copy_cache=copy_cache, progress=progress
    )


class DiskCacheDataset(Dataset):
    """Items after their transforms, each in a file that is mapped into memory: a crop reads what it needs.

    The folder is filled when the dataset is made; what training reads later is never written then. A file's name is
    a digest of the item, of the bytes of the files that it names (`ContentDigests`), and of the transforms with all
    their settings: a changed scan or spacing is never served from an old file, and a scan that was moved is found. When
    the folder would grow beyond ``cache_gb``, files that only datasets made before this process began asked for go
    first, the oldest ahead, whether or not their runs still train (those prepare them anew then); then caching stops,
    and the remaining items are transformed whenever they are drawn. (To replace old ones in turn would help nobody:
    each scan of the pool comes back only after all others.)

    MONAI's ``PersistentDataset`` knows neither changed files nor a bound, and a file that a killed process left half
    written would stop it.

    Args:
        data: items; ``image`` and ``label`` are paths.
        transform: deterministic transforms.
        cache_dir: the folder; runs, and the processes of one run, may share it.
        cache_gb: most gigabytes (1e9 bytes) in the folder.
        num_workers: threads that fill it.

    Raises:
        UserError: when the folder cannot be written.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Compose,
        cache_dir: str | Path,
        cache_gb: float = 100.0,
        num_workers: int = 2,
    ) -> None:
        super().__init__(data, transform)
        self.cache_dir = Path(cache_dir).absolute()
        self.limit = cache_gb * 1e9
        described = _describe(transform)
        digests = ContentDigests(self.cache_dir)

        def path_of(item: Mapping[str, Any]) -> Path:
            return self.cache_dir / f"{_key(item, described, digests)}.pt"

        with ThreadPool(num_workers) as pool:
            self.paths = pool.map(path_of, data)
        digests.save()
        # Processes with the same items leave it to the first of their machine.
        alike = len(set(gather(sha256(repr(self.paths).encode()).hexdigest()))) == 1
        if is_local_main() or not alike:
            try:
                self._fill(num_workers)
            except OSError as error:
                raise UserError(
                    f"cache_dir {self.cache_dir} cannot be written ({error.strerror or error}): lower cache_gb, or set "
                    "cache_dir to another folder."
                ) from error
        gather(None)  # the others wait until it is filled

    def _transform(self, index: int) -> dict[str, Any]:
        try:
            return torch.load(self.paths[index], weights_only=True, mmap=True)
        except FileNotFoundError:
            return self._compute(index)
        except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
            logger.warning("%s is damaged (%s): remove it.", self.paths[index], type(error).__name__)
            return self._compute(index)

    def _compute(self, index: int) -> dict[str, Any]:
        return {key: _plain(value) for key, value in self.transform(self.data[index]).items()}

    def _fill(self, num_workers: int) -> None:
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        own = {path.name for path in self.paths}
        entries = {entry.name: entry.stat() for entry in os.scandir(self.cache_dir) if entry.name.endswith(SUFFIXES)}
        for name in own & entries.keys():
            os.utime(self.cache_dir / name)
        missing = [index for index, path in enumerate(self.paths) if path.name not in entries]
        room = self.limit - sum(entry.st_size for entry in entries.values())
        old = sorted((e.st_mtime, name, e.st_size) for name, e in entries.items() if name not in own)
        old = [file for file in old if file[0] < START]
        with ThreadPool(num_workers) as pool:
            for done, (path, content) in enumerate(self._computed(pool, missing, num_workers)):
                size = _size(content)
                while size > room and old:
                    _, name, freed = old.pop(0)
                    (self.cache_dir / name).unlink(missing_ok=True)
                    room += freed
                if size > room:
                    logger.warning(
                        "cache_dir %s is full (cache_gb %g): %d of %d scans are in it, the others are prepared anew "
                        "each time they are drawn.",
                        self.cache_dir, self.limit / 1e9, len(self.paths) - len(missing) + done, len(self.paths),
                    )  # fmt: skip
                    return
                room -= _write(content, path)

    def _computed(self, pool: ThreadPool, missing: list[int], step: int) -> Iterable[tuple[Path, dict[str, Any]]]:
        """A few at a time, since ``imap`` would run ahead of the disk and fill the memory."""
        for start in range(0, len(missing), 4 * step):
            part = missing[start : start + 4 * step]
            yield from zip([self.paths[i] for i in part], pool.map(self._compute, part), strict=True)


def _describe(transform: Compose) -> str:
    """Digest of the classes and settings of all transforms, and of the versions of the code behind them."""
    try:
        content = [transform.flatten().transforms, monai.__version__, __version__]
        text = json.dumps(content, default=_parts, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"The transforms under 'load' cannot be told apart from others ({error}): set cache_dir to null, or use "
            "named functions and no random transforms there."
        ) from error
    return sha256(text.encode()).hexdigest()


def _parts(value: Any) -> Any:
    """What JSON does not know. (A pickle's bytes would depend on which equal strings are one object.)"""
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, type) or inspect.isroutine(value):
        text = f"{value.__module__}.{value.__qualname__}"
    elif isinstance(value, (np.ndarray, torch.Tensor)):
        return [str(value.dtype), value.tolist()]
    elif hasattr(value, "__dict__"):
        return [type(value), vars(value)]
    else:
        text = repr(value)
    if "<" in text or " at 0x" in text:
        raise ValueError(text)
    return text


def _key(item: Mapping[str, Any], described: str, digests: ContentDigests) -> str:
    """Where a file lies plays no part, but its suffix does: readers are chosen by it."""
    files = {}
    for key in PATH_KEYS & item.keys():
        name = Path(item[key]).name
        try:
            files[key] = [name.removeprefix(case_id(item[key])).lower(), digests.of(item[key])]
        except OSError as error:
            raise UserError(f"{item[key]} cannot be read ({error.strerror}).") from error
    text = json.dumps([{**item, **files}, described], sort_keys=True, default=str)
    return sha256(text.encode()).hexdigest()[:32]


def _plain(value: Any) -> Any:
    """What loads with ``weights_only``: a ``MetaTensor``'s affine and history are of no use behind ``load``."""
    if isinstance(value, MetaTensor):
        return value.as_tensor().contiguous()
    return torch.as_tensor(value) if hasattr(value, "__array__") else value


def _size(content: Mapping[str, Any]) -> int:
    return 4096 + sum(value.nbytes for value in content.values() if isinstance(value, torch.Tensor))


def _write(content: Mapping[str, Any], path: Path) -> int:
    return os.path.getsize(shared_write(path, lambda temporary: save_tensors(dict(content), temporary)))
