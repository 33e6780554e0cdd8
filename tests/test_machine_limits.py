"""Cores and memory within CPU affinity and control groups, told from made-up /proc and /sys folders."""

import os
from pathlib import Path

import pytest

from bitnet_numba.machine_limits import available_bytes, usable_cores

V2 = "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = (
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
INSIDE = "30 20 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def machine(root: Path, mountinfo: str, own: str, **files: str) -> Path:
    """Write /proc/self/mountinfo and /proc/self/cgroup, and files below /sys/fs/cgroup; ``__`` stands for a slash."""
    every = {"proc/self/mountinfo": mountinfo, "proc/self/cgroup": own, "proc/meminfo": "MemAvailable: 1000000 kB\n"}
    every |= {f"sys/fs/cgroup/{name.replace('__', '/')}": text for name, text in files.items()}
    for name, text in every.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def v2(root: Path, **files: str) -> Path:
    named = {f"a__b__{name}" if "__" not in name else name: text for name, text in files.items()}
    (root / "sys/fs/cgroup/a/b").mkdir(parents=True, exist_ok=True)
    return machine(root, V2, "0::/a/b\n", **{name.replace("cpu_max", "cpu.max"): text for name, text in named.items()})


def test_without_limits_affinity_decides(tmp_path: Path) -> None:
    assert usable_cores(v2(tmp_path, cpu_max="max 100000\n")) == (8, "CPU affinity")
    assert usable_cores(tmp_path / "no proc") == (8, "CPU affinity")


@pytest.mark.parametrize(
    ("quota", "cores"), [("300000 100000", 3), ("150000 100000", 1), ("20000 100000", 1), ("900000 100000", 8)]
)
def test_a_quota_counts_in_whole_cores(quota: str, cores: int, tmp_path: Path) -> None:
    limit = usable_cores(v2(tmp_path, cpu_max=f"{quota}\n"))
    assert limit.cores == cores
    assert limit.reason == (
        "CPU affinity" if cores == 8 else f"CPU quota of {int(quota.split()[0]) / 1e5:g} cores (/sys/fs/cgroup/a/b)"
    )


def test_the_quota_of_a_parent_counts(tmp_path: Path) -> None:
    root = v2(tmp_path, cpu_max="max 100000\n", a__cpu_max="200000 100000\n")
    assert usable_cores(root) == (2, "CPU quota of 2 cores (/sys/fs/cgroup/a)")


def test_version_1(tmp_path: Path) -> None:
    files = {"cpu,cpuacct__x__cpu.cfs_quota_us": "400000\n", "cpu,cpuacct__x__cpu.cfs_period_us": "100000\n"}
    files |= {"cpu,cpuacct__cpu.cfs_quota_us": "-1\n", "cpu,cpuacct__cpu.cfs_period_us": "100000\n"}
    assert usable_cores(machine(tmp_path, V1, "1:cpu,cpuacct:/x\n2:memory:/\n", **files)).cores == 4


def test_a_container_sees_its_own_group_at_the_top(tmp_path: Path) -> None:
    root = machine(tmp_path, INSIDE, "0::/docker/abc\n", **{"cpu.max": "100000 100000\n"})
    assert usable_cores(root).cores == 1


def test_memory_is_what_the_tightest_group_leaves(tmp_path: Path) -> None:
    files = {
        "a__b__memory.max": "max\n",
        "a__b__memory.current": "5000\n",
        "a__memory.max": "500000000\n",
        "a__memory.current": "300000000\n",
        "a__memory.stat": "anon 100\ninactive_file 50000000\nactive_file 50000000\n",
    }
    root = v2(tmp_path, **files)
    assert available_bytes(root) == 300_000_000
    (root / "sys/fs/cgroup/a/memory.max").write_text("max\n")
    assert available_bytes(root) == 1_024_000_000


def test_memory_of_version_1(tmp_path: Path) -> None:
    files = {"memory__x__memory.limit_in_bytes": "1000000\n", "memory__x__memory.usage_in_bytes": "1500000\n"}
    files |= {"memory__memory.limit_in_bytes": f"{2**63 - 4096}\n", "memory__memory.usage_in_bytes": "1\n"}
    assert available_bytes(machine(tmp_path, V1, "1:cpu,cpuacct:/x\n2:memory:/x\n", **files)) == 0


@pytest.mark.parametrize("own", ["", "garbage\n", "0::/../../etc\n", "0::/not/there\n"])
def test_odd_files_limit_nothing(own: str, tmp_path: Path) -> None:
    root = machine(tmp_path, V2 + "short line\n", own, **{"cpu.max": "x y\n", "memory.max": "lots\n"})
    assert usable_cores(root) == (8, "CPU affinity")
    assert available_bytes(root) == 1_024_000_000
    assert available_bytes(tmp_path / "none") is None


def test_this_machine_has_cores_and_memory() -> None:
    assert usable_cores().cores >= 1
    assert (available_bytes() or 1) > 0
