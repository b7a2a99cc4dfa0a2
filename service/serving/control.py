"""What this worker serves, brought to what all workers are to serve, while requests flow.

Every worker looks a few times a second whether that has changed, and loads and unloads, one worker after the other so
that the rest serve at full speed. A change is done once every worker has made it. One that starts later, after a crash
say, serves the same: it chooses among the versions that were there when they were last asked for. One that is stopped,
or hangs, is not waited for: it makes the change when it goes on.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from msgspec.structs import replace

from service.engine.repository import Fingerprints, State
from service.errors import LoadFailed, NotFound, Unavailable
from service.serving.models import ServedModels
from service.serving.workers import Edit, Report, WantedModel, Workers
from service.versions import VersionPolicy

LOOK = 0.2
"""Seconds between looks at what is wanted."""
BEAT = 1.0
"""Seconds between signs of life."""
RETRY = 2.0
"""Seconds after which a look that failed is taken again."""
PATIENCE = 300.0
"""Seconds in which every worker makes a change."""

logger = logging.getLogger(__name__)


class Control:
    """Changes of what is served, for all workers of a server."""

    def __init__(self, models: ServedModels, workers: Workers, watch: float) -> None:
        """Loads what is wanted; if nobody has said yet, all that there is.

        Args:
            models: of this worker.
            workers: the others.
            watch: seconds between looks for changed files; 0 for none.
        """
        self._models = models
        self._workers = workers
        self._watch = watch
        self._made: dict[str, int] = {}
        """By model, the generation that this worker has brought it to."""
        self._seen: tuple[int, int] | None = None
        """The change that the models have been brought to."""
        self._failures: dict[str, str] = {}
        found = models.repository.scan()
        everything = {name: WantedModel(fingerprints) for name, fingerprints in found.items()}
        workers.change(lambda known: {} if known else everything)
        self._bring()

    async def load(self, name: str, policy: VersionPolicy | None = None) -> None:
        """Loads a model, or reloads what has changed of it, in every worker.

        Args:
            name: of the model.
            policy: in place of the one in the settings, until it is loaded the next time.

        Raises:
            NotFound: there is no such model, or not a version that the policy lists.
            LoadFailed: a version failed; those that have served go on.
            Unavailable: it takes too long.
        """
        fingerprints = await asyncio.to_thread(self._models.repository.fingerprints, name)
        if not fingerprints:
            raise NotFound(f"There is no model {name!r}.")
        listed = () if policy is None or policy.listed is None else policy.listed
        if missing := [str(number) for number in listed if str(number) not in fingerprints]:
            raise NotFound(f"Model {name!r} has no version {', '.join(missing)}.")
        asked = WantedModel(fingerprints, policy=None if policy is None else policy.spelling)
        before: WantedModel | None = None

        def ask(models: Mapping[str, WantedModel]) -> dict[str, WantedModel | None]:
            nonlocal before
            before = models.get(name)
            return {name: asked}

        generation = await self._change(ask)
        if failures := self._failed(name):
            settled = _settled(asked, before, serves=self._serves(name))

            def settle(models: Mapping[str, WantedModel]) -> dict[str, WantedModel | None]:
                nobody_else_has_asked = name in models and models[name].generation == generation
                return {name: settled} if nobody_else_has_asked and settled != asked else {}

            await self._change(settle)
            raise LoadFailed(f"Model {name!r} is not loaded as asked: {failures}.")

    async def unload(self, name: str) -> None:
        """Takes a model out of service, in every worker.

        Raises:
            NotFound: there is no such model.
            Unavailable: it takes too long.
        """

        def ask(models: Mapping[str, WantedModel]) -> dict[str, WantedModel | None]:
            if name not in models:
                raise NotFound(f"There is no model {name!r}.")
            return {name: replace(models[name], loaded=False)}

        await self._change(ask)

    def policy(self, name: str) -> VersionPolicy:
        """Which versions of a model are loaded."""
        model = self._workers.wanted().models.get(name)
        if model is None or model.policy is None:
            return self._models.repository.policy(name)
        return VersionPolicy.parse(model.policy)

    async def follow(self) -> None:
        """Makes the changes that any worker asks for, and shows that this one is at work, until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._show_life())
            tasks.create_task(self._look())

    def close(self) -> None:
        """Takes this worker from among the others."""
        self._workers.leave()

    async def _show_life(self) -> None:
        """Tells the other workers that the event loop turns, and the log of those that tell so no more."""
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
        """Brings the models to what is wanted, whenever that changes."""
        loop = asyncio.get_running_loop()
        next_watch, found = loop.time() + self._watch, None
        while True:
            await asyncio.sleep(LOOK)
            try:
                if self._watch and loop.time() >= next_watch:
                    next_watch = loop.time() + self._watch
                    found, before = await asyncio.to_thread(self._models.repository.scan), found
                    if found == before:  # nobody is writing
                        await asyncio.to_thread(self._workers.change, partial(_changed, found))
                if self._workers.last_change() != self._seen:
                    await asyncio.to_thread(self._take_turn)
            except Exception:  # a folder that cannot be read for a moment, say
                logger.exception("the models are not yet as they are wanted")
                await asyncio.sleep(RETRY)

    def _serves(self, name: str) -> bool:
        known = self._models.repository.models.get(name, {})
        return any(version.state is State.READY for version in known.values())

    async def _change(self, edit: Edit) -> int:
        """Asks every worker for a change; the generation that it made, once all have tried."""
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
        """Why the last change of a model failed in one of the workers."""
        return next((report.failures[name] for report in self._workers.reports() if name in report.failures), None)

    def _take_turn(self) -> None:
        """Brings the models to what is wanted while no other worker does so."""
        with self._workers.turn():
            self._bring()

    def _bring(self) -> None:
        """Brings the models to what is wanted, and reports it."""
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
        repository = self._models.repository
        serves = frozenset(
            (name, each.number) for name in repository.models for each in repository.ready_versions(name)
        )
        self._workers.report(Report(wanted.generation, repository.ready, serves, dict(self._failures)))
        self._seen = seen

    def _bring_model(self, name: str, model: WantedModel) -> str:
        """What failed; nothing if all went well."""
        numbers = list(model.fingerprints)
        if not model.loaded:
            self._models.unload(name, numbers)
            return ""
        policy = None if model.policy is None else VersionPolicy.parse(model.policy)
        try:
            return "; ".join(self._models.load(name, numbers, policy))
        except OSError as error:
            logger.exception("model %s is as it was", name)
            return f"its folder cannot be read: {error.strerror}"


def _settled(asked: WantedModel, before: WantedModel | None, *, serves: bool) -> WantedModel | None:
    """What is wanted of a model that could not be loaded as asked: what was, so that a worker which starts later serves
    what the others do. If none of it serves that did not either before, it is not missed.
    """
    if before is None:
        return asked if serves else None
    return replace(asked, policy=before.policy, loaded=before.loaded or serves)


def _changed(found: Mapping[str, Fingerprints], models: Mapping[str, WantedModel]) -> dict[str, WantedModel | None]:
    """What a look at the files changes of what is wanted."""
    gone: dict[str, WantedModel | None] = dict.fromkeys(models.keys() - found.keys())
    return gone | {
        name: replace(models[name], fingerprints=fingerprints) if name in models else WantedModel(fingerprints)
        for name, fingerprints in found.items()
        if name not in models or models[name].fingerprints != fingerprints
    }
