"""Remembers what the check of a scan found, so that a large pool is read once and not at every start."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from mnseg._version import __version__
from mnseg.data.case_check import CaseResult, Finding, check_case
from mnseg.data.content_digests import ContentDigests
from mnseg.data.outliers import ScanProfile
from mnseg.data.picture_check import check_picture_case
from mnseg.errors import UserError
from mnseg.files import shared_write

__all__ = ["CheckMemory"]

logger = logging.getLogger(__name__)

PATH_KEYS = ("image", "label", "hidden_label")
REVISION = 2  # of what is remembered: raised with a check that finds, or digests, something else


class CheckMemory:
    """``check_case`` that knows its earlier results; they hold as long as the bytes of all files do.

    Args:
        folder: where ``checks.json`` lies; None: everything is read, nothing remembered.
        num_classes: see ``check_case``.
        check_hidden: see ``check_case``.
        planar: the files are 2D images: ``check_picture_case`` looks at them.
    """

    def __init__(
        self, folder: str | Path | None, num_classes: int | None, check_hidden: bool, planar: bool = False
    ) -> None:
        self.path = None if folder is None else Path(folder) / "checks.json"
        self.digests = None if folder is None else ContentDigests(folder)
        self.settings = [num_classes, check_hidden, __version__, REVISION, *(["planar"] if planar else [])]
        self.check_case = check_picture_case if planar else check_case
        self.earlier = {} if self.path is None else _read(self.path)
        self.results: dict[str, dict] = {}

    def check(self, split: str, item: Mapping[str, Any]) -> CaseResult:
        """The result for one item of a datalist."""
        key = None if self.path is None else self._key(split, item)
        if key in self.earlier:
            result = _restored(self.earlier[key])
        else:
            result = self.check_case(split, item, self.settings[0], self.settings[1])
        if key is not None:
            self.results[key] = asdict(result) | {"classes": sorted(result.classes)}
        return result

    def save(self) -> None:
        """Keep the results of this check and of those before it whose files this one did not name.

        Raises:
            UserError: when the folder cannot be written.
        """
        if self.path is None:
            return
        self.digests.save()
        if self.results.keys() <= self.earlier.keys():
            return
        text = json.dumps(self.earlier | self.results)
        try:
            shared_write(self.path, lambda path: path.write_text(text, encoding="utf-8"))
        except OSError as error:
            message = f"{self.path} cannot be written ({error.strerror}): set cache_dir to another folder."
            raise UserError(message) from error

    def _key(self, split: str, item: Mapping[str, Any]) -> str | None:
        """None where a file is missing or cannot be read, which every check must find anew."""
        try:
            files = [(key, item[key], self.digests.of(item[key])) for key in PATH_KEYS if key in item]
        except OSError:
            return None
        text = json.dumps([split, item["case"], item.get("modality"), files, self.settings])
        return sha256(text.encode()).hexdigest()[:32]


def _read(path: Path) -> dict[str, dict]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read (%s): all scans are checked again.", path, error)
        return {}


def _restored(content: Mapping[str, Any]) -> CaseResult:
    findings = [Finding(**finding) for finding in content["findings"]]
    profile = content["profile"] and ScanProfile(**content["profile"])
    return CaseResult(
        **{**content, "findings": findings, "profile": profile, "classes": frozenset(content["classes"])}
    )
