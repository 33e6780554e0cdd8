"""CPU detection: the features of this CPU, and the instruction set that kernels are compiled for.

The choice goes by features, never by CPU names, and comes before anything is compiled: an instruction that the
compilation target lacks makes LLVM abort the process.
"""

import ctypes
import functools
import logging
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import llvmlite.binding as llvm

from bitnet_numba.errors import ParameterError, UnsupportedError
from bitnet_numba.settings import read_settings

_logger = logging.getLogger(__name__)

# ---- the table -------------------------------------------------------------------------------------------------------
_AVX2 = ("avx", "avx2", "fma", "f16c")
_AVX512_VNNI = (*_AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni")
REQUIRED_FEATURES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "amx_int8": (*_AVX512_VNNI, "amx-tile", "amx-int8"),
        "avx512_vbmi": (*_AVX512_VNNI, "avx512vbmi"),
        "avx512_vnni": _AVX512_VNNI,
        "avx_vnni": (*_AVX2, "avxvnni"),
        "avx2": _AVX2,
        "neon_dotprod": ("neon", "dotprod"),
        "generic": (),
    }
)
"""Instruction sets, the fastest first, with LLVM's names of the features that each one uses."""

FIVE_TRITS = "avx512_vbmi"
"""``avx512_vnni`` plus table lookups in 128 bytes, which unpack five ternary weights a byte fast enough."""

TILES = "amx_int8"
EMULATED_TILES = "amx_emulated"
"""``amx_int8`` with its tiles in plain code, for tests on any CPU; only ``BITNET_ISA`` selects it."""

_BASE_CPU = {"x86_64": "x86-64", "aarch64": "generic"}
"""LLVM's name of the oldest CPU of each architecture; a set's features are added to it, and nothing else."""

_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1023, 18  # <asm/prctl.h> on x86-64
_AT_HWCAP = 16
_HWCAP_BITS = {"neon": 1 << 1, "dotprod": 1 << 20}


# ---- what the CPU has ------------------------------------------------------------------------------------------------
def is_x86() -> bool:
    """Return whether this process runs on x86-64."""
    return platform.machine() == "x86_64"


def is_aarch64() -> bool:
    """Return whether this process runs on AArch64, real or emulated."""
    return platform.machine() == "aarch64"


@functools.cache
def features() -> frozenset[str]:
    """Return LLVM's names of this CPU's features; ``NUMBA_CPU_FEATURES`` overrides them."""
    stated = os.environ.get("NUMBA_CPU_FEATURES")
    if stated is not None:
        return frozenset(name[1:] for name in stated.split(",") if name.startswith("+"))
    if os.environ.get("NUMBA_CPU_NAME") == "generic":
        return frozenset()
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present) | _hwcap_features()


def _hwcap_features() -> frozenset[str]:
    """Return the AArch64 features that Linux reports; LLVM reads /proc/cpuinfo, where emulators show their host."""
    if not is_aarch64():
        return frozenset()
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.argtypes, getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
    reported = getauxval(_AT_HWCAP)
    return frozenset(name for name, bit in _HWCAP_BITS.items() if reported & bit)


@functools.cache
def _tile_refusal() -> str | None:
    """Ask Linux for permission to use tile registers, once for all threads; return its error, or None if granted."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.argtypes, syscall.restype = [ctypes.c_long] * 3, ctypes.c_long
    if syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) == 0:
        return None
    return os.strerror(ctypes.get_errno())


def available_isas() -> tuple[str, ...]:
    """Return the instruction sets that this CPU can run, the fastest first."""
    found = (isa for isa, required in REQUIRED_FEATURES.items() if features().issuperset(required))
    return tuple(isa for isa in found if isa != TILES or _tile_refusal() is None)


# ---- the choice ------------------------------------------------------------------------------------------------------
@functools.cache
def isa() -> str:
    """Choose the instruction set: the one that ``BITNET_ISA`` forces, or the fastest that this CPU has.

    Kernels are compiled for it alone, so that they behave as on a CPU that has no more, and one machine's are every
    machine's. ParameterError if it is unknown; UnsupportedError if this CPU lacks it, Linux refuses its
    tiles, or the system is not Linux.
    """
    if sys.platform != "linux":
        raise UnsupportedError(f"{sys.platform}: the kernels need Linux; run them in a Linux container")
    forced = read_settings().isa
    if forced not in (None, EMULATED_TILES):
        _check_forced(forced)
    return forced or _fastest_isa()


def set_target() -> None:
    """Make the instruction set Numba's compilation target; it must come before Numba's first function."""
    from numba.core import config  # here: who only asks for features need not import Numba

    chosen = isa()
    if _has_target(chosen):
        base = () if is_x86() else ("neon",)
        used = REQUIRED_FEATURES[_vectors_of(chosen) if chosen == EMULATED_TILES else chosen]
        config.CPU_NAME = _BASE_CPU[platform.machine()]
        config.CPU_FEATURES = ",".join(f"+{name}" for name in dict.fromkeys((*base, *used)))


def _has_target(chosen: str) -> bool:
    """Return whether a set is compiled for its own target; else for what Numba is told, or for this CPU."""
    forced = read_settings().isa is not None
    if platform.machine() not in _BASE_CPU:
        return False
    if "NUMBA_CPU_NAME" in os.environ or ("NUMBA_CPU_FEATURES" in os.environ and not forced):
        return False
    return forced or chosen != "generic" or not is_x86()  # x86 CPUs without AVX2 may have SSSE3


def _fastest_isa() -> str:
    fastest = available_isas()[0]
    if features().issuperset(REQUIRED_FEATURES[TILES]) and fastest != TILES:
        _logger.warning("%s: the system refuses tiles (%s); using %s", TILES, _tile_refusal(), fastest)
    return fastest


def _check_forced(forced: str) -> None:
    """Raise the error of a forced instruction set that cannot run."""
    if forced not in REQUIRED_FEATURES:
        raise ParameterError(f"BITNET_ISA={forced}: unknown; choose one of {', '.join(REQUIRED_FEATURES)}")
    missing, available = sorted(set(REQUIRED_FEATURES[forced]) - features()), ", ".join(available_isas())
    if missing:
        raise UnsupportedError(f"BITNET_ISA={forced}: this CPU lacks {', '.join(missing)}; it has {available}")
    if forced not in available_isas():
        raise UnsupportedError(
            f"BITNET_ISA={forced}: the system refuses tiles ({_tile_refusal()}); choose one of {available}"
        )


# ---- what the choice means -------------------------------------------------------------------------------------------
def target_features() -> frozenset[str]:
    """Return the features that compiled code may use: those of the chosen set, or all that the CPU has."""
    return frozenset(REQUIRED_FEATURES[vector_isa()]) if _has_target(isa()) else features()


def has_tiles() -> bool:
    """Return whether the chosen set multiplies many tokens by tiles."""
    return isa() in (TILES, EMULATED_TILES)


def packs_five_trits() -> bool:
    """Return whether ternary weights are packed five to a byte; not beside tiles, where it has not been measured."""
    return isa() == FIVE_TRITS


def vector_isa() -> str:
    """Return the instruction set of vectors: the chosen one, or the one that it adds tiles or lookups to."""
    return _vectors_of(isa())


def _vectors_of(chosen: str) -> str:
    if chosen in (TILES, EMULATED_TILES, FIVE_TRITS):
        return next(name for name in available_isas() if name not in (TILES, FIVE_TRITS))
    return chosen


def has_hardware_floats() -> bool:
    """Return whether fused multiply-add and float16 conversion are instructions; else the same bits are composed."""
    return vector_isa() != "generic" or is_aarch64()


def has_signed_dot() -> bool:
    """Return whether the dot product takes both bytes as signed, so that neither may exceed 127."""
    return vector_isa() == "neon_dotprod"


# ---- the machine -----------------------------------------------------------------------------------------------------
def brand() -> str:
    """Return the CPU's model name, or the machine's architecture where Linux does not tell."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
