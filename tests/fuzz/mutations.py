"""Damaged copies of the seeds, always the same ones: bytes, whole files, names."""

from __future__ import annotations

import gzip
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

from fuzz.header_edits import dicom_edits, itk_edits, nifti_edits
from fuzz.seeds import Seed

__all__ = ["Mutation", "mutations"]

INTERESTING = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\n", b" ", b"-", b"9", b"nan", b"\xff\xff\xff\x7f", b"%n", b"\\")


@dataclass(frozen=True)
class Mutation:
    """One input: what was done, the format that its seed had, and how to write it; ``write`` returns what to open."""

    name: str
    format: str
    write: Callable[[Path], Path]


def mutations(seeds: Sequence[Seed], count: int) -> list[Mutation]:
    """About ``count`` mutations, spread evenly over the kinds and over the seeds.

    Two in five are header edits, two in five damaged bytes, the rest wrong files and names.
    """
    wholes = [_files_mutation(seed, seeds, kind) for kind in WHOLE for seed in seeds]
    random.Random(3).shuffle(wholes)
    wholes = wholes[: count // 5]
    edits = _rounds([_header_edits(seed, 4 * count // (5 * len(seeds)) + 1) for seed in seeds])
    damaged = _rounds([_byte_mutations(seed) for seed in seeds])
    return [*wholes, *islice(edits, 2 * count // 5), *islice(damaged, count - len(wholes) - 2 * count // 5)]


def _rounds(iterators: Sequence[Iterator[Mutation]]) -> Iterator[Mutation]:
    """One of each in turn, until all are spent."""
    waiting = list(iterators)
    while waiting:
        for iterator in list(waiting):
            try:
                yield next(iterator)
            except StopIteration:
                waiting.remove(iterator)


def _header_edits(seed: Seed, count: int) -> Iterator[Mutation]:
    edit_of = {"nifti": nifti_edits, "itk": itk_edits, "dicom": dicom_edits, "seg": dicom_edits}[seed.format]
    for text, files in edit_of(seed, count):
        changed = replace(seed, files=files)
        yield Mutation(f"{seed.name}: {text}", seed.format, changed.write)


def _byte_mutations(seed: Seed) -> Iterator[Mutation]:
    rng = random.Random(seed.name)
    for number in cycle(range(10**6)):
        name = rng.choice(sorted(seed.files)) if rng.random() < 0.6 else max(seed.files)  # "segs/s.dcm" often
        data = seed.files[name]
        inside = name.endswith(".gz") and number % 2
        text, damaged = _damage(gzip.decompress(data) if inside else data, rng)
        if inside:
            damaged = gzip.compress(damaged, mtime=0)
        changed = replace(seed, files=seed.files | {name: damaged})
        yield Mutation(f"{seed.name}: #{number} {name}{' unzipped' * bool(inside)} {text}", seed.format, changed.write)


def _damage(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Bytes with one to four places spoiled; headers, where most of the meaning is, more often than voxels."""
    where = [rng.randrange(min(len(data), rng.choice((64, 600, len(data))))) for _ in range(rng.randint(1, 4))]
    kind = rng.choice(("flip", "flip", "set", "set", "cut", "remove", "insert", "repeat", "append", "zero"))
    if kind == "cut":
        return f"cut at {where[0]}", data[: where[0]]
    if kind == "append":
        return "appended", data + rng.randbytes(rng.choice((1, 100, 5000)))
    changed = bytearray(data)
    for place in where:
        place = min(place, max(len(changed) - 1, 0))
        if kind == "flip":
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == "set":
            value = rng.choice(INTERESTING)
            changed[place : place + len(value)] = value
        elif kind == "remove":
            del changed[place : place + rng.randint(1, 20)]
        elif kind == "zero":
            changed[place : place + 16] = bytes(len(changed[place : place + 16]))
        elif kind == "insert":
            changed[place:place] = rng.choice(INTERESTING) * rng.randint(1, 9)
        else:
            changed[place:place] = changed[place : place + rng.randint(1, 60)]
    return f"{kind} at {where}", bytes(changed)


def _empty(seed: Seed, others: Sequence[Seed], folder: Path) -> Path:
    seed.write(folder)
    (folder / max(seed.files)).write_bytes(b"")
    return folder / seed.main


def _folder_instead(seed: Seed, others: Sequence[Seed], folder: Path) -> Path:
    seed.write(folder)
    (folder / max(seed.files)).unlink()
    (folder / max(seed.files)).mkdir()
    return folder / seed.main


def _link_loop(seed: Seed, others: Sequence[Seed], folder: Path) -> Path:
    seed.write(folder)
    (folder / max(seed.files)).unlink()
    os.symlink(Path(max(seed.files)).name, folder / max(seed.files))
    return folder / seed.main


def _dangling(seed: Seed, others: Sequence[Seed], folder: Path) -> Path:
    seed.write(folder)
    (folder / max(seed.files)).unlink()
    os.symlink("nowhere", folder / max(seed.files))
    return folder / seed.main


def _fifo(seed: Seed, others: Sequence[Seed], folder: Path) -> Path:
    """A named pipe that nobody writes to: whoever opens it waits for ever."""
    seed.write(folder)
    (folder / max(seed.files)).unlink()
    os.mkfifo(folder / max(seed.files))
    return folder / seed.main


def _missing_part(seed: Seed, others: Sequence[Seed], folder: Path) -> Path:
    seed.write(folder)
    (folder / min(seed.files)).unlink()
    return folder / seed.main


def _content_of(position: int) -> Callable[[Seed, Sequence[Seed], Path], Path]:
    """The content of another seed under this one's name."""

    def swap(seed: Seed, others: Sequence[Seed], folder: Path) -> Path:
        others = [other for other in others if other.format != seed.format or other.main[-3:] != seed.main[-3:]]
        other = others[position * 7 % len(others)]
        return replace(seed, files=seed.files | {max(seed.files): max(other.files.items())[1]}).write(folder)

    return swap


def _renamed(suffix: str) -> Callable[[Seed, Sequence[Seed], Path], Path]:
    """The whole input under another suffix, in a folder with a name that is not ASCII."""

    def rename(seed: Seed, others: Sequence[Seed], folder: Path) -> Path:
        path = seed.write(folder / "größe 像 \u202e")
        if path.is_dir():
            return path
        return path.rename(path.with_name(f"ø {path.name.split('.')[0]}{suffix or ''.join(path.suffixes)}"))

    return rename


def _bomb(seed: Seed, others: Sequence[Seed], folder: Path) -> Path:
    """20 MB of zeros in a gzip of 20 kB, behind the first bytes of the input."""
    path = seed.write(folder)
    target = folder / max(seed.files)
    data = seed.files[max(seed.files)]
    plain = gzip.decompress(data) if target.name.endswith(".gz") else data
    target.write_bytes(gzip.compress(plain + bytes(20_000_000)) if target.name.endswith(".gz") else plain[:300])
    return path


WHOLE: dict[str, Callable[[Seed, Sequence[Seed], Path], Path]] = {
    "empty file": _empty, "folder instead": _folder_instead, "link to itself": _link_loop, "dangling link": _dangling,
    "named pipe": _fifo, "missing part": _missing_part, "bomb": _bomb, "unicode": _renamed(""),
    **{f"swapped {n}": _content_of(n) for n in range(5)},
    **{f"named {suffix}": _renamed(suffix) for suffix in (".nii", ".nii.gz", ".nrrd", ".mha", ".dcm", ".png", ".mgz",
                                                         ".hdr", ".img", ".nhdr", ".txt")},
}  # fmt: skip


def _files_mutation(seed: Seed, seeds: Sequence[Seed], kind: str) -> Mutation:
    return Mutation(f"{seed.name}: {kind}", seed.format, lambda folder: WHOLE[kind](seed, seeds, folder))
