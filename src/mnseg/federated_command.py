"""The command ``mnseg federate``."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from mnseg.errors import UserError

__all__ = ["add_federate"]


def add_federate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "federate", help="train one model on the scans of several simulated hospitals",
        description="Simulate a federation on this machine: sites train one after another on their own scans; only "
                    "weights and numbers of labeled scans are exchanged. Stopped, the same command continues behind "
                    "the last finished round.",
    )
    parser.add_argument("--site", metavar="NAME=DIR", action="append", required=True,
                        help="a site and the folder of its datalist.json; give it once for every site")
    parser.add_argument("--rounds", metavar="R", type=int, required=True,
                        help="how often weights are averaged, evenly over the epochs")
    parser.add_argument("--config-file", metavar="FILE", nargs="+", required=True,
                        help="the bundle's train.json, then overlays")
    parser.add_argument("--run-dir", metavar="OUT", required=True,
                        help="folder to write to: OUT/NAME for every site, OUT/global for the model")
    parser.add_argument("overrides", metavar="-- --KEY VALUE", nargs="*", help="config keys, the same for all sites")
    parser.set_defaults(run=_run_federate)


def _run_federate(args: argparse.Namespace) -> int:
    from mnseg.federated.simulate import simulate
    from mnseg.files import require_writable

    sites = _sites(args.site)
    require_writable(Path(args.run_dir) / "global" / "models" / "model.pt")
    print(simulate(sites, args.rounds, args.config_file, args.run_dir, _overrides(args.overrides)))
    return 0


def _sites(texts: list[str]) -> dict[str, str]:
    sites: dict[str, str] = {}
    for text in texts:
        name, _, folder = text.partition("=")
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or not folder:
            raise UserError(f"--site {text}: write NAME=DIR, the name in letters, digits, '.', '_' and '-'.")
        if name == "global" or name in sites:
            raise UserError(f"--site {text}: the name '{name}' is taken; give every site a name of its own.")
        sites[name] = folder
    return sites


def _overrides(texts: list[str]) -> dict[str, Any]:
    """``--key value`` pairs, values read as ``python -m monai.bundle`` reads them."""
    from fire.parser import DefaultParseValue

    if len(texts) % 2 or not all(key.startswith("--") and len(key) > 2 for key in texts[::2]):
        raise UserError(f"{' '.join(texts)}: after --, write config keys as --KEY VALUE.")
    return {
        key[2:]: DefaultParseValue(value) for key, value in zip(texts[::2], texts[1::2], strict=True)
    }
