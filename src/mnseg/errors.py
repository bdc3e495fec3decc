"""The one exception that users are meant to read, and how it is shown."""

from __future__ import annotations

import sys
from types import TracebackType

__all__ = ["UserError", "file_error_in_words", "show_user_errors_plainly", "user_error_in"]


class UserError(ValueError):
    """Bad input, said in one sentence that names the file or key and what to do.

    The command line prints the message without a traceback and exits with 1.
    """


def user_error_in(error: BaseException | None) -> UserError | None:
    """The ``UserError`` that an exception is or was raised from, if there is one."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        error = error.__cause__ or error.__context__
    return None


def file_error_in_words(error: BaseException) -> str | None:
    """A sentence on a file that could not be read or written; None for another error, or where no file is named."""
    if not isinstance(error, OSError) or error.filename is None:
        return None
    name = error.filename2 or error.filename  # of a rename: the file that was wanted, not the temporary one
    return f"{name} cannot be read or written ({error.strerror})."


def show_user_errors_plainly() -> None:
    """From now on an uncaught ``UserError`` or Ctrl-C prints a sentence and no traceback, also under MONAI's wrapping.

    Called from train.json's ``initialize``: ``python -m monai.bundle run`` wraps an error of a component three times
    and ends with a message that no longer says what was wrong.
    """
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        plain = user_error_in(error) or _unknown_argument(error) or _short_of_memory(error)
        if plain is not None:
            print(f"mnseg: {plain}", file=sys.stderr)
        elif isinstance(error, KeyboardInterrupt):
            print("\nmnseg: interrupted; the same command continues a training from its newest checkpoint (with "
                  "--resume False it starts over).", file=sys.stderr)
        else:
            previous(kind, error, traceback)

    sys.excepthook = hook


def _short_of_memory(error: BaseException | None) -> str | None:
    """A sentence on memory that does not suffice: a GPU's, by torch's error, or the computer's."""
    while error is not None:
        # By its name, since the command line starts without torch; what a CPU lacks torch says in a RuntimeError.
        known = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
        if known or "can't allocate memory" in str(error):
            first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:160]
            return (
                f"the memory does not suffice ({first}): take a smaller patch, image or batch (co-training: "
                "micro_batch_size 1 or auto, sw_batch_size, slice_chunk; `mnseg plan --memory` counts)."
            )
        error = error.__cause__ or error.__context__
    return None


def _unknown_argument(error: BaseException | None) -> str | None:
    """A sentence on a mistyped nested key (``--loss#unlabeled#w_kll 1``), which MONAI hands to a class as it is."""
    while error is not None:
        if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
            return f"{error}: correct the key with # that sets it, in an overlay or on the command line."
        error = error.__cause__ or error.__context__
    return None
