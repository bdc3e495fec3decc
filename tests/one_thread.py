"""A fixture of several packages: torch computes with one thread."""

from __future__ import annotations

from collections.abc import Iterator

import torch


def one_thread() -> Iterator[None]:
    """Bitwise equality with a run elsewhere needs the same number of threads; and layers as small as those of the tests
    gain nothing from a second one, and wait for it long when the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
