"""Results: masks on each image's own grid, and a record beside them.

Run by path from inference.json and evaluate.json. Needs monai.
"""

import json
import logging
import os
from pathlib import Path

import monai
import numpy as np
import torch

logger = logging.getLogger("sam_mining")


def mask_saver(write_mask, folder, postfix, num_classes):
    """A transform that writes "pred" (1, H, W), a mask of class indices, as ``CASE_postfix``."""

    def save(item):
        meta = item["image"].meta
        mask = np.asarray(item["pred"][0].cpu()).astype(np.uint8)
        Path(folder).mkdir(parents=True, exist_ok=True)
        path = Path(folder) / f"{meta['case']}_{postfix}"
        try:
            path = write_mask(mask, meta["filename_or_obj"], path, num_classes)
        except OSError as error:
            why = error.strerror or error
            raise SystemExit(f"{path} cannot be written ({why}): free space, or set --output_dir") from None
        logger.info("wrote %s", path)
        return item

    return save


def write_record(path, meta, model_file, class_names, **more):
    """Name, version and notice of the model that made the results, as JSON."""
    record = {
        "model": meta.get("name"),
        "version": meta.get("version"),
        "notice": "Not a medical device. Not for diagnosis.",
        "model_file": str(model_file or "none: random weights"),
        "class_names": class_names,
        "monai": monai.__version__,
        "torch": torch.__version__,
        **more,
    }
    temporary = Path(path).with_name(f".{Path(path).name}.part")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(json.dumps(record, indent=2))
    os.replace(temporary, path)


def count_without_value(metric_details):
    """How many (case, class) pairs of each metric are nan or infinite; warned of."""
    counts = {name: int((~torch.isfinite(values)).sum()) for name, values in metric_details.items()}
    for name, count in counts.items():
        if count:
            logger.warning(
                "%s: %d (case, class) pairs have no finite value because a mask is empty; MONAI leaves nan out of the "
                "mean, inf makes it inf",
                name,
                count,
            )
    return counts
