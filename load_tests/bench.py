"""`make bench`: one command, one run, one table. How fast is deepserve, beside its ceiling and beside other servers?

Every server serves the same ONNX file to the same requests with one worker on one core; wrk asks from another core.
The servers take turns in each round, started anew each time, and the table holds the medians over the rounds.
"""

import argparse
import os
import tempfile
from pathlib import Path

from load_tests.load import Load, check_tools, post
from load_tests.processes import StartError
from load_tests.scenarios import Scenario, WrongAnswer, digits
from load_tests.subjects import Subject, deepserve, peers

CONNECTIONS = (1, 8, 64)


def main() -> None:
    """Measures, and prints what came out."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--only", nargs="*", help="titles of the servers to measure")
    arguments = parser.parse_args()
    check_tools()
    scenario = digits()
    subjects = [deepserve(scenario.route), *peers(scenario.name)]
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        for turn in range(arguments.rounds):
            for subject in subjects:
                if arguments.only and subject.title not in arguments.only:
                    continue
                try:
                    loads = measure(subject, scenario, arguments.seconds, Path(directory))
                except (StartError, WrongAnswer) as error:
                    print(f"{subject.title}: {error}")
                    continue
                for load in loads:
                    print(
                        f"{turn} {subject.title:20} {load.connections:3} {load.per_second:7.0f}/s {load.cpu_us:6.0f} us"
                        f" p50 {load.p50_ms:7.2f} p99 {load.p99_ms:7.2f} rows {load.rows or 0:5.1f}"
                        f" refused {load.refused} lost {load.lost}",
                        flush=True,
                    )


def measure(subject: Subject, scenario: Scenario, seconds: int, directory: Path) -> list[Load]:
    """One server, started, checked, warmed and asked over 1, 8 and 64 connections."""
    server_core, *_, client_core = sorted(os.sched_getaffinity(0))
    bodies = scenario.write(directory)
    with subject.serving(scenario.graph, [server_core], directory / "log") as server:
        scenario.check(server.url + subject.route)
        post(server, subject.route, bodies, connections=64, seconds=1, cores=[client_core])
        return [
            post(
                server,
                subject.route,
                bodies,
                connections=connections,
                seconds=seconds,
                cores=[client_core],
                rows=subject.rows,
            )
            for connections in CONNECTIONS
        ]


if __name__ == "__main__":
    main()
