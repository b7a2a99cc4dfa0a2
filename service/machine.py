"""What this process may use of the machine: in a container that is what the cgroup grants, not what the host has."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def cores(root: Path = Path("/")) -> int:
    """Processors that this process can keep busy, at least 1: the least of its affinity and its CPU quotas.

    A quota is `cpu.max` (cgroup v2) or `cpu.cfs_quota_us` (v1) of its cgroup or of one above it. It is rounded down:
    threads beyond it are throttled.

    Args:
        root: where `proc` and `sys` are.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(affinity, *_quotas(root), math.inf)))


def _quotas(root: Path) -> Iterator[float]:
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        own = mount / path.lstrip("/")
        # Where a container sees its host's path, its own limits are at the mount.
        yield from (_quota(folder) for folder in (own, *own.parents) if folder.is_relative_to(mount))


def _quota(folder: Path) -> float:
    """Processors that the cgroup in `folder` grants; infinite if it sets no limit."""
    with suppress(OSError, ValueError):  # not v2, or "max"
        quota, period = map(int, (folder / "cpu.max").read_text().split())
        return quota / period
    with suppress(OSError, ValueError):
        quota, period = (int((folder / f"cpu.cfs_{part}_us").read_text()) for part in ("quota", "period"))
        if quota > 0:
            return quota / period
    return math.inf
