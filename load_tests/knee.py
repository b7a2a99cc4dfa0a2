"""`make knee`: the highest rate of requests at which the slowest hundredth takes at most 50 ms.

Requests come as people send them, at random moments that do not wait for answers (`load_tests.open_loop`), and what
counts is the time from that moment, so that waiting in a full socket counts too. All answers are checked. The rate is
doubled until the bound breaks, then halved in; a rate holds if the median of its rounds does. At the knee the
server's own histogram, the difference of two scrapes, must tell the same, to within `APART_MS`. The server has one
worker on one core, the generator another; how much that one can send at all is measured first. Rounds in which other
programs had these cores are taken again.
"""

import argparse
import gc
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import count, cycle, islice
from pathlib import Path
from statistics import median

import numpy as np
import uvloop

from load_tests.bench import OUT, say
from load_tests.histograms import scrape
from load_tests.open_loop import LAST_ANSWER_SECONDS, Due, Seconds, offer, poisson
from load_tests.processes import Process
from load_tests.questions import FILE, TASKS, Question, read
from load_tests.report import QUIET, machine
from load_tests.rig import Rig
from load_tests.subjects import BARE, deepserve

CONNECTIONS = 256
"""So many that a request rarely waits for one; its wait counts."""
BUSY = 64
"""Connections that keep any server busy."""
FLOOD = 20_000
"""Requests that are due at once when the most that can be answered is asked for; the time for it is limited."""
APART_MS = 10.0
"""Most that a client may see an answer later than the server's histogram has it. The server's clock starts when its
event loop turns to a request: until then, while other requests are read or run, it lies in the socket."""
PRECISION = 1.05
"""How close the rates that hold and that break are in the end."""
LATE_MS = 5.0
"""A generator that is later than this has not had its core."""
ATTEMPTS = 4
"""A round that other programs have disturbed is taken so many times at most."""
LEAST_HEADROOM = 1.5
"""The generator can send so many times the knee, or the knee may be its own."""


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
class Knee:
    """The highest rate that held, and what it was measured with."""

    task: str
    slo_ms: float
    per_second: float
    at_knee: list[Round]
    tried: list[tuple[float, float]]
    """Rates and the medians of their p99 in milliseconds."""
    generator_per_second: float | None
    """What the generator sends to a server with nothing to do; None if it was not measured."""
    most_per_second: float
    """Answered over `BUSY` connections that each ask again at once."""
    lone_ms: list[float]
    """How long a lone client waits, for each question."""
    seconds_to_ready: float | None

    def faults(self) -> list[str]:
        """Why the figure is not to be trusted, a line each."""
        found = []
        failed = [one.fault for one in self.at_knee if one.fault]
        if failed:
            found.append(f"answers failed at the knee: {failed[0]}")
        slowest = median(one.p99 for one in self.at_knee)
        if slowest > self.slo_ms:
            found.append(f"asked again, the knee has a p99 of {slowest:.1f} ms")
        apart = median(one.apart for one in self.at_knee)
        if apart > APART_MS:
            found.append(f"client and server are {apart:.1f} ms apart, {APART_MS:g} are allowed")
        if any(one.server_requests != one.requests for one in self.at_knee):
            found.append("the server's histogram has not counted every request")
        others = [one.others for one in self.at_knee if one.others is not None]
        if others and median(others) > QUIET:
            found.append(f"other programs had {median(others):.0%} of the server's core")
        if self.generator_per_second is not None and self.generator_per_second < LEAST_HEADROOM * self.per_second:
            found.append(f"the generator sends no more than {self.generator_per_second:,.0f}/s itself")
        return found


@dataclass(frozen=True)
class Target:
    """A server, and the questions that it is asked."""

    url: str
    questions: Sequence[Question]
    process: Process | None
    """None for one that was not started here."""
    seconds: float
    """Of a round."""

    def quiet_round(self, rate: float, seeds: Iterator[int]) -> Round:
        """One round that other programs have not disturbed, or of several the one that they have disturbed least."""
        rounds = []
        for seed in islice(seeds, ATTEMPTS):
            rounds.append(self.round(rate, seed))
            if rounds[-1].disturbed <= 1:
                break
        return min(rounds, key=lambda one: one.disturbed)

    def round(self, rate: float, seed: int) -> Round:
        """One round at that many requests a second."""
        moments = poisson(rate, self.seconds, np.random.default_rng(seed))
        route = self.questions[0].path
        before = scrape(self.url, "deepserve_request_seconds", route=route)
        with _metered(self.process) as spent:
            dues = self._offer(moments, CONNECTIONS)
        server = scrape(self.url, "deepserve_request_seconds", route=route).since(before)
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


def find(target: Target, slo_ms: float, rounds: int) -> Knee:
    """The highest rate at which the p99 is at most `slo_ms`, rates tried with so many rounds at most.

    Raises:
        SystemExit: the bound breaks at one request a second.
    """
    lone, most = target.lone_ms(), target.most_per_second()
    say(f"{target.questions[0].task}: {most:,.0f}/s at most, {median(lone):.2f} ms alone")
    seeds = count()
    tried: list[tuple[float, float]] = []

    def p99(rate: float) -> float:
        found: list[float] = []
        while len(found) < rounds and not _decided(found, slo_ms, rounds):
            found.append(target.quiet_round(rate, seeds).p99)
        tried.append((rate, median(found)))
        say(f"  {rate:,.0f}/s: p99 {median(found):.1f} ms")
        return median(found)

    rate = highest(p99, slo_ms, start=most / 2)
    return Knee(
        task=target.questions[0].task,
        slo_ms=slo_ms,
        per_second=rate,
        at_knee=[target.quiet_round(rate, seeds) for _ in range(rounds)],
        tried=sorted(tried),
        generator_per_second=None,
        most_per_second=most,
        lone_ms=lone,
        seconds_to_ready=None if target.process is None else target.process.seconds_to_ready,
    )


def highest(p99: Callable[[float], float], bound: float, start: float) -> float:
    """The highest rate, to within `PRECISION`, whose `p99` is at most `bound`.

    Raises:
        SystemExit: there is none above one request a second.
    """
    holds, breaks, rate = 0.0, math.inf, start
    while breaks > PRECISION * holds:
        if p99(rate) <= bound:
            holds = rate
            rate = rate * 2 if math.isinf(breaks) else math.sqrt(holds * breaks)
        else:
            breaks = rate
            rate = math.sqrt(holds * breaks) if holds else rate / 2
        if rate < 1:
            raise SystemExit(f"not even one request a second is answered within {bound:g} ms")
    return holds


def _decided(found: Sequence[float], bound: float, rounds: int) -> bool:
    """Whether further rounds cannot change on which side of the bound the median is."""
    kept = sum(one <= bound for one in found)
    return max(kept, len(found) - kept) > rounds / 2


def _fault(due: Due, question: Question) -> str | None:
    if due.end is None or not due.end.status:
        return f"{question.name}: no answer"
    return question.fault(due.end.status, due.end.request_id, due.end.body)


def _quantile(values: Sequence[float], share: float) -> float:
    """One of the values, the next above, so that infinite ones count."""
    return float(np.quantile(values, share, method="higher"))


def show(knee: Knee) -> str:
    """The knee for a person to read: what the client saw beside what the server did."""
    rounds = sorted(knee.at_knee, key=lambda one: one.p99)
    middle = rounds[len(rounds) // 2]
    low, high = middle.server_p99
    lines = [
        f"{knee.task}: {knee.per_second:,.0f} requests a second with a p99 of at most {knee.slo_ms:g} ms",
        "",
        "| at the knee, the middle round | client, since due | client, since sent | server's histogram |",
        "| --- | ---: | ---: | ---: |",
        f"| requests | {middle.requests:,} | | {middle.server_requests:,} |",
        f"| mean ms | | {middle.mean:.1f} | {middle.server_mean:.1f} |",
        f"| p50 ms | {middle.p50:.1f} | | |",
        f"| p99 ms | {middle.p99:.1f} | | {low:g} to {high:g} |",
        "",
        f"client and server at most {median(one.apart for one in rounds):.1f} ms apart ({APART_MS:g} allowed); "
        f"generator late by {median(one.late for one in rounds):.2f} ms (p99)",
    ]
    cpu = [one.cpu_us for one in rounds if one.cpu_us is not None]
    if cpu:
        lines.append(f"{median(cpu):,.0f} us of CPU time a request")
    if knee.generator_per_second is not None:
        lines.append(f"the generator alone sends {knee.generator_per_second:,.0f} requests a second")
    return "\n".join([*lines, *(f"NOT TO BE TRUSTED: {fault}" for fault in knee.faults())])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and writes `knee-TASK.json`; fails if a figure is not to be trusted."""
    options = _options(arguments)
    questions = read(options.questions)
    knees = [_measure(questions[task], options) for task in options.tasks]
    for knee in knees:
        print(f"\n{show(knee)}")
        record = {"machine": machine(), "knee": asdict(knee)}
        (options.out / f"knee-{knee.task}.json").write_text(json.dumps(record, indent=1) + "\n")
    if any(knee.faults() for knee in knees):
        raise SystemExit(1)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make knee", description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["digits"])
    parser.add_argument("--slo-ms", type=float, default=50.0)
    parser.add_argument("--rounds", type=int, default=3, help="of a rate")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round")
    parser.add_argument("--url", help="of a server that runs; else one is started for it")
    parser.add_argument("--questions", type=Path, default=FILE, help="made by python -m load_tests.prepare")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for knee-TASK.json")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def _measure(questions: Sequence[Question], options: argparse.Namespace) -> Knee:
    if options.url:
        return find(Target(options.url, questions, None, options.seconds), options.slo_ms, options.rounds)
    with tempfile.TemporaryDirectory(prefix="knee-") as directory:
        rig = Rig.on_this_machine(options.seconds, Path(directory))
        os.sched_setaffinity(0, rig.client_cores)
        with BARE.serving(Path(), rig.server_cores, rig.directory) as bare:
            most = Target(bare.url, questions, bare, options.seconds).most_per_second()
        with deepserve(questions[0].path).serving(Path(), rig.server_cores, rig.directory) as server:
            target = Target(server.url, questions, server, options.seconds)
            return replace(find(target, options.slo_ms, options.rounds), generator_per_second=most)


if __name__ == "__main__":
    main()
