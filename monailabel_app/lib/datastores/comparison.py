"""MONAI Label's index is brought up to the files that are there. Whoever calls holds the store's lock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path

from monailabel.datastore.local import DataModel, ImageLabelModel

from lib.datastores.listing import Listing, is_volume

__all__ = ["add_found", "drop_missing", "drop_overwritten", "is_same", "note_digests"]

Digest = Callable[[Path], str | None]  # SHA-256 of a file; None: it cannot be read
Label = tuple[str, str, str]  # tag, scan, suffix of the file


def drop_missing(index: MutableMapping[str, ImageLabelModel], listing: Listing) -> dict[str, ImageLabelModel]:
    """Take scans and labels out of the index whose files are not there: scan -> its entry, with those labels."""
    gone = {}
    for image_id, entry in list(index.items()):
        is_here = listing.has_image(image_id, entry.image.ext)
        labels = {tag: label for tag, label in entry.labels.items()
                  if not is_here or not listing.has_label(image_id, tag, label.ext)}
        if not is_here:
            del index[image_id]
        if labels or not is_here:
            gone[image_id] = ImageLabelModel(image=entry.image, labels=labels)
            for tag in labels:
                del entry.labels[tag]
    return gone


def add_found(
    index: MutableMapping[str, ImageLabelModel], listing: Listing, digest: Digest
) -> set[tuple[str, str | None]]:
    """Take scans and labels into the index that somebody put into the folder: names, each with a tag or, of scans,
    None. Of labels of one scan under several suffixes the newest counts, also when another one is known."""
    added: set[tuple[str, str | None]] = set()
    for image_id, suffixes in listing.images.items():
        if image_id not in index and (path := _first(listing.images_dir, image_id, suffixes)):
            index[image_id] = ImageLabelModel(image=_entry(path, image_id))
            added.add((image_id, None))
    for tag, labels in listing.labels.items():
        for image_id, suffixes in labels.items():
            if image_id not in index:
                continue
            known = index[image_id].labels.get(tag)
            if known is not None and [known.ext] == suffixes:
                continue
            path = _newest(listing.labels_dir / tag, image_id, [*([known.ext] if known else []), *suffixes])
            if path and not (known and path.name == f"{image_id}{known.ext}"):
                label = index[image_id].labels[tag] = _entry(path, image_id)
                if sha256 := digest(path):
                    label.info["sha256"] = sha256
                added.add((image_id, tag))
    return added


def drop_overwritten(
    index: Mapping[str, ImageLabelModel], listing: Listing, read: Mapping[Label, str], digest: Digest
) -> set[tuple[str, str]]:
    """A label that somebody overwrote in the folder is no longer its author's: which there were, scan and tag.

    Args:
        index: is changed.
        listing: of the folder.
        read: digests of the labels when they were listed; files are read again only of those that differ.
        digest: of a file now.
    """
    found = set()
    for image_id, entry in index.items():
        for tag, label in entry.labels.items():
            known = label.info.get("sha256")
            if known is None or read.get((tag, image_id, label.ext), known) == known:
                continue
            path = listing.label_path(image_id, tag, label.ext)
            if (now := digest(path)) not in (known, None):
                label.info = {"ts": int(time.time()), "name": label.info.get("name", path.name), "sha256": now}
                found.add((image_id, tag))
    return found


def is_same(path: Path, label: DataModel, earlier: DataModel, digest: Digest) -> bool:
    """Whether the label at ``path`` is the earlier one; of labels of older servers only the time is known."""
    if label.ext != earlier.ext:
        return False
    if "sha256" in earlier.info:
        return digest(path) == earlier.info["sha256"]
    try:
        return path.stat().st_mtime <= earlier.info.get("ts", 0) + 5
    except OSError:  # gone again
        return False


def note_digests(index: Mapping[str, ImageLabelModel], read: Mapping[Label, str]) -> bool:
    """Labels of an older server's index get their digests, as they were ``read``; whether there were any."""
    found = False
    for image_id, entry in index.items():
        for tag, label in entry.labels.items():
            if "sha256" not in label.info and (sha256 := read.get((tag, image_id, label.ext))):
                label.info["sha256"], found = sha256, True
    return found


def _first(folder: Path, image_id: str, suffixes: Sequence[str]) -> Path | None:
    return next((path for ext in suffixes if is_volume(path := folder / f"{image_id}{ext}")), None)


def _newest(folder: Path, image_id: str, suffixes: Sequence[str]) -> Path | None:
    """Of files of one age the first."""
    paths = [path for ext in suffixes if is_volume(path := folder / f"{image_id}{ext}")]
    return max(paths, key=_modified, default=None)


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # gone again
        return 0


def _entry(path: Path, image_id: str) -> DataModel:
    return DataModel(info={"ts": int(time.time()), "name": path.name}, ext=path.name.removeprefix(image_id))
