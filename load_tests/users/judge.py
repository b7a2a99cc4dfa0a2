"""Follows a run to its end, says what it was held to and did not keep, and sets the exit code."""

import logging
from typing import Any

import gevent
from locust.env import Environment

from load_tests.users.memory import Watch, growth
from load_tests.users.slo import Objectives, Seen

logger = logging.getLogger(__name__)


class Judge:
    """Of one run, by the options `--slo-...`; of a soak by the server's memory too.

    Raises:
        SystemExit: an option means nothing.
    """

    def __init__(self, options: Any) -> None:
        try:
            self._objectives = Objectives.parse(options.slo_failures, options.slo_p99, options.slo_growth)
        except ValueError as error:
            raise SystemExit(f"--slo-p99: {error}") from error
        self._watch = Watch(options.host, options.run_time) if options.shape == "soak" else None

    def start(self, **_: Any) -> None:
        """Of the run."""
        if self._watch is not None:
            gevent.spawn(self._watch.run)

    def end(self, environment: Environment, **_: Any) -> None:
        """Of the run."""
        breaches = self._objectives.breaches(_seen(environment))
        if self._watch is not None:
            grown = growth(self._watch.megabytes)
            breaches += self._objectives.breaches_of_soak(grown)
            if grown is not None:
                logger.info("Memory: %.0f MB at the end, %+.1f MB", self._watch.megabytes[-1], grown)
        for line in breaches:
            logger.error("SLO breached: %s", line)
        if not breaches:
            logger.info("All objectives were kept.")
        environment.process_exit_code = int(bool(breaches))


def _seen(environment: Environment) -> list[Seen]:
    return [
        Seen(one.name, one.num_requests, one.num_failures, float(one.get_response_time_percentile(0.99)))
        for one in environment.stats.entries.values()
    ]
