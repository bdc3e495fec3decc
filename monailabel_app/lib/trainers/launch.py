"""Becomes a command that yields to the server and dies with it: ``python launch.py PARENT NICE COMMAND …``.

Done here, between the server's fork and the command, because Python code between fork and exec can deadlock in a
process with threads. Imports nothing of the app: it must start in an instant.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
OUT_OF_MEMORY_FIRST = "500"


def die_with_parent(parent: int) -> None:
    """Be killed when the parent's thread ends. SIGKILL: a stopped process answers to nothing else. Linux only."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        sys.exit("mnseg: the server has gone")


def main(argv: list[str]) -> None:
    parent, niceness, command = int(argv[0]), int(argv[1]), argv[2:]
    die_with_parent(parent)
    with contextlib.suppress(OSError):
        os.nice(niceness)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(OUT_OF_MEMORY_FIRST)  # if memory runs out, the training goes and not the server
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
