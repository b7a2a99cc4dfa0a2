"""Reconcile what this worker has loaded with the desired state of all workers, while requests flow.

A change is made by the workers one after the other, so that the rest serve at full speed, and is complete once every
worker has reported its generation. A worker that starts later, such as after a crash, reconciles the same desired
state. Nobody waits for a stale worker: it makes the change when it goes on.

With `watch_seconds` the desired state follows the files, as `service.registry.watch` says. Missing files never take a
version out of service. That takes a request to unload or load the model, or newer versions and a policy that leaves the
old one out.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from msgspec.structs import replace

from service.errors import LoadFailed, NotFound, Unavailable
from service.registry import layout, readiness, watch
from service.registry.models_folder import ModelFiles
from service.registry.registry import ModelRegistry
from service.registry.versions import FILES_MISSING
from service.registry.workers import Edit, ModelSpec, Spec, Workers, WorkerStatus
from service.version_policy import VersionPolicy

POLL_SECONDS = 0.1
"""Between checks for a new generation of the desired state."""
HEARTBEAT_SECONDS = 1.0
TURN_SECONDS = 10.0
"""Longest wait of a worker for those before it to make a change."""
REREAD_SECONDS = 5.0
"""Between checks whether this worker can read files that it could not read, and so not load."""
RETRY_SECONDS = 2.0
"""Wait after an unexpected error, such as a full disk."""
CHANGE_SECONDS = 300.0
"""Longest wait for every worker to make a change."""

logger = logging.getLogger(__name__)


class Reconciler:
    """Changes the desired state of all workers, and brings this worker to it."""

    def __init__(self, models: ModelRegistry, workers: Workers, watch_seconds: float, *, strict: bool = False) -> None:
        """Prepare to reconcile.

        Args:
            models: of this worker.
            workers: of the server.
            watch_seconds: between scans for changed files; 0 for none.
            strict: whether the server is ready only while every model in the models folder is.
        """
        self._models = models
        self._workers = workers
        self._watch_seconds = watch_seconds
        self._strict = strict
        self._generation = -1
        """The generation of the desired state that this worker has reconciled."""
        self._generations: dict[str, int] = {}
        """The same, by model."""
        self._status = WorkerStatus()
        self._failures: dict[str, dict[str, str]] = {}
        """By model and version, why the version could not be loaded."""
        self._found: dict[str, ModelFiles] | None = None
        """What the last scan has found."""
        self._stale: set[str] = set()
        """The stale workers."""

    def start(self) -> None:
        """Join the workers and load the desired state; all models in the folder if this is the first worker.

        Raises:
            OSError: the models folder or the workers' directory cannot be used now.
        """
        self._workers.join()
        if not self._workers.spec().models:
            found = self._models.folder.scan()
            self._workers.update(lambda spec: {} if spec.models else self._changes(found, spec))
        self._reconcile()

    async def run(self) -> None:
        """Keep this worker at the desired state, and its heartbeat fresh, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_repeat(HEARTBEAT_SECONDS, self._beat))
            tasks.create_task(_repeat(POLL_SECONDS, self._follow_spec))
            tasks.create_task(_repeat(REREAD_SECONDS, self._retry_unreadable))
            if self._watch_seconds:
                tasks.create_task(_repeat(self._watch_seconds, partial(asyncio.to_thread, self._follow_files)))

    def close(self) -> None:
        """Leave the workers of the server."""
        self._workers.leave()

    async def load(self, name: str, policy: VersionPolicy | None = None) -> None:
        """Load a model, or what has changed of it, in every worker.

        Args:
            name: of the model.
            policy: replaces the one in the settings until the model is loaded again.

        Raises:
            NotFound: there is no such model, or not a version that the policy lists.
            LoadFailed: a version failed, or the model's folder cannot be read; loaded versions stay.
            Unavailable: it takes too long.
        """
        files = await asyncio.to_thread(self._files, name)
        listed = (policy and policy.listed) or ()
        if missing := [str(number) for number in listed if str(number) not in files.numbers]:
            raise NotFound(f"Model {name!r} has no version {', '.join(missing)}.")

        def load(spec: Spec) -> dict[str, ModelSpec | None]:
            known = spec.models.get(name, ModelSpec())
            return {name: replace(known, files=files, policy=policy, loaded=True)}

        before, after = await self._change(load)
        statuses = self._workers.statuses().values()
        failures = {failure for status in statuses for failure in status.failures.get(name, {}).items()}
        if failures:
            serves = any(model == name for status in statuses for model, _, _ in status.loaded)
            await self._change(partial(_revert, name, after, before.models.get(name), serves))
            reasons = "; ".join(f"version {number}: {reason}" for number, reason in sorted(failures))
            raise LoadFailed(f"Model {name!r} is not loaded as asked: {reasons}.")

    async def unload(self, name: str) -> None:
        """Take a model out of service, in every worker.

        Raises:
            NotFound: there is no such model.
            Unavailable: it takes too long.
        """

        def unload(spec: Spec) -> dict[str, ModelSpec | None]:
            if name not in spec.models:
                raise NotFound(f"There is no model {name!r}.")
            return {name: replace(spec.models[name], loaded=False)}

        await self._change(unload)

    def policy(self, name: str) -> VersionPolicy:
        """Return the version policy of a model."""
        model = self._workers.spec().models.get(name, ModelSpec())
        return model.policy or self._models.policy(name)

    async def _change(self, edit: Edit) -> tuple[Spec, Spec]:
        """Change the desired state and wait for every worker. Return it before and after."""
        try:
            before, after = await asyncio.to_thread(self._workers.update, edit)
            async with asyncio.timeout(CHANGE_SECONDS):
                # Other processes set no event.
                while any(each.generation < after.generation for each in self._workers.statuses().values()):  # noqa: ASYNC110
                    await asyncio.sleep(POLL_SECONDS / 2)
        except TimeoutError as error:
            raise Unavailable("Not every worker has made the change in time.") from error
        return before, after

    def _files(self, name: str) -> ModelFiles:
        """Return the version folders of a model that is to be loaded.

        Raises:
            NotFound: there is no such model.
            LoadFailed: its folder cannot be read, or is gone or empty although the model is loaded.
        """
        try:
            if (files := self._models.folder.files(name)).numbers:
                return files
            reason, is_absent = "no version in it", True
        except OSError as error:
            reason, is_absent = layout.cause(error), isinstance(error, FileNotFoundError)
        if is_absent and not self._workers.spec().models.get(name, ModelSpec(loaded=False)).loaded:
            raise NotFound(f"There is no model {name!r}.")
        raise LoadFailed(f"Model {name!r} is not loaded as asked: {FILES_MISSING} ({name}: {reason}).")

    async def _beat(self) -> None:
        """Update this worker's heartbeat, and log workers that have become stale."""
        with suppress(OSError):  # such as a directory that cannot be written for a moment
            self._workers.beat()
            before, self._stale = self._stale, self._workers.stale()
            for worker in sorted(self._stale - before):
                logger.error("%s is stale: no change waits for it, and the server is not ready", worker)
            for worker in sorted(before - self._stale):
                logger.warning("%s is not stale any more", worker)

    async def _follow_spec(self) -> None:
        """Reconcile if the desired state has changed and it is this worker's turn."""
        spec = self._workers.spec()
        if spec.generation != self._generation and self._is_my_turn(spec):
            await asyncio.to_thread(self._reconcile)

    def _is_my_turn(self, spec: Spec) -> bool:
        """Return whether the workers before this one, in the order of names, have made a change or take too long."""
        if time.monotonic() - spec.changed > TURN_SECONDS:
            return True
        before = [status for name, status in self._workers.statuses().items() if name < self._workers.name]
        return not any(0 < status.generation < spec.generation for status in before)  # at 0, a worker is starting

    async def _retry_unreadable(self) -> None:
        """Reconcile models again whose files this worker could not read, and can read now."""
        for name in await asyncio.to_thread(self._models.readable_again):
            self._generations.pop(name, None)
            self._generation = -1

    def _follow_files(self) -> None:
        """Bring the desired state to what two scans in a row have found: then nobody is writing."""
        before, self._found = self._found, self._models.folder.scan()
        if self._found == before:
            self._workers.update(partial(self._changes, self._found))

    def _changes(self, found: dict[str, ModelFiles], spec: Spec) -> dict[str, ModelSpec | None]:
        why_missing = partial(layout.why_missing, self._models.folder.root)
        return watch.changes(found, spec, self._workers.loaded(), why_missing)

    def _reconcile(self) -> None:
        """Bring this worker to the desired state, and report it."""
        spec = self._workers.spec()
        for name in self._models.models.keys() - spec.models.keys():
            self._models.forget(name)
            self._failures.pop(name, None)
        for name, model in spec.models.items():
            if self._generations.get(name) != model.generation:
                self._failures[name] = self._reconcile_model(name, model)
                self._generations[name] = model.generation
        before, self._status = (
            self._status,
            readiness.worker_status(self._models.models, spec, self._failures, self._strict),
        )
        self._workers.report(self._status)
        if loaded := {name for name, _, _ in self._status.loaded} - spec.proven:
            self._workers.record_proven(loaded)
        self._generation = spec.generation
        if self._status.loaded != before.loaded:
            _collect_garbage()

    def _reconcile_model(self, name: str, model: ModelSpec) -> dict[str, str]:
        """Bring one model to its desired state. Return why versions could not be loaded, by number."""
        if not model.loaded:
            if model.files.numbers:
                self._models.unload(name, model.files.numbers)
            else:
                self._models.forget(name)
            return {}
        failures = self._models.load(name, model.files.numbers, model.policy, model.files.unreadable)
        for version in self._models.model(name).loaded:
            if model.files.fingerprints.get(version.number, version.fingerprint) != version.fingerprint:
                logger.warning("model %s version %s: its files are not those that were asked for", name, version.number)
        return {failure.number: failure.reason for failure in failures}


def _revert(name: str, asked: Spec, before: ModelSpec | None, serves: bool, spec: Spec) -> dict[str, ModelSpec | None]:
    """Return the desired state of a model that could not be loaded as asked: the policy and state of before.

    A worker that starts later then loads what the others have loaded. A model that was unloaded before, and of which no
    version is loaded, stays unloaded. Nothing changes if somebody has asked for another state since.
    """
    model = asked.models[name]
    reverted: ModelSpec | None
    if before is None:
        reverted = model if serves else None
    else:
        reverted = replace(model, policy=before.policy, loaded=before.loaded or serves)
    return {name: reverted} if spec.models.get(name) == model and reverted != model else {}


def _collect_garbage() -> None:
    """Collect garbage after a change of what is loaded, and exclude the remaining objects from later collections.

    A later collection would examine every object of the loaded models, and stop all requests for a tenth of a second.
    """
    gc.collect()
    gc.freeze()


async def _repeat(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do `work` every so many seconds. An unexpected error is logged once, and the work is tried again."""
    logged = ""
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
            logged = ""
        except Exception as error:
            if logged != (logged := repr(error)):
                logger.exception("the models cannot be brought to the desired state yet")
            await asyncio.sleep(RETRY_SECONDS)
