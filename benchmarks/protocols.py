"""The data sets of docs/benchmarks.md, how each is split, and on which scans it is measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mnseg.data.build_datalist import build_datalist
from mnseg.data.datalist import load_datalist, write_datalist
from mnseg.errors import UserError

__all__ = ["PROTOCOLS", "Protocol", "make_datalist", "require_labels"]


@dataclass(frozen=True)
class Protocol:
    """A data set, how it is split, and the split that is measured (final weights: nothing is chosen on it)."""

    overlay: str
    class_names: tuple[str, ...]
    labeled: str
    validation: str
    testing: str | None
    order: str | None
    split: str


PROTOCOLS = {
    "hippocampus": Protocol(
        "configs/datasets/hippocampus.json", ("background", "anterior", "posterior"), "{}", "40", None, None,
        "validation",
    ),
    "la": Protocol(
        "configs/datasets/la.json", ("background", "left atrium"), "first:{}", "last:10", "last:10:10", "train.list",
        "testing",
    ),
    "phantom": Protocol(
        "configs/datasets/phantom.json", ("background", "lobe", "bean", "tube"), "{}", "6", "8", None, "testing",
    ),
}  # fmt: skip


def require_labels(path: Path, labels: int, remedy: str = "give another --out") -> bool:
    """Whether a datalist is there; ``remedy``: what to do with one of others.

    Raises:
        UserError: it has another number of labeled scans.
    """
    if not path.exists():
        return False
    if (found := len(load_datalist(path)["labeled"])) != labels:
        raise UserError(f"{path} has {found} labeled scans, not {labels}: {remedy}.")
    return True


def make_datalist(protocol: Protocol, folder: Path, labels: int, path: Path) -> Path:
    """Write the datalist as ``mnseg datalist --keep-hidden --seed 0`` would, unless it is there.

    Raises:
        UserError: the one that is there has another number of labeled scans.
    """
    if require_labels(path, labels):
        return path
    built = build_datalist(
        folder / "images",
        folder / "labels",
        keep_hidden=True,
        labeled=protocol.labeled.format(labels),
        validation=protocol.validation,
        testing=protocol.testing,
        order=None if protocol.order is None else folder / protocol.order,
        seed=0,
        class_names=protocol.class_names,
    )
    return write_datalist(built.datalist, path)
