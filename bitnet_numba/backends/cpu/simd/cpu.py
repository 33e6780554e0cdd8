"""What this CPU has, and the instruction set that was chosen before anything was compiled.

The choice is made by features, never by the name of a CPU. It has to come first: an instruction that the compilation
target lacks makes LLVM end the process, without a Python exception.
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

_X86_FLOAT = ("avx", "avx2", "fma", "f16c")
_AVX512_VNNI = (*_X86_FLOAT, "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni")
REQUIRED_FEATURES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "amx_int8": (*_AVX512_VNNI, "amx-tile", "amx-int8"),
        "avx512_vbmi": (*_AVX512_VNNI, "avx512vbmi"),
        "avx512_vnni": _AVX512_VNNI,
        "avx_vnni": (*_X86_FLOAT, "avxvnni"),
        "avx2": _X86_FLOAT,
        "neon_dotprod": ("neon", "dotprod"),
        "generic": (),
    }
)
"""Instruction sets, the fastest first, and LLVM's names of the features that each one uses."""

FIVE_TRITS = "avx512_vbmi"
"""``avx512_vnni`` with lookups in 128 bytes, by which five weights fit a byte and come out of it fast enough."""

TILES = "amx_int8"
EMULATED_TILES = "amx_emulated"
"""``amx_int8`` with its tiles in plain code, beside the CPU's own vectors. It is slow, and there for tests, which ask
for it by ``BITNET_ISA``; it is never chosen, and listed nowhere."""

_X86_TARGETS = {"avx_vnni": ("haswell", "+avxvnni"), "avx2": ("haswell", ""), "generic": ("x86-64", "")}
_ARM_TARGETS = {"neon_dotprod": ("generic", "+neon,+dotprod"), "generic": ("generic", "+neon")}
"""For a forced set the oldest CPU of its kind, and what it has besides: nothing newer slips into the code."""

_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1023, 18  # of Linux on x86-64

_AT_HWCAP = 16
_HWCAP_BITS = {"neon": 1 << 1, "dotprod": 1 << 20}  # LLVM asks /proc/cpuinfo instead, where emulators show their host


def is_x86() -> bool:
    """Tell whether this process runs on 64-bit x86."""
    return platform.machine().lower() in ("x86_64", "amd64")


def is_aarch64() -> bool:
    """Tell whether this process runs on 64-bit ARM, or on an emulated one."""
    return platform.machine().lower() in ("aarch64", "arm64")


@functools.cache
def features() -> frozenset[str]:
    """Return LLVM's names of the features that code may use here.

    Those of the host, unless ``NUMBA_CPU_FEATURES`` states them.
    """
    stated = os.environ.get("NUMBA_CPU_FEATURES")
    if stated is not None:
        return frozenset(name[1:] for name in stated.split(",") if name.startswith("+"))
    if os.environ.get("NUMBA_CPU_NAME") == "generic":
        return frozenset()
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present) | _told_by_linux()


def _told_by_linux() -> frozenset[str]:
    """Return the features of an AArch64 CPU that the kernel reports to every process."""
    if not is_aarch64() or sys.platform != "linux":
        return frozenset()
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.argtypes, getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
    reported = getauxval(_AT_HWCAP)
    return frozenset(name for name, bit in _HWCAP_BITS.items() if reported & bit)


def available_isas() -> tuple[str, ...]:
    """Return the instruction sets that this CPU can run, the fastest first."""
    found = tuple(isa for isa, needed in REQUIRED_FEATURES.items() if features().issuperset(needed))
    return tuple(isa for isa in found if isa != TILES or _refusal_of_tiles() is None)


@functools.cache
def _refusal_of_tiles() -> str | None:
    """Ask the system to let this process use tile registers; return why it refuses, or ``None``.

    Their eight kilobytes are saved whenever threads change, so Linux gives them to processes that ask, once for all
    threads. A child that is spawned asks again.
    """
    if sys.platform != "linux":
        return f"it is {sys.platform}, where this program does not know how to ask"
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.argtypes, syscall.restype = [ctypes.c_long] * 3, ctypes.c_long
    if syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) == 0:
        return None
    return os.strerror(ctypes.get_errno())


@functools.cache
def isa() -> str:
    """Choose the instruction set: the fastest that this CPU has, or the one that ``BITNET_ISA`` asks for.

    A forced one also becomes Numba's compilation target, so that it behaves as on a CPU that has no more.

    Raises
    ------
    ParameterError
        If ``BITNET_ISA`` names none that exists.
    UnsupportedError
        If this CPU lacks what ``BITNET_ISA`` asks for, or the system refuses it.
    """
    forced = read_settings().isa
    if forced is None:
        _compile_for_told_features()
        chosen = available_isas()[0]
        if features().issuperset(REQUIRED_FEATURES[TILES]) and chosen != TILES:
            _logger.warning("%s: the system refuses tiles (%s); using %s", TILES, _refusal_of_tiles(), chosen)
        return chosen
    if forced == EMULATED_TILES:
        _compile_for_told_features()
        return forced
    if forced not in REQUIRED_FEATURES:
        raise ParameterError(f"BITNET_ISA={forced}: unknown; choose one of {', '.join(REQUIRED_FEATURES)}")
    missing = sorted(set(REQUIRED_FEATURES[forced]) - features())
    if missing:
        raise UnsupportedError(
            f"BITNET_ISA={forced}: this CPU lacks {', '.join(missing)}; it has {', '.join(available_isas())}"
        )
    if forced not in available_isas():
        raise UnsupportedError(
            f"BITNET_ISA={forced}: the system refuses tiles ({_refusal_of_tiles()}); "
            f"choose one of {', '.join(available_isas())}"
        )
    targets = _X86_TARGETS if is_x86() else _ARM_TARGETS if is_aarch64() else {}
    if forced in targets and "NUMBA_CPU_NAME" not in os.environ:
        _compile_for(*targets[forced])
    return forced


def target_features() -> frozenset[str]:
    """Return LLVM's names of the features that compiled code may use: of a forced instruction set only its own."""
    return frozenset(REQUIRED_FEATURES[vector_isa()]) if read_settings().isa else features()


def _compile_for_told_features() -> None:
    """Add what Linux told to Numba's target: Numba asks only LLVM."""
    told = sorted(_told_by_linux())
    if told and not {"NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"}.intersection(os.environ):
        found = llvm.get_host_cpu_features().flatten()
        _compile_for(None, ",".join([*found.split(","), *(f"+{name}" for name in told)]).lstrip(","))


def _compile_for(name: str | None, names_of_features: str) -> None:
    from numba.core import config  # here: what needs only features does not wait for Numba

    config.CPU_NAME, config.CPU_FEATURES = name or config.CPU_NAME, names_of_features


def has_tiles() -> bool:
    """Tell whether the chosen set multiplies many tokens by tiles."""
    return isa() in (TILES, EMULATED_TILES)


def packs_five_trits() -> bool:
    """Tell whether the chosen set reads ternary weights five to a byte; beside tiles that has not been tried."""
    return isa() == FIVE_TRITS


def vector_isa() -> str:
    """Return the instruction set of the vectors: the chosen one, or the one that its tiles or its lookups add to."""
    if has_tiles() or packs_five_trits():
        return next(name for name in available_isas() if name not in (TILES, FIVE_TRITS))
    return isa()


def has_hardware_floats() -> bool:
    """Tell whether fused multiply-add and half-precision conversion are instructions of the chosen set.

    Every AArch64 CPU has both; on x86 they come with AVX2. Elsewhere ``backends/cpu/simd/vector.py`` computes the same bits from
    simpler operations.
    """
    return vector_isa() != "generic" or is_aarch64()


def has_signed_dot() -> bool:
    """Tell whether the chosen set's dot product takes both bytes as signed, so none above 127."""
    return vector_isa() == "neon_dotprod"


def brand() -> str:
    """Return the CPU's name as people know it, or the machine's architecture where the system does not tell."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
