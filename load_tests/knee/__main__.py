"""`make knee`: the highest rate of requests at which the slowest hundredth takes at most 50 ms.

Requests come as people send them, at random moments that do not wait for answers. At the knee the server's own
histogram, the difference of two scrapes, must tell what the client has seen. The server has one worker on one core, the
generator another; how much that one can send at all is measured first.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from load_tests.knee.result import Knee, show, write
from load_tests.knee.round import Target
from load_tests.knee.search import Search
from load_tests.machine import OUT, say, two_sides
from load_tests.questions import FILE, TASKS, Question, read
from load_tests.subjects import BARE, deepserve


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and writes `knee-TASK.json`; fails if a figure is not to be trusted."""
    options = _options(arguments)
    questions = read(options.questions)
    knees = [_measure(questions[task], options) for task in options.tasks]
    for knee in knees:
        print(f"\n{show(knee)}")
        write(knee, options.out)
    if any(knee.faults() for knee in knees):
        raise SystemExit(1)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make knee", description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["digits"])
    parser.add_argument("--slo-ms", type=float, default=50.0)
    parser.add_argument("--rounds", type=int, default=3, help="of a rate")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a round: too short a one ends before it queues")
    parser.add_argument("--url", help="of a server that runs; else one is started for it")
    parser.add_argument("--questions", type=Path, default=FILE, help="made by python -m load_tests.prepare")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for knee-TASK.json")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def _measure(questions: Sequence[Question], options: argparse.Namespace) -> Knee:
    if options.url:
        return _find(Target(options.url, questions, None, options.seconds), None, options)
    server_cores, client_cores = two_sides()
    with tempfile.TemporaryDirectory(prefix="knee-") as directory:
        logs = Path(directory)
        os.sched_setaffinity(0, client_cores)
        with BARE.serving(Path(), server_cores, logs) as bare:
            sent = Target(bare.url, questions, bare, options.seconds).most_per_second()
        with deepserve(questions[0].path).serving(Path(), server_cores, logs) as server:
            return _find(Target(server.url, questions, server, options.seconds), sent, options)


def _find(target: Target, generator_per_second: float | None, options: argparse.Namespace) -> Knee:
    task, lone, most = target.questions[0].task, target.lone_ms(), target.most_per_second()
    say(f"{task}: {most:,.0f}/s at most, {median(lone):.2f} ms alone")
    found = Search(target, options.slo_ms, options.rounds).run(start=most / 2)
    return Knee(
        task=task,
        slo_ms=options.slo_ms,
        per_second=found.rate,
        at_knee=found.rounds,
        tried=found.tried,
        generator_per_second=generator_per_second,
        most_per_second=most,
        lone_ms=lone,
        seconds_to_ready=None if target.process is None else target.process.seconds_to_ready,
    )


if __name__ == "__main__":
    main()
