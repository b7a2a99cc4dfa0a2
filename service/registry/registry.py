"""Which version of a model answers whom, and how that changes while requests flow.

Requests find a version by its number, or without one the newest that is not on trial; a canary gets its share of those.
What answers is one table, put in place of another in one step: a request under way holds the version that it has found
and finishes on it, and the version's session goes with the last such request.
"""

import asyncio
import gc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from service.engine.batcher import Batcher
from service.engine.cache import Cache, CachedBatcher
from service.engine.onnx.session import Runtime, Session
from service.engine.queue import Limits
from service.errors import Unavailable
from service.observability import metrics
from service.observability.drift import DriftMonitor
from service.observability.series import WithdrawableGauge
from service.registry.binding import AnyTask, bind
from service.registry.card import Card
from service.registry.repository import Repository, State, Version
from service.registry.verification import VerificationError
from service.settings import Settings
from service.version_policy import VersionPolicy


@dataclass(frozen=True, eq=False)
class LoadedVersion:
    """A version of a model with all that answers a request."""

    version: Version
    predictor: AnyTask
    batcher: Batcher
    """Computes the outputs for decoded inputs."""
    cached_batcher: Batcher | CachedBatcher
    """The same, where the model has a cache by way of that: for requests that give the same inputs again."""
    drift: DriftMonitor
    """Is told of each request that is answered."""


class ModelRegistry:
    """The models of this worker."""

    def __init__(self, settings: Settings, predictors: Mapping[str, type[AnyTask]]) -> None:
        """Models of which none is loaded yet.

        Args:
            settings: where they are, what they run on, and who gets which version.
            predictors: the tasks, by name.
        """
        runtime = Runtime(
            device=settings.device,
            precision=settings.precision,
            threads=settings.threads,
            max_batch_rows=settings.max_batch_rows,
            gpu_memory=settings.gpu_memory_mib,
            cuda_graphs=settings.cuda_graphs,
            tensorrt_cache=settings.tensorrt_cache,
        )
        self._on_trial = {
            name: {trials[name].version for trials in (settings.canary, settings.shadow) if name in trials}
            for name in {*settings.canary, *settings.shadow}
        }
        """By model, the versions that answer those who ask for none only if there is no other."""
        self.repository = Repository(
            settings.models_dir, runtime, settings.version_policy, self._prepare, self._on_trial
        )
        self._settings = settings
        self._predictors = predictors
        self._caches = {name: Cache(size, metrics.CacheSeries(name)) for name, size in settings.cache_bytes.items()}
        self._prepared: dict[Session, LoadedVersion] = {}
        self._answering: dict[tuple[str, str | None], LoadedVersion] = {}
        """By model and version; by None what answers those who ask for no version."""
        self._told: dict[str, list[Version]] = {}
        """By model, the versions of which the metrics tell."""

    def find(self, name: str, number: str | None, request_id: str | None = None) -> LoadedVersion:
        """What answers a request.

        Args:
            name: of the model.
            number: the version that the request asks for, if it does.
            request_id: chooses those that a canary answers; without one it answers none.

        Raises:
            NotFound: there is no such model or version.
            Unavailable: it is not ready.
        """
        canary = self._settings.canary.get(name)
        if number is None and canary is not None and request_id is not None and canary.takes(request_id, "canary"):
            served = self._answering.get((name, canary.version)) or self._answering.get((name, None))
        else:
            served = self._answering.get((name, number))
        if served is not None:
            return served
        version = self.repository.newest(name) if number is None else self.repository.version(name, number)
        raise Unavailable(f"Version {version.number} of model {name!r} is not ready.")

    def load(
        self,
        name: str,
        numbers: Sequence[str],
        policy: VersionPolicy | None,
        unreadable: Mapping[str, str] = MappingProxyType({}),
    ) -> list[str]:
        """Load the versions of a model that its policy chooses, in place of those that answer now.

        Args:
            name: of the model.
            numbers: its versions.
            policy: in place of the model's own.
            unreadable: versions whose files some worker could not read, and why.

        Returns:
            What failed, a line a version.
        """
        failures = self.repository.load(name, numbers, policy, unreadable)
        versions = self.repository.versions(name).values()
        failed = sum(bool(each.fingerprint if each.failed else each.rejected) for each in versions)
        metrics.LOADS.labels(name, "failed").inc(failed)
        self._publish(name)
        return failures

    def unload(self, name: str, numbers: Sequence[str]) -> None:
        """Takes a model, which has those versions, out of service."""
        self.repository.unload(name, numbers)
        self._publish(name)

    def forget(self, name: str) -> None:
        """Takes a model out of service that is no longer in the repository."""
        self.repository.forget(name)
        self._publish(name)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return all(served.batcher.idle for served in self._answering.values())

    async def close(self) -> None:
        """Lets the requests under way finish."""
        await asyncio.gather(*(served.batcher.close() for (_, number), served in self._answering.items() if number))

    def _prepare(self, version: Version) -> None:
        """Puts a predictor and a queue before a verified version.

        Raises:
            VerificationError: there is no task for it, or its task cannot work with it.
        """
        assert version.session is not None
        assert version.card is not None
        if (predictor := self._predictors.get(version.name)) is None:
            raise VerificationError("there is no task of this name")
        bound = bind(predictor, self.repository.root / version.name / version.number, version.card)
        limits = Limits(
            run_rows=self._settings.max_batch_rows,
            queue_rows=self._settings.max_queue_rows,
            max_wait=self._settings.max_wait_seconds,
        )
        series = metrics.ModelSeries(version.name, version.number)
        batcher = Batcher(version.session.run, limits, predictor.sequence, series)
        metrics.LOADS.labels(version.name, "ok").inc()
        self._prepared[version.session] = LoadedVersion(
            version,
            bound,
            batcher,
            self._cached(batcher, version.card),
            DriftMonitor(
                version.name,
                version.number,
                {name: (each.edges, each.shares) for name, each in version.card.distributions.items()},
                bound.features,
                version.card.scores,
            ),
        )

    def _cached(self, batcher: Batcher, card: Card) -> Batcher | CachedBatcher:
        """The batcher of a version, behind the cache of its model if there is one."""
        if (cache := self._caches.get(card.name)) is None:
            return batcher
        return CachedBatcher(batcher, cache, card.content.encode(), metrics.LookupSeries(card.name, card.version))

    def _publish(self, name: str) -> None:
        """Lets those versions of a model answer that are ready, and no others."""
        ready = {
            version.number: self._prepared[version.session]
            for version in self.repository.models.get(name, {}).values()
            if version.session is not None
        }
        answering: dict[tuple[str, str | None], LoadedVersion] = {
            (name, number): served for number, served in ready.items()
        }
        known = {served for (model, _), served in self._answering.items() if model == name}
        for served in known.difference(ready.values()):
            served.drift.end()
        for served in set(ready.values()).difference(known):
            served.drift.begin()
        if ready:
            answering[name, None] = ready[self._default(name, list(ready))]
        self._answering = {key: served for key, served in self._answering.items() if key[0] != name} | answering
        answer = {id(served) for served in self._answering.values()}
        self._prepared = {session: served for session, served in self._prepared.items() if id(served) in answer}
        before, self._told[name] = self._told.get(name, []), list(self.repository.models.get(name, {}).values())
        self._tell(before, self._told[name])
        if known != set(ready.values()):
            # What is there now stays: looking through it for garbage stops all requests for a tenth of a second.
            gc.collect()
            gc.freeze()

    def _default(self, name: str, ready: Sequence[str]) -> str:
        """The version for those who ask for none: the newest, one on trial only if there is no other."""
        on_trial = self._on_trial.get(name, ())
        return next((number for number in reversed(ready) if number not in on_trial), ready[-1])

    def _tell(self, before: Iterable[Version], after: Iterable[Version]) -> None:
        """Says in the metrics which versions of a model are ready, on what, and which have failed."""
        for version in before:
            for gauge in self._gauges(version):
                gauge.withdraw()
        for version in after:
            if version.session is not None or version.failed:
                ready, *others = self._gauges(version)
                ready.set(version.state is State.READY)
                values = (self._settings.max_queue_rows, 1, version.cannot_be_loaded_again)
                for gauge, value in zip(others, values, strict=False):
                    gauge.set(value)

    def _gauges(self, version: Version) -> list[WithdrawableGauge]:
        """Whether a version is ready and, if so, its queue limit, what runs it, and whether its files are missing."""
        labels = (version.name, version.number)
        gauges = [metrics.READY.labels(*labels)]
        if (session := version.session) is not None:
            device = self._settings.device
            gauges += [
                metrics.QUEUE_LIMIT.labels(*labels),
                metrics.PROVIDER.labels(*labels, device, session.provider, session.precision),
                metrics.FILES_MISSING.labels(*labels),
            ]
        return gauges
