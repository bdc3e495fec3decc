"""mine.json: a folder of images becomes a folder of pseudo-labels with their scores."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from mnseg.data.case_check import Finding
from mnseg.data.picture_check import check_picture_case
from mnseg.data.picture_folders import list_pictures
from mnseg.errors import UserError
from mnseg.files import require_writable
from mnseg.mining.decisions import require_some_kept, told
from mnseg.mining.miner import Miner
from mnseg.mining.training.predict import Predictor
from mnseg.mining.training.rounds import SUMMARY, MinedWriter

__all__ = ["find_images", "mine_folder"]

logger = logging.getLogger(__name__)


def find_images(
    folder: str | Path, output: str | Path, num_classes: int, skip_unreadable: bool = False
) -> dict[str, Path]:
    """The images of a folder by case, all of them read once.

    Args:
        folder: of images.
        output: where masks will be written.
        num_classes: of the masks; they count for the memory that an image takes.
        skip_unreadable: leave out images that cannot be used, with a warning.

    Raises:
        UserError: no image, one that cannot be used, or ``output`` cannot be written.
    """
    if not Path(folder).is_dir():
        raise UserError(f"{folder} is not a folder: set dataset_dir to a folder of images.")
    images = list_pictures(folder)
    if not images:
        raise UserError(f"{folder} holds no images (PNG, JPEG, BMP, TIFF, NIfTI or DICOM): set dataset_dir.")
    if Path(output).resolve() == Path(folder).resolve():
        raise UserError(f"output_dir and dataset_dir are both {folder}: masks would take the place of images; give "
                        "output_dir another folder.")
    require_writable(Path(output) / SUMMARY)
    faults: dict[str, Finding] = {}
    for case, path in images.items():
        checked = check_picture_case("unlabeled", {"image": str(path), "case": case}, num_classes, False)
        if errors := [finding for finding in checked.findings if finding.level == "error"]:
            faults[case] = errors[0]
    if not faults:
        return images
    more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
    listed = "; ".join(finding.message.removesuffix(".") for finding in list(faults.values())[:5])
    told = f"{len(faults)} of {len(images)} images cannot be used: {listed}{more}"
    if len(faults) == len(images):
        raise UserError(f"{told}: repair them, or set dataset_dir to a folder of others.")
    if not skip_unreadable:
        raise UserError(f"{told}: repair or remove them, or leave them out with --skip_unreadable True.")
    logger.warning("%s: they are left out.", told)
    return {case: path for case, path in images.items() if case not in faults}


def mine_folder(images: dict[str, Path], predictor: Predictor, miner: Miner, output: str | Path,
                class_names: Sequence[str]) -> Counter[str]:
    """Mine all images; write the kept masks, ``decisions.csv`` (scores) and ``summary.json`` to ``output``.

    A stopped run goes on when it is repeated: the large model is not asked again about an image that it has seen.

    Returns:
        How many images met each decision.

    Raises:
        UserError: no mask was kept; decisions are written all the same.
    """
    writer = MinedWriter(Path(output), {case: str(path) for case, path in images.items()}, len(class_names))
    for case, path in tqdm(images.items(), "mining"):
        writer.mine(miner, case, *predictor({"case": case, "image": str(path)}))
    counts = writer.finish(class_names=list(class_names))
    logger.info("%s: %s", output, told(counts))
    require_some_kept(counts, miner)
    return counts
