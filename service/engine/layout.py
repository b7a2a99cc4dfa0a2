"""The folder of the models: `<name>/<version>/`, and what lies in it beside them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.versions import MODEL, VERSION

MODEL_NAME, VERSION_NUMBER = re.compile(MODEL), re.compile(VERSION)
"""What their folders are called."""


@dataclass(frozen=True)
class Layout:
    """What a folder of models holds."""

    models: dict[str, list[str]]
    """Versions by model, oldest first; each model has one at least."""
    strays: list[str]
    """Why other folders are ignored, a line each."""


def scan(root: Path) -> Layout:
    """What is in `root`; files, and what is hidden, are nobody's concern.

    Raises:
        OSError: it cannot be read.
    """
    models: dict[str, list[str]] = {}
    strays = []
    for folder in folders(root):
        if not MODEL_NAME.fullmatch(folder.name):
            strays.append(f"{folder.name}: the name of a model is like digits or digits-2")
            continue
        try:
            numbers, others = versions(folder), no_versions(folder)
        except OSError as error:
            strays.append(f"{folder.name}: it cannot be read: {error.strerror}")
            continue
        if numbers:
            models[folder.name] = numbers
            strays += others
        else:
            strays.append(f"{folder.name}: no version in it; a version is a number, as in {folder.name}/1")
    return Layout(models, strays)


def versions(model: Path) -> list[str]:
    """The versions in the folder of a model, oldest first.

    Raises:
        OSError: it cannot be read.
    """
    return sorted((folder.name for folder in folders(model) if VERSION_NUMBER.fullmatch(folder.name)), key=int)


def no_versions(model: Path) -> list[str]:
    """Why other folders in the folder of a model are ignored, a line each.

    Raises:
        OSError: it cannot be read.
    """
    others = (folder.name for folder in folders(model) if not VERSION_NUMBER.fullmatch(folder.name))
    return [f"{model.name}/{other}: a version is a number, as in {model.name}/1" for other in others]


def folders(place: Path) -> Iterator[Path]:
    """Those in `place` that are not hidden, in the order of names; a link to one is one.

    Raises:
        OSError: it cannot be read.
    """
    return (path for path in sorted(place.iterdir()) if path.is_dir() and not path.name.startswith("."))
