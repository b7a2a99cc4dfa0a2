"""How many cores a process may keep busy and how much memory it may take, by files of both cgroup versions, as kernels
and containers lay them out.
"""

import os
from pathlib import Path

import pytest

from service.machine import cores, memory, usage

MINE = len(os.sched_getaffinity(0))
HOST = 16 * 2**30


def machine(root: Path, groups: str, limits: dict[str, str]) -> Path:
    """A root folder whose `proc` says that this process is in `groups`, and whose cgroups have these limits."""
    for name, content in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{k}": v for k, v in limits.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def v1(folder: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {f"cpu/{folder}cpu.cfs_quota_us": f"{quota}\n", f"cpu/{folder}cpu.cfs_period_us": f"{period}\n"}


V1 = "4:memory:/docker/7\n2:cpu,cpuacct:/docker/7\n"


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        pytest.param("0::/\n", {"cpu.max": "100000 100000\n"}, 1, id="v2: one core"),
        pytest.param("0::/\n", {"cpu.max": "50000 100000\n"}, 1, id="v2: half a core is one"),
        pytest.param("0::/\n", {"cpu.max": "199999 100000\n"}, 1, id="v2: what is beyond a whole core is throttled"),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, MINE, id="v2: no limit"),
        pytest.param("0::/a/b\n", {"a/cpu.max": "100000 100000\n", "a/b/cpu.max": "max 100000\n"}, 1, id="v2: above"),
        pytest.param("0::/\n", {"cpu.max": "99999999 100000\n"}, MINE, id="v2: more than there are"),
        pytest.param(V1, v1("docker/7/", 100_000), 1, id="v1: one core"),
        pytest.param(V1, v1("docker/7/", -1), MINE, id="v1: no limit"),
        pytest.param(V1, v1("", 100_000), 1, id="v1: the host's path, the container's mount"),
        pytest.param("2:cpuset:/x\n", {"cpu.max": "nonsense\n"}, MINE, id="no controller of ours"),
        pytest.param("0::/\n", {"cpu.max": "nonsense\n"}, MINE, id="a file that says nothing"),
    ],
)
def test_the_cgroup_limits_the_cores(tmp_path: Path, groups: str, limits: dict[str, str], expected: int) -> None:
    assert cores(machine(tmp_path, groups, limits)) == expected


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        pytest.param("0::/\n", {"memory.max": "1073741824\n"}, 2**30, id="v2: a limit"),
        pytest.param("0::/\n", {"memory.max": "max\n"}, HOST, id="v2: no limit"),
        pytest.param("0::/a/b\n", {"a/memory.max": "4096\n", "a/b/memory.max": "8192\n"}, 4096, id="v2: above"),
        pytest.param("0::/\n", {"memory.max": f"{2 * HOST}\n"}, HOST, id="v2: more than there is"),
        pytest.param(V1, {"memory/docker/7/memory.limit_in_bytes": "1073741824\n"}, 2**30, id="v1: a limit"),
        pytest.param(V1, {"memory/docker/7/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, HOST, id="v1: no limit"),
        pytest.param(V1, {"memory/memory.limit_in_bytes": "4096\n"}, 4096, id="v1: the host's path"),
        pytest.param("2:cpu:/x\n", {"memory/memory.limit_in_bytes": "4096\n"}, HOST, id="no controller of ours"),
        pytest.param("0::/\n", {"memory.max": "nonsense\n"}, HOST, id="a file that says nothing"),
    ],
)
def test_the_cgroup_limits_the_memory(tmp_path: Path, groups: str, limits: dict[str, str], expected: int) -> None:
    root = machine(tmp_path, groups, limits)
    (root / "proc/meminfo").write_text(f"MemTotal:       {HOST // 1024} kB\nMemFree:           17 kB\n")
    assert memory(root) == expected


def test_the_memory_is_unknown_without_any_limit(tmp_path: Path) -> None:
    assert memory(tmp_path) is None


def test_without_cgroups_the_affinity_limits_the_cores(tmp_path: Path) -> None:
    assert cores(tmp_path) == MINE


def test_this_machine_has_cores_and_memory() -> None:
    assert 1 <= cores() <= MINE
    assert 0 < (memory() or 0) <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_affinity_limits_the_cores() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_a_process_uses_memory_and_cpu_time() -> None:
    used = usage(os.getpid())
    assert 2**20 < used.resident < 2**40
    assert 0 < used.cpu_seconds < 1e6
    with pytest.raises(OSError, match="No such"):
        usage(2**30)
