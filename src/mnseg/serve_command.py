"""The command ``mnseg serve``: the labeling server, with its environment checked before anything is imported."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import shutil
import socket
import sys
import urllib.error
import urllib.request
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mnseg.errors import UserError

__all__ = ["add_serve"]

_EPILOG = """
Labels are values 1, 2, … in the order given. Everything else is a --conf key, such as
  --conf retrain_after 4         new labels after which training starts by itself
  --conf quiet_hours 08:00-18:00 no training starts by itself in these hours
  --conf settings '{"max_epochs": 200}'   keys of train.json
docs/how-to/label-in-slicer.md lists them.

examples
  mnseg serve scans --labels "left atrium"
  mnseg serve http://localhost:8042/dicom-web --labels pancreas --modality CT
"""


def add_serve(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "serve", help="label with 3D Slicer or OHIF while the model retrains itself",
        description="Serve scans and the newest good model to 3D Slicer and OHIF (MONAI Label); train on every label "
                    "that comes back.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("studies", metavar="STUDIES", help="folder of NIfTI, NRRD or MetaImage files, or the URL of a "
                                                           "DICOMweb server")
    parser.add_argument("--labels", metavar="A,B,…", help="names of the structures, without the background; a packed "
                                                          "model given by --model knows its own")
    parser.add_argument("--model", metavar="DIR", help="packed bundle to begin with")
    parser.add_argument("--modality", metavar="M", help="DICOMweb: modality of the series to label, such as CT or MR")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other computers in, "
                                                            "without a password (default: this computer only)")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    parser.add_argument("--workspace", metavar="DIR", help="folder of versions and histories (default: STUDIES/.mnseg)")
    parser.add_argument("--conf", metavar=("KEY", "VALUE"), nargs=2, action="append", default=[],
                        help="any other setting; may be repeated")
    parser.add_argument("--app", metavar="DIR", help="folder of the MONAI Label app (default: the one beside mnseg)")
    parser.set_defaults(run=_run_serve)


def _run_serve(args: argparse.Namespace) -> int:
    app = _app_folder(args.app)
    _require_packages()
    is_dicomweb = args.studies.startswith(("http://", "https://"))
    if is_dicomweb:
        _require_dicomweb(args.studies, args.modality)
    else:
        _require_folder(args.studies, args.modality)
    _require_port(args.host, args.port)
    conf = _conf(args)
    _set_environment(args, is_dicomweb)
    _say_where(args)
    return _serve(app, args, conf)


# ---------------------------------------------------------------- checks


def _app_folder(given: str | None) -> Path:
    app = Path(given) if given else Path(__file__).parents[2] / "monailabel_app"
    if not (app / "main.py").is_file():
        raise UserError(f"There is no MONAI Label app in {app}: name the folder monailabel_app of mnseg's source with "
                        "--app.")
    return app.absolute()


def _require_packages() -> None:
    """MONAI Label and what it cannot do without, each with the command that mends it."""
    if importlib.util.find_spec("monailabel") is None:
        raise UserError("MONAI Label is not installed: pip install 'mnseg[app]', best in a virtual environment of its "
                        "own, since it needs older versions of pydicom and numpy.")
    if int(_version_of("pydicom").split(".")[0]) >= 3:
        raise UserError(f"MONAI Label does not start with pydicom {_version_of('pydicom')}: pip install 'pydicom<3', "
                        "best in a virtual environment of its own.")
    if importlib.util.find_spec("torchvision") is not None:
        try:
            importlib.import_module("torchvision")
        except Exception as error:  # a library for another torch fails in many ways
            raise UserError(f"torchvision is installed, but it was built for another torch ({_line(error)}), and so "
                            "peft cannot be imported: pip uninstall torchvision (nothing here needs it), or install "
                            "the one that belongs to your torch.") from error


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "0"


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _require_folder(studies: str, modality: str | None) -> None:
    folder = Path(studies)
    if not folder.is_dir():
        raise UserError(f"{studies} is no folder: name the folder of the scans, or the URL of a DICOMweb server.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{studies} may not be written to, but labels are kept in it: change its permissions, or copy "
                        "the scans.")
    if modality:
        raise UserError("--modality belongs to a DICOMweb server; files of a folder do not say theirs.")
    _note_scans(folder)


def _note_scans(folder: Path) -> None:
    """Say what the server will not find; it takes names as they are, and capital letters for others."""
    suffixes = (".nii.gz", ".nii", ".nrrd", ".mha")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    capital = [name for name in names if name.lower().endswith(suffixes) and not name.endswith(suffixes)]
    if capital:
        print(f"note: files such as {capital[0]} ({len(capital)} here) are not taken for scans: rename them, so that "
              "they end in small letters (.nii.gz).", file=sys.stderr)
    if not any(name.endswith(suffixes) for name in names):
        print(f"note: {folder} holds no scan yet (.nii.gz, .nii, .nrrd, .mha; folders in it are not searched).",
              file=sys.stderr)


def _require_dicomweb(url: str, modality: str | None) -> None:
    if not modality:
        raise UserError("Name the modality of the series to label, such as --modality CT.")
    _require_dcmqi()
    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/series?limit=1", timeout=10).close()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403) and os.environ.get("MONAI_LABEL_DICOMWEB_USERNAME"):
            return  # MONAI Label sends name and password itself
        raise UserError(f"{url} answers {error.code} to a search for series: correct the URL (of Orthanc: "
                        "http://HOST:8042/dicom-web), or set MONAI_LABEL_DICOMWEB_USERNAME and "
                        "MONAI_LABEL_DICOMWEB_PASSWORD.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{url} cannot be reached ({_line(error)}): start the DICOMweb server, or correct the "
                        "URL.") from error


def _require_dcmqi() -> None:
    """Without it MONAI Label would try to download it."""
    scripts = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([scripts, os.environ.get("PATH", "")])
    if shutil.which("itkimage2segimage") is None:
        raise UserError("dcmqi is not installed, which writes DICOM SEG objects: pip install dcmqi.")


def _require_port(host: str, port: int) -> None:
    if not 0 < port < 65536:
        raise UserError(f"--port {port}: choose a number from 1 to 65535.")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(found[0][0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found[0][4])
    except (OSError, OverflowError) as error:
        raise UserError(f"The server cannot listen on {host}, port {port} ({_line(error)}): end what uses it, or "
                        "choose another with --port.") from error


# ---------------------------------------------------------------- start


def _conf(args: argparse.Namespace) -> dict[str, str]:
    conf = dict(args.conf)
    for key in ("labels", "model", "workspace"):
        value = getattr(args, key)
        if value is not None:
            if key in conf:
                raise UserError(f"{key} is given twice, by --{key} and by --conf; keep one.")
            conf[key] = value
    if not conf.get("labels") and not conf.get("model"):
        raise UserError('Name the structures to label, such as --labels "left atrium", or give a packed model by '
                        "--model.")
    return conf


def _set_environment(args: argparse.Namespace, is_dicomweb: bool) -> None:
    """MONAI Label reads these when it is imported; what the user has set stays."""
    defaults = {
        "MONAI_LABEL_TRACKING_ENABLED": "false",
        "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
    }
    if is_dicomweb:
        defaults["MONAI_LABEL_DICOMWEB_SEARCH_FILTER"] = json.dumps({"Modality": args.modality})
        defaults["MONAI_LABEL_DICOMWEB_CACHE_EXPIRY"] = "10"  # seconds until a new series or label is seen
    for key, value in defaults.items():
        os.environ.setdefault(key, value)


def _say_where(args: argparse.Namespace) -> None:
    host = "127.0.0.1" if args.host in ("0.0.0.0", "::") else args.host
    url = f"http://{host}:{args.port}"
    print(f"3D Slicer, module MONAI Label: server {url}\nStatus, in a browser: {url}/mnseg/")
    if args.studies.startswith("http"):
        print(f"OHIF, in a browser: {url}/ohif/")
    if args.host in ("0.0.0.0", "::"):
        print("Every computer in the network may use this server, without a password.", file=sys.stderr)
    print("The server takes some seconds to start; end it with Ctrl-C.", flush=True)


def _serve(app: Path, args: argparse.Namespace, conf: dict[str, str]) -> int:
    from monailabel.main import Main

    pairs = [part for key, value in conf.items() for part in ("--conf", key, value)]
    sys.argv = ["monailabel", "start_server", "--app", str(app), "--studies", args.studies, "--host", args.host,
                "--port", str(args.port), *pairs]
    Main().run()
    return 0
