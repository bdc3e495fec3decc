"""Unlabeled scans of a datalist become labeled ones: the road from mining to co-training."""

from __future__ import annotations

import gzip
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from mnseg.data.datalist import load_datalist, write_datalist
from mnseg.data.grids import label_onto_grid
from mnseg.data.volume_io import open_volume, read_voxels, through_plane_axis
from mnseg.errors import UserError
from mnseg.files import atomic_write, require_writable
from mnseg.mining.decisions import count_decisions, told, write_decisions
from mnseg.mining.miner import MinedImage, Miner
from mnseg.mining.slices import MinedVolume, mine_volume

__all__ = ["mine_scans"]

logger = logging.getLogger(__name__)


def mine_scans(
    datalist: str | Path,
    masks_dir: str | Path,
    output_dir: str | Path,
    miner: Miner,
    num_classes: int,
    dataset_dir: str | Path | None = None,
    axis: int | None = None,
    window: tuple[float, float] | None = None,
    min_kept: float = 0.5,
    max_cases: int | None = None,
) -> Path:
    """Mine unlabeled scans with the masks that inference.json made of them, and write a datalist that uses the result.

    ``output_dir`` gets ``labels/CASE.nii.gz`` on each scan's own grid, ``decisions.csv`` with a row for every component
    of every slice, and ``datalist.json``: the given one with the kept scans moved from "unlabeled" to "labeled", marked
    ``"mined": true``. Training takes them as it takes labels, hard and with full weight (Eq. 1); the remaining scans
    stay in the pool of co-training. Validation and test scans are never touched.

    Args:
        datalist: with "unlabeled" scans.
        masks_dir: holds ``CASE_seg.nii.gz``, as the bundle's inference.json writes them, of all or some of the scans.
        output_dir: see above.
        miner: mines each slice.
        num_classes: K.
        dataset_dir: where the datalist's relative paths are looked for first.
        axis: of the slices, in RAS order; None: where they are thickest.
        window: intensities that become black and white; None: each scan's 0.5 and 99.5 percentiles.
        min_kept: see ``mine_volume``.
        max_cases: most scans that are mined, in the datalist's order; None: all.

    Returns:
        Path of the new datalist, which is written last; one of an earlier mining is removed before.

    Raises:
        UserError: no unlabeled scan has a mask, a mask does not fit its scan, or no scan was kept.
    """
    output_dir = Path(output_dir).absolute()
    require_writable(output_dir / "datalist.json")
    content = load_datalist(datalist, dataset_dir)
    pool = [(item, path) for item in content.get("unlabeled", []) if (path := _mask_of(item["case"], Path(masks_dir)))]
    if not pool:
        raise UserError(f"{masks_dir} holds no CASE_seg.nii.gz of an unlabeled scan in {datalist}: run inference.json "
                        "on these scans first.")
    pool = pool[:max_cases]
    axis = through_plane_axis([item for item, _ in pool]) if axis is None else axis
    labels, slices, counts = {}, [], Counter()
    # From here on what an earlier mining left is no longer what decisions.csv says.
    if (output_dir / "datalist.json").resolve() != Path(datalist).resolve():
        (output_dir / "datalist.json").unlink(missing_ok=True)
    for item, path in pool:
        mined, label_path = _mine_scan(item, path, output_dir / "labels", miner, num_classes, axis, window, min_kept)
        counts[mined.decision] += 1
        slices += [MinedImage(each.case, None, each.decision, each.components) for each in mined.slices]
        slices += [] if mined.slices else [MinedImage(item["case"], None, mined.decision)]
        if label_path is None:
            (output_dir / "labels" / f"{item['case']}.nii.gz").unlink(missing_ok=True)
        else:
            labels[item["case"]] = label_path
        logger.info("%s: %s", item["case"], mined.decision)
    write_decisions(slices, output_dir / "decisions.csv")
    if not labels:
        raise UserError(f"no scan was kept ({told(counts)}; slices: {told(count_decisions(slices))}): lower min_kept "
                        f"(now {min_kept:g}) or the miner's thresholds; see {output_dir / 'decisions.csv'}.")
    return write_datalist(_with_mined(content, labels), output_dir / "datalist.json")


def _mask_of(case: str, folder: Path) -> Path | None:
    return next(iter(sorted(folder.rglob(f"{_glob_safe(case)}_seg.nii*"))), None)


def _glob_safe(name: str) -> str:
    """A name in which a glob pattern takes no character for a wildcard."""
    return "".join(f"[{character}]" if character in "[*?" else character for character in name)


def _mine_scan(
    item: Mapping[str, Any], mask_path: Path, folder: Path, miner: Miner, num_classes: int, *settings: Any
) -> tuple[MinedVolume, Path | None]:
    image, mask_image = open_volume(item["image"]), open_volume(mask_path)
    voxels = read_voxels(image, item["image"])
    if voxels.ndim != 3:
        raise UserError(f"{item['image']} has {voxels.ndim} dimensions: only scans with one channel can be mined.")
    mask = read_voxels(mask_image, mask_path)
    if mask.ndim != 3 or mask.min() < 0 or mask.max() >= num_classes or (mask != np.rint(mask)).any():
        raise UserError(f"{mask_path} is no mask of the classes 0 .. {num_classes - 1}.")
    mask = label_onto_grid(mask.astype(np.uint8), mask_image.affine, voxels.shape, image.affine, str(mask_path))
    to_ras = io_orientation(image.affine)
    mined = mine_volume(miner, item["case"], apply_orientation(voxels, to_ras), apply_orientation(mask, to_ras),
                        num_classes, *settings)  # fmt: skip
    if mined.label is None:
        return mined, None
    label = apply_orientation(mined.label, ornt_transform(axcodes2ornt("RAS"), to_ras))
    written = nib.Nifti1Image(np.ascontiguousarray(label), image.affine)
    written.header.set_xyzt_units("mm")
    content = gzip.compress(written.to_bytes(), mtime=0)
    return mined, atomic_write(folder / f"{item['case']}.nii.gz", lambda path: path.write_bytes(content))


def _with_mined(content: Mapping[str, Any], labels: Mapping[str, Path]) -> dict[str, Any]:
    moved = []
    for item in content["unlabeled"]:
        if item["case"] in labels:
            kept = {key: value for key, value in item.items() if key != "hidden_label"}
            moved.append(kept | {"label": str(labels[item["case"]]), "mined": True})
    rest = [item for item in content["unlabeled"] if item["case"] not in labels]
    return {**content, "labeled": [*content.get("labeled", []), *moved], "unlabeled": rest}
