"""The state directory of a server: temporary files that its workers share."""

import atexit
import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

_PREFIX = "deepserve-server-"
_OWNER_FILE = "supervisor"
"""A file in the state directory with the process id of the supervisor."""
_VARIABLE = "_DEEPSERVE_STATE_DIRECTORY"
"""The environment variable from which workers inherit the path."""


def temporary_directory() -> Path:
    """Return the directory in which servers create their state directories."""
    return Path(os.environ.get("TMPDIR") or "/tmp")


def state_directory() -> Path:
    """Return the state directory of this server.

    The first call, in the supervisor, creates it; it is removed at exit. Workers inherit it.

    Raises:
        OSError: the disk is full, or permission is denied.
    """
    if _VARIABLE not in os.environ:
        _remove_leftovers()
        directory = Path(mkdtemp(prefix=_PREFIX, dir=temporary_directory()))
        # The lock protects it from the next server and from systemd-tmpfiles (tmpfiles.d(5), Age).
        fcntl.flock(os.open(directory, os.O_RDONLY), fcntl.LOCK_SH)
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        (directory / _OWNER_FILE).write_text(str(os.getpid()))
        os.environ[_VARIABLE] = str(directory)
    return Path(os.environ[_VARIABLE])


def _remove_leftovers() -> None:
    """Remove the state directories of killed servers. One without an owner file may be in creation and stays."""
    for owner in temporary_directory().glob(f"{_PREFIX}*/{_OWNER_FILE}"):
        with suppress(OSError):  # in use, or of another user
            directory = os.open(owner.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(owner.parent, ignore_errors=True)
            finally:
                os.close(directory)
