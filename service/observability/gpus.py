"""The memory of NVIDIA GPUs, asked of the driver when the metrics are read."""

import ctypes
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from prometheus_client import Metric

from service.observability.multiprocess import Worker
from service.observability.series import Gauge, Labels

TOTAL = Gauge("deepserve_gpu_memory_bytes", "Memory that an NVIDIA GPU has", ("gpu",))
USED = Gauge("deepserve_gpu_memory_used_bytes", "Memory of it that is taken, by whomever", ("gpu",))
USED_BY_WORKER = Gauge(
    "deepserve_worker_gpu_memory_bytes", "Memory of it that a worker takes, where the driver knows", ("worker", "gpu")
)


@dataclass(frozen=True)
class GPU:
    """An NVIDIA GPU that the driver shows to this process."""

    number: str
    """The index that `nvidia-smi` shows, from 0. CUDA_VISIBLE_DEVICES does not change it."""
    name: str
    total: int
    """Bytes of memory."""
    used: int
    """Bytes of memory that any process uses."""
    used_by_process: dict[int, int]
    """Bytes of memory by process id. In a container, the driver may know the ids of the host instead."""


def found() -> list[GPU]:
    """Return all GPUs; none without a driver or without the library that asks it, which `deepserve[gpu]` installs."""
    return list(_inspected(*_driver()))


def metrics(workers: Iterable[Worker]) -> list[Metric]:
    """Return the memory of all GPUs, and that of the workers on them."""
    gpus = found()
    by_worker: dict[Labels, float] = {
        (worker.name, gpu.number): gpu.used_by_process[worker.pid]
        for gpu in gpus
        for worker in workers
        if worker.pid in gpu.used_by_process
    }
    return [
        TOTAL.exposed_with({(gpu.number,): gpu.total for gpu in gpus}),
        USED.exposed_with({(gpu.number,): gpu.used for gpu in gpus}),
        USED_BY_WORKER.exposed_with(by_worker),
    ]


@cache
def _driver() -> tuple[Any, tuple[Any, ...]]:
    """Return the library that asks the driver and its handles of the GPUs; no handles if it cannot be used."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")  # without the driver, the import below would be wasted
        import pynvml
    except (OSError, ImportError):
        return None, ()
    try:
        pynvml.nvmlInit()
        return pynvml, tuple(pynvml.nvmlDeviceGetHandleByIndex(each) for each in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return None, ()


def _inspected(nvml: Any, handles: tuple[Any, ...]) -> Iterator[GPU]:
    for number, handle in enumerate(handles):
        with suppress(nvml.NVMLError):  # a lost GPU, or one that is partitioned and does not say how much it uses
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            yield GPU(str(number), nvml.nvmlDeviceGetName(handle), memory.total, memory.used, _by_process(nvml, handle))


def _by_process(nvml: Any, handle: Any) -> dict[int, int]:
    with suppress(nvml.NVMLError):
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        return {each.pid: each.usedGpuMemory for each in processes if each.usedGpuMemory is not None}
    return {}
