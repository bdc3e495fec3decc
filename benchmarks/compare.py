"""Train and compare the rows of docs/benchmarks.md: supervised only, M&N, and its ablations, on the same cases.

    python benchmarks/compare.py hippocampus --labels 4 --data DATA --weights WEIGHTS --jobs 2
    python benchmarks/compare.py la --labels 8 --data DATA --weights WEIGHTS --extra "stage_1_epochs=30 val_cases=4"
    python benchmarks/compare.py hippocampus --labels 4 --data DATA --table-only --runs supervised=RUN1 mn=RUN2

Every row is one ``python -m monai.bundle run`` in a process of its own; a finished row is not trained again. Then the
final weights of both networks are evaluated on scans that no row has trained on, and two Markdown tables are printed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from bench_common import ROOT, errors_in_words, quiet
from measure import evaluate
from protocols import PROTOCOLS, make_datalist
from rows import ABLATIONS, cost, ending_together, find_recipe, train_all
from tables import class_table, difference_table, main_table

from mnseg.arguments import positive
from mnseg.data.datalist import load_datalist
from mnseg.errors import UserError
from mnseg.files import atomic_write, require_writable

DEFAULT_ROWS = ["supervised", "mn", "random_f", "uniform"]


def tables(runs: dict[str, Path], args: argparse.Namespace) -> str:
    """Evaluate what has finished and put the three tables together."""
    results, costs = {}, {}
    for row, run_dir in runs.items():
        if not (run_dir / "models" / "model.pt").exists():
            print(f"{row}: not finished, left out ({run_dir})", file=sys.stderr)
            continue
        costs[row] = cost(run_dir)
        for network in ("g", "f"):
            results[row, network] = evaluate(run_dir, network, args)
    if not results:
        raise UserError("No run has finished: nothing can be compared.")
    split = PROTOCOLS[args.dataset].split
    datalist = load_datalist(args.datalist, args.folder)
    numbers = ", ".join(f"{len(datalist.get(s, []))} {s}" for s in ("labeled", "unlabeled", "validation", "testing"))
    parts = [
        f"**{args.dataset}**: {numbers}. Measured on the {len(datalist[split])} {split} scans, final weights, nothing "
        "chosen on them. g: 3D network, f: 2D network. Metrics by medpy's definitions, distances in voxels; "
        "mean ± sd over cases of the mean over classes. Updates: of this network. Patches seen: unlabeled.",
        main_table(results, costs),
    ]
    if len({r["class_name"] for rows in results.values() for r in rows}) > 1:
        parts += ["By class (no distance: cases whose prediction of the class is empty):", class_table(results)]
    parts += ["Paired per-case differences, mean [95 % bootstrap interval over cases]:", difference_table(results)]
    return "\n\n".join(parts) + "\n"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=sorted(PROTOCOLS))
    parser.add_argument("--labels", type=positive, default=4, help="labeled scans (default: 4)")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder that holds hippocampus/, la/")
    parser.add_argument("--weights", metavar="DIR", help="2D network: local directory or hub id")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/DATASET_LABELS in the repository")
    parser.add_argument("--datalist", type=Path, metavar="FILE", help="default: written to OUT/datalist.json")
    parser.add_argument("--rows", nargs="+", default=DEFAULT_ROWS, metavar="ROW", help=f"of {', '.join(ABLATIONS)}, or "
                        f"files of configs/{{ablations,networks}} (default: {' '.join(DEFAULT_ROWS)})")  # fmt: skip
    parser.add_argument("--recipe", default="configs/recipes/cpu.json", metavar="FILE")
    parser.add_argument("--extra", default="", metavar="'KEY=VALUE …'", help="overrides of the recipe, for every row")
    parser.add_argument("--jobs", type=positive, default=1, help="rows side by side (default: 1)")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads of each row (default: 1)")
    parser.add_argument("--table-only", action="store_true", help="train nothing, show what has finished")
    parser.add_argument("--runs", nargs="+", default=[], metavar="ROW=DIR", help="existing run folders for the table")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here too")
    return parser


def run(args: argparse.Namespace) -> int:
    """Train what is not finished, then print the tables. Returns the exit code."""
    if args.markdown:
        require_writable(args.markdown)
    args.folder = (args.data / args.dataset).absolute()
    if not (args.folder / "images").is_dir():
        raise UserError(f"{args.folder / 'images'} does not exist: --data names the folder that holds {args.dataset}/.")
    args.out = (args.out or ROOT / "runs" / f"{args.dataset}_{args.labels}").absolute()
    if args.weights and Path(args.weights).is_dir():
        args.weights = str(Path(args.weights).absolute())
    if args.datalist is None:
        args.datalist = make_datalist(PROTOCOLS[args.dataset], args.folder, args.labels, args.out / "datalist.json")
    args.datalist = Path(args.datalist).absolute()
    torch.set_num_threads(args.threads)
    args.recipe = find_recipe(args.recipe)
    runs = {row: args.out / row for row in args.rows}
    if args.runs:
        if wrong := [pair for pair in args.runs if "=" not in pair]:
            raise UserError(f"--runs {wrong[0]} names no folder: write ROW=DIR.")
        runs = {name: Path(folder).absolute() for name, _, folder in (pair.partition("=") for pair in args.runs)}
    codes = [] if args.table_only or args.runs else train_all(runs, args)
    text = tables(runs, args)
    print(text)
    if args.markdown:
        atomic_write(args.markdown, lambda path: path.write_text(text))
    return int(any(codes))


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    quiet()
    with errors_in_words("compare.py"), ending_together():
        return run(args)


if __name__ == "__main__":
    sys.exit(main())
