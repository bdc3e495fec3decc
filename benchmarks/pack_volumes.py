"""Pack the scans of a datalist losslessly for a machine that takes few megabytes along, and unpack them there.

    python benchmarks/pack_volumes.py pack runs/la.json la.tar --limit-mib 64
    python benchmarks/pack_volumes.py unpack la.tar data       # data/images, data/labels, data/datalist.json

Neighboring slices differ little: each voxel becomes its difference to the one before it along the axis that packs best
(modulo the type's range, so that nothing is lost), and xz does the rest. What comes back is compared voxel by voxel
before the file is called written.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from bench_common import errors_in_words

from mnseg.data.datalist import SPLITS, load_datalist, resolve_datalist, write_datalist
from mnseg.errors import UserError
from mnseg.files import atomic_write

KEYS = ("image", "label", "hidden_label")
INDEX = "index.json"


def encode(voxels: np.ndarray) -> tuple[bytes, dict[str, Any]]:
    """A volume of integers as bytes, and what is needed to decode them."""
    unsigned = voxels.view(f"u{voxels.dtype.itemsize}")
    best = min((_deltas(unsigned, axis) for axis in range(voxels.ndim)), key=lambda deltas: _spread(deltas[0]))
    deltas, axis = best
    packed = lzma.compress(np.ascontiguousarray(deltas).tobytes(), preset=6)
    return packed, {"shape": voxels.shape, "dtype": voxels.dtype.str, "axis": axis}


def decode(packed: bytes, head: Mapping[str, Any]) -> np.ndarray:
    """The way back of ``encode``."""
    dtype = np.dtype(head["dtype"])
    deltas = np.frombuffer(lzma.decompress(packed), f"u{dtype.itemsize}").reshape(head["shape"])
    return np.cumsum(deltas, axis=head["axis"], dtype=deltas.dtype).view(dtype)


def _deltas(values: np.ndarray, axis: int) -> tuple[np.ndarray, int]:
    first = np.zeros_like(np.take(values, [0], axis))
    return np.diff(values, axis=axis, prepend=first), axis


def _spread(deltas: np.ndarray) -> float:
    """How large the differences are, taken as signed numbers."""
    return float(np.abs(deltas.view(f"i{deltas.dtype.itemsize}").astype(np.float64)).mean())


def files_of(datalist: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """Name in the archive and path of every scan and label."""
    for split in SPLITS:
        for item in datalist.get(split, []):
            for key in KEYS:
                if key in item:
                    yield f"{'images' if key == 'image' else 'labels'}/{item['case']}", Path(item[key])


def pack(datalist_path: Path, output: Path, limit_mib: float) -> int:
    """Write the archive; returns its bytes.

    Raises:
        UserError: no scan, two of one name, a file that is no NIfTI of integers, or an archive that would be larger
            than the limit.
    """
    datalist = load_datalist(datalist_path)
    listed = list(files_of(datalist))
    files = dict(listed)
    if not files:
        raise UserError(f"{datalist_path} names no scan: nothing can be packed.")
    if twice := [name for name, count in Counter(name for name, _ in listed).items() if count > 1]:
        raise UserError(f"{datalist_path} names {twice[0]} twice: each scan needs a case and a label of its own.")
    with ThreadPoolExecutor(2) as pool:  # xz lets other threads run
        packed = dict(zip(files, pool.map(_pack_one, files.values()), strict=True))
    heads = {name: head for name, (_, head) in packed.items()}
    moved = {key: _moved(value) if key in SPLITS else value for key, value in datalist.items()}
    parts = {INDEX: json.dumps({"files": heads, "datalist": moved}).encode()}
    parts |= {name: content for name, (content, _) in packed.items()}
    size = sum(len(content) for content in parts.values())
    if size > limit_mib * 2**20:
        raise UserError(f"{datalist_path} packs to {size / 2**20:.1f} MiB, more than {limit_mib:g}: leave scans out.")
    atomic_write(output, lambda temporary: _write_tar(parts, temporary))
    return size


def _pack_one(path: Path) -> tuple[bytes, dict[str, Any]]:
    try:
        image = nib.load(path)
        voxels = np.asarray(image.dataobj)
        units = image.header.get_xyzt_units() if isinstance(image, nib.Nifti1Image) else None
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: correct the datalist.") from None
    except Exception as error:  # of nibabel, gzip, zlib, numpy
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read ({reason}): only NIfTI files can be packed.") from error
    if not isinstance(image, nib.Nifti1Image):
        raise UserError(f"{path} is a {type(image).__name__}: only NIfTI files can be packed.")
    if voxels.dtype.kind not in "uif":
        raise UserError(f"{path} has voxels of type {voxels.dtype}: only integers can be packed.")
    if voxels.dtype.kind == "f":
        voxels = _as_integers(voxels, path)
    content, head = encode(voxels)
    if (decode(content, head) != voxels).any():
        raise AssertionError(f"{path} did not come back")
    header = {"units": units, "codes": [int(image.header[f"{form}form_code"]) for form in "qs"]}
    return content, head | {"affine": image.affine.tolist(), **header}


def _as_integers(voxels: np.ndarray, path: Path) -> np.ndarray:
    """Floating-point voxels that are whole numbers, as integers of 32 bits or, where they need them, 64."""
    whole = np.isfinite(voxels).all() and (voxels == np.rint(voxels)).all()
    if not whole or np.abs(voxels).max(initial=0) >= 2.0**63:
        raise UserError(f"{path} has voxels that are no whole numbers: only integers can be packed.")
    return voxels.astype(np.int32 if np.abs(voxels).max(initial=0) < 2**31 else np.int64)


def _moved(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    folder = {"image": "images", "label": "labels", "hidden_label": "labels"}
    return [{**item, **{key: f"{folder[key]}/{item['case']}.nii.gz" for key in KEYS if key in item}} for item in items]


def _write_tar(parts: Mapping[str, bytes], path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def unpack(archive_path: Path, folder: Path) -> Path:
    """Write scans, labels and ``datalist.json``, which comes last; returns it.

    Raises:
        UserError: the archive is damaged, or none of ``pack``'s.
    """
    try:
        with tarfile.open(archive_path) as archive:
            index = json.load(archive.extractfile(INDEX))
            (folder / "datalist.json").unlink(missing_ok=True)  # or it would call an interrupted folder complete
            for name, head in index["files"].items():
                image = _unpack_one(archive.extractfile(name).read(), head)
                path = folder / f"{name}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                nib.save(image, path)
    except (tarfile.TarError, lzma.LZMAError, EOFError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{archive_path} is damaged, or not packed by this script ({reason}): pack anew.") from error
    datalist = resolve_datalist(index["datalist"], [folder.absolute()])
    return write_datalist(datalist, folder / "datalist.json")


def _unpack_one(packed: bytes, head: Mapping[str, Any]) -> nib.Nifti1Image:
    affine = np.array(head["affine"])
    voxels = decode(packed, head)
    image = nib.Nifti1Image(voxels, affine, dtype=voxels.dtype)
    if "units" in head:  # archives from before have none
        image.header.set_xyzt_units(*head["units"])
        image.set_qform(affine, head["codes"][0])
        image.set_sform(affine, head["codes"][1])
    return image


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="datalist -> archive")
    packing.add_argument("datalist", type=Path)
    packing.add_argument("archive", type=Path)
    packing.add_argument("--limit-mib", type=float, default=64.0, help="refuse to write more (default: 64)")
    unpacking = commands.add_parser("unpack", help="archive -> folder")
    unpacking.add_argument("archive", type=Path)
    unpacking.add_argument("folder", type=Path)
    args = parser.parse_args(argv)
    with errors_in_words("pack_volumes.py"):
        if args.command == "pack":
            print(f"{args.archive}: {pack(args.datalist, args.archive, args.limit_mib) / 2**20:.1f} MiB")
        else:
            print(unpack(args.archive, args.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
