"""Whose label is it: the mask that was served, the label that came back, and what a person changed in between.

    served/<image>.nii.gz        the mask that was served last, on the scan's grid
    served/<image>.json          its version, scan and time, and digests of the masks served before
    served/base/<image>.nii.gz   the mask that the newest label was compared with
    labels.jsonl                 every submitted label, oldest first
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from lib.durable import append_json_line, durable_json, durable_write, read_json_lines, utc
from lib.registry.parts import sha256_of
from lib.stamped import StampedDigests
from mnseg.data.grids import label_onto_grid
from mnseg.data.volume_io import digest_array, open_volume, read_voxels
from mnseg.errors import UserError

__all__ = ["Provenance"]

logger = logging.getLogger(__name__)

# Several readers may have been given masks of several versions for one scan.
REMEMBERED_MASKS = 50
LONGEST_NAME = 150


class Provenance:
    """The served and submitted masks of a workspace. All methods may be called by many threads at once.

    Args:
        root: the workspace.
        class_names: names of the classes 1..N, without the background; default: their numbers.
        clock: seconds since 1970.

    Attributes:
        label_file: gives the file of a scan's label as it was stored; None: there is none, or it is kept elsewhere.
    """

    def __init__(
        self, root: str | Path, class_names: Sequence[str] = (), clock: Callable[[], float] = time.time
    ) -> None:
        self.root = Path(root)
        self.class_names = list(class_names)
        self.clock = clock
        self._lock = threading.Lock()
        self.label_file: Callable[[str], str | Path | None] = lambda image_id: None
        self._digests = StampedDigests()
        self._comparing, self._uncompared = threading.Lock(), set()
        self._labels: dict[str, list[dict[str, Any]]] = {}
        for facts in read_json_lines(self._journal):
            if isinstance(facts.get("image"), str):
                self._labels.setdefault(facts["image"], []).append(facts)

    @property
    def _journal(self) -> Path:
        return self.root / "labels.jsonl"

    def served(self, image_id: str, mask_file: str | Path, version: str, scan: str | None = None) -> None:
        """Keep the mask that a client is given.

        Args:
            image_id: of the scan.
            mask_file: NIfTI (.nii.gz) on the scan's grid.
            version: id of the version that made it.
            scan: digest of the scan's bytes, which may be replaced under its name; None where it cannot be.
        """
        content = Path(mask_file).read_bytes()
        mask, affine = _mask(mask_file)
        entry = {"version": version, "digest": digest_array(mask, affine), "when": self._now(),
                 "sha256": hashlib.sha256(content).hexdigest(), "scan": scan}
        with self._lock:
            earlier = [old for old in self._served_before(image_id) if old.get("digest") != entry["digest"]]
            # In this order: a kill in between leaves the older mask, which the list still knows.
            durable_json(self._file(image_id, ".json"),
                         {"image": image_id, "masks": [*earlier, entry][-REMEMBERED_MASKS:]})
            durable_write(self._file(image_id, ".nii.gz"), lambda temporary: temporary.write_bytes(content))

    def was_served(self, image_id: str, mask_file: str | Path) -> str | None:
        """The version whose mask this is, voxel for voxel; None when no such mask was served for the scan."""
        digest = digest_array(*_mask(mask_file))
        with self._lock:
            masks = self._served_before(image_id)
        return next((old["version"] for old in reversed(masks) if old.get("digest") == digest), None)

    def submitted(
        self,
        image_id: str,
        mask_file: str | Path,
        author: str,
        origin: Mapping[str, Any] | None = None,
        scan: str | None = None,
    ) -> dict[str, Any]:
        """Note a label that came back, and compare it with the mask that was served last, if that is of the same scan.

        A label that equals any mask that was ever served under the scan's name is our own output coming back:
        ``unedited``.

        Args:
            image_id: of the scan.
            mask_file: the accepted label, on the scan's grid.
            author: who sent it.
            origin: where it comes from, if not from a client of the server; kept with the rest.
            scan: as in `served`.

        Returns:
            The line of labels.jsonl: image, sha256 (of the file), author, when, served (version or None), dice
            (``{class: Dice of served and submitted mask}``, classes that neither has are left out), edited_voxels,
            labeled_voxels, unedited. Without a served mask dice and edited_voxels are None.
        """
        label, affine = _mask(mask_file)
        digest = digest_array(label, affine)
        with self._lock:
            masks = self._served_before(image_id)
            base, version = self._last_served(image_id, masks, scan)
            same = next((old for old in reversed(masks) if old.get("digest") == digest), None)
            facts = {
                "image": image_id,
                "sha256": sha256_of(mask_file),
                "author": author,
                "when": self._now(),
                "served": same["version"] if same else version,
                **self._compared(label, affine, base, same is not None),
                "labeled_voxels": int(np.count_nonzero(label)),
                "unedited": same is not None,
                **({"origin": dict(origin)} if origin else {}),
            }
            self._keep_base(image_id, Path(mask_file) if same else base)
            append_json_line(self._journal, facts)
            self._labels.setdefault(image_id, []).append(facts)
            return dict(facts)

    def will_compare(self, image_ids: Iterable[str]) -> None:
        """Labels were put into the folder: until `found_in_folder` has looked at them they may be ours (`unedited`)."""
        with self._lock:
            self._uncompared |= {image_id for image_id in image_ids if self._served_before(image_id)}

    def found_in_folder(self, image_id: str, label_file: str | Path | None) -> None:
        """Note a label that somebody put into the folder of labels, if it is a mask of ours that nobody changed.

        Of other labels there nothing is known. One that cannot be read, or is gone (None), is no mask of ours.
        """
        with self._lock:
            was_served = bool(self._served_before(image_id))
        try:
            if was_served and label_file is not None:
                with self._comparing:
                    self._note_if_ours(image_id, label_file)
        except (UserError, OSError, ValueError) as error:
            logger.info("the label of %s is not compared with what was served: %s", image_id, error)
        finally:
            with self._lock:
                self._uncompared.discard(image_id)

    def _note_if_ours(self, image_id: str, label_file: str | Path) -> None:
        digest = self._digests.of(label_file)
        if (self.of(image_id) or {}).get("sha256") == digest or self.was_served(image_id, label_file) is None:
            return
        if (self.of(image_id) or {}).get("sha256") != self._digests.of(label_file) == digest:  # still so
            self.submitted(image_id, label_file, "the folder of labels")

    def of(self, image_id: str) -> dict[str, Any] | None:
        """What `submitted` said of a scan's newest label, None when it has none."""
        with self._lock:
            return dict(self._labels[image_id][-1]) if image_id in self._labels else None

    def history(self, image_id: str | None = None) -> list[dict[str, Any]]:
        """All labels of a scan, oldest first; without a scan, of all of them, scan by scan."""
        with self._lock:
            chosen = self._labels if image_id is None else {image_id: self._labels.get(image_id, [])}
            return [dict(facts) for labels in chosen.values() for facts in labels]

    def served_mask(self, image_id: str) -> Path | None:
        """File of the mask that was served last for an image."""
        file = self._file(image_id, ".nii.gz")
        return file if file.is_file() else None

    def unedited(self) -> set[str]:
        """Scans whose newest label is a mask of ours that nobody changed, also not in the folder of labels.

        A label that has just been put there counts as ours until it was compared, if a mask was served for its scan.
        """
        with self._lock:
            uncompared = set(self._uncompared)
        return self._newest(lambda facts: facts.get("unedited") is True) | uncompared

    def began_as(self, version: str) -> set[str]:
        """Scans whose newest label was made when a mask of this version was the one served last.

        Args:
            version: its id.
        """
        return self._newest(lambda facts: facts.get("served") == version and facts.get("edited_voxels") is not None)

    def _newest(self, is_meant: Callable[[Mapping[str, Any]], bool]) -> set[str]:
        """Scans of whose newest label this holds, and whose label is still that one."""
        with self._lock:
            noted = {image_id: labels[-1].get("sha256") for image_id, labels in self._labels.items()
                     if is_meant(labels[-1])}  # fmt: skip
        return {image_id for image_id, sha256 in noted.items() if self._is_still(image_id, sha256)}

    def _is_still(self, image_id: str, sha256: str | None) -> bool:
        """Whether the label is the file that was noted."""
        file = self.label_file(image_id)
        try:
            return file is None or self._digests.of(file) == sha256
        except OSError:  # removed meanwhile
            return True

    def _now(self) -> str:
        return utc(self.clock())

    def _file(self, image_id: str, suffix: str) -> Path:
        """Any text may be an image's id; none may lead out of the folder."""
        name = quote(image_id, safe=" ")
        if len(name) > LONGEST_NAME:
            name = name[:LONGEST_NAME] + "-" + hashlib.sha256(image_id.encode()).hexdigest()[:16]
        return self.root / "served" / f"{name}{suffix}"

    def _served_before(self, image_id: str) -> list[dict[str, Any]]:
        try:
            content = json.loads(self._file(image_id, ".json").read_bytes())
            return [old for old in content["masks"] if isinstance(old, dict) and "version" in old]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def _last_served(
        self, image_id: str, masks: Sequence[dict[str, Any]], scan: str | None
    ) -> tuple[Path | None, str | None]:
        """The kept mask, None when it is of another scan, and its version, None when the list does not know it."""
        file = self._file(image_id, ".nii.gz")
        if not file.is_file():
            return None, None
        sha256 = sha256_of(file)
        entry = next((old for old in reversed(masks) if old.get("sha256") == sha256), {})
        if scan and entry.get("scan") not in (None, scan):  # None: of an older server
            return None, None
        return file, entry.get("version")

    def _compared(self, label: np.ndarray, affine: np.ndarray, base: Path | None, same: bool) -> dict[str, Any]:
        if base is None:
            return {"dice": None, "edited_voxels": None}
        if same:
            classes = [int(value) for value in np.unique(label) if value]
            return {"dice": {self._name(value): 1.0 for value in classes}, "edited_voxels": 0}
        try:
            mask, mask_affine = _mask(base)
            mask = label_onto_grid(mask, mask_affine, label.shape, affine, "the served mask")
        except UserError:  # the scan was replaced by another one meanwhile
            return {"dice": None, "edited_voxels": None}
        return {"dice": self._dice(mask, label), "edited_voxels": int(np.count_nonzero(mask != label))}

    def _keep_base(self, image_id: str, base: Path | None) -> None:
        """The next mask that is served must not take away what this label began as."""
        file = self._file(image_id, ".nii.gz")
        kept = file.parent / "base" / file.name
        if base is None:
            kept.unlink(missing_ok=True)
        else:
            content = base.read_bytes()
            durable_write(kept, lambda temporary: temporary.write_bytes(content))

    def _dice(self, mask: np.ndarray, label: np.ndarray) -> dict[str, float]:
        dice = {}
        for value in sorted({int(value) for value in (*np.unique(mask), *np.unique(label))} - {0}):
            ours, theirs = mask == value, label == value
            both = int(np.count_nonzero(ours & theirs))
            dice[self._name(value)] = 2 * both / (int(np.count_nonzero(ours)) + int(np.count_nonzero(theirs)))
        return dice

    def _name(self, value: int) -> str:
        return self.class_names[value - 1] if value <= len(self.class_names) else str(value)


def _mask(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    image = open_volume(path)
    voxels = read_voxels(image, path)
    return np.rint(voxels.reshape(voxels.shape[:3])).astype(np.uint8), image.affine
