"""What this worker serves, brought to what all workers are to serve, while requests flow.

Every worker checks a few times a second whether that has changed, and loads and unloads, one worker after the other so
that the rest serve at full speed. A change is done once every worker has made it. A worker that starts later, such as
after a crash, serves the same: it chooses among the versions that were there when they were last asked for. A worker
that is stopped, or hangs, is not waited for: it makes the change when it goes on.

With a watch, the server also follows the files: it loads versions that are new or whose content has changed. It never
takes a version out of service because its files are missing, since a lost mount looks like a deletion. That takes a
request to unload or load the model, or newer versions and a policy that keeps only so many.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from msgspec.structs import replace

from service.errors import LoadFailed, NotFound, Unavailable
from service.registry import watch
from service.registry.layout import cause
from service.registry.models_folder import ModelFiles
from service.registry.registry import ModelRegistry
from service.registry.repository import FILES_MISSING, State
from service.registry.workers import Edit, ModelSpec, Spec, Workers, WorkerStatus
from service.version_policy import VersionPolicy

LOOK = 0.2
"""Seconds between looks at what is wanted."""
BEAT = 1.0
"""Seconds between signs of life."""
RETRY = 2.0
"""Seconds after which a look that failed is taken again."""
REREAD = 5.0
"""Seconds after which this worker checks whether files that it could not read, and so not load, can be read now."""
PATIENCE = 300.0
"""Seconds in which every worker makes a change."""

logger = logging.getLogger(__name__)


class Reconciler:
    """Changes of what is served, for all workers of a server."""

    def __init__(self, models: ModelRegistry, workers: Workers, watch_seconds: float, *, strict: bool = False) -> None:
        """Load what is wanted, or all that there is if this is the first worker of the server.

        Args:
            models: of this worker.
            workers: the others.
            watch_seconds: seconds between looks for changed files; 0 for none.
            strict: whether the server is ready only while every model in the repository is.
        """
        self._models = models
        self._workers = workers
        self._watch = watch_seconds
        self._strict = strict
        self._made: dict[str, int] = {}
        """By model, the generation that this worker has brought it to."""
        self._seen: tuple[int, int] | None = None
        """The change that the models have been brought to."""
        self._failures: dict[str, str] = {}
        found = {} if workers.wanted().models else models.repository.folder.scan()
        workers.change(lambda known: {} if known else self._changes(found, known))
        self._bring()

    async def load(self, name: str, policy: VersionPolicy | None = None) -> None:
        """Load a model, or reload what has changed of it, in every worker.

        Args:
            name: of the model.
            policy: in place of the one in the settings, until it is loaded the next time.

        Raises:
            NotFound: there is no such model, or not a version that the policy lists.
            LoadFailed: a version failed, or the model's folder cannot be read; what serves goes on.
            Unavailable: it takes too long.
        """
        files = await asyncio.to_thread(self._files, name)
        listed = () if policy is None or policy.listed is None else policy.listed
        if missing := [str(number) for number in listed if str(number) not in files.numbers]:
            raise NotFound(f"Model {name!r} has no version {', '.join(missing)}.")
        before: ModelSpec | None = None
        asked = ModelSpec({})

        def ask(models: Mapping[str, ModelSpec]) -> dict[str, ModelSpec | None]:
            nonlocal before, asked
            before = models.get(name)
            asked = replace(
                before or ModelSpec({}),
                fingerprints=files.fingerprints,
                unreadable=files.unreadable,
                policy=None if policy is None else policy.spelling,
                loaded=True,
            )
            return {name: asked}

        generation = await self._change(ask)
        if failures := self._failed(name):
            settled = _settled(asked, before, serves=self._serves(name))

            def settle(models: Mapping[str, ModelSpec]) -> dict[str, ModelSpec | None]:
                nobody_else_has_asked = name in models and models[name].generation == generation
                return {name: settled} if nobody_else_has_asked and settled != asked else {}

            await self._change(settle)
            raise LoadFailed(f"Model {name!r} is not loaded as asked: {failures}.")

    async def unload(self, name: str) -> None:
        """Take a model out of service, in every worker.

        Raises:
            NotFound: there is no such model.
            Unavailable: it takes too long.
        """

        def ask(models: Mapping[str, ModelSpec]) -> dict[str, ModelSpec | None]:
            if name not in models:
                raise NotFound(f"There is no model {name!r}.")
            return {name: replace(models[name], loaded=False)}

        await self._change(ask)

    def policy(self, name: str) -> VersionPolicy:
        """Return which versions of a model are loaded."""
        model = self._workers.wanted().models.get(name)
        if model is None or model.policy is None:
            return self._models.repository.policy(name)
        return VersionPolicy.parse(model.policy)

    async def follow(self) -> None:
        """Make the changes that any worker asks for, and show that this one is at work, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._show_life())
            tasks.create_task(self._look())

    def close(self) -> None:
        """Leave the workers of the server."""
        self._workers.leave()

    async def _show_life(self) -> None:
        """Update this worker's heartbeat and log workers whose heartbeat is stale."""
        silent: set[str] = set()
        while True:
            with suppress(OSError):  # the folder cannot be written for a moment, say
                self._workers.beat()
                before, silent = silent, self._workers.silent()
                for worker in silent - before:
                    logger.error("%s is silent: no change waits for it, and the server is not ready", worker)
                for worker in before - silent:
                    logger.warning("%s is silent no more", worker)
            await asyncio.sleep(BEAT)

    async def _look(self) -> None:
        """Bring the models to what is wanted, whenever that changes, and look at the files."""
        loop = asyncio.get_running_loop()
        next_watch, found = loop.time() + self._watch, None
        next_reread = loop.time() + REREAD
        trouble = ""
        while True:
            await asyncio.sleep(LOOK)
            try:
                if self._watch and loop.time() >= next_watch:
                    next_watch = loop.time() + self._watch
                    found, before = await asyncio.to_thread(self._models.repository.folder.scan), found
                    if found == before:  # nobody is writing, and no read failed just this once
                        await asyncio.to_thread(self._workers.change, partial(self._changes, found))
                if loop.time() >= next_reread:
                    next_reread = loop.time() + REREAD
                    await asyncio.to_thread(self._reread)
                if self._workers.last_change() != self._seen:
                    await asyncio.to_thread(self._take_turn)
                trouble = ""
            except Exception as error:  # such as a full disk
                if trouble != (trouble := repr(error)):
                    logger.exception("the models are not yet as they are wanted")
                await asyncio.sleep(RETRY)

    def _files(self, name: str) -> ModelFiles:
        """Return the version folders of a model that is to be loaded.

        Raises:
            NotFound: there is no such model.
            LoadFailed: its folder cannot be read, or is gone or empty although it is loaded.
        """
        try:
            if (files := self._models.repository.folder.files(name)).numbers:
                return files
            why, is_absent = "no version in it", True
        except OSError as error:
            why, is_absent = cause(error), isinstance(error, FileNotFoundError)
        model = self._workers.wanted().models.get(name)
        if is_absent and (model is None or not model.loaded):
            raise NotFound(f"There is no model {name!r}.")
        raise LoadFailed(f"Model {name!r} is not loaded as asked: {FILES_MISSING} ({name}: {why}).")

    def _changes(self, found: Mapping[str, ModelFiles], wanted: Mapping[str, ModelSpec]) -> watch.Changes:
        return watch.changes(found, wanted, self._workers.served(), self._models.repository.folder.why_missing)

    def _serves(self, name: str) -> bool:
        known = self._models.repository.models.get(name, {})
        return any(version.state is State.READY for version in known.values())

    async def _change(self, edit: Edit) -> int:
        """Ask every worker for a change. Return its generation once all have tried."""
        try:
            generation = await asyncio.to_thread(self._workers.change, edit)
            async with asyncio.timeout(PATIENCE):
                # The others are processes, which set no event.
                while not all(each.generation >= generation for each in self._workers.reports()):  # noqa: ASYNC110
                    await asyncio.sleep(LOOK / 4)
        except TimeoutError as error:
            raise Unavailable("Not every worker has made the change in time.") from error
        return generation

    def _failed(self, name: str) -> str | None:
        """Return why the last change of a model failed in one of the workers."""
        return next((report.failures[name] for report in self._workers.reports() if name in report.failures), None)

    def _take_turn(self) -> None:
        """Bring the models to what is wanted while no other worker does so."""
        with self._workers.turn():
            self._bring()

    def _reread(self) -> None:
        """Load versions whose files this worker could not read when it was to load them, and can read now."""
        repository = self._models.repository
        if again := [name for name in repository.models if repository.is_readable_again(name)]:
            for name in again:
                self._made.pop(name, None)
            self._take_turn()

    def _bring(self) -> None:
        """Bring the models to what is wanted, and report it."""
        seen = self._workers.last_change()
        wanted = self._workers.wanted()
        for name in self._models.repository.models.keys() - wanted.models.keys():
            self._models.forget(name)
            self._failures.pop(name, None)
        for name, model in wanted.models.items():
            if self._made.get(name) != model.generation:
                self._failures.pop(name, None)
                if failures := self._bring_model(name, model):
                    self._failures[name] = failures
                self._made[name] = model.generation
        self._report(wanted)
        self._seen = seen

    def _report(self, wanted: Spec) -> None:
        """Tell the other workers what this one serves, and which models it needs and does not have."""
        repository = self._models.repository
        ready = [each for name in repository.models for each in repository.ready_versions(name)]
        served = {each.name for each in ready}
        unavailable = {
            name: self._why_unavailable(name)
            for name, model in wanted.models.items()
            if model.loaded and name not in served and (self._strict or model.found_at_start or model.has_served)
        }
        is_ready = not unavailable and any(name in served or not model.loaded for name, model in wanted.models.items())
        contents = frozenset((each.name, each.number, each.card.content) for each in ready if each.card is not None)
        self._workers.report(WorkerStatus(wanted.generation, is_ready, unavailable, contents, dict(self._failures)))
        if any(not wanted.models[name].has_served for name in served):
            self._workers.remember_served(served)

    def _why_unavailable(self, name: str) -> str:
        """Return why no version of a model is ready, fit for clients without a key."""
        versions = self._models.repository.versions(name).values()
        if all(version.files_missing or not version.failed for version in versions):
            return FILES_MISSING
        return "no version has proved itself"

    def _bring_model(self, name: str, model: ModelSpec) -> str:
        """Bring one model to what is wanted. Return what failed; empty if nothing did."""
        if not model.loaded:
            if model.numbers:
                self._models.unload(name, model.numbers)
            else:
                self._models.forget(name)
            return ""
        policy = None if model.policy is None else VersionPolicy.parse(model.policy)
        failures = self._models.load(name, model.numbers, policy, model.unreadable)
        for version in self._models.repository.ready_versions(name):
            if model.fingerprints.get(version.number, version.fingerprint) != version.fingerprint:
                logger.warning("model %s version %s: its files are not those that were asked for", name, version.number)
        return "; ".join(failures)


def _settled(asked: ModelSpec, before: ModelSpec | None, *, serves: bool) -> ModelSpec | None:
    """Return what is wanted of a model that could not be loaded as asked: the same as before.

    A worker that starts later then serves what the others do. A model that was unloaded before, and of which no version
    serves, stays unloaded.
    """
    if before is None:
        return asked if serves else None
    return replace(asked, policy=before.policy, loaded=before.loaded or serves)
