"""Scores a pool of scans by a finished run: ``scores.json``, which active learning chooses from."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from monai.data.utils import affine_to_spacing
from monai.inferers import Inferer
from monai.transforms import Compose
from torch import Tensor, nn

from mnseg.disagreement import class_disagreement, feature_names, mean_disagreement, scan_features
from mnseg.engines.precision import amp_dtype_of
from mnseg.errors import UserError, user_error_in
from mnseg.files import atomic_write, require_writable, stamp_of

__all__ = ["PoolScorer"]

logger = logging.getLogger(__name__)

FORMAT = 1
SAVE_SECONDS = 20.0


class PoolScorer:
    """Where do the 2D and the 3D network disagree most? One scan at a time, each predicted by both, then forgotten.

    The file is replaced as a whole every ``SAVE_SECONDS`` and at the end; a repeated run goes on where the last one
    stopped, and scores again what has changed: everything after another checkpoint, a scan whose file is another one.
    Scans come in the order of a hash of their case, so that the first ones are a fair sample of the pool. Memory: the
    scan, K float maps of its size, and one batch of windows. Nothing is drawn at random.

    ``scores.json`` holds under "scans" for each case "features" (``scan_features``), for those scored also
    "disagreement" (null: neither network sees anything) and "classes", or, where a scan could not be scored, a "fault".

    Args:
        network: the 3D network, ``(B, C, H, W, D) -> (B, K, H, W, D)`` logits.
        network_2d: the 2D network lifted to the same signature.
        transform: loads an item's "image", as for training.
        inferer: sliding window; give it ``device="cpu"``, where the maps of the whole scan are put together.
        class_names: K names, the background first.
        in_channels: C.
        device: where the networks run.
        scores_file: see above.
        checkpoint: SHA-256 from ``mnseg.networks.trained.load_networks``.
        amp_dtype: None, "bfloat16", "float16", or "auto": bfloat16 where the device has instructions for it.
        max_cases: most scans scored; None: all. The choice is the same every time, as far as the pool is.
    """

    def __init__(
        self,
        network: nn.Module,
        network_2d: nn.Module,
        transform: Compose,
        inferer: Inferer,
        class_names: Sequence[str],
        in_channels: int,
        device: torch.device | str,
        scores_file: str | Path,
        checkpoint: str,
        amp_dtype: str | None = None,
        max_cases: int | None = None,
    ) -> None:
        if max_cases is not None and (isinstance(max_cases, bool) or not isinstance(max_cases, int) or max_cases < 1):
            raise UserError(f"score_cases is {max_cases!r}; it must be a whole number of at least 1, or null for all.")
        require_writable(scores_file)
        self.networks = {"3d": network.eval(), "2d": network_2d.eval()}
        self.transform = transform
        self.inferer = inferer
        self.class_names = list(class_names)
        self.in_channels = in_channels
        self.device = torch.device(device)
        self.path = Path(scores_file)
        self.amp_dtype = amp_dtype_of(amp_dtype, self.device)
        self.max_cases = max_cases
        overlap = getattr(inferer, "overlap", None)
        self.made_with = {"format": FORMAT, "checkpoint": checkpoint, "class_names": self.class_names,
                          "overlap": overlap, "amp_dtype": _name_of(self.amp_dtype)}  # fmt: skip

    def run(self, pool: Sequence[Mapping[str, Any]], labeled: Sequence[Mapping[str, Any]] = ()) -> Path:
        """Score the scans of ``pool``, describe those of ``labeled`` (the 3D network alone predicts them).

        Args:
            pool, labeled: items with "image" and "case".

        Raises:
            UserError: not one scan could be scored.
        """
        known = self._known()
        work = [(item, True) for item in sorted(pool, key=_hash)[: self.max_cases]]
        work += [(item, False) for item in sorted(labeled, key=_hash)]
        records: dict[str, dict[str, Any]] = {}
        for item, scored in work:
            record = known.get(item["case"], {})
            if _is_current(record, item, scored):
                records[item["case"]] = record
        logger.info("%d of %d scans are scored already", len(records), len(work))
        saved = time.monotonic()
        for number, (item, scored) in enumerate(work, start=1):
            if item["case"] in records:
                continue
            records[item["case"]] = self._record(item, scored)
            logger.info("scan %d of %d, %s: %s", number, len(work), item["case"], _told(records[item["case"]]))
            if time.monotonic() - saved >= SAVE_SECONDS:
                self._save(records, complete=False)
                saved = time.monotonic()
        self._require_some(records)
        return self._save(records, complete=True)

    def _known(self) -> dict[str, dict[str, Any]]:
        """Records of an earlier, perhaps unfinished, run on the same checkpoint."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            same = all(content[key] == value for key, value in self.made_with.items())
            return dict(content["scans"]) if same else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _record(self, item: Mapping[str, Any], scored: bool) -> dict[str, Any]:
        """One scan's record; what is wrong with a scan must not keep the others from being scored."""
        stamp = ""
        try:
            stamp = _stamp(item["image"])
            return self._score(item, scored) | {"stamp": stamp}
        except Exception as error:
            why = user_error_in(error) or f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            logger.warning("%s cannot be scored (%s)", item["image"], why)
            return {"fault": str(why), "stamp": stamp}

    @torch.no_grad()
    def _score(self, item: Mapping[str, Any], scored: bool) -> dict[str, Any]:
        image = self.transform({"image": item["image"], "case": item["case"]})["image"]
        spacing = affine_to_spacing(image.affine).tolist() if hasattr(image, "affine") else [1.0, 1.0, 1.0]
        image = image.as_tensor() if hasattr(image, "as_tensor") else torch.as_tensor(image)
        mask = self._predict(image, "3d", item["case"])
        record: dict[str, Any] = {}
        if scored:
            classes = class_disagreement(mask, self._predict(image, "2d", item["case"]), len(self.class_names))
            value = mean_disagreement(classes)
            record["disagreement"] = None if value is None else round(value, 6)
            named = zip(self.class_names[1:], classes, strict=True)
            record["classes"] = {name: None if v is None else round(v, 6) for name, v in named}
        features = scan_features(image, mask, len(self.class_names), spacing)
        return record | {"features": [float(f"{value:.6g}") for value in features]}

    def _predict(self, image: Tensor, name: str, case: str) -> Tensor:
        """Mask (H, W, D) of one network, as inference.json makes it: the mean of the windows' logits decides."""

        def network(window: Tensor) -> Tensor:
            with torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
                return self.networks[name](window.to(self.device)).float()

        logits = self.inferer(image[None].float().cpu(), network)[0]
        if not torch.isfinite(logits).all():
            raise UserError(f"the {name.upper()} network's output for {case} is not finite; train again.")
        return logits.argmax(dim=0).cpu()

    def _require_some(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        faults = [record["fault"] for record in records.values() if "fault" in record]
        if faults and len(faults) == len(records):
            raise UserError(f"Not one of {len(faults)} scans could be scored; the first: {faults[0]}")

    def _save(self, records: Mapping[str, Any], complete: bool) -> Path:
        names = feature_names(self.class_names, self.in_channels)
        content = self.made_with | {"complete": complete, "feature_names": names}
        content["scans"] = dict(sorted(records.items()))
        return atomic_write(self.path, lambda path: path.write_text(json.dumps(content, indent=1) + "\n"))


def _name_of(dtype: torch.dtype | None) -> str | None:
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _hash(item: Mapping[str, Any]) -> str:
    return sha256(item["case"].encode()).hexdigest()


def _stamp(image: str) -> str:
    return sha256(json.dumps(stamp_of(image)).encode()).hexdigest()[:16]


def _is_current(record: Mapping[str, Any], item: Mapping[str, Any], scored: bool) -> bool:
    if "features" not in record or (scored and "disagreement" not in record):
        return False
    try:
        return record.get("stamp") == _stamp(item["image"])
    except OSError:
        return False


def _told(record: Mapping[str, Any]) -> str:
    if "fault" in record:
        return "not scored"
    if "disagreement" not in record:
        return "described"
    value = record["disagreement"]
    return "neither network sees anything" if value is None else f"disagreement {value:.3f}"
