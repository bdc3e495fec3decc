"""The command ``mnseg``: it parses, calls the library, prints.

Exit codes: 0 fine; 1 bad input, said in one sentence; 2 wrong usage; 3 a defect of mnseg (with traceback);
130 interrupted. Subcommands import what they need when they run, so that ``mnseg --help`` is quick.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mnseg._version import __version__
from mnseg.arguments import count, positive
from mnseg.data.importers import NAMES as IMPORTERS
from mnseg.errors import UserError, file_error_in_words

if TYPE_CHECKING:
    from mnseg.data.integrity import CheckReport

__all__ = ["build_parser", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        parser = build_parser(argv)
        args, more = parser.parse_known_args(argv)
        if hasattr(args, "more"):
            args.more = more  # of plan: keys of a config
        elif more:
            parser.error(f"unrecognized arguments: {' '.join(more)}")
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        return args.run(args)
    except UserError as error:
        print(f"mnseg: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if (sentence := file_error_in_words(error)) is None:
            traceback.print_exc()
            return 3
        print(f"mnseg: {sentence}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mnseg: interrupted", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        return 3


def build_parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser; ``argv`` only decides whether the report's own options are loaded (they import much)."""
    parser = argparse.ArgumentParser(
        prog="mnseg", description="Train a 3D segmentation model from a few labeled scans (M&N co-training)."
    )
    parser.add_argument("--version", action="version", version=f"mnseg {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_datalist(commands)
    _add_check(commands)
    _add_import(commands)
    _add_phantom(commands)
    _add_dicom(commands)
    _add_federate(commands)
    _add_serve(commands)
    _add_plan(commands)
    report = commands.add_parser("report", help="show a run in pictures, as one HTML page")
    report.set_defaults(run=_run_report)
    if "report" in argv[:1]:
        from mnseg.reports.html import add_report_arguments

        add_report_arguments(report)
    return parser


def _add_plan(commands: argparse._SubParsersAction) -> None:
    from mnseg.planning.command import add_plan_arguments, run_plan

    parser = commands.add_parser(
        "plan", help="time and memory that a training will take, before it begins", allow_abbrev=False,
        description="Give it a training's own arguments: 'mnseg plan' in the place of 'python -m monai.bundle run'. It "
        "runs a few steps of each kind on this machine and adds up the epochs; with --memory it runs none. It writes "
        "nothing.",
    )  # fmt: skip
    add_plan_arguments(parser)
    parser.set_defaults(run=run_plan, more=[])


_SPLIT_HELP = """
WHICH is one of
  N                 N cases drawn by --seed among those with a label
  first:N, last:N   by position in --order (default: sorted by name)
  first:N:SKIP, last:N:SKIP
                    the same, after leaving out SKIP cases at that end
  FILE              a text file with one case a line
All other cases are unlabeled. A case is named by its file name without .nii.gz
or the like, a DICOM series by its folder; image and label have the same name.

example: the first 8 of a list labeled, its last 10 for validation, the 10
before them for testing, the rest unlabeled
  mnseg datalist --images images --labels labels --order train.list \\
    --labeled first:8 --validation last:10 --test last:10:10 -o datalist.json
"""


def _add_datalist(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "datalist",
        help="make a datalist from folders of scans and labels",
        description="Pair scans and labels by file name, split them, check them, write a datalist.",
        epilog=_SPLIT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", metavar="DIR", required=True, help="folder of scans: NIfTI, NRRD or MetaImage "
                                                                     "files, or folders with a DICOM series each")
    parser.add_argument("--labels", metavar="DIR", help="folder of labels with the scans' names")
    parser.add_argument("--labeled", metavar="WHICH", help="default: every case with a label that is left")
    parser.add_argument("--validation", metavar="WHICH", help="default: none")
    parser.add_argument("--test", metavar="WHICH", help="default: none")
    parser.add_argument("--order", metavar="FILE", help="text file with one case a line; other scans are left out")
    parser.add_argument("--seed", type=int, default=0, help="for drawn cases (default: 0)")
    parser.add_argument("--group-by", metavar="HOW", help="keep one patient's scans together; HOW finds the patient: "
                                                          "PatientID (DICOM), a regular expression for the case's name "
                                                          "such as '^[^_]+', or a CSV file with the columns case and "
                                                          "patient")
    parser.add_argument("--patients", dest="group_by", help=argparse.SUPPRESS)  # the former name of --group-by
    parser.add_argument("--ignored", metavar="FILE", help="structures that were not drawn, and are not background: a "
                                                          "CSV file with the columns case and class, a line each")
    parser.add_argument("--hidden-labels", metavar="DIR", help="labels of unlabeled cases, only to log the Dice of "
                                                               "pseudo-labels")
    parser.add_argument("--keep-hidden", action="store_true", help="take hidden labels from --labels")
    parser.add_argument("--class-names", metavar="A,B,…", type=_names, help="names of label values 0, 1, …: the "
                                                                            "background first")
    parser.add_argument("--planar", action="store_true", help="2D images (PNG, JPEG, BMP, TIFF, NIfTI of one slice, "
                                                              "DICOM of one frame) with masks, for sam_mining")
    parser.add_argument("--check", action=argparse.BooleanOptionalAction, default=True,
                        help="read all files first and write nothing when one is unsound (default: yes)")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the datalist to write (JSON)")
    parser.set_defaults(run=_run_datalist)


def _run_datalist(args: argparse.Namespace) -> int:
    from mnseg.data.build_datalist import build_datalist
    from mnseg.data.datalist import SPLITS, write_datalist
    from mnseg.data.integrity import check_datalist
    from mnseg.files import require_writable

    require_writable(args.output)
    built = build_datalist(
        args.images, args.labels, args.hidden_labels, args.keep_hidden, args.labeled, args.validation, args.test,
        args.order, args.seed, args.class_names, args.group_by, args.ignored, args.planar,
    )
    for note in built.notes:
        print(f"note: {note}", file=sys.stderr)
    if args.check:
        report = check_datalist(built.datalist, check_hidden=True, progress=True, allow_empty_unlabeled=True,
                                planar=args.planar)
        _print_findings(report)
        if report.errors:
            raise UserError(f"{args.output} was not written: {report.summary()}. Repair or remove the files named "
                            "above, or write the datalist anyway with --no-check.")
    path = write_datalist(built.datalist, args.output)
    print(f"{path}: " + ", ".join(f"{len(built.datalist[split])} {split}" for split in SPLITS))
    return 0


_IMPORT_HELP = """
NAME, and what SRC must hold
  la           CASE/lgemri.nrrd and CASE/laendo.nrrd (challenge), CASE/mri_norm2.h5
               (UA-MT), or images/ and labels/ in NIfTI; train.list and test.list
  pancreas_ct  PANCREAS_0001, … with DICOM files; label0001.nii.gz, …
  decathlon    dataset.json with imagesTr/ and labelsTr/; any task
  kvasir       images/ and masks/; train.txt and val.txt
  covid_qu_ex  Lung Segmentation Data/ with Train/, Val/ and Test/

WHICH is as in `mnseg datalist --help`, by default the field's split. Where that
comes from published lists, N means the first N of them for --labeled and the
last N for the others; elsewhere N cases are drawn by --seed.

Stopped midway, the same command continues.

example
  mnseg import la "2018LA_Seg_Training Set" data/la --labeled 4
"""


def _add_import(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "import",
        help="make a datalist from a public data set as it is downloaded",
        description="Find a public data set in a folder, convert what must be converted, split it as the field does, "
                    "check it, write OUT/datalist.json.",
        epilog=_IMPORT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", choices=IMPORTERS, help="the data set: " + ", ".join(IMPORTERS))
    parser.add_argument("source", metavar="SRC", help="the folder it was downloaded to")
    parser.add_argument("output", metavar="OUT", help="the folder to write to")
    for option, split in (("labeled", "labeled"), ("validation", "validation"), ("test", "testing")):
        parser.add_argument(f"--{option}", dest=split, metavar="WHICH", help="default: the field's split")
    parser.add_argument("--seed", type=int, default=0, help="for drawn cases (default: 0)")
    parser.add_argument("--keep-hidden", action="store_true", help="name the labels of unlabeled cases, only to log "
                                                                   "the Dice of pseudo-labels")
    parser.add_argument("--check", action=argparse.BooleanOptionalAction, default=True,
                        help="read all files before the datalist is written (default: yes)")
    parser.set_defaults(run=_run_import)


def _run_import(args: argparse.Namespace) -> int:
    from mnseg.data.importers.run import import_dataset

    imported = import_dataset(args.name, args.source, args.output, args.labeled, args.validation, args.testing,
                              args.seed, args.keep_hidden, args.check, progress=True)
    for note in imported.notes:
        print(f"note: {note}", file=sys.stderr)
    for finding in imported.findings:
        print(finding, file=sys.stderr)
    print(f"{imported.path}: " + ", ".join(f"{count} {split}" for split, count in imported.counts.items()))
    print(f"train with:\n  {imported.command}")
    return 0


def _add_check(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "check", help="find what is wrong with the scans of a datalist",
        description="Read every file of a datalist and name all defects. Exit code 1 when there are errors.",
    )
    parser.add_argument("datalist", help="the datalist (JSON)")
    parser.add_argument("--dataset-dir", metavar="DIR",
                        help="where relative paths start (default: the datalist's folder)")
    parser.add_argument("--num-classes", metavar="K", type=positive, help="label values must be 0..K-1 (default: as "
                                                                           "many as the datalist's class_names)")
    parser.add_argument("--jobs", metavar="N", type=positive, help="volumes in memory at once (default: up to 4)")
    parser.add_argument("--planar", action="store_true", help="2D images (PNG, JPEG, BMP, TIFF, NIfTI of one slice, "
                                                              "DICOM of one frame) with masks, for sam_mining")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=_run_check)


def _run_check(args: argparse.Namespace) -> int:
    from mnseg.data.integrity import check_datalist

    report = check_datalist(args.datalist, args.dataset_dir, args.num_classes, args.jobs, check_hidden=True,
                            progress=not args.json, planar=args.planar)
    if args.json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        _print_findings(report)
        print(report.summary())
    return 1 if report.errors else 0


def _print_findings(report: CheckReport) -> None:
    for finding in report.findings:
        print(finding, file=sys.stderr)


def _add_phantom(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "phantom", help="make artificial scans with labels, to try everything without data",
        description="Write artificial scans with several organs, their labels and a datalist; or RGB images of polyps.",
        argument_default=argparse.SUPPRESS,  # the defaults are those of write_phantom_dataset, write_polyp_dataset
    )
    parser.add_argument("output", metavar="DIR", help="folder to write to")
    for split in ("labeled", "unlabeled", "validation", "testing"):
        parser.add_argument(f"--{split}", dest=f"num_{split}", metavar="N", type=count, help=f"{split} cases")
    parser.add_argument("--size", metavar="N", type=positive, nargs="+", help="voxels per edge: one number or three "
                                                                                "(polyps: or two)")
    parser.add_argument("--kind", choices=("abdomen", "polyps"), default="abdomen",
                        help="3D scans, or 2D images for sam_mining (default: abdomen)")
    parser.add_argument("--seed", type=count)
    parser.set_defaults(run=_run_phantom)


def _run_phantom(args: argparse.Namespace) -> int:
    from mnseg.data.phantom import write_phantom_dataset
    from mnseg.data.phantom_polyps import write_polyp_dataset

    axes, write = {"abdomen": (3, write_phantom_dataset), "polyps": (2, write_polyp_dataset)}[args.kind]
    options = {name: value for name, value in vars(args).items() if name not in ("run", "output", "kind")}
    if "size" in options:
        if len(options["size"]) not in (1, axes):
            words = "three" if axes == 3 else "two"
            raise UserError(f"--size takes one number or {words}, not {len(options['size'])}.")
        options["size"] = options["size"][0] if len(options["size"]) == 1 else tuple(options["size"])
    if (Path(args.output) / "datalist.json").exists():
        raise UserError(f"{args.output} holds a datalist already: choose another folder, or remove this one.")
    print(write(args.output, **options))
    return 0


def _add_dicom(commands: argparse._SubParsersAction) -> None:
    from mnseg.dicom_commands import add_dicom_seg, add_seg_to_nifti

    add_seg_to_nifti(commands, _names)
    add_dicom_seg(commands, _names)


def _add_federate(commands: argparse._SubParsersAction) -> None:
    from mnseg.federated_command import add_federate

    add_federate(commands)


def _add_serve(commands: argparse._SubParsersAction) -> None:
    from mnseg.serve_command import add_serve

    add_serve(commands)


def _run_report(args: argparse.Namespace) -> int:
    from mnseg.files import require_writable
    from mnseg.reports.html import run_report

    require_writable(args.output)
    print(run_report(args))
    return 0


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names) or len(names) < 2:
        raise argparse.ArgumentTypeError("give two or more different names, separated by commas, the background first")
    return names


if __name__ == "__main__":
    sys.exit(main())
