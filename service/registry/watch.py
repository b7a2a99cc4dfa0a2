"""What a look at the models folder changes of what is to be served.

New versions and new content are to be loaded. Missing files are no reason to take a version out of service: a lost
mount looks like a deletion.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from msgspec.structs import replace

from service.registry.models_folder import NO_FILES, ModelFiles
from service.registry.workers import ModelSpec

logger = logging.getLogger(__name__)

Changes = dict[str, ModelSpec | None]
"""By model, what is to be served of it; None takes it out of the index."""


def changes(
    found: Mapping[str, ModelFiles],
    wanted: Mapping[str, ModelSpec],
    served: Collection[tuple[str, str]],
    why_missing: Callable[[str, str], str],
) -> Changes:
    """Return the models of which something else is to be served now, and log whose files are missing or back.

    Versions that serve, and models of which a version has served, stay wanted when their files are missing. A model
    that was unloaded stays unloaded when its files are back. Other models without files go: None.

    Args:
        found: by model, its version folders.
        wanted: by model, what is to be served so far.
        served: model and number of the versions that serve in some worker.
        why_missing: says why a version, given by model and number, cannot be read.
    """
    at_start = not any(model.has_served for model in wanted.values())
    changed: Changes = {
        name: ModelSpec(files.fingerprints, files.unreadable, found_at_start=at_start)
        for name, files in found.items()
        if name not in wanted
    }
    for name, before in wanted.items():
        files = found.get(name, NO_FILES)
        missing = {number: why_missing(name, number) for number in _missing(name, before, files, served)}
        after = replace(before, fingerprints=files.fingerprints, unreadable={**files.unreadable, **missing})
        if name not in found and not missing and before.loaded:
            changed[name] = None
        elif after != before:
            changed[name] = after
            _log(name, before, after, served)
    return changed


def _missing(name: str, model: ModelSpec, files: ModelFiles, served: Collection[tuple[str, str]]) -> list[str]:
    """Return the versions of a model that are to be served although they have no folder any more."""
    if not model.loaded:
        return []
    there = set(files.numbers)
    gone = [number for number in model.numbers if number not in there]
    if missing := [number for number in gone if (name, number) in served]:
        return missing
    # The workers that served it have been started again since, and could not load it.
    return gone if model.has_served and not there else []


def _log(name: str, before: ModelSpec, after: ModelSpec, served: Collection[tuple[str, str]]) -> None:
    """Log for which versions that serve the files are missing, and for which they are back."""
    missing, back = (
        [number for number in new.unreadable if number not in old.unreadable and (name, number) in served]
        for new, old in ((after, before), (before, after))
    )
    if missing:
        logger.error(
            "model %s: the files of %s are missing (%s); what is loaded serves on until it is unloaded",
            name,
            _versions(missing),
            "; ".join(dict.fromkeys(after.unreadable[number] for number in missing)),
        )
    if back:
        logger.warning("model %s: the files of %s are back", name, _versions(back))


def _versions(numbers: Sequence[str]) -> str:
    """As in `version 2` or `versions 1, 2`."""
    return f"version{'s' if len(numbers) > 1 else ''} {', '.join(sorted(numbers, key=int))}"
