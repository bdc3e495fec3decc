"""Small tables that say something about cases: CSV files with a column "case" and one other."""

from __future__ import annotations

import csv
from pathlib import Path

from mnseg.data.volume_io import case_id
from mnseg.errors import UserError

__all__ = ["read_case_table"]


def read_case_table(path: str | Path, column: str) -> list[tuple[str, str]]:
    """Pairs of case id and the value of ``column``, in the file's order; other columns and empty lines are skipped.

    Raises:
        UserError: the file is missing, unreadable, has no header line with "case" and ``column``, or an empty value.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            if missing := [name for name in ("case", column) if name not in header]:
                raise UserError(f"table {path} has no column {' and no column '.join(missing)}: its first line must be "
                                f'"case,{column}".')
            rows = [((row["case"] or "").strip(), (row[column] or "").strip()) for row in reader]
    except FileNotFoundError as error:
        raise UserError(f"table {path} does not exist.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"table {path} cannot be read ({error}).") from error
    rows = [row for row in rows if any(row)]
    if unfinished := next((row for row in rows if not all(row)), None):
        raise UserError(f"table {path} has a line without {'a case' if not unfinished[0] else column} "
                        f"({','.join(unfinished)}).")
    return [(_stem(case), value) for case, value in rows]


def _stem(case: str) -> str:
    """The case id of a name that may still have its image suffix; other dots belong to the name."""
    return case_id(case) if case.lower().endswith((".nii", ".nii.gz", ".nrrd", ".mha")) else case
