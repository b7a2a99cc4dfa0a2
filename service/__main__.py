"""`python -m service`: checks the settings, then hands over to BentoML, which supervises the workers."""

import os
import sys

from service.errors import StartupError
from service.settings import settings


def main() -> None:
    """Becomes `bentoml serve`; ends with status 2 and the setting at fault if one is not valid."""
    try:
        chosen = settings()
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


if __name__ == "__main__":
    main()
