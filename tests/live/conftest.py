"""The real server, the process that `make serve` starts, on a free port. All live tests of a process share one."""

import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from load_tests.processes import free_ports
from tests.environments import environment
from tests.paths import ROOT

CLIENTS = Path(__file__).parent / "clients"
"""Programs that use published client libraries."""


def clean_environment() -> dict[str, str]:
    """Return the environment of this process without the settings of the service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DEEPSERVE_")}


@contextmanager
def serving(log: Path, *, ready: bool = True, seconds: float = 60, **settings: str) -> Iterator[str]:
    """Run a server with these `DEEPSERVE_*` settings, and stop it with SIGTERM.

    Yields:
        Its address, once `/readyz` succeeds or, with `ready=False`, gives any response, within `seconds`.
    """
    [port] = free_ports(1)
    environment = {
        **clean_environment(),
        "DEEPSERVE_PORT": str(port),
        **{f"DEEPSERVE_{name.upper()}": value for name, value in settings.items()},
    }
    certificate = settings.get("tls_certificate_file")
    url = f"{'http' if certificate is None else 'https'}://127.0.0.1:{port}"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "service"], cwd=ROOT, env=environment, stdout=output, stderr=output
        )
        try:
            wait_for_server(url, process, log, ready=ready, seconds=seconds, certificate=certificate)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def trusting(certificate: str | Path | None) -> ssl.SSLContext:
    """Return a client context that trusts this self-signed certificate."""
    return ssl.create_default_context(cafile=certificate)


def wait_for_server(
    url: str,
    process: subprocess.Popen[bytes],
    log: Path,
    *,
    ready: bool,
    seconds: float = 60,
    certificate: str | None = None,
) -> None:
    """Wait until `/readyz` says that all workers are ready or, with `ready=False`, for its first response."""
    end = time.monotonic() + seconds
    context = trusting(certificate)
    while time.monotonic() < end and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz", timeout=seconds, verify=context).is_success or not ready:
                return
        time.sleep(0.1)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a server with default settings."""
    with serving(tmp_path_factory.mktemp("server") / "log") as url:
        yield url


@pytest.fixture
def client(server: str) -> Iterator[httpx.Client]:
    """Return a client of that server."""
    with httpx.Client(base_url=server, timeout=30) as made:
        yield made


@pytest.fixture(scope="session")
def clients_python() -> Path:
    """Return the Python interpreter of the clients' environment."""
    return environment(ROOT / ".venv-clients", CLIENTS / "requirements.txt", "--no-deps", "--no-compile") / "python"
