"""The memory of NVIDIA GPUs, as the driver tells it: asked when somebody collects the metrics, and never in between."""

import ctypes
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from service.observability.ledger import Row, Worker
from service.observability.series import Gauge

THERE = Gauge("deepserve_gpu_memory_bytes", "Memory that an NVIDIA GPU has", ("gpu",))
USED = Gauge("deepserve_gpu_memory_used_bytes", "Memory of it that is taken, by whomever", ("gpu",))
TAKEN = Gauge(
    "deepserve_worker_gpu_memory_bytes", "Memory of it that a worker takes, where the driver knows", ("worker", "gpu")
)


@dataclass(frozen=True)
class GPU:
    """An NVIDIA GPU that the driver shows to this process."""

    number: str
    """As `nvidia-smi` has it, from 0; CUDA_VISIBLE_DEVICES does not change it."""
    name: str
    total: int
    """Bytes of memory, here and below."""
    used: int
    taken: dict[int, int]
    """By process. In a container the driver may know processes by their numbers outside of it."""


def found() -> list[GPU]:
    """All that there are; none without a driver, or without the library that asks it, of `deepserve[gpu]`."""
    return list(_examined(*_driver()))


def rows(workers: Iterable[Worker]) -> Iterator[Row]:
    """The series of all GPUs, and of the workers on them, of this moment."""
    there = found()
    for gpu in there:
        yield THERE.name, (gpu.number,), [gpu.total]
        yield USED.name, (gpu.number,), [gpu.used]
        for worker in workers:
            if worker.pid in gpu.taken:
                yield TAKEN.name, (worker.name, gpu.number), [gpu.taken[worker.pid]]


@cache
def _driver() -> tuple[Any, tuple[Any, ...]]:
    """The library that asks the driver, and its handles of the GPUs in their order, as long as the process lives."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")  # else importing the library would be for nothing
        import pynvml
    except (OSError, ImportError):
        return None, ()
    try:
        pynvml.nvmlInit()
        return pynvml, tuple(pynvml.nvmlDeviceGetHandleByIndex(each) for each in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return None, ()


def _examined(nvml: Any, handles: tuple[Any, ...]) -> Iterator[GPU]:
    for number, handle in enumerate(handles):
        with suppress(nvml.NVMLError):  # a GPU may have been lost, or have been cut in parts of which it does not tell
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            yield GPU(str(number), nvml.nvmlDeviceGetName(handle), memory.total, memory.used, _taken(nvml, handle))


def _taken(nvml: Any, handle: Any) -> dict[int, int]:
    with suppress(nvml.NVMLError):
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        return {each.pid: each.usedGpuMemory for each in processes if each.usedGpuMemory is not None}
    return {}
