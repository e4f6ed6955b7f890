"""Our own paths are on where the processor has the instructions and nobody forbids them."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from dictlearn.kernels import processor


@pytest.fixture
def able(monkeypatch):
    """A processor with every instruction, whatever this one has and the environment says."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for name in ("_is_avx512_bf16_supported", "_is_vnni_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: True)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    processor._onednn_cap.cache_clear()
    yield monkeypatch
    processor._onednn_cap.cache_clear()


def paths():
    return processor.multiplies_bfloat16(), processor.int8_levels() == 127


@pytest.mark.parametrize(
    ("cap", "bfloat16", "int8"),
    [
        ("AVX2", False, False),
        ("avx2_vnni", False, False),
        ("AVX512_CORE", False, False),
        ("AVX512_CORE_VNNI", False, True),
        ("AVX512_CORE_BF16", True, True),
        ("AVX512_CORE_AMX", True, True),
        ("DEFAULT", True, True),
    ],
)
def test_a_cap_on_onednn_is_kept_to(able, cap, bfloat16, int8):
    able.setenv("ONEDNN_MAX_CPU_ISA", cap)
    assert paths() == (bfloat16, int8)


def test_a_cap_on_torch_is_kept_to(able):
    assert paths() == (True, True)
    able.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert paths() == (False, False)
    assert "with AVX2" in processor.described()


def test_a_processor_without_the_instructions_has_no_such_path(able):
    able.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    able.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    able.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert paths() == (False, False)


def test_without_onednn_there_is_no_such_path(able):
    able.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert paths() == (False, False)
    assert not processor.has_int8()


def test_the_product_of_other_makers_processors_is_not_tried(able):
    able.setattr(platform, "machine", lambda: "arm64")
    assert not processor.has_int8()


def test_the_environment_turns_our_own_paths_off():
    """In a process of its own: torch reads the cap once."""
    program = (
        "from dictlearn.kernels import processor as p;"
        "assert not p.multiplies_bfloat16() and not p.int8_levels() == 127, p.described()"
    )
    caps = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    for name, cap in caps.items():
        subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, name: cap})
