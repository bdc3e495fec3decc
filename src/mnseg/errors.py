"""The one exception that users are meant to read."""

from __future__ import annotations

__all__ = ["UserError"]


class UserError(ValueError):
    """Bad input, said in one sentence that names the file or key and what to do.

    The command line prints the message without a traceback and exits with 1.
    """
