"""How long a clinician waits: start, first mask, masks while a training runs, a label until a better model is served.

    python benchmarks/label_latency.py --requests 30

One server on phantom scans, with the true labels of some of them there from the start. Prints a Markdown table. The
share of p95 during training over p95 idle is measured in this one run; a training stands still while an inference runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from bench_common import hardware
from clinician.person import Clinician
from clinician.server import LabelServer
from demo_label import SETTINGS, STRUCTURES

from mnseg.data.phantom import write_phantom_dataset


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=30, help="inferences, idle and during a training each")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two inferences")
    parser.add_argument("--size", type=int, default=96, help="voxels per edge of a scan")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of inference and training; 0: all")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), args)
    machine = hardware(torch.device("cpu"))
    print(f"{machine['hardware']}, {machine['cpus']} cores, scans of {args.size}^3 voxels\n\n| | seconds |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")
    return 0


def measure(folder: Path, args: argparse.Namespace) -> list[tuple[str, str]]:
    scans, labels = folder / "scans", folder / "labels"
    made = json.loads(write_phantom_dataset(folder / "made", 14, 0, 0, 0, size=args.size).read_text())
    for place in (scans, labels):
        place.mkdir()
    for number, item in enumerate(made["labeled"]):
        shutil.copy(folder / "made" / item["image"], scans)
        if number < 8:
            shutil.copy(folder / "made" / item["label"], labels / Path(item["image"]).name)
    truths = folder / "truth"
    truths.mkdir()
    for item in made["labeled"]:
        shutil.copy(folder / "made" / item["label"], truths / Path(item["image"]).name)
    conf = {"settings": json.dumps(SETTINGS), "import_labels": labels, "min_labels": 6, "retrain_after": 1,
            "retrain_pause": 0, "validation_fraction": 0.3, "threads": args.threads}  # fmt: skip
    with LabelServer(scans, STRUCTURES, conf, folder / "server.log", "stopwatch") as server:
        person = Clinician(server, truths, STRUCTURES, 10**9, folder)
        server.wait(lambda status: status["model"] and not status["training"]["running"], 1800, "the first model")
        image = sorted(scans.glob("*.nii.gz"))[-1].name.removesuffix(".nii.gz")
        first = timed(person, image)
        idle = [timed(person, image, args.pause) for _ in range(args.requests)]
        before = server.status()["model"]["version"]
        saved = time.perf_counter()
        person.label_next("disagreement")
        server.wait(lambda status: status["training"]["running"], 120, "a training that nobody asked for")
        busy, polls = during(server, person, image, args)
        server.wait(lambda status: not status["training"]["running"], 1800, "the end of the training")
        took = time.perf_counter() - saved
        after = server.status()
    outcome = "served" if after["model"]["version"] != before else "kept back"
    ratio = np.percentile(busy, 95) / np.percentile(idle, 95)
    return [
        ("start of the server until it answers", f"{server.seconds_to_start:.1f}"),
        ("first mask", f"{first:.2f}"),
        (f"mask, idle, {len(idle)} requests: median, p95", spread(idle)),
        (f"mask during a training, {len(busy)} requests: median, p95", spread(busy)),
        ("p95 during a training / idle", f"{ratio:.2f}"),
        (f"status while masks are made and a training runs, {len(polls)} polls: median, p95", spread(polls)),
        (f"a saved label until the end of its training (version {outcome}), with these inferences in between",
         f"{took:.0f}"),
    ]  # fmt: skip


def during(server: LabelServer, person: Clinician, image: str, args: argparse.Namespace) -> tuple[list, list]:
    """Inferences one after another, and status polls beside them, as long as a training runs."""
    polls: list[float] = []
    done = threading.Event()

    def poll() -> None:
        while not done.is_set():
            begun = time.perf_counter()
            server.get("/train/")
            polls.append(time.perf_counter() - begun)
            done.wait(0.25)

    thread = threading.Thread(target=poll)
    thread.start()
    busy = []
    while len(busy) < args.requests and server.status()["training"]["running"]:
        busy.append(timed(person, image, args.pause))
    done.set()
    thread.join()
    return busy, polls


def timed(person: Clinician, image: str, pause: float = 0.0) -> float:
    time.sleep(pause)
    begun = time.perf_counter()
    person.proposal(image)
    return time.perf_counter() - begun


def spread(values: list[float]) -> str:
    return f"{np.median(values):.3f}, {np.percentile(values, 95):.3f}"


if __name__ == "__main__":
    raise SystemExit(main())
