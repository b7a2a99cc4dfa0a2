"""The models folder: `<name>/<version>/`, and whatever else lies in it."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from errno import EMFILE, ENFILE, ENOMEM
from pathlib import Path
from stat import S_ISDIR

from service.version_policy import MODEL, VERSION

MODEL_NAME, VERSION_NUMBER = re.compile(MODEL), re.compile(VERSION)
"""The names of model folders and of version folders."""


@dataclass(frozen=True)
class Layout:
    """The content of a models folder."""

    models: dict[str, list[str]]
    """By model, its versions, oldest first. Each model has at least one."""
    unreadable: dict[str, str]
    """Folders that are named like a model and cannot be read, and why."""
    ignored: list[str]
    """Why each other folder is ignored, one line each."""


def scan(root: Path) -> Layout:
    """Return the content of `root`. Files and hidden entries are left out.

    Raises:
        OSError: `root` cannot be read, or this process is out of file descriptors or memory.
    """
    models: dict[str, list[str]] = {}
    unreadable: dict[str, str] = {}
    ignored = []
    for folder in folders(root):
        if not MODEL_NAME.fullmatch(folder.name):
            ignored.append(f"{printable(folder.name)}: the name of a model is like digits or digits-2")
            continue
        try:
            found = folders(folder)
        except OSError as error:
            raise_if_exhausted(error)
            unreadable[folder.name] = f"{folder.name}: {cause(error)}"
            continue
        if numbers := _numbers(found):
            models[folder.name] = numbers
            ignored += _others(found)
        else:
            ignored.append(f"{folder.name}: no version in it; a version is a number, as in {folder.name}/1")
    return Layout(models, unreadable, ignored)


def versions(model: Path) -> list[str]:
    """Return the versions in a model's folder, oldest first.

    Raises:
        OSError: the folder cannot be read.
    """
    return _numbers(folders(model))


def no_versions(model: Path) -> list[str]:
    """Return why each other folder in a model's folder is ignored, one line each.

    Raises:
        OSError: the folder cannot be read.
    """
    return _others(folders(model))


def folders(place: Path) -> list[Path]:
    """Return the folders in `place` that are not hidden, by name. Links to folders count.

    An entry that cannot be examined, such as a link to a lost mount, counts too: reading it raises the reason.

    Raises:
        OSError: `place` cannot be read.
    """
    with os.scandir(place) as entries:
        return sorted(place / entry.name for entry in entries if not entry.name.startswith(".") and _is_folder(entry))


def why_missing(root: Path, name: str, number: str) -> str:
    """Return why version `number` of the model `name` cannot be read: the first folder on its path that fails.

    The reason names no path outside the models folder.
    """
    for folder, shown in (
        (root, "the models folder"),
        (root / name, name),
        (root / name / number, f"{name}/{number}"),
    ):
        try:
            os.scandir(folder).close()
        except OSError as error:
            return f"{shown}: {cause(error)}"
    return f"{name}/{number} could not be read for a moment"


def cause(error: OSError) -> str:
    """Return what the operating system says of an error, without paths."""
    return error.strerror or type(error).__name__


def raise_if_exhausted(error: OSError) -> None:
    """Raise `error` if it says nothing of the files: this process is out of file descriptors or memory."""
    if error.errno in (EMFILE, ENFILE, ENOMEM):
        raise error


def printable(name: str) -> str:
    """Return a file name that is safe in a log line: quoted if it holds control characters or undecodable bytes."""
    return name if name.isprintable() else repr(name)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return S_ISDIR(entry.stat().st_mode)
    except OSError:
        return True


def _numbers(found: Iterable[Path]) -> list[str]:
    return sorted((folder.name for folder in found if VERSION_NUMBER.fullmatch(folder.name)), key=int)


def _others(found: Iterable[Path]) -> list[str]:
    return [
        f"{folder.parent.name}/{printable(folder.name)}: a version is a number, as in {folder.parent.name}/1"
        for folder in found
        if not VERSION_NUMBER.fullmatch(folder.name)
    ]
