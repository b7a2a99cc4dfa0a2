"""`python -m service serve`: check the requirements, then supervise workers until a signal stops the server."""

import logging
import math
import os
import sys
from socket import socket

from service.commands import startup
from service.observability import logging as logs
from service.processes.state_directory import state_directory
from service.processes.supervisor import Supervisor
from service.settings import Settings, environment_warnings, settings

logger = logging.getLogger(__name__)

_BACKLOG = 2048
"""Connections that may wait to be accepted: the same number as in BentoML's workers."""
_MARGIN_SECONDS = 5.0
"""Time after the longest request to send its response, and again for the worker to exit."""
_UNSUITABLE = ("PYTHONOPTIMIZE", "PYTHONWARNINGS")
"""Variables that break the import of BentoML: it reads docstrings, and emits warnings that may be errors."""


def serve() -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        StartupError: the settings or the machine do not allow it.
    """
    chosen = settings()
    startup.check(chosen)
    logs.set_up(chosen.log_level, chosen.log_format)
    for warning in environment_warnings(os.environ):
        logger.warning("%s", warning)
    _prepare_environment()
    with startup.bind(chosen) as listener:
        listener.listen(_BACKLOG)
        logger.info("listening on %s", _url(listener, chosen))
        stop_seconds = chosen.drain_seconds + chosen.request_timeout_seconds + 2 * _MARGIN_SECONDS
        Supervisor(_worker_command(listener.fileno(), chosen), listener, chosen.workers, stop_seconds).run()


def _prepare_environment() -> None:
    """Set the variables that the workers inherit. Temporary files, also BentoML's, go to the state directory."""
    directory = state_directory()
    (directory / "tmp").mkdir()
    os.environ["TMPDIR"] = str(directory / "tmp")
    os.environ["BENTOML_HOME"] = str(directory / "bentoml")
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    os.environ["PYTHONUTF8"] = "1"
    for variable in _UNSUITABLE:
        os.environ.pop(variable, None)


def _url(listener: socket, chosen: Settings) -> str:
    host, port = listener.getsockname()[:2]
    scheme = "http" if chosen.tls_certificate_file is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _worker_command(listener: int, chosen: Settings) -> list[str]:
    """Return the command line of BentoML's worker that listens on the file descriptor `listener`."""
    options = {
        "--fd": listener,
        "--backlog": _BACKLOG,
        "--timeout-graceful-shutdown": math.ceil(chosen.request_timeout_seconds + _MARGIN_SECONDS),
        "--ssl-certfile": chosen.tls_certificate_file,
        "--ssl-keyfile": chosen.tls_key_file,
    }
    arguments = [str(part) for option, value in options.items() if value is not None for part in (option, value)]
    return [sys.executable, "-m", "service.processes.worker", "service.bento:DeepServe", *arguments]
