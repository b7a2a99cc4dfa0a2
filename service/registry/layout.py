"""The layout of the models folder: `<name>/<version>/`, and which other folders are ignored."""

import os
import re
from dataclasses import dataclass
from errno import EMFILE, ENFILE, ENOMEM
from pathlib import Path
from stat import S_ISDIR

from service.version_policy import MODEL, VERSION

MODEL_NAME, VERSION_NUMBER = re.compile(MODEL), re.compile(VERSION)
"""The names of model folders and of version folders."""


@dataclass(frozen=True)
class ModelLayout:
    """The content of a model's folder."""

    versions: list[str]
    """Oldest first."""
    ignored: list[str]
    """Why each other folder is ignored, one line each."""


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
    """Return the content of a models folder. Files and hidden entries are left out.

    Raises:
        OSError: `root` cannot be read, or this process is out of file descriptors or memory.
    """
    models: dict[str, list[str]] = {}
    unreadable: dict[str, str] = {}
    ignored = []
    for folder in _folders(root):
        name = printable(folder.name)
        if not MODEL_NAME.fullmatch(folder.name):
            ignored.append(f"{name}: the name of a model is like digits or digits-2")
            continue
        try:
            model = scan_model(folder)
        except OSError as error:
            raise_if_exhausted(error)
            unreadable[name] = f"{name}: {cause(error)}"
            continue
        if model.versions:
            models[name] = model.versions
            ignored += model.ignored
        else:
            ignored.append(f"{name}: no version in it; a version is a number, as in {name}/1")
    return Layout(models, unreadable, ignored)


def scan_model(folder: Path) -> ModelLayout:
    """Return the content of a model's folder.

    Raises:
        OSError: the folder cannot be read.
    """
    names = [version.name for version in _folders(folder)]
    versions = sorted(filter(VERSION_NUMBER.fullmatch, names), key=int)
    others = [printable(name) for name in names if name not in versions]
    model = folder.name
    return ModelLayout(versions, [f"{model}/{name}: a version is a number, as in {model}/1" for name in others])


def why_missing(root: Path, name: str, number: str) -> str:
    """Return why version `number` of the model `name` cannot be read: the first folder on its path that fails.

    The reason names no path outside the models folder.
    """
    places = {"the models folder": root, name: root / name, f"{name}/{number}": root / name / number}
    for shown, folder in places.items():
        try:
            os.scandir(folder).close()
        except OSError as error:
            return f"{shown}: {cause(error)}"
    return f"{name}/{number} could not be read for a moment"


def cause(error: OSError) -> str:
    """Return the message of the operating system, without paths."""
    return error.strerror or type(error).__name__


def raise_if_exhausted(error: OSError) -> None:
    """Raise `error` if it is not about the files: this process is out of file descriptors or memory."""
    if error.errno in (EMFILE, ENFILE, ENOMEM):
        raise error


def printable(name: str) -> str:
    """Return a file name that is safe in a log line: quoted if it holds control characters or undecodable bytes."""
    return name if name.isprintable() else repr(name)


def _folders(place: Path) -> list[Path]:
    """Return the folders in `place` that are not hidden, by name. Links to folders count.

    An entry that cannot be examined, such as a link to a lost mount, counts too: reading it raises the reason.
    """
    with os.scandir(place) as entries:
        return sorted(place / entry.name for entry in entries if not entry.name.startswith(".") and _is_folder(entry))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return S_ISDIR(entry.stat().st_mode)
    except OSError:
        return True
