"""The choice of the instruction set, made by features before anything is compiled."""

import ctypes
import errno
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import llvmlite.binding as llvm
import pytest
from llvmlite.binding.targets import FeatureMap
from numba.core import config

from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.errors import ParameterError, UnsupportedError

AVX2 = "+avx,+avx2,+fma,+f16c"
AVX_VNNI = f"{AVX2},+avxvnni"
VNNI = f"{AVX2},+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512vnni"
AMX = f"{VNNI},+amx-tile,+amx-int8"


@pytest.fixture(autouse=True)
def forgotten_choice(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let each test choose anew, and leave Numba's target and the process's own choice as they were."""
    monkeypatch.setattr(config, "CPU_NAME", config.CPU_NAME)
    monkeypatch.setattr(config, "CPU_FEATURES", config.CPU_FEATURES)
    for name in ("BITNET_ISA", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"):
        monkeypatch.delenv(name, raising=False)
    caches = [function for function in vars(cpu).values() if hasattr(function, "cache_clear")]
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.parametrize(
    ("features", "isas"),
    [
        ("", ("generic",)),
        ("+sse4.2,-avx512f", ("generic",)),
        (AVX2, ("avx2", "generic")),
        (AVX2.replace("+f16c", "-f16c"), ("generic",)),
        (AVX_VNNI, ("avx_vnni", "avx2", "generic")),
        (VNNI, ("avx512_vnni", "avx2", "generic")),
        (f"{VNNI},+avx512vbmi", ("avx512_vbmi", "avx512_vnni", "avx2", "generic")),
        (f"{AVX2},+avx512vbmi", ("avx2", "generic")),
        (f"{VNNI},+avxvnni", ("avx512_vnni", "avx_vnni", "avx2", "generic")),
        (VNNI.replace("+avx512vl", "-avx512vl"), ("avx2", "generic")),
        ("+neon,+dotprod", ("neon_dotprod", "generic")),
        ("+neon,-dotprod", ("generic",)),
    ],
)
def test_features_decide(features: str, isas: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CPU_FEATURES", features)
    assert cpu.available_isas() == isas
    assert cpu.isa() == isas[0]


def test_a_generic_target_has_no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    assert cpu.isa() == "generic"


def test_every_cpu_runs_the_generic_set() -> None:
    assert cpu.available_isas()[-1] == "generic"


@pytest.mark.skipif(not cpu.is_x86(), reason="only x86 has an older CPU to compile for")
@pytest.mark.parametrize(
    ("isa", "target"),
    [("avx_vnni", f"{AVX2},+avxvnni"), ("avx2", AVX2), ("generic", "")],
)
def test_a_forced_set_becomes_the_compilation_target(isa: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if isa not in cpu.available_isas():
        pytest.skip(f"this CPU has no {isa}")
    monkeypatch.setenv("BITNET_ISA", isa)
    assert cpu.isa() == isa
    cpu.set_target()
    compiled_for = config.CPU_NAME, config.CPU_FEATURES
    assert compiled_for == ("x86-64", target)
    assert cpu.has_hardware_floats() == (isa != "generic")


@pytest.mark.skipif(cpu.available_isas() == ("generic",), reason="a CPU without AVX2 is compiled for as it is")
def test_the_chosen_set_becomes_the_compilation_target() -> None:
    """So machine code is the same on each CPU that has the set, whatever else it has."""
    used = cpu.REQUIRED_FEATURES[cpu.isa()]
    cpu.set_target()
    assert config.CPU_FEATURES is not None
    assert {f"+{name}" for name in used} == set(config.CPU_FEATURES.split(","))
    assert cpu.target_features() <= set(used)


# ---- AArch64 under Linux, played on any machine ----------------------------------------------------------------------
class PlayedLibrary:
    """A C library that reports one set of capabilities."""

    def __init__(self, capabilities: int) -> None:
        self.getauxval = lambda kind: capabilities if kind == 16 else 0


def play_arm(monkeypatch: pytest.MonkeyPatch, capabilities: int, found_by_llvm: dict[str, bool]) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: PlayedLibrary(capabilities))
    monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: FeatureMap(found_by_llvm))


@pytest.mark.parametrize("found_by_llvm", [{}, {"neon": True, "sve": False}])
def test_linux_tells_what_llvm_does_not_find(found_by_llvm: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    play_arm(monkeypatch, 1 << 1 | 1 << 20, found_by_llvm)
    assert cpu.isa() == "neon_dotprod"
    cpu.set_target()
    assert config.CPU_FEATURES == "+neon,+dotprod"
    assert cpu.has_signed_dot()


def test_an_arm_cpu_without_the_product_runs_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    play_arm(monkeypatch, 1 << 1, {})
    assert cpu.available_isas() == ("generic",)
    monkeypatch.setenv("BITNET_ISA", "neon_dotprod")
    with pytest.raises(UnsupportedError, match=r"^BITNET_ISA=neon_dotprod: this CPU lacks dotprod; it has generic$"):
        cpu.isa()


def test_x86_sets_are_refused_on_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    play_arm(monkeypatch, 1 << 1 | 1 << 20, {})
    monkeypatch.setenv("BITNET_ISA", "avx2")
    with pytest.raises(UnsupportedError, match=r"this CPU lacks avx, avx2, f16c, fma; it has neon_dotprod, generic$"):
        cpu.isa()


@pytest.mark.parametrize(("isa", "target"), [("neon_dotprod", "+neon,+dotprod"), ("generic", "+neon")])
def test_a_forced_set_is_compiled_for_the_oldest_arm_cpu(
    isa: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_arm(monkeypatch, 1 << 1 | 1 << 20, {})
    monkeypatch.setenv("BITNET_ISA", isa)
    assert cpu.isa() == isa
    cpu.set_target()
    compiled_for = config.CPU_NAME, config.CPU_FEATURES
    assert compiled_for == ("generic", target)
    assert cpu.has_hardware_floats()


# ---- tiles, which the system must permit -----------------------------------------------------------------------------
class AskedSystem:
    """A C library whose system permits tiles, or refuses them with an error number."""

    def __init__(self, error: int = 0) -> None:
        self.asked: list[tuple[int, ...]] = []

        def syscall(*arguments: int) -> int:
            self.asked.append(arguments)
            ctypes.set_errno(error)
            return -1 if error else 0

        self.syscall = syscall


def play_amx(monkeypatch: pytest.MonkeyPatch, error: int = 0, features: str = AMX) -> AskedSystem:
    system = AskedSystem(error)
    monkeypatch.setenv("NUMBA_CPU_FEATURES", features)
    monkeypatch.setattr(ctypes, "CDLL", lambda _, use_errno: system)
    return system


def test_lookups_add_five_trits_to_the_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CPU_FEATURES", f"{VNNI},+avx512vbmi")
    assert (cpu.isa(), cpu.vector_isa(), cpu.packs_five_trits()) == ("avx512_vbmi", "avx512_vnni", True)
    assert cpu.has_hardware_floats()
    assert not cpu.has_tiles()


def test_five_trits_are_not_packed_beside_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    play_amx(monkeypatch, features=f"{AMX},+avx512vbmi")
    assert (cpu.isa(), cpu.vector_isa(), cpu.packs_five_trits()) == ("amx_int8", "avx512_vnni", False)


def test_permitted_tiles_are_chosen(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    system = play_amx(monkeypatch)
    assert cpu.available_isas() == ("amx_int8", "avx512_vnni", "avx2", "generic")
    assert (cpu.isa(), cpu.vector_isa(), cpu.has_tiles()) == ("amx_int8", "avx512_vnni", True)
    assert cpu.has_hardware_floats()
    assert system.asked == [(158, 0x1023, 18)]  # once a process
    assert not caplog.records


def test_refused_tiles_cost_a_line_and_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    system = play_amx(monkeypatch, errno.EPERM)
    assert (cpu.isa(), cpu.vector_isa(), cpu.has_tiles()) == ("avx512_vnni", "avx512_vnni", False)
    assert cpu.available_isas()[0] == "avx512_vnni"
    assert [record.getMessage() for record in caplog.records] == [
        "amx_int8: the system refuses tiles (Operation not permitted); using avx512_vnni"
    ]
    assert len(system.asked) == 1


@pytest.mark.parametrize("missing", ["amx-tile", "amx-int8", "avx512vnni"])
def test_nobody_asks_without_the_features(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    system = play_amx(monkeypatch, features=AMX.replace(f"+{missing}", f"-{missing}"))
    assert "amx_int8" not in cpu.available_isas()
    assert not system.asked


def test_another_set_can_be_forced_where_tiles_are_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    play_amx(monkeypatch, errno.EPERM)
    monkeypatch.setenv("BITNET_ISA", "avx2")
    assert cpu.isa() == "avx2"
    assert not caplog.records


def test_forced_tiles_that_are_permitted_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    play_amx(monkeypatch)
    monkeypatch.setenv("BITNET_ISA", "amx_int8")
    assert cpu.isa() == "amx_int8"


def test_forced_tiles_that_are_refused_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    play_amx(monkeypatch, errno.EPERM)
    monkeypatch.setenv("BITNET_ISA", "amx_int8")
    message = (
        r"^BITNET_ISA=amx_int8: the system refuses tiles \(Operation not permitted\); "
        r"choose one of avx512_vnni, avx2, generic$"
    )
    with pytest.raises(UnsupportedError, match=message):
        cpu.isa()


def test_forced_tiles_that_the_cpu_lacks_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    play_amx(monkeypatch, features=VNNI)
    monkeypatch.setenv("BITNET_ISA", "amx_int8")
    with pytest.raises(UnsupportedError, match=r"^BITNET_ISA=amx_int8: this CPU lacks amx-int8, amx-tile; it has avx5"):
        cpu.isa()


def test_only_linux_is_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UnsupportedError, match=r"^darwin: the kernels need Linux; run them in a Linux container$"):
        cpu.isa()


@pytest.mark.skipif(not cpu.is_x86(), reason="only x86 has the call")
def test_the_real_system_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without tiles in the CPU the system refuses them; with them it may still do so."""
    monkeypatch.setenv("NUMBA_CPU_FEATURES", AMX)
    assert llvm.get_host_cpu_features().get("amx-tile", False) or cpu.TILES not in cpu.available_isas()


def test_emulated_tiles_are_neither_chosen_nor_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    fastest = next(isa for isa in cpu.available_isas() if isa not in (cpu.TILES, cpu.FIVE_TRITS))
    monkeypatch.setenv("BITNET_ISA", cpu.EMULATED_TILES)
    assert (cpu.isa(), cpu.vector_isa(), cpu.has_tiles()) == ("amx_emulated", fastest, True)
    assert cpu.EMULATED_TILES not in (*cpu.available_isas(), *cpu.REQUIRED_FEATURES)


# ---- errors ----------------------------------------------------------------------------------------------------------
def test_an_unknown_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITNET_ISA", "nonsense")
    with pytest.raises(
        ParameterError,
        match=r"^BITNET_ISA=nonsense: unknown; choose one of amx_int8, avx512_vbmi, avx512_vnni, avx_vnni, avx2, "
        "neon_dotprod, generic$",
    ):
        cpu.isa()


def test_a_set_that_the_cpu_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITNET_ISA", "avx2")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+avx,+fma")
    with pytest.raises(UnsupportedError, match=r"^BITNET_ISA=avx2: this CPU lacks avx2, f16c; it has generic$"):
        cpu.isa()


def test_there_is_a_name() -> None:
    assert cpu.brand().strip()


def test_a_cpu_without_a_name_goes_by_its_architecture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpu, "Path", lambda _: tmp_path / "no cpuinfo")
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert cpu.brand() == platform.machine()
