"""Fingerprints of versions: they change with the content of the files, not with their times."""

import hashlib
import os
from errno import ENOENT
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG


def fingerprint(directory: Path) -> str:
    """Return a hash of the names and contents of all files in `directory` that are not hidden.

    A file is read again only if its size, its times or its inode have changed.

    Raises:
        OSError: the folder or a file in it cannot be read, a link in it is broken, or there is no file in it.
    """
    names = sorted(name for name in os.listdir(directory) if not name.startswith("."))
    if not names:
        raise FileNotFoundError(ENOENT, "no file in it", str(directory))
    content = [(name, _digest(directory / name)) for name in names]
    return hashlib.blake2b(repr(content).encode(), digest_size=16).hexdigest()


def _digest(path: Path) -> str:
    status = os.stat(path)
    if not S_ISREG(status.st_mode):
        return "not a regular file"
    return _sha256(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@lru_cache(maxsize=65536)
def _sha256(path: Path, _signature: tuple[int, ...]) -> str:
    """Return the sha256 of a file. While its signature stays, its content stays."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # does not block if it is a FIFO by now
    with open(descriptor, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
