"""The names by which a browser may call the server.

A page of ``evil.example`` can let that name point to this computer (DNS rebinding). The browser then takes page and
server for one site, and only the Host header tells by which name the server was called. Nobody else can take an address
or the computer's own names.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Iterable
from urllib.parse import urlsplit

__all__ = ["is_own_name", "own_names"]


def own_names(origins: Iterable[str] = ()) -> frozenset[str]:
    """Names of this computer, and those in ``origins``, such as ``https://labels.example``; in lower case."""
    host = socket.gethostname().lower()
    named = {urlsplit(origin).hostname or "" for origin in origins}
    short = host.partition(".")[0]  # some computers are told their whole name, and called by the first part
    return frozenset({"localhost", host, short, f"{short}.local", socket.getfqdn().lower(), *named} - {""})


def is_own_name(host: str, names: Collection[str]) -> bool:
    """Whether a Host header, with a port or without, is an address or one of these names."""
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        return name in names or bool(ipaddress.ip_address(name))
    except ValueError:  # neither an address nor, for some, a name
        return False
