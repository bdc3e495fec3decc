"""``python -m lib.trainers.check_main DATALIST NUM_CLASSES FAULTS``: writes ``{case: what is wrong with it}``."""

from __future__ import annotations

import sys

from lib.durable import durable_json
from mnseg.data.integrity import check_datalist


def main(argv: list[str]) -> None:
    datalist, num_classes, faults = argv
    report = check_datalist(datalist, num_classes=int(num_classes), allow_empty_unlabeled=True)
    durable_json(faults, {finding.case: finding.message for finding in report.errors if finding.case})


if __name__ == "__main__":
    main(sys.argv[1:])
