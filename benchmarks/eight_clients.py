"""Eight clients at once: next sample, mask, changed mask back; afterwards every accepted label must be there.

    python benchmarks/eight_clients.py --minutes 10

Counted by content: each submitted label is unlike all others. A label is lost when the server said yes and its history
does not have it, or when the file of a scan is not one of the last ones that were accepted for it (of labels that
clients submitted at the same moment, either may be the last). Exit code 1 when anything is lost or an answer is a 5xx.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from clinician.server import ROOT, LabelServer
from monailabel.client import MONAILabelClient

from mnseg.data.phantom import CLASS_NAMES, write_phantom_dataset

STRUCTURES = list(CLASS_NAMES[1:])
CLIENTS = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--scans", type=int, default=40)
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT / "tests" / "app" / "server"), str(ROOT / "monailabel_app")]
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder), args.minutes, args.scans)


def run(folder: Path, minutes: float, count: int) -> int:
    from lib.registry.versions import Registry
    from server_parts import tiny_run

    made = json.loads(write_phantom_dataset(folder / "made", count, 0, 0, 0, size=32).read_text())
    scans = folder / "scans"
    scans.mkdir()
    for item in made["labeled"]:
        shutil.copy(folder / "made" / item["image"], scans)
    registry = Registry(scans / ".mnseg" / "registry")
    version = registry.create(tiny_run(folder / "run", 0), {"reason": "A tiny model with random weights."})
    registry.publish(version.id, "the test", "To have a model.")
    with LabelServer(scans, STRUCTURES, {"retrain": "off"}, folder / "server.log", "first") as server:
        readers = [Reader(server.url, number, folder) for number in range(CLIENTS)]
        end = time.monotonic() + 60 * minutes
        threads = [threading.Thread(target=reader.read_until, args=(end,)) for reader in readers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    faults = [fault for reader in readers for fault in reader.faults]
    accepted = [label for reader in readers for label in reader.accepted]
    lost = missing(scans, accepted)
    print(f"{CLIENTS} clients, {minutes:g} minutes: {len(accepted)} labels accepted, "
          f"{sum(reader.masks for reader in readers)} masks served, {len(faults)} faults, {len(lost)} labels lost")
    for text, times in collections.Counter(faults).most_common(10):
        print(f"  {times} x {text}")
    for text in lost[:10]:
        print(f"  lost: {text}")
    return 1 if faults or lost or not accepted else 0


class Reader:
    """A client that labels as fast as it can, each time with another mask."""

    def __init__(self, url: str, number: int, folder: Path) -> None:
        self.folder = folder / f"reader-{number}"
        self.folder.mkdir()
        self.client = MONAILabelClient(url, tmpdir=str(self.folder), client_id=f"reader-{number}")
        self.rng = np.random.default_rng(number)
        self.accepted: list[tuple[float, float, str, str]] = []
        self.faults: list[str] = []
        self.masks = 0

    def read_until(self, end: float) -> None:
        while time.monotonic() < end:
            try:
                self.label_one()
            except Exception as error:
                self.faults.append(f"{type(error).__name__}: {str(getattr(error, 'msg', error))[:160]}")

    def label_one(self) -> None:
        sample = self.client.next_sample("disagreement", {})
        # All labeled: go on with any scan, as somebody does who looks at labels again.
        image = sample["id"] if sample else f"labeled_{self.rng.integers(40):03}"
        path, _ = self.client.infer("mnseg", image, {"result_extension": ".nii.gz", "result_dtype": "uint8"})
        self.masks += 1
        served = nib.load(path)
        mask = np.asarray(served.dataobj).astype(np.uint8)
        corner = tuple(slice(start, start + 4) for start in self.rng.integers(0, 28, 3))
        mask[corner] = self.rng.integers(0, len(STRUCTURES) + 1, (4, 4, 4))
        label = self.folder / "label.nii.gz"
        nib.save(nib.Nifti1Image(mask, served.affine), label)
        Path(path).unlink()
        begun = time.monotonic()
        self.client.save_label(image, str(label), "final", {})
        self.accepted.append((begun, time.monotonic(), image, digest(mask)))


def missing(scans: Path, accepted: list[tuple[float, float, str, str]]) -> list[str]:
    """What the folder does not have of what was accepted."""
    lines = [json.loads(line) for line in (scans / ".mnseg" / "labels.jsonl").read_text().splitlines()]
    noted = collections.Counter(line["image"] for line in lines)
    wanted = collections.Counter(image for _, _, image, _ in accepted)
    lost = [f"{image}: {wanted[image]} accepted, {noted[image]} in the history" for image in wanted
            if noted[image] < wanted[image]]  # fmt: skip
    for image in wanted:
        of_image = [entry for entry in accepted if entry[2] == image]
        last_begun = max(begun for begun, _, _, _ in of_image)
        latest = {content for _, ended, _, content in of_image if ended >= last_begun}
        files = [file for file in (scans / "labels" / "final").iterdir() if file.name.split(".")[0] == image]
        found = {digest(np.asarray(nib.load(file).dataobj).astype(np.uint8)) for file in files}
        if len(files) != 1 or not found <= latest:
            lost.append(f"{image}: the file holds none of the labels that came last")
    return lost


def digest(mask: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(mask).tobytes()).hexdigest()


if __name__ == "__main__":
    raise SystemExit(main())
