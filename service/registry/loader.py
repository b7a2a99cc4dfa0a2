"""Load one version: read its files, verify them, warm a session and bind the task."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.engine.batcher import Batcher
from service.engine.cache import Cache, CachedBatcher
from service.engine.onnx import session as onnx
from service.engine.queue import Limits
from service.engine.session import Runtime, Session, SessionError
from service.observability import metrics
from service.observability.drift import DriftMonitor
from service.registry.card import Card
from service.registry.verification import UnreadableError, VerificationError, verify_files, verify_golden_cases
from service.registry.versions import FailedVersion, LoadedVersion
from service.settings import Settings

logger = logging.getLogger(__name__)

Bind = Callable[[Path, Card], Any]
"""Returns the task for the version in a directory; raises `VerificationError` if there is none or it does not fit."""


class Loader:
    """Loads versions of models with the settings of this worker."""

    def __init__(self, settings: Settings, bind: Bind) -> None:
        self._root = settings.models_dir
        self._bind = bind
        self._runtime = Runtime.from_settings(settings)
        self._limits = Limits.from_settings(settings)
        self._caches = {name: Cache(size, metrics.CacheSeries(name)) for name, size in settings.cache_bytes.items()}
        """By model; all its versions share one."""

    def load(self, name: str, number: str, fingerprint: str) -> LoadedVersion | FailedVersion:
        """Load a version. Takes seconds: for a thread.

        Args:
            name: of the model.
            number: of the version.
            fingerprint: of its files.
        """
        directory = self._root / name / number
        try:
            card, session = open_verified(directory, self._runtime)
            task = self._bind(directory, card)
        except UnreadableError as error:
            return FailedVersion.missing(name, number, f"{name}/{number}: {error}")
        except VerificationError as error:
            return FailedVersion(name, number, str(error), fingerprint)
        except Exception:  # whatever is wrong with one version, the others serve
            logger.exception("model %s version %s cannot be read", name, number)
            return FailedVersion(name, number, "it cannot be read; the log says why", fingerprint)
        batcher = Batcher(session.run, self._limits, task.sequence, metrics.ModelSeries(name, number))
        logger.info("model %s version %s is ready on %s in %s", name, number, session.provider, session.precision)
        metrics.LOADS.labels(name, "ok").inc()
        return LoadedVersion(
            name=name,
            number=number,
            card=card,
            session=session,
            task=task,
            batcher=batcher,
            cached_batcher=self._cached(batcher, card),
            drift=_drift_monitor(card, task),
            fingerprint=fingerprint,
        )

    def _cached(self, batcher: Batcher, card: Card) -> Batcher | CachedBatcher:
        if (cache := self._caches.get(card.name)) is None:
            return batcher
        return CachedBatcher(batcher, cache, card.content.encode(), metrics.LookupSeries(card.name, card.version))


def _drift_monitor(card: Card, task: Any) -> DriftMonitor:
    bins = {feature: (each.edges, each.shares) for feature, each in card.distributions.items()}
    return DriftMonitor(card.name, card.version, bins, task.features, card.scores)


def open_verified(directory: Path, runtime: Runtime) -> tuple[Card, Session]:
    """Return the card of the version in `directory`, and a warm session of the graph that `runtime` serves.

    Raises:
        VerificationError: the version is not what its card says.
    """
    card = verify_files(directory)
    return card, open_session(directory, card, runtime)


def open_session(directory: Path, card: Card, runtime: Runtime) -> Session:
    """Return a warm session of the graph that `runtime` serves, verified by the golden cases.

    Raises:
        VerificationError: the graph does not load or run, is not what the card says, or fails a golden case.
    """
    try:
        session = onnx.open_session(directory, card, runtime)
        verify_golden_cases(session, directory, card)
    except SessionError as error:
        raise VerificationError(str(error)) from error
    return session
