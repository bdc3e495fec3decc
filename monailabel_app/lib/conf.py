"""All ``--conf KEY VALUE`` pairs of the server, parsed and checked once, before anything is started.

Values arrive as texts, from ``monailabel start_server --conf`` and from ``mnseg serve`` alike. A key that is not known
is refused with the nearest one that is, because MONAI Label itself passes everything on in silence.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from lib.labels.segments import plain_name
from lib.trainers.settings import config_files, merged_settings, resolved
from lib.trainers.soundness import require_sound_training
from mnseg.errors import UserError
from mnseg.files import read_json

__all__ = ["AppConf"]

# Switches that MONAI Label's base class reads itself.
FOREIGN = {"server_mode"}


@dataclass(frozen=True)
class AppConf:
    """What the person who started the server wants; every field but the first three is a ``--conf`` key.

    app_dir: folder of ``main.py``.
    studies: folder of scans, or the URL of a DICOMweb server.
    is_dicomweb: whether `studies` is a URL.
    labels: names of the structures, the label values 1..N in this order; without the background.
    workspace: folder of versions, runs, histories (default: ``STUDIES/.mnseg``, or ``APP/model/<hash>`` for DICOMweb).
    bundle: the co-training bundle.
    overlays: config files laid over train.json, comma-separated on the command line (default: the repository's
        ``configs/recipes/label.json``, or ``cpu.json`` where there is no GPU).
    settings: keys of train.json and their values, a JSON object; they win over the overlays.
    model: folder of a packed bundle that is served until something better is trained, or None.
    promptable: a model for the first scans, to which people show a structure by clicks or a box: a directory or hub id
        of SAM, MedSAM, SAM-HQ or SAM 2, or ``random-walker``; empty: none.
    min_labels: labeled scans without which nothing is trained.
    retrain: whether training starts by itself (``on``, ``off``); it can be switched while the server runs. None: on at
        the first start, later as it was switched last.
    retrain_after: new or changed labels that make it start.
    retrain_pause: minutes between the end of a run and the start of the next.
    quiet_hours: ``HH:MM-HH:MM`` in which no run starts by itself, or empty; it may span midnight.
    validation_fraction: share of patients that never train (by a stable hash).
    folds: models trained for out-of-fold predictions while validation has fewer than three patients; 0 for none.
    margin: how much worse (mean Dice) a new version may be than the best one so far.
    group_by: how the patient is found: ``PatientID`` (DICOM), a regular expression for the image's id, or empty (each
        image is a patient).
    largest_component: whether masks keep only the largest piece of every structure, unless a request says otherwise.
    reserve_minutes: how long a scan that somebody was given is not given to others.
    import_labels: folder with existing labels, named as the scans, taken in at the start; or None.
    unedited: what a mask that was accepted without an edit is in training: ``unlabeled`` (nothing is learned from our
        own output), or ``train``.
    max_upload_mb: size of the largest file that may be sent, in megabytes.
    seg_interval: seconds between two looks at the DICOM server for new DICOM SEG objects.
    seg_sources: programs whose DICOM SEG objects count as labels although they do not say that a person drew them.
    origins: other web servers, such as ``http://pacs:3000``, whose pages (an OHIF of your own) may use this one, and
        names that this one has besides the computer's own, as behind a reverse proxy.
    threads: CPU threads of training and inference each; 0: all.
    openvino: whether OpenVINO runs the network where there is no GPU; faster, the mask is the same but for rounding.
    bfloat16: whether the network makes masks in bfloat16, where CPU or GPU have instructions for it; faster, the mask
        is the same but for rounding.
    warm_epochs: share of the epochs that a training takes which begins with the published version's networks. Half:
        both networks know the task already, and the rate falls over what is left as over a whole training.
    warm_rate: factor on the learning rates of such a training. At full rates the first steps undo what was learned.
    """

    app_dir: Path
    studies: str
    is_dicomweb: bool
    labels: tuple[str, ...]
    workspace: Path
    bundle: Path
    overlays: tuple[Path, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: Path | None = None
    promptable: str = ""
    min_labels: int = 3
    retrain: bool | None = None
    retrain_after: int = 2
    retrain_pause: float = 5.0
    quiet_hours: str = ""
    validation_fraction: float = 0.2
    folds: int = 2
    margin: float = 0.01
    group_by: str = ""
    largest_component: bool = False
    reserve_minutes: float = 60.0
    import_labels: Path | None = None
    unedited: str = "unlabeled"
    max_upload_mb: float = 1024.0
    seg_sources: tuple[str, ...] = ()
    seg_interval: float = 30.0
    origins: tuple[str, ...] = ()
    threads: int = 0
    openvino: bool = False
    bfloat16: bool = False
    warm_epochs: float = 0.5
    warm_rate: float = 0.3

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the label values 0..N."""
        return ("background", *self.labels)

    @property
    def label_indices(self) -> dict[str, int]:
        """``{name: value}`` for 1..N, as MONAI Label's clients want it."""
        return {name: value for value, name in enumerate(self.labels, 1)}

    @property
    def num_classes(self) -> int:
        return len(self.labels) + 1

    @cached_property
    def in_channels(self) -> int:
        """Channels of a scan, as trainings expect them."""
        return resolved(merged_settings(config_files(self.bundle, self.overlays), self.settings), "in_channels") or 1

    @classmethod
    def from_conf(cls, conf: Mapping[str, str] | None, app_dir: str | Path, studies: str) -> AppConf:
        """Parse what the command line gave.

        Raises:
            UserError: an unknown key, a value that cannot be meant, a file that is missing; one sentence.
        """
        conf = {key: str(value) for key, value in (conf or {}).items()}
        _refuse_unknown(conf)
        app_dir = Path(app_dir).absolute()
        is_dicomweb = studies.startswith(("http://", "https://"))
        bundle = _bundle(conf.pop("bundle", ""), app_dir)
        for key in FOREIGN & conf.keys():
            _switch(key, conf.pop(key))
        values = {key: PARSERS[key](key, text) for key, text in conf.items() if key in PARSERS}
        if not values.get("labels"):
            values["labels"] = _labels_of_model(values.get("model"))
        workspace = conf.get("workspace") or _default_workspace(app_dir, studies, is_dicomweb)
        if "overlays" not in values:
            values["overlays"] = _default_overlays(app_dir)
        require_sound_training(bundle, values["overlays"], values.get("settings", {}), values["labels"])
        return cls(app_dir, studies, is_dicomweb, workspace=Path(workspace).absolute(), bundle=bundle, **values)


def _refuse_unknown(conf: Mapping[str, str]) -> None:
    known = {entry.name for entry in fields(AppConf)} - {"app_dir", "studies", "is_dicomweb"} | FOREIGN
    for key in conf:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(sorted(known - FOREIGN))}."
            raise UserError(f"--conf {key}: there is no such key; {hint}")


def _bundle(text: str, app_dir: Path) -> Path:
    bundle = Path(text or app_dir.parent / "bundles" / "mn_cotraining").absolute()
    if not (bundle / "configs" / "train.json").is_file():
        raise UserError(f"--conf bundle {bundle}: it has no configs/train.json; name the folder of the mn_cotraining "
                        "bundle.")
    return bundle


def _default_workspace(app_dir: Path, studies: str, is_dicomweb: bool) -> Path:
    if is_dicomweb:
        return app_dir / "model" / hashlib.sha256(studies.rstrip("/").encode()).hexdigest()[:12]
    return Path(studies) / ".mnseg"


def _default_overlays(app_dir: Path) -> tuple[Path, ...]:
    """train.json alone trains for days on a processor, and longer than people label on a GPU."""
    import torch  # here: reading the settings should not take seconds where overlays are named

    recipe = app_dir.parent / "configs" / "recipes" / ("label.json" if torch.cuda.is_available() else "cpu.json")
    return (recipe,) if recipe.is_file() else ()


def _labels_of_model(model: Path | None) -> tuple[str, ...]:
    """The structures of a packed bundle, when the command line names none."""
    example = '--conf labels "left atrium,right atrium"'
    if model is None:
        raise UserError(f"No labels are named: give the structures in the order of their values, as in {example}.")
    for path in (model / "model.json", model / "configs" / "inference.json"):
        names = read_json(path, "The config").get("class_names") if path.is_file() else None
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return _label_names("labels", ",".join(names[1:]))
    raise UserError(f"--conf model {model}: it names no structures (class_names); give them, as in {example}.")


# ---------------------------------------------------------------- values


def _label_names(key: str, text: str) -> tuple[str, ...]:
    # MONAI Label's shell script splits its arguments at spaces again, quoted or not.
    names = [name.replace("%20", " ").strip() for name in text.split(",")]
    if not all(names):
        raise UserError(f"--conf {key} {text!r}: separate names by single commas.")
    if len({plain_name(name) for name in names}) < len(names):
        raise UserError(f"--conf {key} {text!r}: two names are the same (case, blanks and underscores do not count).")
    if "background" in [plain_name(name) for name in names]:
        raise UserError(f"--conf {key} {text!r}: leave the background out; it is always there, with the value 0.")
    if len(names) > 255:
        raise UserError(f"--conf {key}: {len(names)} structures do not fit into masks of 8 bits (at most 255).")
    return tuple(names)


def _switch(key: str, text: str) -> bool:
    words = {"on": True, "true": True, "yes": True, "1": True, "off": False, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise UserError(f"--conf {key} {text}: write on or off.")
    return words[text.lower()]


def _number(kind: type, low: float, high: float = math.inf) -> Callable[[str, str], Any]:
    def parse(key: str, text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or value == math.inf:
            what = "a whole number" if kind is int else "a number"
            bounds = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
            raise UserError(f"--conf {key} {text}: write {what} {bounds}.")
        return value

    return parse


def _folds(key: str, text: str) -> int:
    folds = _number(int, 0, 10)(key, text)
    if folds == 1:
        raise UserError(f"--conf {key} 1: a single fold would hold out everything; write 0, or 2 and more.")
    return folds


def _quiet_hours(key: str, text: str) -> str:
    hour = r"([01]?\d|2[0-3]):[0-5]\d"
    if text and not re.fullmatch(f"{hour}-{hour}", text):
        raise UserError(f"--conf {key} {text}: write it as 22:00-06:00.")
    return text


def _json_object(key: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"--conf {key}: {error}; write a JSON object such as '{{\"max_epochs\": 100}}'.") from error
    if not isinstance(value, dict):
        raise UserError(f"--conf {key}: write a JSON object such as '{{\"max_epochs\": 100}}'.")
    return value


def _file_list(key: str, text: str) -> tuple[Path, ...]:
    paths = tuple(Path(part.strip()).absolute() for part in text.split(",") if part.strip())
    for path in paths:
        if not path.is_file():
            raise UserError(f"--conf {key}: {path} is not there; name config files, separated by commas.")
    return paths


def _folder(key: str, text: str) -> Path | None:
    if not text:
        return None
    if not Path(text).is_dir():
        raise UserError(f"--conf {key} {text}: there is no such folder.")
    return Path(text).absolute()


def _pattern(key: str, text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise UserError(f"--conf {key} {text}: no regular expression ({error}); write one that finds the patient in "
                        "an image's id, such as ^[^_]+, or PatientID.") from error
    return text


def _origins(key: str, text: str) -> tuple[str, ...]:
    origins = tuple(part.strip().rstrip("/") for part in text.split(",") if part.strip())
    for origin in origins:
        if not re.fullmatch(r"https?://[^/]+", origin):
            raise UserError(f"--conf {key} {origin}: write it as http://HOST:PORT.")
    return origins


def _one_of(*words: str) -> Callable[[str, str], str]:
    def parse(key: str, text: str) -> str:
        if text not in words:
            raise UserError(f"--conf {key} {text}: write {' or '.join(words)}.")
        return text

    return parse


def _openvino(key: str, text: str) -> bool:
    from mnseg.inferers.openvino import has_openvino  # here: it imports MONAI

    if (wanted := _switch(key, text)) and not has_openvino:
        raise UserError("--conf openvino: OpenVINO is not installed; pip install 'mnseg[openvino]'.")
    return wanted


PARSERS: dict[str, Callable[[str, str], Any]] = {
    "labels": _label_names,
    "overlays": _file_list,
    "settings": _json_object,
    "model": _folder,
    "promptable": lambda key, text: text.strip(),
    "min_labels": _number(int, 1),
    "retrain": _switch,
    "retrain_after": _number(int, 1),
    "retrain_pause": _number(float, 0),
    "quiet_hours": _quiet_hours,
    "validation_fraction": _number(float, 0, 0.9),
    "folds": _folds,
    "margin": _number(float, 0, 1),
    "group_by": _pattern,
    "largest_component": _switch,
    "reserve_minutes": _number(float, 0, 525600),  # a year
    "import_labels": _folder,
    "unedited": _one_of("train", "unlabeled"),
    "max_upload_mb": _number(float, 0.001, 100000),
    "seg_interval": _number(float, 1, 86400),
    "seg_sources": lambda key, text: tuple(part.strip() for part in text.split(",") if part.strip()),
    "origins": _origins,
    "threads": _number(int, 0, 1024),
    "openvino": _openvino,
    "bfloat16": _switch,
    "warm_epochs": _number(float, 0.01, 1),
    "warm_rate": _number(float, 0.001, 1),
}
