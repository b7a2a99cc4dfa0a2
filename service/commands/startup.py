"""What must hold before the service starts: each check tells in one line what is wrong."""

import importlib.util
import os
import socket
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from multiprocessing import get_context

from service.errors import StartupError
from service.machine import GPU, GPUS
from service.settings import PREFIX, Settings
from service.telemetry import traces
from service.tls import rejection, server_context


def check(chosen: Settings) -> None:
    """All of them, in turn.

    Raises:
        StartupError: the service cannot start with these settings here.
    """
    check_port(chosen)
    check_tls(chosen)
    check_runtime()
    check_models_dir(chosen)
    check_models(chosen)
    check_device(chosen)
    traces.check(os.environ)


def check_port(chosen: Settings) -> None:
    """The port is free. BentoML would say so too, below a stack trace.

    Raises:
        StartupError: it is not, or the address is none of this machine.
    """
    family = socket.AF_INET6 if ":" in chosen.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((chosen.host, chosen.port))
        except OSError as error:
            message = f"{PREFIX}HOST and {PREFIX}PORT: {chosen.host}:{chosen.port}: {error.strerror}"
            raise StartupError(message) from error


def check_tls(chosen: Settings) -> str:
    """Check that the certificate and its key, if TLS is wanted, can be used. Return what was found.

    Raises:
        StartupError: the files cannot be used; the message names the setting.
    """
    certificate, key = chosen.tls_certificate_file, chosen.tls_key_file
    if certificate is None or key is None:
        return "off"
    reason = rejection(server_context(certificate, key), certificate)
    return "1.2 and later" if reason is None else f"no client accepts {certificate} now: {reason}"


def check_runtime() -> None:
    """ONNX Runtime, which is one of two packages, is installed.

    Raises:
        StartupError: it is not.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise StartupError("ONNX Runtime is not installed: install deepserve[cpu] or deepserve[gpu]")


def check_models_dir(chosen: Settings) -> None:
    """The models folder can be read. A worker that starts later waits for it: a mount may be lost for a moment.

    Raises:
        StartupError: it cannot.
    """
    try:
        os.scandir(chosen.models_dir).close()
    except OSError as error:
        raise StartupError(f"{PREFIX}MODELS_DIR: {chosen.models_dir}: {error.strerror}") from error


def check_models(chosen: Settings) -> None:
    """The models that settings name can be served. Which versions there are is not asked: they come and go.

    Raises:
        StartupError: there is no task of such a name.
    """
    if any(chosen.by_model.values()):
        from service.serving.binding import task  # which needs the runtime

        for setting, models in chosen.by_model.items():
            if strangers := sorted(model for model in models if task(model) is None):
                raise StartupError(f"{PREFIX}{setting.upper()}: there is no task {', '.join(strangers)}")


def check_device(chosen: Settings) -> None:
    """The GPU that was asked for, if one was, works.

    Raises:
        StartupError: it does not.
    """
    if chosen.device in GPUS and (trouble := trouble_with(chosen.device)) is not None:
        raise StartupError(f"{PREFIX}DEVICE: {chosen.device} does not work: {trouble}")


def trouble_with(device: GPU) -> str | None:
    """Why a GPU does not work, None if it does; tried in a process apart, which may keep its memory or die of it."""
    from service.engine import gpu

    with ProcessPoolExecutor(1, get_context("spawn")) as apart:
        try:
            return apart.submit(gpu.trouble, device).result()
        except BrokenExecutor:
            return "the process that tried it died"
