"""Virtual environments for programs whose requirements conflict with ours. Each is created once and kept."""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path


def environment(place: Path, requirements: Path, *options: str) -> Path:
    """Return the `bin` directory of an environment with these requirements; `options` are passed to `pip install`."""
    made_from = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    stamp, programs = place / "made-from", place / "bin"
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != made_from:
            shutil.rmtree(place, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", place], check=True)
            install = ["-m", "pip", "install", "--quiet", *options, "-r", requirements]
            subprocess.run([programs / "python", *install], check=True)
            stamp.write_text(made_from)
    return programs
