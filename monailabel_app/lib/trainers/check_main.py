"""``python -m lib.trainers.check_main DATALIST NUM_CLASSES FAULTS``: writes ``{case: what is wrong with it}``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from lib.durable import durable_json
from mnseg.data.datalist import load_datalist
from mnseg.data.integrity import check_datalist
from mnseg.data.volume_io import content_digest
from mnseg.errors import UserError


def main(argv: list[str]) -> None:
    datalist, num_classes, faults = argv
    report = check_datalist(datalist, num_classes=int(num_classes), allow_empty_unlabeled=True)
    found = {finding.case: finding.message for finding in report.errors if finding.case}
    if any(not finding.case for finding in report.errors):  # of several cases together
        found = {**doubles(load_datalist(datalist)), **found}
    durable_json(faults, found)


def doubles(datalist: Mapping[str, Any]) -> dict[str, str]:
    """Of cases with the same voxels all but the first, labeled ones first; in other files than those, say, of one scan
    that was sent twice."""
    kept: dict[str, str] = {}
    found = {}
    for item in (item for split in ("labeled", "validation", "unlabeled") for item in datalist.get(split, [])):
        try:
            first = kept.setdefault(content_digest(item["image"]), item["case"])
        except UserError:  # it has a finding of its own
            continue
        if first != item["case"]:
            found[item["case"]] = f"it is the same scan as {first}"
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
