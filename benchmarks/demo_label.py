"""A simulated clinician labels artificial scans, by disagreement and by chance, while the server retrains itself.

    python benchmarks/demo_label.py --out demo-label

Per strategy one server on 24 scans: six labels are there from the start, then scan after scan is asked for, the model's
mask is taken, corrected towards the truth within a budget, submitted. Trainings start by themselves. At the end wrong
labels are submitted on purpose; the version that learned from them must be refused. Dice is measured on scans that the
server never sees. Writes OUT/report.html and OUT/result.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from clinician.correct import mean_dice
from clinician.person import Clinician
from clinician.report import write_label_report
from clinician.server import ROOT, LabelServer

from mnseg.data.itk_module import load_itk
from mnseg.data.phantom import CLASS_NAMES, write_phantom_dataset

STRUCTURES = list(CLASS_NAMES[1:])
STRATEGIES = ("disagreement", "random")
SETTINGS = {
    "patch_size": [32, 32, 32], "network_def#features": [8, 16, 32, 64, 128, 8], "batch_size": 4, "epoch_length": 8,
    "stage_1_epochs": 8, "warmup_epochs": 1, "stage_2_epochs": 12, "learning_rate": 0.004, "learning_rate_2d": 0.001,
    "model_2d": "segformer-tiny-random", "pretrained": False, "finetuning": "whole", "slice_axis": 2,
    "slice_scale": 2.0, "slice_stride": 2, "refresh_interval": 6, "refresh_cases": 12, "val_interval": 1000,
    "hidden_cases": 0, "checkpoint_interval": 4,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo-label"))
    parser.add_argument("--rounds", type=int, default=2, help="trainings after the first, each after three labels")
    parser.add_argument("--budget", type=int, default=3000, help="voxels that are corrected in a scan")
    parser.add_argument("--size", type=int, default=40, help="voxels per edge of a scan")
    parser.add_argument("--jobs", type=int, default=2, help="strategies side by side")
    args = parser.parse_args()
    args.out = args.out.absolute()
    load_itk()  # before there are threads
    sys.path.insert(0, str(ROOT / "monailabel_app"))
    begun = time.time()
    prepare(args.out, args.size)
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = dict(zip(STRATEGIES, pool.map(lambda name: Simulation(name, args).run(), STRATEGIES), strict=True))
    result = {"minutes": round((time.time() - begun) / 60, 1), "runs": runs}
    (args.out / "result.json").write_text(json.dumps(result, indent=1))
    print(write_label_report(result, args.out / "report.html"))
    return 0 if all(run["poisoned"]["state"] == "refused" for run in runs.values()) else 1


def prepare(out: Path, size: int) -> None:
    """24 scans to label, their truths elsewhere, and 8 hidden scans."""
    if out.exists() and not (out / "phantom").exists() and any(out.iterdir()):
        raise SystemExit(f"{out} holds something else; name another folder with --out.")
    shutil.rmtree(out, ignore_errors=True)
    datalist = json.loads(write_phantom_dataset(out / "phantom", 24, 0, 0, 8, size=size).read_text())
    for split, folder in (("labeled", "truth"), ("testing", "hidden")):
        (out / folder).mkdir()
        for item in datalist[split]:
            shutil.copy(out / "phantom" / item["label"], out / folder / Path(item["image"]).name)
    for strategy in STRATEGIES:
        scans = out / strategy / "scans"
        scans.mkdir(parents=True)
        for item in datalist["labeled"]:
            shutil.copy(out / "phantom" / item["image"], scans)
    (out / "hidden-scans").mkdir()
    for item in datalist["testing"]:
        shutil.copy(out / "phantom" / item["image"], out / "hidden-scans")


class Simulation:
    """One strategy's server and clinician."""

    def __init__(self, strategy: str, args: argparse.Namespace) -> None:
        self.strategy, self.args, self.out = strategy, args, args.out / strategy
        self.truths, self.cases = args.out / "truth", sorted((args.out / "truth").glob("*.nii.gz"))
        self.points: list[dict[str, Any]] = []
        self.labeled: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        start = self.first_labels()
        conf = {
            "settings": json.dumps(SETTINGS), "import_labels": start, "min_labels": 6, "retrain_after": 3,
            "retrain_pause": 0, "validation_fraction": 0.3, "threads": 1,
        }  # fmt: skip
        with LabelServer(self.out / "scans", STRUCTURES, conf, self.out / "server.log", "clinician") as server:
            self.server = server
            self.clinician = Clinician(server, self.truths, STRUCTURES, self.args.budget, self.out)
            self.trained(1)
            for round_ in range(2, self.args.rounds + 2):
                for _ in range(3):
                    self.labeled.append(asdict(self.clinician.label_next(self.strategy)))
                self.trained(round_)
            poisoned = self.poison()
            history = server.status()["history"]
        return {"points": self.points, "labeled": self.labeled, "poisoned": poisoned, "history": history,
                "seconds_to_start": round(server.seconds_to_start, 1)}

    def first_labels(self) -> Path:
        """Six labels that are there from the start: three patients of validation and three others."""
        from lib.trainers.split import in_validation

        kept = [case for case in self.cases if in_validation(_id(case), 0.3)][:3]
        others = [case for case in self.cases if not in_validation(_id(case), 0.3)][:3]
        folder = self.out / "first-labels"
        folder.mkdir()
        for case in kept + others:
            shutil.copy(case, folder)
        return folder

    def trained(self, number: int) -> dict[str, Any]:
        """Wait for training number so and so, which nobody asked for; measure the model that is served then."""
        status = self.server.wait(
            lambda status: not status["training"]["running"] and _newest(status) >= number, 900, f"training {number}"
        )
        self.say(f"training {number}: {' '.join(status['training']['job']['details'][-1:])}")
        if number <= self.args.rounds + 1:
            dice = self.hidden_dice()
            labels = 6 + len(self.labeled)
            self.points.append({"labels": labels, "dice": dice, "version": (status["model"] or {}).get("version")})
            self.say(f"{labels} labels: Dice {dice:.3f} on hidden scans")
        return status

    def hidden_dice(self) -> float:
        """Mean Dice of the served model on scans that are sent along and were never in the folder."""
        values = []
        for scan in sorted((self.args.out / "hidden-scans").glob("*.nii.gz")):
            mask, _ = self.clinician.proposal("", file=scan)
            truth = np.asarray(nib.load(self.args.out / "hidden" / scan.name).dataobj).astype(np.uint8)
            values.append(0.0 if mask is None else mean_dice(mask, truth, len(STRUCTURES)))
        return float(np.mean(values))

    def poison(self) -> dict[str, Any]:
        """Submit labels with all structures mixed up, for scans that train; what learns from them must not win."""
        from lib.trainers.split import in_validation

        before = self.server.status()["model"]
        for case in [case for case in self.cases if not in_validation(_id(case), 0.3)][:12]:
            scan = nib.load(case)
            truth = np.asarray(scan.dataobj).astype(np.uint8)
            wrong = np.where(truth > 0, truth % len(STRUCTURES) + 1, 0).astype(np.uint8)
            self.clinician.submit(_id(case), wrong, scan.affine, None, None, 0, truth)
        count = self.args.rounds + 2
        status = self.trained(count)
        # Labels may have arrived while the first of these trainings had begun: the last one knows them all.
        while status["training"]["waiting"]:
            count += 1
            status = self.trained(count)
        last = status["versions"][-1]
        served = status["model"]
        state = "refused" if served == before and last["id"] != served["version"] else "published"
        self.say(f"poisoned version: {state}; {last.get('verdict', {}).get('reason', '')}")
        return {"state": state, "reason": last.get("verdict", {}).get("reason", ""), "served": served}

    def say(self, text: str) -> None:
        print(f"[{self.strategy}] {text}", flush=True)


def _newest(status: dict[str, Any]) -> int:
    """Number of the newest training; the folders of old ones are removed, so they cannot be counted."""
    return int((status["training"]["job"] or {"id": 0})["id"])


def _id(case: Path) -> str:
    return case.name.removesuffix(".nii.gz")


if __name__ == "__main__":
    raise SystemExit(main())
