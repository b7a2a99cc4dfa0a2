"""NVIDIA GPUs under ONNX Runtime: whether one works and why not, provider options, and placement of a graph.

ONNX Runtime falls back to the CPU silently: if a library is missing, if the device fails, and for each node without a
kernel on the device. So a device is tested before it is used, and the placement of each graph is checked.
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

from service.engine.onnx.errors import clean_message
from service.engine.onnx.runtime import ort
from service.machine import GPU

PROVIDERS: dict[GPU, str] = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}

_COMPUTE = re.compile("Conv|Gemm|MatMul|LSTM|GRU|RNN|Attention")
"""Operations that must run on the GPU. Operations on shapes may run on the CPU, and some run better there."""

_DRIVER, _CUDNN = "libcuda.so.1", "libcudnn.so.9"
"""Libraries to check first: the driver is missing most often, and without cuDNN only the first convolution fails."""

_REMEDIES = {
    _DRIVER: "the NVIDIA driver is not installed, or not visible in this container (docker run --gpus all)",
    "libnvinfer": "TensorRT is not installed",
    "": "install deepserve[gpu]",
}
"""What to do about a library that cannot be loaded, by prefix of its name."""

_TINY_GRAPH = Path(ort.__file__).parent / "datasets" / "sigmoid.onnx"
"""A graph that ONNX Runtime ships."""


@cache
def unavailable_reason(device: GPU) -> str | None:
    """Return why `device` does not work and what to do about it; None if it runs a tiny graph."""
    provider = PROVIDERS[device]
    if provider not in ort.get_available_providers():
        return _wrong_package()
    with redirect_stdout(StringIO()):  # it prints the libraries that it does not find; the reasons below are clearer
        ort.preload_dlls()
    if missing := [reason for library in (_DRIVER, _CUDNN) if (reason := _load_failure(library)) is not None]:
        return "; ".join(missing)
    ort.set_default_logger_severity(4)
    try:
        session = ort.InferenceSession(_TINY_GRAPH, providers=[provider], enable_fallback=0)
    except Exception as error:  # ONNX Runtime has an exception class for each kind of failure
        return _provider_load_failure(device) or _with_remedy(clean_message(error))
    finally:
        ort.set_default_logger_severity(2)
    if provider in session.get_providers():
        return None
    return _provider_load_failure(device) or "ONNX Runtime gives no reason"


def _wrong_package() -> str:
    installed = {each.metadata["Name"] for each in distributions()}
    if "onnxruntime-gpu" in installed:
        return "onnxruntime is installed too and hides onnxruntime-gpu: uninstall both, then install deepserve[gpu]"
    return "onnxruntime is the package for CPUs: uninstall it, then install deepserve[gpu]"


def _provider_load_failure(device: GPU) -> str | None:
    """Return why the provider's library cannot be loaded; None if it can. ONNX Runtime must have tried it before."""
    folder = Path(ort.__file__).parent / "capi"
    return _load_failure(str(folder / "libonnxruntime_providers_shared.so")) or _load_failure(
        str(folder / f"libonnxruntime_providers_{device}.so")
    )


def _load_failure(library: str) -> str | None:
    """Return why a library, or one that it depends on, cannot be loaded, and the remedy; None if it can."""
    try:
        ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    except OSError as error:
        message = str(error)
        return f"{message} ({next(remedy for name, remedy in _REMEDIES.items() if message.startswith(name))})"
    return None


def _with_remedy(failure: str) -> str:
    """Return a CUDA error message with its likely cause."""
    if failure.startswith("CUDA failure 35:"):
        return f"{failure} (the NVIDIA driver is too old)"
    if failure.startswith("CUDA failure 100:"):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return f"{failure} (CUDA_VISIBLE_DEVICES is {visible!r})" if visible is not None else failure
    return failure


def providers(
    device: GPU, memory_mib: int = 0, graphs: bool = False, engine_cache: Path | None = None
) -> list[tuple[str, dict[str, str]]]:
    """Return the execution providers of `device` in order of preference, each with its options.

    Args:
        device: with `tensorrt`, nodes that TensorRT does not support run on CUDA.
        memory_mib: MiB of GPU memory that a session may use; 0 for no limit.
        graphs: whether runs are recorded as CUDA graphs.
        engine_cache: folder for the engines that TensorRT builds.
    """
    cuda = {
        "cudnn_conv_algo_search": "HEURISTIC",  # the default times every algorithm for every new shape
        "arena_extend_strategy": "kSameAsRequested",  # the default rounds up to powers of two
        "use_tf32": "0",  # TF32 has a mantissa of 10 bits; the figures of the model cards were measured in float32
        "enable_cuda_graph": str(int(graphs and device == "cuda")),
    }
    tensorrt = {"trt_cuda_graph_enable": str(int(graphs))}
    if memory_mib:
        cuda["gpu_mem_limit"] = tensorrt["trt_max_workspace_size"] = str(memory_mib * 2**20)
    if engine_cache is not None:
        tensorrt |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(engine_cache)}
    preferred = [(PROVIDERS["tensorrt"], tensorrt), (PROVIDERS["cuda"], cuda)]
    return preferred if device == "tensorrt" else preferred[1:]


def nodes_on_cpu(assigned: Iterable[tuple[str, str]], device: GPU) -> str | None:
    """Return which computation of a graph would run on the CPU instead of `device`; None if there is none.

    Args:
        assigned: provider and operation of each node.
    """
    nodes = set(assigned)
    if all(provider != PROVIDERS[device] for provider, _ in nodes):
        return f"none of it runs on {device}"
    on_cpu = {operation for provider, operation in nodes if provider not in PROVIDERS.values()}
    compute = sorted(filter(_COMPUTE.search, on_cpu))
    return f"its {', '.join(compute)} would run on the CPU" if compute else None
