"""The temporary folder of a server, in which its workers share files."""

import atexit
import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

_PREFIX = "deepserve-server-"
_OWNER = "supervisor"
"""A file in the folder, with the process id of the supervisor."""
_FOLDER = "_DEEPSERVE_FOLDER"
"""The environment variable by which workers inherit the folder."""


def temporary_folder() -> Path:
    """Return the folder in which servers make theirs."""
    return Path(os.environ.get("TMPDIR") or "/tmp")


def shared_folder() -> Path:
    """Return the folder of this server. The first call, in the supervisor, makes it; it is removed at exit.

    Raises:
        OSError: there is no room, or no permission.
    """
    if _FOLDER not in os.environ:
        _remove_leftovers()
        folder = Path(mkdtemp(prefix=_PREFIX, dir=temporary_folder()))
        # While it is locked, neither the next server nor systemd-tmpfiles takes it for a leftover (tmpfiles.d(5), Age).
        fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_SH)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        (folder / _OWNER).write_text(str(os.getpid()))
        os.environ[_FOLDER] = str(folder)
    return Path(os.environ[_FOLDER])


def _remove_leftovers() -> None:
    """Remove the folders of servers that were killed. A folder without an owner may be one that is being made."""
    for owner in temporary_folder().glob(f"{_PREFIX}*/{_OWNER}"):
        with suppress(OSError):  # in use, or of another user
            folder = os.open(owner.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(owner.parent, ignore_errors=True)
            finally:
                os.close(folder)
