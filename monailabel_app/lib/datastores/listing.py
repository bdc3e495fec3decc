"""Which scans and labels lie in a folder, by the names of their files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["EXTENSIONS", "Listing", "is_volume"]

EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".mha")
LONGEST = 240  # bytes of a scan's name; with suffix and the marks of a file under way a file system takes 255


@dataclass(frozen=True)
class Listing:
    """What lay in a folder a moment ago.

    Made without the store's lock, it may be older than a file that the store has just written or removed: whoever acts
    on a difference holds the lock and asks here again about the one file.

    images_dir, labels_dir: the folders.
    images: scan -> suffixes of the files that have its name.
    labels: tag -> scan -> suffixes of the labels for it.
    unusable: names that no index or list of data could keep, and why.
    """

    images_dir: Path
    labels_dir: Path
    images: Mapping[str, Sequence[str]]
    labels: Mapping[str, Mapping[str, Sequence[str]]]
    unusable: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, images_dir: str | os.PathLike, labels_dir: str | os.PathLike) -> Listing:
        """Raises: OSError, a folder cannot be read."""
        labels_dir = Path(labels_dir)
        tags = [entry for entry in labels_dir.iterdir() if entry.is_dir()] if labels_dir.is_dir() else []
        unusable: dict[str, str] = {}
        labels = {tag.name: _volumes_in(tag, unusable) for tag in tags}
        return cls(Path(images_dir), labels_dir, _volumes_in(images_dir, unusable), labels, unusable)

    def has_image(self, image_id: str, ext: str) -> bool:
        """Whether the file is there."""
        return ext in self.images.get(image_id, ()) or is_volume(self.images_dir / f"{image_id}{ext}")

    def has_label(self, image_id: str, tag: str, ext: str) -> bool:
        """Whether the file is there."""
        return ext in self.labels.get(tag, {}).get(image_id, ()) or is_volume(self.label_path(image_id, tag, ext))

    def label_path(self, image_id: str, tag: str, ext: str) -> Path:
        """Where a label lies, or would."""
        return self.labels_dir / tag / f"{image_id}{ext}"

    def each_label(self) -> Iterator[tuple[str, str, str]]:
        """Tag, scan and suffix of every label."""
        for tag, labels in self.labels.items():
            for image_id, suffixes in labels.items():
                yield from ((tag, image_id, ext) for ext in suffixes)

    def faults(self) -> set[str]:
        """Sentences on files that are left out because of their names."""
        strays = [f"{tag}/{image_id}{ext}" for tag, image_id, ext in self.each_label() if image_id not in self.images]
        found = {f"{name!r} is left out, since its name {why}: rename it" for name, why in self.unusable.items()}
        if strays:
            more = f" and {len(strays) - 3} more" if len(strays) > 3 else ""
            found.add(f"{', '.join(strays[:3])}{more} in labels: no scan has this name; name a label as its scan")
        return found


def is_volume(path: str | os.PathLike) -> bool:
    """Whether a file is there and counts as a scan or a label."""
    return _is_named_so(os.path.basename(path)) and os.path.isfile(path)


def _is_named_so(name: str) -> bool:
    # Beside each file that macOS copies to a share it puts another one, ._NAME, of the same suffix.
    return name.endswith(EXTENSIONS) and not name.startswith(".")


def _volumes_in(folder: str | os.PathLike, unusable: dict[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if _is_named_so(entry.name) and _is_file(entry))
    unusable |= {name: why for name in names if (why := _fault(name))}
    names = [name for name in names if name not in unusable]
    for ext in EXTENSIONS:
        for name in names:
            if name.endswith(ext):
                found.setdefault(name.removesuffix(ext), []).append(ext)
    return found


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link in a circle, or to a disk that does not answer
        return False


def _fault(name: str) -> str:
    """Why a name cannot be used; both come from archives of another system."""
    try:
        size = len(next(name.removesuffix(ext) for ext in EXTENSIONS if name.endswith(ext)).encode())
    except UnicodeEncodeError:
        return "is not in UTF-8"
    if "\\" in name:
        return "has a backslash"
    return f"has more than {LONGEST} bytes" if size > LONGEST else ""
