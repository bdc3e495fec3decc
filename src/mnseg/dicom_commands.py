"""The commands ``mnseg seg-to-nifti`` and ``mnseg dicom-seg``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from mnseg.errors import UserError
from mnseg.files import read_json

__all__ = ["add_dicom_seg", "add_seg_to_nifti"]


def add_seg_to_nifti(commands: argparse._SubParsersAction, names: Callable[[str], list[str]]) -> None:
    parser = commands.add_parser(
        "seg-to-nifti", help="make NIfTI labels of DICOM SEG files, on the grid of their scans",
        description="Write a NIfTI label on its scan's grid for every DICOM SEG; `mnseg datalist` takes these.",
    )
    parser.add_argument("--images", metavar="DIR", required=True, help="folder of the scans")
    parser.add_argument("--segs", metavar="DIR", required=True, help="folder of the DICOM SEG files, in subfolders too")
    parser.add_argument("--class-names", metavar="A,B,…", type=names, help="names of label values 0, 1, …: the "
                        "background first (default: background and all segment labels)")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="folder for the labels")
    parser.set_defaults(run=_run_seg_to_nifti)


def _run_seg_to_nifti(args: argparse.Namespace) -> int:
    from mnseg.data.dicom_seg_read import convert_segmentations

    converted = convert_segmentations(args.images, args.segs, args.output, args.class_names)
    for note in converted.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{args.output}: {len(converted.files)} labels; --class-names {','.join(converted.class_names)}")
    return 0


def add_dicom_seg(commands: argparse._SubParsersAction, names: Callable[[str], list[str]]) -> None:
    parser = commands.add_parser(
        "dicom-seg", help="write a mask of a DICOM series as DICOM SEG",
        description="Write a mask on the grid of a DICOM series as DICOM SEG, marked as not for diagnosis.",
    )
    parser.add_argument("--scan", metavar="DIR", required=True, help="folder of the DICOM series")
    parser.add_argument("--mask", metavar="FILE", required=True, help="the mask, e.g. from inference.json")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", metavar="FILE", help="model.json of the run, or a datalist: for its class_names")
    which.add_argument("--class-names", metavar="A,B,…", type=names, help="names of mask values 0, 1, …: the "
                       "background first")
    parser.add_argument("--algorithm", metavar="'NAME VERSION'", help="the model (default: as the mask's header says)")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the DICOM SEG to write")
    parser.set_defaults(run=_run_dicom_seg)


def _run_dicom_seg(args: argparse.Namespace) -> int:
    from mnseg.data.dicom_seg_write import write_dicom_seg
    from mnseg.files import require_writable

    require_writable(args.output)
    names = args.class_names or _class_names_in(args.model)
    print(write_dicom_seg(args.scan, args.mask, args.output, names, args.algorithm))
    return 0


def _class_names_in(path: str) -> list[str]:
    try:
        names = read_json(path, "file")["class_names"]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; name the model.json of a run, or give --class-names.") from None
    except (KeyError, TypeError, OSError):
        raise UserError(f"{path} has no class_names; name the model.json of a run, or give --class-names.") from None
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) for name in names):
        raise UserError(f"class_names in {path} must be a list of names, the background first.")
    return names
