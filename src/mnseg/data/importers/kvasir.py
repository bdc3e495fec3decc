"""Kvasir-SEG: polyps in colonoscopy images, 2D (Jha et al., MMM 2020)."""

from __future__ import annotations

from pathlib import Path

from mnseg.data.importers.common import Case, Source, ordered_by, wrong_layout
from mnseg.data.picture_folders import list_pictures
from mnseg.data.splits import named
from mnseg.errors import UserError

__all__ = ["find"]


def find(src: Path) -> Source:
    """Describe ``images/`` and ``masks/`` in ``src`` or ``src/Kvasir-SEG``; train.txt and val.txt give the split."""
    folder = next((f for f in (src, src / "Kvasir-SEG") if (f / "images").is_dir() and (f / "masks").is_dir()), src)
    images, masks = list_pictures(folder / "images"), list_pictures(folder / "masks")
    if not images or not masks:
        raise wrong_layout(src, "Kvasir-SEG", "images/NAME.jpg and masks/NAME.jpg (or .png)")
    if lonely := [name for name in images if name not in masks]:
        raise UserError(f"{folder / 'masks'} has no mask for {named(lonely, noun='image')}; is the download complete?")
    cases = {name: Case(name, path, masks[name]) for name, path in images.items()}
    source = Source(["background", "polyp"], list(cases.values()), {},
                    overlays=["configs/datasets/kvasir.json"], planar=True)
    lists = [folder / "train.txt", folder / "val.txt"]
    if all(path.is_file() for path in lists):
        train, test = (ordered_by(path, cases) for path in lists)
        source.cases = train + test
        source.splits = {"labeled": str(len(train) // 2), "validation": None, "testing": f"last:{len(test)}"}
    else:
        count = len(cases)
        train = count - count // 10 - count // 10
        source.splits = {"labeled": str(train // 2), "validation": str(count // 10), "testing": str(count // 10)}
        source.notes.append("no train.txt and val.txt: a tenth is drawn for testing and a tenth for validation.")
    return source
