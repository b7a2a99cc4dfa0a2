"""The processors and the memory that this process may use; in a container, the cgroup limits both."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

GPU = Literal["cuda", "tensorrt"]
"""The libraries that run models on an NVIDIA GPU."""
GPUS: tuple[GPU, ...] = ("cuda", "tensorrt")

Device = Literal["cpu", GPU, "auto"]
"""The device that models run on; `auto` is `cuda`, or the CPU where `cuda` does not work."""


def cores(root: Path = Path("/")) -> int:
    """Return the processors that this process can keep busy, at least 1: the minimum of its affinity and CPU quotas.

    A quota is `cpu.max` (cgroup v2) or `cpu.cfs_quota_us` (v1) of its cgroup or of a parent. It is rounded down: more
    threads would be throttled.

    Args:
        root: the directory with `proc` and `sys`.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min([affinity, *map(_quota, _groups(root, "cpu"))])))


def memory(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory that this process may use, the minimum of the host and its cgroups; None if unknown.

    A limit is `memory.max` (cgroup v2) or `memory.limit_in_bytes` (v1) of its cgroup or of a parent.

    Args:
        root: the directory with `proc` and `sys`.
    """
    least = min([_host_memory(root), *map(_memory_limit, _groups(root, "memory"))])
    return None if least == math.inf else int(least)


@dataclass(frozen=True)
class Usage:
    """The memory and CPU time that a process uses."""

    resident: int
    """Bytes of memory in RAM."""
    cpu_seconds: float
    """CPU time since the process started."""


def usage(pid: int, root: Path = Path("/")) -> Usage:
    """Return the memory and CPU time that a process uses.

    Raises:
        OSError: there is no such process.
    """
    process = root / "proc" / str(pid)
    resident = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    after_name = (process / "stat").read_text().rpartition(")")[2].split()
    ticks = int(after_name[11]) + int(after_name[12])  # utime and stime, the 14th and 15th field
    return Usage(resident, ticks / os.sysconf("SC_CLK_TCK"))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the directories of the cgroups of this process, and of their parents."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        own = mount / path.lstrip("/")
        # A container may see the path on its host; its own limits are then at the mount.
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(mount))


def _quota(group: Path) -> float:
    """Return the processors that a cgroup allows; infinity if it sets no limit."""
    with suppress(OSError, ValueError):  # not v2, or "max"
        quota, period = map(int, (group / "cpu.max").read_text().split())
        return quota / period
    with suppress(OSError, ValueError):
        quota, period = (int((group / f"cpu.cfs_{part}_us").read_text()) for part in ("quota", "period"))
        if quota > 0:
            return quota / period
    return math.inf


def _memory_limit(group: Path) -> float:
    """Return the bytes of memory that a cgroup allows; infinity if it sets no limit."""
    for name in (
        "memory.max",
        "memory.limit_in_bytes",
    ):  # v1 shows a number above any host's memory if there is no limit
        with suppress(OSError, ValueError):  # of the other version, or "max"
            return int((group / name).read_text())
    return math.inf


def _host_memory(root: Path) -> float:
    with suppress(OSError, ValueError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    return math.inf
