"""A round: some seconds of requests at one rate, as the client saw them and as the server's histogram has them.

Time counts from the moment at which a request was due, so that waiting in a full socket counts too. Every answer is
checked: one that is wrong or lost takes for ever.
"""

import gc
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import uvloop

from load_tests.machine import QUIET
from load_tests.metrics import histogram
from load_tests.open_loop import LAST_ANSWER_SECONDS, Due, Seconds, offer, poisson
from load_tests.processes import Process
from load_tests.questions import Question

CONNECTIONS = 256
"""So many that a request rarely waits for one; its wait counts."""
BUSY = 64
"""Connections that keep any server busy."""
FLOOD = 20_000
"""Requests that are due at once when the most that can be answered is asked for; the time for it is limited."""
LATE_MS = 5.0
"""A generator that is later than this has not had its core."""


@dataclass(frozen=True)
class Round:
    """What came of one rate; times in milliseconds."""

    rate: float
    """Requests a second that were due, on average."""
    requests: int
    p50: float
    """From the moment that a request was due."""
    p99: float
    """Infinite where more than a hundredth had no answer."""
    failed: int
    """Answers that were refused, lost, wrong or somebody else's."""
    fault: str | None
    """What was wrong with the first of them."""
    late: float
    """p99 of how late the generator itself was."""
    server_requests: int
    """That the server's histogram counted meanwhile."""
    server_p99: tuple[float, float]
    """Of the server's histogram: the bounds of the bucket."""
    server_mean: float
    mean: float
    """From sending to the answer: what the server can know of."""
    apart: float
    """How much later the client saw answers than the server's histogram has them."""
    cpu_us: float | None
    """CPU time of the server, microseconds a request; None for a server that was not started here."""
    others: float | None
    """Share of the server's cores that went to other programs."""

    @property
    def disturbed(self) -> float:
        """By how much other programs have had what client and server need, 1 being the most that is borne."""
        return max((self.others or 0.0) / QUIET, self.late / LATE_MS)


@dataclass(frozen=True)
class Target:
    """A server, and the questions that it is asked."""

    url: str
    questions: Sequence[Question]
    process: Process | None
    """None for one that was not started here."""
    seconds: float
    """Of a round."""

    def round(self, rate: float, seed: int) -> Round:
        """One round at that many requests a second."""
        moments = poisson(rate, self.seconds, np.random.default_rng(seed))
        route = self.questions[0].path
        before = histogram(self.url, "deepserve_request_seconds", route=route)
        with _metered(self.process) as spent:
            dues = self._offer(moments, CONNECTIONS)
        server = histogram(self.url, "deepserve_request_seconds", route=route).since(before)
        faults = [_fault(due, question) for due, question in zip(dues, cycle(self.questions), strict=False)]
        times = [math.inf if fault else due.seconds * 1e3 for due, fault in zip(dues, faults, strict=True)]
        failed = [fault for fault in faults if fault]
        seen = np.array([due.end.seconds for due in dues if due.end is not None])
        low, high = server.quantile(0.99)
        return Round(
            rate=rate,
            requests=len(dues),
            p50=_quantile(times, 0.5),
            p99=_quantile(times, 0.99),
            failed=len(failed),
            fault=failed[0] if failed else None,
            late=_quantile([(due.noticed - due.at) * 1e3 for due in dues], 0.99),
            server_requests=round(server.count),
            server_p99=(low * 1e3, high * 1e3),
            server_mean=server.mean * 1e3,
            mean=float(seen.mean()) * 1e3,
            apart=server.apart(seen) * 1e3,
            cpu_us=None if spent.cpu is None else spent.cpu * 1e6 / len(dues),
            others=spent.others,
        )

    def most_per_second(self, connections: int = BUSY) -> float:
        """Answers a second if each connection asks again at once."""
        dues = self._offer(np.zeros(FLOOD), connections, self.seconds)
        ended = [due.end.ended for due in dues if due.end is not None]
        return len(ended) / (max(ended) - dues[0].at)

    def lone_ms(self) -> list[float]:
        """How long a client waits that is alone, for each question in turn."""
        dues = self._offer(np.zeros(len(self.questions)), 1)
        return [due.end.seconds * 1e3 for due in dues if due.end is not None]

    def _offer(self, moments: Seconds, connections: int, last_answer_seconds: float = LAST_ANSWER_SECONDS) -> list[Due]:
        requests = cycle([question.request("knee") for question in self.questions])
        gc.collect()
        gc.disable()
        try:
            return uvloop.run(offer(self.url, requests, moments, connections, last_answer_seconds=last_answer_seconds))
        finally:
            gc.enable()


@dataclass
class Spent:
    """What a server has spent within a block; None for one that was not started here."""

    cpu: float | None = None
    """Seconds."""
    others: float | None = None
    """Share of its cores that other programs had."""


@contextmanager
def _metered(process: Process | None) -> Iterator[Spent]:
    spent = Spent()
    if process is None:
        yield spent
        return
    started, cpu, busy = time.perf_counter(), process.cpu_seconds(), process.cores_busy_seconds()
    yield spent
    spent.cpu = process.cpu_seconds() - cpu
    elapsed = (time.perf_counter() - started) * len(process.cores)
    spent.others = max(0.0, process.cores_busy_seconds() - busy - spent.cpu) / elapsed


def _fault(due: Due, question: Question) -> str | None:
    if due.end is None or not due.end.status:
        return f"{question.name}: no answer"
    return question.fault(due.end.status, due.end.request_id, due.end.body)


def _quantile(values: Sequence[float], share: float) -> float:
    """One of the values, the next above, so that infinite ones count."""
    return float(np.quantile(values, share, method="higher"))
