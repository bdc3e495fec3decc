"""A trained 3D network in half the bytes, in parts where a road takes small files only.

    python benchmarks/bring_home.py full_mn_seed0_g_1of3.pt full_mn_seed0_g_2of3.pt full_mn_seed0_g_3of3.pt model.pt

puts the parts together again: the last name is the file to write.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from bench_common import errors_in_words
from torch import Tensor

from mnseg.errors import UserError
from mnseg.files import atomic_save

__all__ = ["LIMIT", "bring_home", "join"]

LIMIT = 16 * 2**20
RESERVE = 2**16  # what torch.save adds to the tensors


def bring_home(weights: Path, target: Path, limit: int = LIMIT) -> list[Path]:
    """Write ``model.pt`` with its floating-point tensors in bfloat16; ``load_state_dict`` takes that as it is.

    Args:
        weights: ``model.pt``.
        target: file to write; where it would be too large, ``NAME_1of3.pt`` and so on are written in its place.
        limit: bytes of a file.

    Returns:
        The files.

    Raises:
        UserError: one tensor alone is larger than ``limit``; nothing is written.
    """
    content = torch.load(weights, map_location="cpu", weights_only=True)
    half = {
        name: value.bfloat16().contiguous() if value.is_floating_point() else value for name, value in content.items()
    }
    parts = _parts(half, limit, weights)
    names = [target]
    if len(parts) > 1:
        names = [target.with_name(f"{target.stem}_{i}of{len(parts)}{target.suffix}") for i in range(1, len(parts) + 1)]
    return [atomic_save(part, name) for part, name in zip(parts, names, strict=True)]


def _parts(content: Mapping[str, Tensor], limit: int, weights: Path) -> list[dict[str, Tensor]]:
    """In their order, each part as full as ``limit`` allows."""
    room = max(limit - RESERVE, 1)
    parts, free = [{}], room
    for name, value in content.items():
        size = value.numel() * value.element_size()
        if size > room:
            raise UserError(f"{weights}: {name} alone has {size / 2**20:.1f} MiB in bfloat16; a file may have "
                            f"{limit / 2**20:.1f} MiB.")  # fmt: skip
        if size > free:
            parts.append({})
            free = room
        parts[-1][name] = value
        free -= size
    return parts


def join(parts: Sequence[Path], target: Path) -> Path:
    """Put parts together.

    Raises:
        UserError: for a file that does not exist, or the same part twice.
    """
    content: dict[str, Tensor] = {}
    for path in parts:
        if not path.is_file():
            raise UserError(f"{path} does not exist: name all parts, then the file to write.")
        part = torch.load(path, map_location="cpu", weights_only=True)
        if part.keys() & content.keys():
            raise UserError(f"{path} holds tensors that another part holds too: name each part once.")
        content |= part
    return atomic_save(content, target)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", type=Path, metavar="PART")
    parser.add_argument("target", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    with errors_in_words("bring_home.py"):
        print(join(args.parts, args.target))
    return 0


if __name__ == "__main__":
    sys.exit(main())
