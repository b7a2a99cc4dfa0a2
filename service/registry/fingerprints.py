"""Fingerprints of versions: they change with the content of the files, not with their times."""

import hashlib
import os
from collections.abc import Collection
from errno import ENOENT
from pathlib import Path
from stat import S_ISREG

_Signature = tuple[int, ...]
"""Device, inode, size in bytes, and the times of the last changes in ns. While it stays, the content stays."""


class Fingerprinter:
    """Computes fingerprints. A file is read again only if its size, its times or its inode have changed."""

    def __init__(self) -> None:
        self._known: dict[Path, dict[str, tuple[_Signature, str]]] = {}
        """By folder and file."""

    def fingerprint(self, directory: Path) -> str:
        """Return a hash of the names and contents of all files in `directory` that are not hidden.

        Raises:
            OSError: the folder or a file in it cannot be read, a link in it is broken, or there is no file in it.
        """
        known = self._known.get(directory, {})
        names = sorted(name for name in os.listdir(directory) if not name.startswith("."))
        files = {name: _digest(directory / name, known.get(name)) for name in names}
        if not files:
            raise FileNotFoundError(ENOENT, "no file in it", str(directory))
        self._known[directory] = files
        content = [(name, digest) for name, (_, digest) in files.items()]
        return hashlib.blake2b(repr(content).encode(), digest_size=16).hexdigest()

    def forget_all_but(self, directories: Collection[Path]) -> None:
        """Forget the files of other folders."""
        self._known = {directory: files for directory, files in self._known.copy().items() if directory in directories}


def _digest(path: Path, known: tuple[_Signature, str] | None) -> tuple[_Signature, str]:
    """Return the signature of a file and the sha256 of its content.

    Raises:
        OSError: the file cannot be read.
    """
    status = os.stat(path)
    if known is not None and known[0] == _signature(status):
        return known
    if not S_ISREG(status.st_mode):
        return _signature(status), "not a regular file"
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # does not block if it is a FIFO by now
    with open(descriptor, "rb") as file:
        return _signature(os.fstat(descriptor)), hashlib.file_digest(file, "sha256").hexdigest()


def _signature(status: os.stat_result) -> _Signature:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
