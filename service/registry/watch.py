"""How changes of the models folder change the desired state.

New versions and new content are loaded. Missing files do not take a version out of service: a lost mount looks like a
deletion.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from msgspec.structs import replace

from service.registry.models_folder import ModelFiles
from service.registry.workers import ModelSpec, Spec

logger = logging.getLogger(__name__)

Versions = Collection[tuple[str, str]]
"""Versions by model and number."""


def changes(
    found: Mapping[str, ModelFiles], spec: Spec, loaded: Versions, why_missing: Callable[[str, str], str]
) -> dict[str, ModelSpec | None]:
    """Return the models whose desired state changes, and log files that are missing or back.

    Loaded versions, and models of which a version has been loaded, stay in the desired state when their files are
    missing. An unloaded model stays unloaded when its files are back. Other models without files are removed: None.

    Args:
        found: the version folders of each model.
        spec: the desired state so far.
        loaded: the versions that are loaded in some worker.
        why_missing: returns why a version, given by model and number, cannot be read.
    """
    changed: dict[str, ModelSpec | None] = {
        name: ModelSpec(files, found_at_start=not spec.proven)
        for name, files in found.items()
        if name not in spec.models
    }
    for name, before in spec.models.items():
        files = found.get(name, ModelFiles())
        numbers = [number for model, number in sorted(loaded) if model == name]
        missing = _missing(before, files, numbers, is_proven=name in spec.proven)
        unreadable = {**files.unreadable, **{number: why_missing(name, number) for number in missing}}
        after = replace(before, files=ModelFiles(files.fingerprints, unreadable))
        if name not in found and not missing and before.loaded:
            changed[name] = None
        elif after != before:
            changed[name] = after
            _log(name, before.files.unreadable, after.files.unreadable, numbers)
    return changed


def _missing(model: ModelSpec, files: ModelFiles, loaded: Sequence[str], *, is_proven: bool) -> list[str]:
    """Return the versions of a model that stay in the desired state although their folders are gone."""
    if not model.loaded:
        return []
    gone = [number for number in model.files.numbers if number not in files.numbers]
    if missing := [number for number in gone if number in loaded]:
        return missing
    # The workers that had loaded it were restarted since, and could not load it.
    return gone if is_proven and not files.numbers else []


def _log(name: str, before: Mapping[str, str], after: Mapping[str, str], loaded: Sequence[str]) -> None:
    """Log for which loaded versions the files are missing, and for which they are back."""
    missing = [number for number in loaded if number in after and number not in before]
    back = [number for number in loaded if number in before and number not in after]
    if missing:
        logger.error(
            "model %s: the files of %s are missing (%s); what is loaded serves on until it is unloaded",
            name,
            _versions(missing),
            "; ".join(dict.fromkeys(after[number] for number in missing)),
        )
    if back:
        logger.warning("model %s: the files of %s are back", name, _versions(back))


def _versions(numbers: Sequence[str]) -> str:
    """As in `version 2` or `versions 1, 2`."""
    return f"version{'s' if len(numbers) > 1 else ''} {', '.join(sorted(numbers, key=int))}"
