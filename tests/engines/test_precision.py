"""Names of mixed precision, and the device's own choice."""

from __future__ import annotations

import types
from unittest import mock

import pytest
import torch

from mnseg.engines.precision import AMP_DTYPES, amp_dtype_of, prepare_for
from mnseg.errors import UserError


def test_names():
    assert amp_dtype_of(None, "cpu") is None
    assert {name: amp_dtype_of(name, "cpu") for name in AMP_DTYPES} == AMP_DTYPES
    with pytest.raises(UserError, match="amp_dtype is 'float8'; it must be null, 'auto', 'bfloat16' or 'float16'"):
        amp_dtype_of("float8", "cpu")


@pytest.mark.parametrize(("instructions", "wanted"), [
    ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, None),
    ({"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
    ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
    ({"neon": True, "bf16": True}, None),  # nobody has tried it there
])  # fmt: skip
def test_auto_asks_the_cpu(instructions, wanted):
    with mock.patch("torch.cpu.get_capabilities", lambda: types.MappingProxyType(instructions)):
        assert amp_dtype_of("auto", "cpu") is wanted


@pytest.mark.parametrize(("native", "dtype", "warned"), [
    (True, torch.bfloat16, False), (False, torch.bfloat16, True), (True, torch.float16, True), (False, None, False),
])  # fmt: skip
def test_a_slower_precision_is_said(caplog, native, dtype, warned):
    conv = torch.nn.Conv3d(1, 1, 3)
    with mock.patch("torch.cpu.get_capabilities", lambda: {"avx512_bf16": native}):
        prepare_for(dtype, torch.device("cpu"), [conv])
    assert ("no instructions" in caplog.text) == warned
    assert (type(conv) is torch.nn.Conv3d) == (dtype is None)


def test_auto_with_a_torch_that_does_not_tell(monkeypatch):
    monkeypatch.delattr("torch.cpu.get_capabilities")
    assert amp_dtype_of("auto", "cpu") is None


@pytest.mark.parametrize("native", [True, False])
def test_auto_asks_the_gpu_for_what_it_does_not_emulate(native):
    with mock.patch("torch.cuda.is_bf16_supported", lambda including_emulation=True: including_emulation or native):
        assert amp_dtype_of("auto", "cuda:0") is (torch.bfloat16 if native else None)


def test_auto_on_any_other_device_is_full_precision():
    with mock.patch("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True}):
        assert amp_dtype_of("auto", "mps") is None
