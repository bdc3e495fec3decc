"""COVID-QU-Ex: lungs in chest X-rays, 2D (Tahir et al., Computers in Biology and Medicine 2021)."""

from __future__ import annotations

from pathlib import Path

from mnseg.data.importers.common import Case, Source, wrong_layout
from mnseg.data.picture_folders import list_pictures
from mnseg.data.splits import named
from mnseg.errors import UserError

__all__ = ["find"]

PART = "Lung Segmentation Data"  # all images, with lung masks; "Infection Segmentation Data" repeats some of them
SPLITS = ("Train", "Val", "Test")
LAYOUT = f"Train/, Val/ and Test/, or {PART}/ with them, each with GROUP/images and GROUP/lung masks"


def find(src: Path) -> Source:
    """Describe Train, Val and Test in ``src``, in ``src/Lung Segmentation Data`` or once more inside it."""
    folder = next((f for f in (src, src / PART, src / PART / PART) if all((f / s).is_dir() for s in SPLITS)), None)
    if folder is None:
        raise wrong_layout(src, "COVID-QU-Ex", LAYOUT)
    cases = {split: _cases(folder / split, split) for split in SPLITS}
    if not all(cases.values()):
        raise wrong_layout(folder, "COVID-QU-Ex", LAYOUT + ", with images in all three")
    train, validation, test = (len(cases[split]) for split in SPLITS)
    splits = {"labeled": str(train // 2), "validation": f"last:{validation}:{test}", "testing": f"last:{test}"}
    ordered = [case for split in SPLITS for case in cases[split]]
    return Source(["background", "lung"], ordered, splits, overlays=["configs/datasets/covid_qu_ex.json"], planar=True)


def _cases(folder: Path, split: str) -> list[Case]:
    """All groups (COVID-19, Non-COVID, Normal) of a split; file names repeat, so split and group are in the case id."""
    cases = []
    for group in sorted(path for path in folder.iterdir() if (path / "images").is_dir()):
        images, masks = list_pictures(group / "images"), list_pictures(group / "lung masks")
        if lonely := [name for name in images if name not in masks]:
            raise UserError(f"{group / 'lung masks'} has no mask for {named(lonely, noun='image')}; is the download "
                            "complete?")
        cases += [Case(f"{split}_{group.name}_{name}", path, masks[name]) for name, path in images.items()]
    return cases
