"""The rows of the paper's Table 4 and the baselines that make its claims fair, at one of three scales.

    python benchmarks/ablations.py --scale tiny                                        # phantom, two minutes a row
    python benchmarks/ablations.py --scale tiny --ingredients                          # what a recipe may be made of
    python benchmarks/ablations.py --scale lite --data DATA --weights WEIGHTS --jobs 2
    python benchmarks/ablations.py --scale full --data DATA --weights WEIGHTS --minutes 9 --bring-home OUT  # a GPU

Every row and seed is one ``python -m monai.bundle run``; what is finished is not trained again, what was stopped goes
on, also behind ``--minutes``, so that a machine that is lent for a while is enough: the same command is repeated until
it says that nothing is left. The final weights are measured on the scale's test scans, on which nothing is chosen;
``ablations.csv``, ``ablations.md`` and ``ablations.png`` show what has finished. ``--split validation`` measures on the
scans on which a recipe is chosen, and writes ``ablations_validation.csv`` and so on; ``--networks both`` measures the
mean of both networks, ``--networks flips`` the 3D network over each scan's mirror images, and writes
``ablations_both.csv`` and so on.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from ablation_rows import ALL_ROWS, INGREDIENTS, NEEDED, SCALES, for_patches, jobs_of, rows_of
from bench_common import ROOT, errors_in_words, quiet
from bring_home import bring_home_once
from matplotlib.figure import Figure
from measure import NETWORKS, evaluate, is_measured
from protocols import PROTOCOLS, make_datalist, require_labels
from rows import cost, ending_together, find_recipe, train_row
from tables import markdown, no_distance, over_seeds, per_case, seed_difference, spread

from mnseg.arguments import positive
from mnseg.data.phantom import write_phantom_dataset
from mnseg.errors import UserError
from mnseg.files import atomic_write, require_writable

START = time.monotonic()
METRICS = {"dice": ("Dice %", 100), "jaccard": ("Jaccard %", 100), "hd95_voxel": ("HD95", 1), "asd_voxel": ("ASD", 1)}
Results = Mapping[tuple[str, str], Mapping[int, Sequence[dict[str, str]]]]


def train(jobs: Sequence[tuple[str, int]], args: argparse.Namespace) -> None:
    """Train what is not finished; with ``--minutes`` no longer than that."""

    def one(job: tuple[str, int]) -> None:
        row, seed = job
        own = argparse.Namespace(**{**vars(args), "extra": f"{args.extra} seed={seed}".strip()})
        train_row(row, run_dir(args, row, seed), own)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(one, jobs))


def run_dir(args: argparse.Namespace, row: str, seed: int) -> Path:
    return args.out / f"seed_{seed}" / row


def measured(jobs: Sequence[tuple[str, int]], args: argparse.Namespace) -> dict[tuple[str, str], dict[int, list]]:
    """(row, network) -> seed -> rows of the field's metrics, of what has finished.

    With ``--minutes`` what is not measured when they are over is left to the next call, and not in here.
    """
    results: dict[tuple[str, str], dict[int, list]] = {}
    for row, seed in jobs:
        folder = run_dir(args, row, seed)
        for network in args.networks if (folder / "models" / "model.pt").exists() else ():
            over = args.until is not None and time.monotonic() >= args.until
            if over and not is_measured(folder, network, args):
                print(f"{row}, seed {seed}: {network} is measured next time")
                continue
            results.setdefault((row, network), {})[seed] = evaluate(folder, network, args)
    return results


def as_csv(results: Results) -> str:
    """A line for every row, network, seed, case and class."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["row", "network", "seed", "case", "class_name", *METRICS], extrasaction="ignore",
                            lineterminator="\n")  # fmt: skip
    writer.writeheader()
    for (row, network), by_seed in results.items():
        for seed, found in by_seed.items():
            writer.writerows({"row": row, "network": network, "seed": seed, **line} for line in found)
    return text.getvalue()


def as_markdown(results: Results, args: argparse.Namespace, left_out: Mapping[str, str]) -> str:
    """Values, differences to M&N, costs, and what was not measured."""
    titles = [title for title, _ in METRICS.values()]
    head = ["row", "network", "Dice % by seed", *titles, "no distance", "Dice - M&N's", "updates", "wall", "CPU"]
    body = []
    for (row, network), by_seed in results.items():
        values = [spread(list(over_seeds(by_seed, metric).values()), scale) for metric, (_, scale) in METRICS.items()]
        price = {"both": "-", "flips": "-", **cost(run_dir(args, row, next(iter(by_seed))))}
        missed = sum(no_distance(found) for found in by_seed.values())
        each = ", ".join(f"{value:.2f}" for value in dice_of_seeds(by_seed))
        body.append([ALL_ROWS[row][0], network, each, *values, str(missed),
                     _against_mn(results, row, network), price[network], price["wall"], price["cpu"]])  # fmt: skip
    missing = [f"{ALL_ROWS[row][0]}: {why}" for row, why in left_out.items()]
    text = ("Mean ± sd over cases of the mean over seeds; no distance: empty predictions, which HD95 and ASD leave "
            "out; differences paired by case with a 95 % bootstrap interval.\n\n")  # fmt: skip
    return text + markdown(head, body) + ("\n\nNot measured: " + "; ".join(missing) + ".\n" if missing else "\n")


def dice_of_seeds(by_seed: Mapping[int, Sequence[dict[str, str]]]) -> list[float]:
    """Mean Dice over cases, in percent, seed by seed."""
    values = [list(per_case(found, "dice").values()) for found in by_seed.values()]
    return [100 * sum(value) / len(value) for value in values]


def _against_mn(results: Results, row: str, network: str) -> str:
    reference = results.get(("mn", network), {})
    found = None if row == "mn" else seed_difference(results[row, network], reference, "dice")
    return "-" if found is None else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * value for value in found))


def plot(results: Results, network: str, path: Path) -> None:
    """Dice of a network, row by row: mean of each seed, and the mean over seeds."""
    rows = [row for row in ALL_ROWS if (row, network) in results]
    figure = Figure(figsize=(7, 0.4 * len(rows) + 1.2), layout="constrained")
    panel = figure.subplots()
    for height, row in enumerate(reversed(rows)):
        by_seed = results[row, network]
        seeds = dice_of_seeds(by_seed)
        panel.scatter(seeds, [height] * len(seeds), color="tab:blue", s=18)
        panel.scatter([sum(seeds) / len(seeds)], [height], marker="|", color="black", s=160)
    panel.set_yticks(range(len(rows)), [ALL_ROWS[row][0] for row in reversed(rows)])
    panel.set_xlabel(f"Dice of {network}, % (dots: seeds; line: their mean)")
    panel.grid(axis="x", alpha=0.3)
    atomic_write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))


def prepare(args: argparse.Namespace) -> None:
    """Fill in what ``rows`` and ``measure`` ask of the arguments; make the scale's data where it can be made."""
    scale = SCALES[args.scale]
    args.until = None if args.minutes is None else START + 60 * args.minutes
    own = f"ablations_{args.scale}" + (f"_{args.labels}_labels" if args.labels else "")
    args.out = (args.out or ROOT / "runs" / own).absolute()
    if args.bring_home:
        args.bring_home = (args.bring_home / args.out.name).absolute()  # several comparisons may come to one folder
        require_writable(args.bring_home / "g.pt")
    labels = args.labels or scale.labels
    args.dataset, args.recipe = scale.dataset, find_recipe(args.recipe or scale.recipe)
    args.extra = " ".join(filter(None, (scale.extra, args.extra)))
    if scale.dataset == "phantom":
        if args.datalist is not None:
            raise UserError(f"--datalist is for other scans than the phantom of the scale {args.scale}: leave it out.")
        args.folder = args.out / "data"
        require_labels(args.folder / "datalist.json", labels)
        args.datalist = write_phantom_dataset(args.folder, labels)
        args.weights = args.weights or "segformer-tiny-random"
        return
    if args.datalist is not None:
        if args.data is not None:
            raise UserError("--data and --datalist both name scans: give one of them.")
        args.datalist = args.datalist.absolute()
        if not require_labels(args.datalist, labels, "give --labels"):
            raise UserError(f"--datalist {args.datalist} does not exist.")
        args.folder = args.datalist.parent
    elif args.data is None or not (args.data / scale.dataset / "images").is_dir():
        raise UserError(f"--data must name the folder that holds {scale.dataset}/images at the scale {args.scale}.")
    if not args.weights:
        raise UserError("--weights is missing: name the 2D network's directory.")
    args.weights = str(Path(args.weights).absolute()) if Path(args.weights).is_dir() else args.weights
    if args.datalist is None:
        args.folder = (args.data / scale.dataset).absolute()
        args.datalist = make_datalist(PROTOCOLS[scale.dataset], args.folder, labels, args.out / "datalist.json")


def run(args: argparse.Namespace) -> int:
    """Train, measure, write. Returns the exit code: 0 when nothing is left to train."""
    scale = for_patches(SCALES[args.scale], args.extra)
    ingredients = ["mn", *(row for row in INGREDIENTS if row not in scale.left_out)]
    rows = rows_of(scale, ingredients if args.ingredients else args.rows)
    prepare(args)
    torch.set_num_threads(args.threads)
    jobs = jobs_of(rows, range(args.seeds), args.rows or scale.seeded)
    if not args.table_only:
        train(jobs, args)
    left = [f"{row}, seed {seed}" for row, seed in jobs if not (run_dir(args, row, seed) / "models/model.pt").exists()]
    # Before anything is measured: what has come home is not lost with the machine.
    for row, seed in jobs if args.bring_home else ():
        if (weights := run_dir(args, row, seed) / "models" / "model.pt").exists():
            bring_home_once(weights, args.bring_home / f"{row}_seed{seed}_g.pt")
    results = measured(jobs, args)
    if results:
        text = as_markdown(results, args, scale.left_out)
        other = [] if args.networks == ["g", "f"] else args.networks
        stem = "_".join(filter(None, ["ablations", args.split, *other]))
        for folder in filter(None, (args.out, args.bring_home)):
            atomic_write(folder / f"{stem}.csv", lambda path: path.write_text(as_csv(results)))
            atomic_write(folder / f"{stem}.md", lambda path: path.write_text(text))
        plot(results, args.networks[0], args.out / f"{stem}.png")
        print(text)
    print(f"{len(jobs) - len(left)} of {len(jobs)} have finished" + (f"; left: {', '.join(left)}" if left else ""))
    if unmeasured := (len(jobs) - len(left)) * len(args.networks) - sum(map(len, results.values())):
        print(f"{unmeasured} evaluations are left")
    return int(bool(left or unmeasured))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=sorted(SCALES), required=True)
    parser.add_argument("--seeds", type=positive, default=1, help="of the rows that are named, else of "
                        + ", ".join(NEEDED) + " (default: 1)")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="default: all that the scale has")
    parser.add_argument("--ingredients", action="store_true", help="rows: M&N, and each ingredient on top of it")
    parser.add_argument("--labels", type=positive, help="labeled scans (default: the scale's)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder that holds la/")
    parser.add_argument("--datalist", type=Path, metavar="FILE",
                        help="of scans that pack_volumes.py unpacked, in place of --data")  # fmt: skip
    parser.add_argument("--weights", metavar="DIR", help="2D network: local directory or hub id")
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="default: runs/ablations_SCALE[_LABELS_labels] in the repository")  # fmt: skip
    parser.add_argument("--recipe", metavar="FILE", help="default: the scale's")
    parser.add_argument("--extra", default="", metavar="'KEY=VALUE …'", help="settings of every row")
    parser.add_argument("--minutes", type=float, help="since this call's start, then trainings stop behind an "
                        "epoch; the next call goes on")  # fmt: skip
    parser.add_argument("--bring-home", type=Path, metavar="DIR", help="put each finished g in bfloat16, once, and the "
                        "tables into DIR/(name of --out); bring_home.py joins what is in parts")  # fmt: skip
    parser.add_argument("--jobs", type=positive, default=1, help="rows side by side (default: 1)")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads of each (default: 1)")
    parser.add_argument("--split", choices=["validation"], help="measure on these scans (default: the test scans)")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["g", "f"], metavar="NETWORK",
                        help=f"to measure, of {', '.join(NETWORKS)} (both: their mean; flips: g over mirror images; "
                        "default: g f)")  # fmt: skip
    parser.add_argument("--table-only", action="store_true", help="train nothing, show what has finished")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    quiet()
    with errors_in_words("ablations.py"), ending_together():
        return run(args)


if __name__ == "__main__":
    sys.exit(main())
