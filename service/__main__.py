"""`python -m service`: checks the settings, then has BentoML serve and supervise the workers."""

import importlib.util
import os
import socket
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from multiprocessing import get_context
from tempfile import TemporaryDirectory
from typing import Any

from service.errors import StartupError
from service.settings import PREFIX, Settings, settings


def main() -> None:
    """Serves until it is told to stop, or ends with a failure that names the setting at fault."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's pool has a thread for each core of the host
    try:
        chosen = settings()
        _check_port(chosen)
        _check_runtime()
        _check_device(chosen)
    except StartupError as error:
        raise SystemExit(f"deepserve: {error}") from error
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    # BentoML keeps the workers' metrics here and empties the folder at start: no two servers may share it.
    with TemporaryDirectory(prefix="deepserve-") as home:
        os.environ["BENTOML_HOME"] = home
        from service.app import DeepServe  # BentoML reads the environment when it is imported

        served: Any = DeepServe  # a class that the decorator has made a service
        served.serve_http(host=chosen.host, port=chosen.port)


def _check_port(chosen: Settings) -> None:
    """BentoML would say so too, below a stack trace."""
    family = socket.AF_INET6 if ":" in chosen.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((chosen.host, chosen.port))
        except OSError as error:
            message = f"{PREFIX}HOST and {PREFIX}PORT: {chosen.host}:{chosen.port}: {error.strerror}"
            raise StartupError(message) from error


def _check_runtime() -> None:
    if importlib.util.find_spec("onnxruntime") is None:
        raise StartupError("ONNX Runtime is not installed: install deepserve[cpu] or deepserve[gpu]")


def _check_device(chosen: Settings) -> None:
    """Tries the GPU that was asked for, in a process of its own: it would keep the memory, or die of a broken one."""
    if chosen.device in ("cuda", "tensorrt"):
        from service.engine import gpu

        with ProcessPoolExecutor(1, get_context("spawn")) as apart:
            try:
                trouble = apart.submit(gpu.trouble, chosen.device).result()
            except BrokenExecutor:
                trouble = "the process that tried it died"
        if trouble is not None:
            raise StartupError(f"{PREFIX}DEVICE: {chosen.device} does not work: {trouble}")


if __name__ == "__main__":
    main()
