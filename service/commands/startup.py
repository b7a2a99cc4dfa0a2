"""The requirements of a start. `serve` stops at the first one that is not met; `doctor` shows all of them."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from socket import AF_INET, AI_PASSIVE, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, getaddrinfo, socket
from tempfile import TemporaryFile
from textwrap import fill
from threading import Event, Thread

from service.errors import StartupError
from service.machine import GPU, GPUS
from service.observability import tracing
from service.processes.state_directory import temporary_directory
from service.settings import PREFIX, Settings
from service.tls import rejection, server_context

LIBRARIES = (
    "bentoml",
    "uvicorn",
    "starlette",
    "httptools",
    "uvloop",
    "msgspec",
    "numpy",
    "pydantic",
    "pydantic-settings",
    "python-multipart",
    "prometheus-client",
    "opencv-python-headless",
    "pillow",
)
"""Required libraries, besides ONNX Runtime."""

MIN_OPEN_FILES = 64
"""File descriptors of a process: a worker with the shipped models has 20 open before its first connection."""
MIN_ADDRESS_SPACE = 2**30
"""In bytes. A worker with the shipped models uses 0.98 GB, 0.2 GB of it resident."""

_OTHER_THREADS, _MAX_TESTED_THREADS = 8, 256
"""Threads of a worker that do not run the model, and the maximum number of threads that the check starts."""

ADDRESS = "address"
"""Subject of the requirement that host and port are free."""

_TEMPORARY_BYTES, _TEMPORARY_BYTES_PER_WORKER = 2 * 2**20, 2 * 2**20
"""Room for temporary files: small ones of the server, and the metrics of each worker."""


@dataclass(frozen=True)
class Requirement:
    """A requirement of a start."""

    subject: str
    check: Callable[[Settings], str]
    """Return what was found, or raise `StartupError` if the requirement is not met."""


def check(chosen: Settings) -> None:
    """Check every requirement in order.

    Raises:
        StartupError: a requirement is not met. The message is one line that names the setting, variable or file.
    """
    for requirement in REQUIREMENTS:
        requirement.check(chosen)


def bind(chosen: Settings) -> socket:
    """Return a socket that is bound to the host and port. If a name has several addresses, prefer IPv4.

    Raises:
        StartupError: the host has no address, or the address is taken, forbidden or not one of this machine.
    """
    if not chosen.host:
        raise StartupError(f"{PREFIX}HOST is empty: use 0.0.0.0 or :: for all addresses of this machine")
    try:
        found = getaddrinfo(chosen.host, chosen.port, type=SOCK_STREAM, flags=AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise StartupError(f"{PREFIX}HOST: {chosen.host}: {reason}") from error
    family, _, _, _, address = min(found, key=lambda each: each[0] != AF_INET)
    with ExitStack() as unless_bound:
        try:
            bound = unless_bound.enter_context(socket(family, SOCK_STREAM))
            bound.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError as error:
            message = f"{PREFIX}HOST and {PREFIX}PORT: {chosen.host}:{chosen.port}: {error.strerror}"
            raise StartupError(message) from error
        unless_bound.pop_all()
        return bound


def check_tls(chosen: Settings) -> str:
    """Check that the TLS certificate and its key, if they are set, can be used. Return what was found.

    Raises:
        StartupError: the files cannot be used; the message names the setting.
    """
    certificate, key = chosen.tls_certificate_file, chosen.tls_key_file
    if certificate is None or key is None:
        return "off"
    reason = rejection(server_context(certificate, key), certificate)
    return "1.2 and later" if reason is None else f"clients reject {certificate}: {reason}"


def check_runtime() -> None:
    """Check that ONNX Runtime is installed, by one of its two packages.

    Raises:
        StartupError: it is not.
    """
    if find_spec("onnxruntime") is None:
        raise StartupError("ONNX Runtime is not installed: install deepserve[cpu] or deepserve[gpu]")


def installed(library: str) -> str | None:
    """Return the version of a library, or None if it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


@cache
def gpu_failure(device: GPU) -> str | None:
    """Return why a GPU does not work, or None if it does.

    The test runs in another process, since it may crash or keep the GPU's memory.
    """
    program = "import sys; from service.engine.onnx import cuda; print(cuda.unavailable_reason(sys.argv[1]) or '')"
    try:
        tried = subprocess.run([sys.executable, "-c", program, device], stdout=subprocess.PIPE, check=False)
    except OSError as error:
        return f"no process can be started: {error.strerror}"
    if tried.returncode:
        return "the process that tested it crashed"
    return tried.stdout.decode(errors="replace").strip() or None


def check_libraries(_: Settings) -> str:
    """Check that every library is installed."""
    check_runtime()
    versions = {library: installed(library) for library in LIBRARIES}
    if missing := [library for library, found in versions.items() if found is None]:
        raise StartupError(f"not installed: {', '.join(missing)}")
    listed = ", ".join(f"{library}\0{found}" for library, found in versions.items())
    return fill(listed, 90, break_on_hyphens=False).replace("\0", " ")


def check_working_directory(_: Settings) -> str:
    """Check that the working directory exists: libraries use it."""
    try:
        return os.getcwd()
    except OSError as error:
        raise StartupError(f"the working directory: {error.strerror}") from error


def check_open_files(_: Settings) -> str:
    """Check that a process may open enough files."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed < MIN_OPEN_FILES:
        raise StartupError(f"ulimit -n: {allowed} open files are too few, a worker needs {MIN_OPEN_FILES}")
    return str(allowed)


def check_address_space(_: Settings) -> str:
    """Check that a process may allocate enough memory."""
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    if allowed == resource.RLIM_INFINITY:
        return "no limit"
    if allowed < MIN_ADDRESS_SPACE:
        raise StartupError(f"ulimit -v: {allowed >> 10} KiB are too few, a worker needs {MIN_ADDRESS_SPACE >> 10}")
    return f"{allowed / 2**30:.1f} GiB"


def check_threads(chosen: Settings) -> str:
    """Check that the threads of all workers can be started, by starting them briefly."""
    needed = min(chosen.workers * (chosen.threads + _OTHER_THREADS), _MAX_TESTED_THREADS)
    end, started = Event(), 0
    try:
        while started < needed:
            Thread(target=end.wait, daemon=True).start()
            started += 1
    except RuntimeError as error:
        message = f"{started} threads can be started and {needed} are needed: ulimit -u or pids.max is too low"
        raise StartupError(message) from error
    finally:
        end.set()
    return f"{needed} can be started"


def check_temporary_files(chosen: Settings) -> str:
    """Check that the state directory has enough space, by allocating it briefly."""
    directory = temporary_directory()
    if "$" in str(directory):  # BentoML would expand it as a variable
        raise StartupError(f"TMPDIR: {directory}: the name contains a $")
    needed = _TEMPORARY_BYTES + _TEMPORARY_BYTES_PER_WORKER * chosen.workers
    try:
        with TemporaryFile(dir=directory) as file:
            os.posix_fallocate(file.fileno(), 0, needed)
    except OSError as error:
        raise StartupError(f"TMPDIR: {directory}: {error.strerror} ({needed / 2**20:.0f} MiB are needed)") from error
    return str(directory)


def check_models(chosen: Settings) -> str:
    """Check that the models directory can be read, and that every model named by a setting has a task."""
    try:
        str(chosen.models_dir).encode()  # as ONNX Runtime does
        next(chosen.models_dir.iterdir(), None)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its name is not UTF-8"
        raise StartupError(f"{PREFIX}MODELS_DIR: {chosen.models_dir}: {reason}") from error
    if any(chosen.by_model.values()):
        from service.tasks import TASKS  # it needs the libraries that are checked before

        for setting, models in chosen.by_model.items():
            if unknown := sorted(set(models) - TASKS.keys()):
                raise StartupError(f"{PREFIX}{setting.upper()}: there is no task {', '.join(unknown)}")
    return str(chosen.models_dir)


def check_device(chosen: Settings) -> str:
    """Test the GPU, if the settings name one."""
    if chosen.device not in GPUS:
        return chosen.device
    if (failure := gpu_failure(chosen.device)) is not None:
        raise StartupError(f"{PREFIX}DEVICE: {chosen.device} does not work: {failure}")
    return f"{chosen.device} works"


def check_rate_limit(chosen: Settings) -> str:
    """Check that rate limits can be counted. Redis need not answer: until it does, requests pass."""
    if not chosen.rate_limit_per_second:
        return "off"
    limit = f"{chosen.rate_limit_per_second:g} requests a second for each client"
    uri = chosen.rate_limit_storage_uri.get_secret_value()
    if uri == "memory://":
        return limit if chosen.workers == 1 else f"{limit} in each of {chosen.workers} workers, which do not share it"
    if find_spec("redis") is None or find_spec("limits") is None:
        raise StartupError(f"{PREFIX}RATE_LIMIT_STORAGE_URI: the client of Redis is missing: install deepserve[redis]")
    from redis.connection import parse_url

    try:
        parse_url(uri.replace("redis+unix", "unix", 1))  # type: ignore[no-untyped-call]
    except ValueError:  # its message may contain the password
        raise StartupError(f"{PREFIX}RATE_LIMIT_STORAGE_URI: not the URI of a Redis server") from None
    return f"{limit}, shared by Redis at {uri.partition('://')[2].rpartition('@')[2]}"


def check_tracing(_: Settings) -> str:
    """Check the settings of tracing, if it is on."""
    return "on" if tracing.check(os.environ) else "off"


def check_address(chosen: Settings) -> str:
    """Check that the server can listen on the host and port."""
    with bind(chosen):
        return f"{chosen.host}:{chosen.port} is free"


REQUIREMENTS = (
    Requirement("working directory", check_working_directory),
    Requirement("open files", check_open_files),
    Requirement("address space", check_address_space),
    Requirement("threads", check_threads),
    Requirement("temporary files", check_temporary_files),
    Requirement("libraries", check_libraries),
    Requirement("models", check_models),
    Requirement("device", check_device),
    Requirement("TLS", check_tls),
    Requirement("tracing", check_tracing),
    Requirement("rate limit", check_rate_limit),
    Requirement(ADDRESS, check_address),
)
"""In order of dependence: each check may rely on the earlier ones."""
