"""A trained 3D network in half the bytes, in parts where a road takes small files only.

    python benchmarks/bring_home.py full_mn_seed0_g_1of3.pt full_mn_seed0_g_2of3.pt full_mn_seed0_g_3of3.pt model.pt

puts the parts together again: the last name is the file to write.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from bench_common import errors_in_words
from torch import Tensor

from mnseg.errors import UserError
from mnseg.files import atomic_save, atomic_write

__all__ = ["LIMIT", "bring_home", "bring_home_once", "join"]

LIMIT = 16 * 2**20
PART = re.compile(r"_(\d+)of(\d+)$")
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


def bring_home_once(weights: Path, target: Path) -> list[Path]:
    """``bring_home``, but for weights that came there before, which what is taken away in parts need not bring again.

    ``brought_home.txt`` beside the weights says where they came; remove it to bring them again.

    Returns:
        The files; none where they came before.
    """
    mark = weights.with_name("brought_home.txt")
    if mark.exists() and mark.stat().st_mtime >= weights.stat().st_mtime and mark.read_text() == f"{target}\n":
        return []
    files = bring_home(weights, target)
    atomic_write(mark, lambda temporary: temporary.write_text(f"{target}\n"))
    return files


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
        UserError: for a file that does not exist or is none of the parts, a part that is missing or named twice, or a
            target that looks like a part.
    """
    if target in parts or PART.search(target.stem):
        raise UserError(f"{target} looks like a part: name all parts, then the file to write.")
    for path in parts:
        for missing in _missing(path, parts):
            raise UserError(f"{missing} is missing: name all parts, then the file to write.")
    content: dict[str, Tensor] = {}
    for path in parts:
        part = _read(path)
        if part.keys() & content.keys():
            raise UserError(f"{path} holds tensors that another part holds too: name each part once.")
        content |= part
    return atomic_save(content, target)


def _missing(part: Path, parts: Sequence[Path]) -> list[str]:
    """Names of the parts that belong to this one and are not among ``parts``."""
    found = PART.search(part.stem)
    if found is None:
        return []
    wanted = [f"{part.stem[: found.start()]}_{i}of{found[2]}{part.suffix}" for i in range(1, int(found[2]) + 1)]
    return [name for name in wanted if name not in {path.name for path in parts}]


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path} does not exist: name all parts, then the file to write.")
    try:
        part = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has one for each way in which a file is no file of its own
        raise UserError(f"{path} cannot be read ({type(error).__name__}): bring it home again.") from error
    if not isinstance(part, dict):
        raise UserError(f"{path} holds no weights: name the parts that ablations.py wrote.")
    return part


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
