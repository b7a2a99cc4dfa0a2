"""`python -m service`: checks the settings, then hands over to BentoML, which supervises the workers."""

import importlib.util
import os
import socket
import sys

from service.errors import StartupError
from service.settings import PREFIX, Settings, settings


def main() -> None:
    """Becomes `bentoml serve`; or ends with a failure that names the setting at fault."""
    try:
        chosen = settings()
        _check_port(chosen)
        _check_runtime()
    except StartupError as error:
        raise SystemExit(f"deepserve: {error}") from error
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    os.execv(
        sys.executable,
        [
            *(sys.executable, "-m", "bentoml", "serve", "service.app:DeepServe"),
            *("--host", chosen.host, "--port", str(chosen.port)),
        ],
    )


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


if __name__ == "__main__":
    main()
