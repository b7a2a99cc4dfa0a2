"""The log lines of requests: a fraction of the successful ones and all others, without inputs and keys.

Refused requests without a valid key are logged up to a limit a second, so that nobody can fill the disk.
"""

import asyncio
import logging
import time
from random import random

from service.context import RequestContext
from service.observability import metrics
from service.settings import Settings

logger = logging.getLogger("service.requests")


class RequestLog:
    """Logs the requests of one worker."""

    def __init__(self, settings: Settings) -> None:
        self._fraction = settings.log_requests_fraction
        self._with_address = settings.log_client_address
        self._most = settings.log_refusals_per_second
        self._second = 0
        """The current second, by `time.monotonic`."""
        self._refused = 0
        """Refused requests in the current second."""
        self._left_out = 0
        """Lines left out since the last summary."""
        self._left_out_total = metrics.LOG_LINES_LEFT_OUT.gathered()

    def record(self, method: str, route: str, context: RequestContext, outcome: str, ended: float) -> None:
        """Log a request that has ended, if it is sampled, failed or refused within the limit.

        Args:
            method: of the request.
            route: the template of its path.
            context: of the request.
            outcome: how it ended.
            ended: when it ended, by `time.perf_counter`.
        """
        if outcome == "ok" and (self._fraction == 0 or random() >= self._fraction):
            return
        level = logging.ERROR if outcome == "failed" else logging.INFO
        if not logger.isEnabledFor(level):
            return
        if outcome not in ("ok", "failed") and not context.authenticated and not self._has_room():
            return
        fields = {
            "request_id": context.request_id,
            "trace_id": context.trace_id,
            **({"client_address": context.client} if self._with_address else {}),
            "method": method,
            "route": route,
            "model": context.model,
            "version": context.served_version,
            "status": context.status,
            "outcome": outcome,
            "milliseconds": round(1000 * (ended - context.started), 3),
        }
        logger.log(level, "request", extra={"fields": fields})

    def close(self) -> None:
        """Log the last summary and wait until all lines are written."""
        self._summarise()
        for handler in logging.root.handlers:
            handler.flush()

    def _has_room(self) -> bool:
        """Count a refused request. Return whether its line is within the limit."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._refused = second, 0
        self._refused += 1
        if not self._most or self._refused <= self._most:
            return True
        if not self._left_out:
            asyncio.get_running_loop().call_later(1, self._summarise)
        self._left_out += 1
        self._left_out_total.inc()
        return False

    def _summarise(self) -> None:
        lines, self._left_out = self._left_out, 0
        if lines:
            logger.warning("%d similar lines were left out: the limit is %d a second", lines, self._most)
