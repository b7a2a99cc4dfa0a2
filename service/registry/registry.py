"""The models of a worker: which versions exist, which are loaded, and which one answers by default.

Each change of a model replaces its entry in one assignment, so readers need no lock. A request under way keeps the
version that it found, and finishes on it.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from service.errors import NotFound, Unavailable
from service.observability import metrics
from service.observability.series import Gauge
from service.registry.layout import raise_if_exhausted, why_missing
from service.registry.loader import Bind, Loader
from service.registry.models_folder import ModelFiles, ModelsFolder
from service.registry.versions import FailedVersion, LoadedVersion, Model, UnloadedVersion, Version
from service.settings import Settings
from service.version_policy import VersionPolicy

logger = logging.getLogger(__name__)

_NO_VERSIONS = Model({}, None)
_REPLACED = "its files have been replaced under the same number; a retrained model should get a new number"


class ModelRegistry:
    """The models of this worker. Changes take seconds: for a thread, one at a time."""

    def __init__(self, settings: Settings, bind: Bind) -> None:
        """Start without models.

        Args:
            settings: the models folder, the version policies, and what models run on.
            bind: returns the task for a version.
        """
        self.folder = ModelsFolder(settings.models_dir)
        self.models: Mapping[str, Model] = {}
        """By name, in alphabetical order."""
        self._settings = settings
        self._loader = Loader(settings, bind)
        self._on_trial = {
            name: {trials[name].version for trials in (settings.canary, settings.shadow) if name in trials}
            for name in {*settings.canary, *settings.shadow}
        }
        """By model, the versions under trial: the default only when no other version is loaded."""

    def model(self, name: str) -> Model:
        """Return a model.

        Raises:
            NotFound: there is no such model.
        """
        if (model := self.models.get(name)) is None:
            raise NotFound(f"There is no model {name!r}.")
        return model

    def version(self, name: str, number: str) -> Version:
        """Return a version of a model, loaded or not.

        Raises:
            NotFound: there is no such model or version.
        """
        if (version := self.model(name).versions.get(number)) is None:
            raise NotFound(f"Model {name!r} has no version {number!r}.")
        return version

    def find(self, name: str, number: str | None, request_id: str | None = None) -> LoadedVersion:
        """Return the version that answers a request.

        Args:
            name: of the model.
            number: the version that the request names; None for the default or the canary.
            request_id: decides whether the canary answers; without it, the default does.

        Raises:
            NotFound: there is no such model or version.
            Unavailable: it is not loaded.
        """
        if number is not None:
            version = self.version(name, number)
            if isinstance(version, LoadedVersion):
                return version
            raise Unavailable(f"Version {number} of model {name!r} is not ready.")
        model = self.model(name)
        canary = self._settings.canary.get(name)
        if canary is not None and request_id is not None and canary.takes(request_id, "canary"):
            trial = model.versions.get(canary.version)
        else:
            trial = None
        found = trial if isinstance(trial, LoadedVersion) else model.default
        if found is None:
            raise Unavailable(f"No version of model {name!r} is ready.")
        return found

    def policy(self, name: str) -> VersionPolicy:
        """Return the version policy of a model in the settings."""
        return self._settings.version_policy.get(name, VersionPolicy())

    def load(
        self,
        name: str,
        numbers: Sequence[str],
        policy: VersionPolicy | None = None,
        unreadable: Mapping[str, str] = MappingProxyType({}),
    ) -> list[FailedVersion]:
        """Load the versions of a model that its policy chooses, and take the others out of service.

        Files that are loaded already are not loaded again. A version that fails does not count: the policy chooses the
        next older one in its place. A loaded version stays until its replacement is ready, and if no chosen version can
        be loaded, all loaded ones stay. A failure to read is not a deletion: a loaded version stays without its files.

        Args:
            name: of the model.
            numbers: its versions.
            policy: replaces the one in the settings.
            unreadable: versions whose files another worker could not read, and why. Loaded ones are not loaded again.

        Returns:
            The versions that could not be loaded.
        """
        policy = policy or self.policy(name)
        on_trial = self._on_trial.get(name, ())
        before = self.models.get(name, _NO_VERSIONS)
        files = self._files(name)
        versions: dict[str, Version] = {}
        failures: list[FailedVersion] = []
        newer = 0
        for number in sorted(numbers, key=int, reverse=True):
            if not policy.chooses(number, newer, on_trial):
                versions[number] = UnloadedVersion(name, number, f"the version policy ({policy}) leaves it out")
                continue
            version = self._load(name, number, files, before.versions.get(number), unreadable.get(number))
            versions[number] = version
            failure = version.failure if isinstance(version, LoadedVersion) else version
            if failure is not None:
                failures.append(failure)
            newer += isinstance(version, LoadedVersion) and number not in on_trial
        if not any(isinstance(version, LoadedVersion) for version in versions.values()):
            for loaded in before.loaded:
                if loaded.number not in files.fingerprints:
                    self._reload(loaded, files)
                versions[loaded.number] = loaded
        metrics.LOADS.labels(name, "failed").inc(sum(not failure.is_missing for failure in failures))
        self._publish(name, self._model(name, versions))
        return failures

    def unload(self, name: str, numbers: Sequence[str]) -> None:
        """Take a model, whose versions are `numbers`, out of service."""
        self._publish(name, self._model(name, {number: UnloadedVersion(name, number) for number in numbers}))

    def forget(self, name: str) -> None:
        """Take a model out of service and out of the index."""
        self._publish(name, None)

    def readable_again(self) -> list[str]:
        """Return the models with a version that failed because its files were missing, and can be read now."""
        found = []
        for name, model in self.models.items():
            failed = [version for version in model.versions.values() if isinstance(version, FailedVersion)]
            missing = {version.number for version in failed if version.is_missing}
            if missing and not missing.isdisjoint(self._files(name).fingerprints):
                found.append(name)
        return found

    @property
    def idle(self) -> bool:
        """Whether no request waits and no run is under way."""
        return all(version.batcher.idle for model in self.models.values() for version in model.loaded)

    async def close(self) -> None:
        """Wait for the requests under way."""
        await asyncio.gather(*(version.batcher.close() for model in self.models.values() for version in model.loaded))

    def _files(self, name: str) -> ModelFiles:
        """Return the files of a model; none if its folder cannot be read."""
        try:
            return self.folder.files(name)
        except OSError as error:
            raise_if_exhausted(error)
            return ModelFiles()

    def _load(
        self, name: str, number: str, files: ModelFiles, before: Version | None, cause: str | None
    ) -> LoadedVersion | FailedVersion:
        """Load a version or, if it is loaded, what has changed of it. `cause`: why another worker cannot read it."""
        if isinstance(before, LoadedVersion):
            return self._reload(before, files, cause)
        found = self._read(name, number, files)
        if isinstance(found, FailedVersion) and found != before:
            logger.error("model %s version %s is unavailable: %s", name, number, found.reason)
        return found

    def _reload(self, loaded: LoadedVersion, files: ModelFiles, cause: str | None = None) -> LoadedVersion:
        """Return a version with the files on disk; the loaded one if they are the same or cannot be loaded."""
        name, number, failure = loaded.name, loaded.number, loaded.failure
        fingerprint = files.fingerprints.get(number)
        if cause is not None:
            loaded.failure = FailedVersion.missing(name, number, cause)
        elif fingerprint == loaded.fingerprint:
            loaded.failure = None
        elif fingerprint is None or failure is None or failure.fingerprint != fingerprint:
            found = self._read(name, number, files)
            if isinstance(found, LoadedVersion):
                logger.warning("model %s version %s: %s", name, number, _REPLACED)
                return found
            loaded.failure = found
            if not found.is_missing:
                logger.error("model %s version %s serves on as it was loaded: %s", name, number, found.reason)
        return loaded

    def _read(self, name: str, number: str, files: ModelFiles) -> LoadedVersion | FailedVersion:
        if (fingerprint := files.fingerprints.get(number)) is not None:
            return self._loader.load(name, number, fingerprint)
        cause = files.unreadable.get(number) or why_missing(self.folder.root, name, number)
        return FailedVersion.missing(name, number, cause)

    def _model(self, name: str, versions: Mapping[str, Version]) -> Model:
        """Return a model with its default: the newest loaded version, one under trial only if there is no other."""
        ordered = {number: versions[number] for number in sorted(versions, key=int)}
        loaded = [version for version in ordered.values() if isinstance(version, LoadedVersion)]
        on_trial = self._on_trial.get(name, ())
        return Model(
            ordered, max(loaded, key=lambda each: (each.number not in on_trial, int(each.number)), default=None)
        )

    def _publish(self, name: str, model: Model | None) -> None:
        """Replace a model; None removes it."""
        before, after = self.models.get(name, _NO_VERSIONS), model or _NO_VERSIONS
        others = {other: known for other, known in self.models.items() if other != name}
        self.models = dict(sorted({**others, name: model}.items())) if model is not None else others
        for version in set(before.loaded) - set(after.loaded):
            version.drift.end()
        for version in set(after.loaded) - set(before.loaded):
            version.drift.begin()
        self._update_metrics(before, after)

    def _update_metrics(self, before: Model, after: Model) -> None:
        """Update the metrics that say which versions of a model serve, on what, and which have failed."""
        old, new = self._gauges(before), self._gauges(after)
        for gauge, labels in old.keys() - new.keys():
            gauge.labels(*labels).withdraw()
        for (gauge, labels), value in new.items():
            gauge.labels(*labels).set(value)

    def _gauges(self, model: Model) -> dict[tuple[Gauge, tuple[str, ...]], float]:
        """Return the value of each gauge, by metric and labels."""
        gauges: dict[tuple[Gauge, tuple[str, ...]], float] = {}
        for version in model.versions.values():
            labels = version.name, version.number
            if not isinstance(version, UnloadedVersion):
                gauges[metrics.READY, labels] = isinstance(version, LoadedVersion)
            if isinstance(version, LoadedVersion):
                gauges[metrics.QUEUE_LIMIT, labels] = self._settings.max_queue_rows
                session = version.session
                gauges[metrics.PROVIDER, (*labels, self._settings.device, session.provider, session.precision)] = 1
                gauges[metrics.FILES_MISSING, labels] = version.failure is not None
        return gauges
