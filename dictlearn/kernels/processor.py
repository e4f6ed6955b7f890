"""Low-precision products for which this processor has instructions.

Which of them pay is another question, answered by `kernels.fastest`. Caps
that a user sets, on torch (`ATEN_CPU_CAPABILITY`) or on oneDNN, which multiplies for it
(`ONEDNN_MAX_CPU_ISA`), are kept to, so that they turn our own paths off as well.
"""

import os
import platform
from functools import cache
from pathlib import Path

import torch

_ISAS = (
    "SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2",
    "AVX512_CORE", "AVX512_CORE_VNNI", "AVX512_CORE_BF16",
)  # fmt: skip
"""Caps on the instructions of oneDNN, in ascending order; all other names allow more."""


def multiplies_bfloat16() -> bool:
    """Whether products in bfloat16 have instructions here; without them they are slower."""
    has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return has and _may_use("AVX512_CORE_BF16")


def has_int8() -> bool:
    """Whether torch multiplies int8 matrices here by compiled loops, those of oneDNN for x86."""
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i686", "x86")
    return x86 and bool(torch.backends.mkldnn.enabled and torch.backends.mkldnn.is_available())


def int8_levels() -> int:
    """The largest magnitude of factors of int8 products whose sums are exact.

    Instructions for products of bytes that come without AVX512's VNNI add pairs of products in 16
    bits, where `2 * 181 * 90` has room (one factor is made unsigned, from 1 to twice that and one);
    those of VNNI add them in 32 bits.
    """
    adds_in_32_bits = torch.cpu._is_vnni_supported() and _may_use("AVX512_CORE_VNNI")
    return 127 if adds_in_32_bits else 90


def described() -> str:
    """The processor, torch on it, and caps on the instructions of libraries if there are any."""
    caps = {"oneDNN": _onednn_cap(), "MKL": os.environ.get("MKL_ENABLE_INSTRUCTIONS", "").upper()}
    capability = torch.backends.cpu.get_cpu_capability()
    parts = [name(), f"torch {torch.__version__} with {capability}"]
    parts += [] if torch.backends.mkldnn.enabled else ["oneDNN switched off"]
    return ", ".join(parts + [f"{lib} capped to {cap}" for lib, cap in caps.items() if cap])


@cache
def name() -> str:
    """The processor's name, as its maker gives it."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


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
