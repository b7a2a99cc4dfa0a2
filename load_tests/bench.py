"""`make bench`: one command, one run, one table. How fast is deepserve, beside its ceiling and beside other servers?

Every server serves the same ONNX file to the same requests, with one worker on one core; wrk asks from another. The
servers take turns, each started anew in every round, and what is printed are the medians over the rounds. At the first
run each peer gets an environment of its own, which takes some minutes.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from load_tests import report
from load_tests.load import check_tools
from load_tests.processes import StartError
from load_tests.results import BATCHED, OWN_BATCHES, Results, Standings, Turn
from load_tests.rig import Rig
from load_tests.scenarios import Scenario, WrongAnswer, digits, sentiment
from load_tests.strain import strain
from load_tests.subjects import BARE, DEEPSERVE, Subject, deepserve, peers

PARTS = ("digits", "sentiment", "strain")
OUT = Path(__file__).parent / "results"


def main() -> None:
    """Measures, prints the table and the goals, and writes both and a plot into a folder."""
    options = _options()
    check_tools()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        rig = Rig.on_this_machine(options.seconds, Path(directory))
        results = measure(rig, options.rounds, options.parts, options.servers)
    settings = {"rounds": options.rounds, "seconds": options.seconds}
    report.publish(results, settings, options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="in under five minutes: 2 rounds of 2 seconds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of a measurement; of those with few connections half")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--servers", nargs="+", help="titles of the servers to measure; the default is all")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for bench.json and bench.png")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 2, 2
    return options


def measure(rig: Rig, rounds: int, parts: Sequence[str], titles: Sequence[str] | None) -> Results:
    """Round after round all servers of the scenarios among `parts`, or those with these `titles`; then the strain."""
    results = Results()
    pictures = digits()
    reviews = sentiment() if "sentiment" in parts else None
    for number in range(1, rounds + 1):
        say(f"round {number} of {rounds}")
        if "digits" in parts:
            take_turns(rig, pictures, results.digits, [BARE, *peers(pictures.name)], titles)
            time_alone(rig, pictures, results.digits)
        if reviews is not None:
            take_turns(rig, reviews, results.sentiment, peers(reviews.name), titles)
    if "strain" in parts:
        say("deepserve under strain")
        results.strain = strain(rig, pictures)
    return results


def take_turns(
    rig: Rig, scenario: Scenario, standings: Standings, others: Sequence[Subject], titles: Sequence[str] | None
) -> None:
    """Deepserve and the others, one after the other."""
    for subject in (deepserve(scenario.route), *others):
        if titles is None or subject.title in titles:
            take_turn(rig, subject, scenario, standings)


def take_turn(rig: Rig, subject: Subject, scenario: Scenario, standings: Standings) -> None:
    """Measures one server once; one that failed is not tried again."""
    if subject.title in standings.failures:
        return
    try:
        with rig.trying(subject, scenario) as trial:
            loads = [trial.load(connections) for connections in scenario.connections]
            turn = Turn(trial.server.seconds_to_ready, trial.server.memory(), loads)
    except (StartError, WrongAnswer) as error:
        say(f"  {subject.title}: {error}")
        standings.failures[subject.title] = str(error)
        return
    standings.turns.setdefault(subject.title, []).append(turn)
    say(f"  {scenario.name}: {subject.title}: {loads[-1].per_second:.0f}/s, {loads[-1].cpu_us:.0f} us a request")


def time_alone(rig: Rig, scenario: Scenario, standings: Standings) -> None:
    """ONNX Runtime alone, in runs of as many rows as there are connections, and as deepserve had so far."""
    for rows in scenario.connections:
        standings.alone.setdefault(str(rows), []).append(rig.alone(scenario, rows))
    own = standings.load(DEEPSERVE, BATCHED, lambda load: load.rows)
    if own is not None:
        standings.alone.setdefault(OWN_BATCHES, []).append(rig.alone(scenario, round(own)))


def say(line: str) -> None:
    """Progress, beside the table."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
