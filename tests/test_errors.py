"""How errors that users are meant to read are found and shown."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from mnseg.errors import UserError, show_user_errors_plainly, user_error_in


def wrapped(inner: Exception, explicit: bool) -> Exception:
    """As MONAI wraps an error of a component: twice, with `from` or without."""
    try:
        try:
            raise inner
        except Exception as error:
            if explicit:
                raise RuntimeError("Failed to instantiate") from error
            raise RuntimeError("Failed to instantiate")  # noqa: B904
    except RuntimeError as error:
        return error


@pytest.mark.parametrize("explicit", [True, False])
def test_found_under_wrapping(explicit):
    inner = UserError("say it plainly")
    assert user_error_in(wrapped(inner, explicit)) is inner
    assert user_error_in(inner) is inner
    assert user_error_in(wrapped(KeyError("x"), explicit)) is None
    assert user_error_in(None) is None


@pytest.fixture
def hook(monkeypatch):
    calls = []
    monkeypatch.setattr(sys, "excepthook", lambda *args: calls.append(args))
    show_user_errors_plainly()
    yield sys.excepthook, calls


def test_user_error_is_one_line_without_traceback(hook, capsys):
    show, calls = hook
    error = wrapped(UserError("datalist x.json does not exist"), True)
    show(type(error), error, None)
    assert capsys.readouterr().err == "mnseg: datalist x.json does not exist\n"
    assert calls == []


def allocated_too_much() -> None:
    torch.empty(2**50)


def out_of_gpu_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 1.00 GiB.\nSee docs")


def allocated_too_much_by_numpy() -> None:
    np.empty(2**50)


@pytest.mark.parametrize("fail", [allocated_too_much, allocated_too_much_by_numpy, out_of_gpu_memory])
def test_memory_that_does_not_suffice_is_said_in_one_sentence(hook, capsys, fail):
    show, calls = hook
    try:
        fail()
    except (RuntimeError, MemoryError) as inner:
        error = wrapped(inner, True)
    show(RuntimeError, error, None)
    said = capsys.readouterr().err
    assert said.startswith("mnseg: the memory does not suffice (") and said.count("\n") == 1
    assert "micro_batch_size" in said and calls == []


def test_a_mistyped_nested_key_is_named(hook, capsys):
    show, calls = hook
    try:
        try:
            (lambda reverse: reverse)(revers=True)
        except TypeError as inner:
            raise RuntimeError("Failed to instantiate") from inner
    except RuntimeError as error:
        show(RuntimeError, error, None)
    assert "revers" in capsys.readouterr().err
    assert calls == []


def test_other_errors_keep_their_traceback(hook, capsys):
    show, calls = hook
    error = ZeroDivisionError("a bug")
    show(ZeroDivisionError, error, None)
    assert calls == [(ZeroDivisionError, error, None)]
    assert capsys.readouterr().err == ""


def test_an_interruption_says_how_to_go_on(hook, capsys):
    show, calls = hook
    show(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err.strip().startswith("mnseg: interrupted; the same command continues")
    assert calls == []
