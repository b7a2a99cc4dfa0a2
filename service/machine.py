"""What this process may use of the machine: in a container that is what the cgroup grants, not what the host has."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

GPU = Literal["cuda", "tensorrt"]
"""An NVIDIA GPU, by what runs the models on it."""
GPUS: tuple[GPU, ...] = ("cuda", "tensorrt")

Device = Literal["cpu", GPU, "auto"]
"""What models run on; `auto` is `cuda`, and where that does not work CPU."""


def cores(root: Path = Path("/")) -> int:
    """Processors that this process can keep busy, at least 1: the least of its affinity and its CPU quotas.

    A quota is `cpu.max` (cgroup v2) or `cpu.cfs_quota_us` (v1) of its cgroup or of one above it. It is rounded down:
    threads beyond it are throttled.

    Args:
        root: where `proc` and `sys` are.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min([affinity, *map(_quota, _groups(root, "cpu"))])))


def memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may take: the least of what the host has and its cgroups grant; None if none says.

    A limit is `memory.max` (cgroup v2) or `memory.limit_in_bytes` (v1) of its cgroup or of one above it.

    Args:
        root: where `proc` and `sys` are.
    """
    least = min([_host_memory(root), *map(_memory_limit, _groups(root, "memory"))])
    return None if least == math.inf else int(least)


@dataclass(frozen=True)
class Usage:
    """What a process takes."""

    resident: int
    """Bytes of memory."""
    cpu_seconds: float
    """Since it started."""


def usage(pid: int, root: Path = Path("/")) -> Usage:
    """What a process takes of the machine.

    Raises:
        OSError: there is no such process.
    """
    process = root / "proc" / str(pid)
    resident = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    after_name = (process / "stat").read_text().rpartition(")")[2].split()
    ticks = int(after_name[11]) + int(after_name[12])  # utime and stime, the 14th and 15th field
    return Usage(resident, ticks / os.sysconf("SC_CLK_TCK"))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the cgroups that this process is in, and of those above them."""
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
        # Where a container sees its host's path, its own limits are at the mount.
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(mount))


def _quota(group: Path) -> float:
    """Processors that the cgroup grants; infinite if it sets no limit."""
    with suppress(OSError, ValueError):  # not v2, or "max"
        quota, period = map(int, (group / "cpu.max").read_text().split())
        return quota / period
    with suppress(OSError, ValueError):
        quota, period = (int((group / f"cpu.cfs_{part}_us").read_text()) for part in ("quota", "period"))
        if quota > 0:
            return quota / period
    return math.inf


def _memory_limit(group: Path) -> float:
    """Bytes that the cgroup grants; infinite if it sets no limit."""
    for name in ("memory.max", "memory.limit_in_bytes"):  # without a limit, v1 has more than any host
        with suppress(OSError, ValueError):  # of the other version, or "max"
            return int((group / name).read_text())
    return math.inf


def _host_memory(root: Path) -> float:
    with suppress(OSError, ValueError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    return math.inf
