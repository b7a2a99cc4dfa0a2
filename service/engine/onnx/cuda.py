"""An NVIDIA GPU under ONNX Runtime: whether one can be used here and why not, with which options, and the proof of it.

ONNX Runtime falls back to the CPU in silence: if a library is missing, if the device fails, and for each node that the
device has no kernel for. So a device is tried before it is used, and a graph is asked where its nodes run.
"""

import ctypes
import os
import re
from collections.abc import Iterable
from contextlib import redirect_stdout
from functools import cache
from importlib.metadata import distributions
from io import StringIO
from pathlib import Path

from service.engine.onnx.errors import readable
from service.engine.onnx.runtime import ort
from service.machine import GPU

PROVIDERS: dict[GPU, str] = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}

_HEAVY = re.compile("Conv|Gemm|MatMul|LSTM|GRU|RNN|Attention")
"""Operations that are the work of a graph. Others, on shapes, may run on the CPU, and some should."""

_DRIVER, _CUDNN = "libcuda.so.1", "libcudnn.so.9"
"""Both are looked for first: the one is what is missing most often, the other would be missed by the first convolution
and not before."""

_REMEDIES = {
    _DRIVER: "the NVIDIA driver is not installed, or not shown to this container (docker run --gpus all)",
    "libnvinfer": "TensorRT is not installed",
    "": "deepserve[gpu] brings it",
}
"""For a library that cannot be loaded, by the beginning of its name."""

_TINY_GRAPH = Path(ort.__file__).parent / "datasets" / "sigmoid.onnx"
"""Comes with ONNX Runtime."""


@cache
def trouble(device: GPU) -> str | None:
    """Why nothing runs on `device` here and what helps; None if a tiny graph does."""
    provider = PROVIDERS[device]
    if provider not in ort.get_available_providers():
        return _wrong_package()
    with redirect_stdout(StringIO()):  # it prints what it does not find; the reason below says it better
        ort.preload_dlls()
    if missing := [said for library in (_DRIVER, _CUDNN) if (said := _missing(library)) is not None]:
        return "; ".join(missing)
    ort.set_default_logger_severity(4)
    try:
        session = ort.InferenceSession(_TINY_GRAPH, providers=[provider], enable_fallback=0)
    except Exception as error:  # ONNX Runtime raises a class of its own for each kind of failure
        return _missing_behind(device) or _explained(readable(error))
    finally:
        ort.set_default_logger_severity(2)
    return None if provider in session.get_providers() else _missing_behind(device) or "ONNX Runtime does not say why"


def _wrong_package() -> str:
    installed = {each.metadata["Name"] for each in distributions()}
    if "onnxruntime-gpu" in installed:
        return "onnxruntime is installed too and hides onnxruntime-gpu: uninstall both, then install deepserve[gpu]"
    return "onnxruntime is the package for CPUs: uninstall it, then install deepserve[gpu]"


def _missing_behind(device: GPU) -> str | None:
    """Which library the provider lacks, once ONNX Runtime has tried to load it; None if it lacks none."""
    folder = Path(ort.__file__).parent / "capi"
    return _missing(str(folder / "libonnxruntime_providers_shared.so")) or _missing(
        str(folder / f"libonnxruntime_providers_{device}.so")
    )


def _missing(library: str) -> str | None:
    """What is missing for a library to be loaded, which may be another one that it needs, and what brings that."""
    try:
        ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    except OSError as error:
        said = str(error)
        return f"{said} ({next(remedy for name, remedy in _REMEDIES.items() if said.startswith(name))})"
    return None


def _explained(failure: str) -> str:
    """What CUDA says, and what helps."""
    if failure.startswith("CUDA failure 35:"):
        return f"{failure} (the NVIDIA driver is too old)"
    if failure.startswith("CUDA failure 100:"):
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        return f"{failure} (CUDA_VISIBLE_DEVICES is {hidden!r})" if hidden is not None else failure
    return failure


def providers(
    device: GPU, memory: int = 0, graphs: bool = False, engines: Path | None = None
) -> list[tuple[str, dict[str, str]]]:
    """The execution providers of `device` in order, each with its options.

    Args:
        device: with `tensorrt`, what it cannot run goes to CUDA.
        memory: MiB that a session may take on the GPU; 0 for no limit.
        graphs: whether runs are recorded as CUDA graphs.
        engines: where TensorRT keeps what it builds.
    """
    cuda = {
        "cudnn_conv_algo_search": "HEURISTIC",  # the default times every algorithm at every new shape
        "arena_extend_strategy": "kSameAsRequested",  # the default rounds up to powers of two
        "use_tf32": "0",  # 10 bits of mantissa: not what the card's figures were measured with
        "enable_cuda_graph": str(int(graphs and device == "cuda")),
    }
    tensorrt = {"trt_cuda_graph_enable": str(int(graphs))}
    if memory:
        cuda["gpu_mem_limit"] = tensorrt["trt_max_workspace_size"] = str(memory * 2**20)
    if engines is not None:
        tensorrt |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(engines)}
    chosen = [(PROVIDERS["tensorrt"], tensorrt), (PROVIDERS["cuda"], cuda)]
    return chosen if device == "tensorrt" else chosen[1:]


def nodes_on_cpu(assigned: Iterable[tuple[str, str]], device: GPU) -> str | None:
    """What of a graph would not run on `device`, though it is work that should; None if there is nothing.

    Args:
        assigned: provider and operation of each node.
    """
    nodes = set(assigned)
    if all(provider != PROVIDERS[device] for provider, _ in nodes):
        return f"nothing of it runs on {device}"
    astray = {operation for provider, operation in nodes if provider not in PROVIDERS.values()}
    heavy = sorted(filter(_HEAVY.search, astray))
    return f"its {', '.join(heavy)} would run on the CPU" if heavy else None
