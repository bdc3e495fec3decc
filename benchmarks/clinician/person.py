"""The simulated clinician: asks for the next scan, takes the model's mask, corrects it, submits it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from monailabel.client.client import MONAILabelClientException

from clinician.correct import correct, mean_dice
from clinician.server import LabelServer

__all__ = ["Clinician", "Labeled"]

# What 3D Slicer's plugin sends with every inference.
SLICER = {"result_extension": ".nrrd", "result_dtype": "uint8"}


@dataclass(frozen=True)
class Labeled:
    """One scan's labeling.

    image: its id.
    version: the version that proposed a mask, or None.
    proposed: Dice of the proposal, or None.
    submitted: Dice of what was submitted.
    changed: voxels that the clinician changed; all of the structures where there was no proposal.
    """

    image: str
    version: str | None
    proposed: float | None
    submitted: float
    changed: int


class Clinician:
    """Labels scans of a server.

    Args:
        server: the label server.
        truths: folder with the truth of every scan, under its name.
        structures: their names, in the order of their values.
        budget: voxels that are corrected in a scan; without a proposal everything is drawn.
        work: folder for temporary files.
    """

    def __init__(self, server: LabelServer, truths: Path, structures: list[str], budget: int, work: Path) -> None:
        self.server, self.truths, self.structures = server, truths, structures
        self.budget, self.work = budget, work

    def label_next(self, strategy: str) -> Labeled | None:
        """Ask, correct, submit; None when no scan is left."""
        sample = self.server.client.next_sample(strategy, {})
        if not sample:
            return None
        image = sample["id"]
        scan = nib.load(self.truths / f"{image}.nii.gz")
        truth = np.asarray(scan.dataobj).astype(np.uint8)
        mask, version = self.proposal(image)
        if mask is None:
            return self.submit(image, truth, scan.affine, None, None, int((truth > 0).sum()), truth)
        corrected, changed = correct(mask, truth, self.budget)
        proposed = mean_dice(mask, truth, len(self.structures))
        return self.submit(image, corrected, scan.affine, version, proposed, changed, truth)

    def proposal(self, image: str, file: Path | None = None) -> tuple[np.ndarray | None, str | None]:
        """The served mask (H, W, D) and the version's name; (None, None) before there is a model."""
        try:
            path, params = self.server.client.infer("mnseg", image, dict(SLICER), file=file and str(file))
        except MONAILabelClientException as error:
            if "no model yet" in str(error).lower() + str(getattr(error, "msg", "")).lower():
                return None, None
            raise
        import itk

        mask = itk.array_from_image(itk.imread(path)).transpose().astype(np.uint8)
        Path(path).unlink()
        return mask, params.get("version")

    def submit(
        self, image: str, mask: np.ndarray, affine: np.ndarray, version: str | None, proposed: float | None,
        changed: int, truth: np.ndarray,
    ) -> Labeled:
        """Send a mask as 3D Slicer does: the values in an order of its own, the names beside it."""
        order = list(reversed(self.structures))
        values = np.zeros(len(order) + 1, np.uint8)
        for place, name in enumerate(order, start=1):
            values[1 + self.structures.index(name)] = place
        path = self.work / f"{image}.nii.gz"
        nib.save(nib.Nifti1Image(values[mask], affine), path)
        info = [{"name": name, "idx": place} for place, name in enumerate(order, start=1)]
        self.server.client.save_label(image, str(path), "final", {"label_info": info})
        path.unlink()
        return Labeled(image, version, proposed, mean_dice(mask, truth, len(self.structures)), changed)
