"""Judges mutations in a process of their own, so that a crash or a hang costs one input and is known by its name."""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from fuzz.mutations import Mutation
from fuzz.seeds import written_seeds
from fuzz.verdict import DEFECT, judge

__all__ = ["Verdict", "verdicts"]

SECONDS = 20  # for one input of at most 20 MB, on a busy machine
HEADROOM = 4 << 30  # bytes of address space beyond those after the imports


class Verdict(NamedTuple):
    mutation: str
    outcome: str
    text: str


def verdicts(mutations: Sequence[Mutation]) -> Iterator[Verdict]:
    """The verdict on each mutation, in their order."""
    _import_readers()
    context = multiprocessing.get_context("fork")  # so that closures and imports are there
    position = 0
    while position < len(mutations):
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, mutations, position), daemon=True)
        process.start()
        theirs.close()
        seconds = SECONDS
        while position < len(mutations):
            try:
                answer = ours.recv() if ours.poll(seconds) else ("hangs", "")
            except EOFError:
                process.join()
                answer = (f"ends the process ({process.exitcode})", "")
            known = answer[0] in ("accepted", "refused", DEFECT)
            yield Verdict(mutations[position].name, *(answer if known else (DEFECT, answer[0])))
            position += 1
            if not known:
                break
        process.kill()
        process.join()


def _import_readers() -> None:
    """Once, for all workers: ITK loads each of its parts at the first use, which takes seconds."""
    for number, seed in enumerate(written_seeds()):
        with tempfile.TemporaryDirectory() as folder:
            verdict = judge(seed.write(Path(folder) / str(number)), seed.format, Path(folder) / str(number))
            assert verdict == ("accepted", ""), f"{seed.name}: {verdict}"


def _work(pipe: Connection, mutations: Sequence[Mutation], start: int) -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + HEADROOM, size + HEADROOM))
    for mutation in mutations[start:]:
        folder = Path(tempfile.mkdtemp(prefix="mnseg-fuzz-"))
        try:
            path = mutation.write(folder)  # a defect of the tests if this fails: the process ends
            pipe.send(judge(path, mutation.format, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
