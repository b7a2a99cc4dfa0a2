"""The question of a soak: does the server's memory grow, once it is warm?"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from statistics import median

import gevent

from load_tests.metrics import total
from load_tests.processes import ServerError

SAMPLES = 100
"""Of a run."""
MIN_PAUSE = 0.1
"""Seconds between two of them."""


class Watch:
    """Reads the memory of all workers, again and again, while a run of so many `seconds` lasts."""

    def __init__(self, url: str, seconds: float) -> None:
        self._url = url
        self._pause = max(MIN_PAUSE, seconds / SAMPLES)
        self.megabytes: list[float] = []
        logging.getLogger("httpx").setLevel(logging.WARNING)  # Locust shows what everybody logs

    def run(self) -> None:
        """Until it is killed; a server that does not answer is asked again."""
        while True:
            with suppress(ServerError):
                self.megabytes.append(total(self._url, "deepserve_worker_resident_bytes") / 1e6)
            gevent.sleep(self._pause)


def growth(samples: Sequence[float]) -> float | None:
    """From the second fifth of a run, by when all has been used once, to the last; None if there are too few."""
    fifth = len(samples) // 5
    return median(samples[-fifth:]) - median(samples[fifth : 2 * fifth]) if fifth else None
