"""Low-precision products for which this processor has fast instructions.

Decided by instructions, never by a stopwatch: what a run computes may not depend on how busy the
machine was. Caps that a user sets, on torch (`ATEN_CPU_CAPABILITY`) or on oneDNN, which multiplies
for it (`ONEDNN_MAX_CPU_ISA`), are kept to, so that they turn our own paths off as well.
"""

import os
from functools import cache

import torch

_ISAS = (
    "SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2",
    "AVX512_CORE", "AVX512_CORE_VNNI", "AVX512_CORE_BF16",
)  # fmt: skip
"""Caps on the instructions of oneDNN, in ascending order; all other names allow more."""
INT8_NEEDS = "AVX512 with VNNI (Cascade Lake, Ice Lake, Zen 4 and later)"
"""The processors on which `multiplies_int8` holds, in words."""


def multiplies_bfloat16() -> bool:
    """Whether products in bfloat16 have instructions here; without them they are slower."""
    has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return has and _may_use("AVX512_CORE_BF16")


def multiplies_int8() -> bool:
    """Whether products in int8 have instructions here that torch uses.

    Without AVX512's own (those of AVX2 do not count) `torch._int_mm` adds one product after the
    other, which takes some twenty times as long as a product in float32; with oneDNN capped below
    them, it adds pairs of products in 16 bits, which do not hold them.
    """
    return torch.cpu._is_vnni_supported() and _may_use("AVX512_CORE_VNNI")


def described() -> str:
    """The relevant settings, for messages: the capability of torch, and a cap on oneDNN if any."""
    cap = _onednn_cap()
    return torch.backends.cpu.get_cpu_capability() + (f", oneDNN capped to {cap}" if cap else "")


def _may_use(isa: str) -> bool:
    """Whether neither torch nor oneDNN is kept from `isa`, one of those with AVX512."""
    if not torch.backends.mkldnn.enabled or not torch.backends.mkldnn.is_available():
        return False
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    cap = _onednn_cap()
    return cap not in _ISAS or _ISAS.index(cap) >= _ISAS.index(isa)


@cache  # oneDNN reads it once as well
def _onednn_cap() -> str:
    """The instructions to which oneDNN is capped; empty where it is not."""
    cap = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return cap.upper()
