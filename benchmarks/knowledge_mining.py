"""Knowledge mining on Kvasir-SEG: U-Net++ alone, one-time, continuous, and with all labels, at equal updates.

    python benchmarks/knowledge_mining.py --data DATA --seeds 0 1 2 --jobs 2
    python benchmarks/knowledge_mining.py --data DATA --promptable DIR --out runs/kvasir_sam        # with SAM's weights

60 of the 400 images are held out for validation and 80 for testing, drawn by seed 0; of the other 260 a quarter, half
and three quarters are labeled, the same ones for all rows and seeds, a larger share containing the smaller ones. Every
row is one ``python -m monai.bundle run`` in a process of its own; a finished row is not trained again, a stopped one
goes on. Final weights are evaluated on the test images, on which nothing is chosen, and two Markdown tables are
printed.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from bench_common import ROOT, errors_in_words, open_bundle, quiet
from rows import ending_together, run_once
from tables import markdown, no_distance, over_seeds, per_case, seed_difference, spread

from mnseg.arguments import positive
from mnseg.data.importers.run import import_dataset
from mnseg.errors import UserError
from mnseg.files import atomic_write, require_writable
from mnseg.reports.history import read_history, series

CONFIGS = ROOT / "bundles" / "sam_mining" / "configs"
DATASET = "configs/datasets/kvasir.json"
FIELD = "configs/metrics/field.json"
VALIDATION, TESTING, TRAINING = 60, 80, 260
SCHEDULES = ("supervised", "one_time", "continuous")
TITLES = {"supervised": "U-Net++ alone", "one_time": "one-time", "continuous": "continuous"}
METRICS = {"dice": ("Dice %", 100), "jaccard": ("Jaccard %", 100), "hd95_voxel": ("HD95 px", 1)}


@dataclass(frozen=True)
class Row:
    """One line of the table: a share of labels in percent and a schedule."""

    share: int
    schedule: str

    @property
    def name(self) -> str:
        return f"{self.share}_{self.schedule}"

    @property
    def labels(self) -> int:
        return TRAINING * self.share // 100

    def run_dir(self, out: Path, seed: int) -> Path:
        return out / f"seed_{seed}" / self.name


def rows_of(shares: Sequence[int], schedules: Sequence[str]) -> list[Row]:
    """All rows; with all labels there is nothing to mine."""
    return [Row(share, schedule) for share in shares for schedule in schedules] + [Row(100, "supervised")]


def data_of(row: Row, args: argparse.Namespace) -> Path:
    """The folder with the row's datalist; imports it unless it is there."""
    folder = args.out / f"data_{row.share}"
    import_dataset("kvasir", args.folder, folder, str(row.labels), str(VALIDATION), str(TESTING), 0, keep_hidden=True)
    return folder


def command(row: Row, seed: int, run_dir: Path, args: argparse.Namespace) -> list[str]:
    """The command that trains a row; it runs in the repository's folder."""
    files = [str((CONFIGS / "train.json").relative_to(ROOT)), DATASET, str(args.recipe)]
    files += [str(run_dir / "extra.json")] if args.extra else []
    options = {
        "run_dir": run_dir,
        "dataset_dir": args.out / f"data_{row.share}",
        "schedule": row.schedule,
        "promptable": args.promptable,
        "seed": seed,
        "embedding_cache_dir": args.out / "embeddings",
    }
    start = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files)]
    return start + [text for key, value in options.items() for text in (f"--{key}", str(value))]


def evaluate(row: Row, run_dir: Path, args: argparse.Namespace) -> list[dict[str, str]]:
    """Rows of the field's metrics on the test images; not measured again where they are newer than the weights."""
    found, weights = run_dir / "eval" / "field_metrics.csv", run_dir / "models" / "model.pt"
    if not found.exists() or found.stat().st_mtime <= weights.stat().st_mtime:
        print(f"{run_dir}: evaluating", file=sys.stderr, flush=True)
        override = {"run_dir": str(run_dir), "dataset_dir": str(args.out / f"data_{row.share}")}
        workflow = open_bundle("evaluate.json", [run_dir / "model.json", FIELD], "infer", CONFIGS, **override)
        workflow.run()
        workflow.finalize()
    with found.open(newline="") as file:
        return list(csv.DictReader(file))


def value_table(results: Mapping[Row, Mapping[int, list[dict[str, str]]]], args: argparse.Namespace) -> str:
    """Metrics, the mined masks' own Dice, and what a row costs."""
    head = ["labels", "row", "seeds", *(title for title, _ in METRICS.values()), "no distance", "Dice by seed",
            "mined: kept, Dice %", "updates", "wall", "CPU"]
    body = []
    for row, by_seed in results.items():
        values = [spread(list(over_seeds(by_seed, metric).values()), scale) for metric, (_, scale) in METRICS.items()]
        means = [100 * sum(v.values()) / len(v) for v in (per_case(rows, "dice") for rows in by_seed.values())]
        missed, folders = sum(map(no_distance, by_seed.values())), [row.run_dir(args.out, seed) for seed in by_seed]
        body.append([f"{row.labels} ({row.share} %)", TITLES[row.schedule], str(len(by_seed)), *values, str(missed),
                     ", ".join(f"{mean:.1f}" for mean in means), _mined(folders), *_costs(folders)])
    return markdown(head, body)


def _mined(folders: Sequence[Path]) -> str:
    """Of the last round, mean over the seeds."""
    last = []
    for folder in folders:
        history = read_history(folder)
        kept, dice = (series(history, key)[1] for key in ("mined_kept", "pseudo_dice_2d"))
        if kept and dice:
            last.append((kept[-1], 100 * dice[-1]))
    if not last:
        return "-"
    return f"{sum(k for k, _ in last) / len(last):.0f}, {sum(d for _, d in last) / len(last):.1f}"


def _costs(folders: Sequence[Path]) -> tuple[str, str, str]:
    settings = [torch.load(folder / "models" / "checkpoint.pt", map_location="cpu", weights_only=True)["engine"]
                for folder in folders]
    records = [json.loads((folder / "benchmark.json").read_text()) for folder in folders]
    times = []
    for key in ("wall_s", "cpu_s"):
        known = [record[key] for record in records if record.get(key) is not None]
        times.append(f"{sum(known) / len(known) / 60:.1f} min" if known else "-")
    return "/".join(sorted({str(s["iteration"]) for s in settings})), *times


def paired_table(results: Mapping[Row, Mapping[int, list[dict[str, str]]]]) -> str:
    """Differences to U-Net++ alone with the same labels, and of each mining row to U-Net++ with all labels."""
    head = ["labels", "row", "against", "Dice, points [95 %]", "Jaccard, points [95 %]"]
    body = []
    for row in results:
        for other in (Row(row.share, "supervised"), Row(100, "supervised")):
            if other == row or other not in results:
                continue
            cells = [_difference(results[row], results[other], metric) for metric in ("dice", "jaccard")]
            against = "all labels" if other.share == 100 else TITLES["supervised"]
            body.append([f"{row.share} %", TITLES[row.schedule], against, *cells])
    return markdown(head, body)


def _difference(ours: Mapping, theirs: Mapping, metric: str) -> str:
    found = seed_difference(ours, theirs, metric)
    if found is None:
        return "-"
    mean, low, high = (100 * value for value in found)
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds kvasir/")
    parser.add_argument("--out", type=Path, help="default: runs/kvasir")
    parser.add_argument("--recipe", default="configs/mining/cpu.json", help="overlay (default: %(default)s)")
    parser.add_argument("--promptable", default="random-walker", help="large model (default: %(default)s)")
    parser.add_argument("--shares", type=int, nargs="+", default=[25, 50, 75],
                        help="percent of labels (default: 25 50 75)")
    parser.add_argument("--schedules", nargs="+", default=list(SCHEDULES), choices=SCHEDULES, help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    parser.add_argument("--extra", default="", help='more settings for all rows, as "key=value key=value"')
    parser.add_argument("--jobs", type=positive, default=1, help="trainings at a time (default: 1)")
    parser.add_argument("--threads", type=positive, default=1, help="threads of each (default: 1)")
    parser.add_argument("--table-only", action="store_true", help="train nothing, show what has finished")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here too")
    return parser


def run(args: argparse.Namespace) -> int:
    """Train what is not finished, seed by seed, then print the tables. Returns the exit code."""
    args.folder, args.out = (args.data / "kvasir").absolute(), (args.out or ROOT / "runs" / "kvasir").absolute()
    torch.set_num_threads(args.threads)
    if args.markdown:
        require_writable(args.markdown)
    rows, args.seeds = list(dict.fromkeys(rows_of(args.shares, args.schedules))), list(dict.fromkeys(args.seeds))
    for row in rows:
        data_of(row, args)
    jobs = [(row, seed, row.run_dir(args.out, seed)) for seed in args.seeds for row in rows]
    codes: list[int] = []
    if not args.table_only:
        with ThreadPoolExecutor(args.jobs) as pool:
            codes = list(pool.map(
                lambda job: run_once(f"{job[0].name}, seed {job[1]}", command(*job, args), job[2], args), jobs))
    results: dict[Row, dict[int, list[dict[str, str]]]] = {}
    for row, seed, run_dir in sorted(jobs, key=lambda job: rows.index(job[0])):
        if (run_dir / "models" / "model.pt").exists():
            results.setdefault(row, {})[seed] = evaluate(row, run_dir, args)
        else:
            print(f"{run_dir}: not finished, left out", file=sys.stderr)
    if not results:
        raise UserError("No run has finished: nothing can be compared.")
    text = "\n\n".join([
        f"**Kvasir-SEG**: {TRAINING} images for training, {VALIDATION} for validation, {TESTING} for testing, on which "
        f"all is measured; final weights, nothing chosen. Large model: {args.promptable}. Mean ± sd over images of the "
        "mean over seeds, medpy's definitions, on the images' own grid. No distance: empty predictions, which HD95 "
        "leaves out.",
        value_table(results, args),
        "Paired differences over the test images, of means over seeds, bootstrap over images (BCa, 9999 resamples):",
        paired_table(results),
    ]) + "\n"  # fmt: skip
    print(text)
    if args.markdown:
        atomic_write(args.markdown, lambda path: path.write_text(text))
    return int(any(codes))


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    quiet()
    with errors_in_words("knowledge_mining.py"), ending_together():
        return run(args)


if __name__ == "__main__":
    sys.exit(main())
