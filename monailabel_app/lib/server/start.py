"""What happens once, when the server starts."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib.conf import AppConf
from lib.durable import append_json_line, read_json_lines
from lib.errors import RequestError
from lib.infers.serving import Serving
from lib.registry.parts import sha256_of
from mnseg.data.volume_formats import VOLUME_SUFFIXES
from mnseg.errors import UserError
from mnseg.files import read_json

__all__ = [
    "dicom_scans",
    "import_labels",
    "leave_with_a_sentence",
    "publish_first_model",
    "require_labels_fit",
    "require_same_labels",
    "set_threads",
    "tame_monailabel",
]

logger = logging.getLogger(__name__)

LABEL_SUFFIXES = sorted(VOLUME_SUFFIXES, key=len, reverse=True)


@contextmanager
def leave_with_a_sentence() -> Iterator[None]:
    """End the server with one sentence when it was started with what cannot be used.

    uvicorn prints a traceback of whatever goes wrong while an application starts. Nothing is open yet, so leaving at
    once harms nobody. Outside of a server the exception goes its way.
    """
    try:
        yield
    except (UserError, RequestError, OSError) as error:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise error from None
        print(f"mnseg: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def tame_monailabel(conf: AppConf) -> None:
    """Switch off what MONAI Label would do by itself, and keep its files in the workspace."""
    from monailabel.config import settings

    settings.MONAI_LABEL_TRACKING_ENABLED = False  # crashes with today's MLflow
    settings.MONAI_LABEL_AUTO_UPDATE_SCORING = False  # starts a process that builds the whole app again
    if not settings.MONAI_LABEL_SESSION_PATH:
        settings.MONAI_LABEL_SESSION_PATH = str(conf.workspace / "sessions")
    if not settings.MONAI_LABEL_DICOMWEB_CACHE_PATH:
        settings.MONAI_LABEL_DICOMWEB_CACHE_PATH = str(conf.workspace / "dicom")


def dicom_scans(conf: AppConf) -> Any:
    """The datastore of a DICOMweb server.

    Raises:
        UserError: dcmqi is missing, without which no label could be stored in the server; or labels lie where an older
            version kept them, by the server's address.
    """
    from monailabel.config import settings

    from lib.datastores.dicomweb import DicomScans
    from lib.datastores.pacs import connect
    from mnseg.data.dicom_seg_write import require_dcmqi

    require_dcmqi()
    # No folder for each address: the server may move, and UIDs are unique in the world.
    folder = Path(settings.MONAI_LABEL_DICOMWEB_CACHE_PATH)
    for older in sorted(folder.glob("?" * 12)):
        if (older / "labels" / "final").is_dir() and not (folder / "labels").exists():
            raise UserError(f"{older} holds labels of an older version: move all that is in it to {folder}.")
    return DicomScans(connect(conf.studies.rstrip("/")), folder, settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER)


def set_threads(threads: int) -> None:
    """CPU threads of inference; 0 leaves them as they are."""
    if threads:
        import torch

        torch.set_num_threads(threads)


def require_same_labels(registry: Any, conf: AppConf) -> None:
    """A workspace belongs to its labels.

    Raises:
        UserError: the published version segments others; or, while its model.json cannot be read, the newest of those
            published before it whose can.
    """
    readable = ((version, names) for version in registry.servable() if (names := _class_names(version)))
    version, names = next(readable, (None, list(conf.class_names)))
    if names != list(conf.class_names):
        raise UserError(f"{version.name} in {conf.workspace} segments {', '.join(names[1:])}, but the labels given are "
                        f"{', '.join(conf.labels)}: start with the same labels, or name another workspace.")


def _class_names(version: Any) -> list[str]:
    """Nothing where model.json is missing or damaged: an earlier version makes the masks then."""
    try:
        content = read_json(version.overlay, "config")
    except (OSError, UserError):
        return []
    names = content.get("class_names") if isinstance(content, dict) else None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def require_labels_fit(datastore: Any, conf: AppConf) -> None:
    """The values of labels that are there already must mean what they meant when they were saved.

    Raises:
        UserError: a label was saved under other names, or under the same in another order, or under fewer: what has no
            name yet is background in it.
    """
    for image_id in datastore.get_labeled_images():
        info = datastore.get_label_info(datastore.get_label_by_image_id(image_id, "final"), "final")
        names = info.get("classes", list(conf.labels))  # none: put into the folder by hand, or by an older server
        if names != list(conf.labels):
            raise UserError(f"The label of {image_id} was saved as {', '.join(names)} (values 1, 2, …), but the labels "
                            f"given are {', '.join(conf.labels)}: start with the same ones in the same order, or with "
                            "a folder of scans whose labels are moved away.")


def publish_first_model(registry: Any, conf: AppConf) -> None:
    """Serve a packed bundle (``--conf model``) until something is trained.

    Raises:
        UserError, RequestError: it cannot be used.
    """
    if conf.model is None:
        return
    if registry.published() is not None:
        logger.info("a version is published already; %s is left alone", conf.model)
        return
    version = registry.adopt(conf.model, by="the server's start")
    try:
        Serving(conf, registry).require_usable(version)
    except RequestError as error:
        raise UserError(f"--conf model {conf.model}: {error.sentence}") from error
    registry.publish(version.id, by="the server's start", reason=f"A model to begin with: {conf.model}.")


def import_labels(app: Any) -> int:
    """Take in the labels of a folder, named exactly as the scans; what has a final label already is left alone.

    Also what gets one meanwhile: the server answers people while it takes in a large folder. A label that was taken in
    once and deleted since does not come back.
    """
    files, taken = _labels_by_name(app.app_conf.import_labels), 0
    labeled = set(app.datastore().get_labeled_images())
    journal = app.app_conf.workspace / "imported.jsonl"
    before = {(line.get("image"), line.get("sha256")) for line in read_json_lines(journal)}
    scans = set(app.datastore().list_images())
    for name, paths in sorted(files.items()):
        if name not in scans:
            logger.warning("%s is not taken in: there is no scan of this name", paths[0])
        elif len(paths) > 1:
            logger.warning("%s is not taken in: there is %s too", paths[0], paths[1].name)
        elif name not in labeled:
            try:
                digest = sha256_of(paths[0])
                if (name, digest) in before:
                    logger.info("%s was taken in before, and its label is gone: it is left alone", paths[0])
                    continue
                app.submissions.take(name, paths[0], "final", {}, "imported", replace=False,
                                     origin={"kind": "folder", "file": paths[0].name})
                append_json_line(journal, {"image": name, "sha256": digest})
                taken += 1
            except (RequestError, OSError) as error:  # the others must not wait
                logger.warning("%s is not taken in: %s", paths[0], getattr(error, "sentence", error))
    logger.info("%d labels were taken in from %s", taken, app.app_conf.import_labels)
    return taken


def _labels_by_name(folder: Path) -> dict[str, list[Path]]:
    """Files without the suffix of their format; a name may hold dots, as dates and DICOM UIDs do."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            suffix = next((suffix for suffix in LABEL_SUFFIXES if path.name.lower().endswith(suffix)), path.suffix)
            found.setdefault(path.name[: len(path.name) - len(suffix)], []).append(path)
    return found
