"""keep_freed_memory: what is freed stays with the process, seen in the kernel's count of cleared pages."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from mnseg.engines import freed_memory
from mnseg.engines.freed_memory import keep_freed_memory

SCRIPT = """
import resource, sys, numpy
from mnseg.engines.freed_memory import keep_freed_memory

def work():
    for _ in range(20):
        numpy.ones(6 << 20)  # 48 MiB, above the largest size that glibc keeps by itself

assert keep_freed_memory(sys.argv[1] == "yes") is (sys.argv[1] == "yes")
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


@GLIBC
def test_pages_are_cleared_once() -> None:
    faults = {
        wanted: int(subprocess.run([sys.executable, "-c", SCRIPT, wanted], check=True, capture_output=True).stdout)
        for wanted in ("no", "yes")
    }
    assert faults["yes"] < 100 < faults["no"], faults


def test_nothing_is_done_where_it_is_not_wanted(monkeypatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("the allocator was touched"))
    assert keep_freed_memory(False) is False


@pytest.mark.parametrize("library", [object(), TypeError("Windows has no such handle")])
def test_another_c_library_is_left_alone(monkeypatch, caplog, library) -> None:
    def load(_):
        if isinstance(library, Exception):
            raise library
        return library

    monkeypatch.setattr(freed_memory.ctypes, "CDLL", load)
    with caplog.at_level("INFO"):
        assert keep_freed_memory() is False
    assert "nothing was changed" in caplog.text
