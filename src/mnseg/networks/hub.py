"""Files of a 2D network from the model hub or a local directory, and transformers kept quiet."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from huggingface_hub import constants as hub_constants
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from mnseg.errors import UserError

__all__ = [
    "TINY_SEGFORMER",
    "find_file",
    "first_line",
    "hub_reachable",
    "is_local_only",
    "quiet_transformers",
    "read_json",
]

TINY_SEGFORMER = "segformer-tiny-random"


def is_local_only(name: str) -> bool:
    """Whether a hub id can only come from the local cache."""
    return not os.path.isdir(name) and not hub_reachable()


def find_file(name: str, filename: str, local_only: bool) -> str | None:
    """Path of a model's file, None where it has none."""
    if os.path.isdir(name):
        path = os.path.join(name, filename)
        return path if os.path.isfile(path) else None
    try:
        return cached_file(
            name,
            filename,
            local_files_only=local_only,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
    except OSError:
        return None


def read_json(path: str | None) -> dict[str, Any] | None:
    """Content of a JSON file; None for no path.

    Raises:
        UserError: the file is not JSON.
    """
    if path is None:
        return None
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as e:
        raise UserError(f"{path} is not valid JSON: repair it or fetch the model again.") from e


def hub_reachable() -> bool:
    """Whether the hub's name resolves; without this the hub client retries for most of a minute when offline."""
    if hub_constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(v) for v in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    url = urlparse(hub_constants.ENDPOINT)
    try:
        socket.getaddrinfo(url.hostname, url.port or 443)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bar and no load report: replacing the head is expected, all else is checked by us."""
    level, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bar:
            transformers_logging.enable_progress_bar()


def first_line(error: Exception) -> str:
    """What an exception says, in one line of at most 200 characters."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__).rstrip(".")[:200]
