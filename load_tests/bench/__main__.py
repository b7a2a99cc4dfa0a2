"""`make bench`: one command, one run, one table. How fast is deepserve, beside its ceiling and beside other servers?

Every server serves the same ONNX file to the same requests, with one worker on one core; wrk asks from another. All are
started and warmed first; then they take turns, and what is printed are the medians over many short rounds, so that a
machine that is faster now and slower then is so to all of them. At the first run each peer gets an environment of its
own, which takes some minutes.
"""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from load_tests.bench import report
from load_tests.bench.load import check_tools
from load_tests.bench.results import BATCHED, OWN_BATCHES, Record, Results, Standings
from load_tests.bench.rig import Rig, Trial
from load_tests.bench.scenarios import Scenario, WrongAnswer, digits, sentiment
from load_tests.bench.strain import strain
from load_tests.machine import OUT, say
from load_tests.processes import ServerError
from load_tests.subjects import BARE, DEEPSERVE, ROOT, Subject, deepserve, peers
from training.data.download import DataError

PARTS = ("digits", "sentiment", "strain")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the table and the goals, and writes both and a plot into a folder."""
    options = _options(arguments)
    check_tools()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        rig = Rig.on_this_machine(options.seconds, Path(directory))
        try:
            results = measure(rig, options.rounds, options.parts, options.servers)
        except DataError as error:
            raise SystemExit(str(error)) from error
    settings = {"rounds": options.rounds, "seconds": options.seconds}
    report.publish(results, settings, options.out)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="in under five minutes: 2 rounds")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=2, help="of a measurement; of those with few connections half")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--servers", nargs="+", choices=_titles(), metavar="TITLE", help="servers to measure; the default is all"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="folder for bench.json and bench.png")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds = 2, 2
    return options


def _titles() -> list[str]:
    """Of every server in any scenario."""
    others = {peer.title for scenario in ("digits", "sentiment") for peer in peers(scenario)}
    return [DEEPSERVE, BARE.title, *sorted(others)]


def measure(rig: Rig, rounds: int, parts: Sequence[str], titles: Sequence[str] | None) -> Results:
    """The servers of the scenarios among `parts`, or those with these `titles`, round after round; then the strain."""
    results = Results()
    pictures = digits()
    with ExitStack() as stack:
        contests = []
        if "digits" in parts:
            subjects = [deepserve(pictures.route), BARE, *peers(pictures.name)]
            contests.append(Contest(rig, pictures, results.digits, subjects))
        if "sentiment" in parts:
            reviews = sentiment()
            subjects = [deepserve(reviews.route), *peers(reviews.name)]
            contests.append(Contest(rig, reviews, results.sentiment, subjects))
        for contest in contests:
            contest.start(stack, titles)
        for number in range(1, rounds + 1):
            say(f"round {number} of {rounds}")
            for contest in contests:
                contest.take_turns()
            if "digits" in parts:
                time_alone(rig, pictures, results.digits)
    if "strain" in parts and DEEPSERVE not in results.digits.failures:
        say("deepserve under strain")
        results.strain = strain(rig, pictures)
    return results


@dataclass
class Contest:
    """The servers of one scenario."""

    rig: Rig
    scenario: Scenario
    standings: Standings
    subjects: Sequence[Subject]
    trials: list[Trial] = field(default_factory=list)

    def start(self, stack: ExitStack, titles: Sequence[str] | None) -> None:
        """Starts them all, or those with these titles, until the stack closes; notes who could not be started."""
        self.standings.graph = str(self.scenario.graph.relative_to(ROOT))
        for subject in self.subjects:
            if titles is not None and subject.title not in titles:
                continue
            say(f"starting {subject.title}")
            try:
                self.trials.append(stack.enter_context(self.rig.trying(subject, self.scenario)))
            except (ServerError, WrongAnswer) as error:
                self._fail(subject, error)

    def take_turns(self) -> None:
        """One round: each is asked over few and many connections; one that goes away is measured no more."""
        for trial in list(self.trials):
            try:
                self._take_turn(trial)
            except ServerError as error:
                self._fail(trial.subject, error)
                self.trials.remove(trial)

    def _take_turn(self, trial: Trial) -> None:
        server, title = trial.server, trial.subject.title
        with trial.turn():
            loads = [trial.load(connections) for connections in self.scenario.connections]
            memory = server.memory()
        record = self.standings.records.setdefault(title, Record(server.seconds_to_ready, memory, []))
        record.memory = memory
        record.loads += loads
        say(f"  {self.scenario.name}: {title}: {loads[-1].per_second:.0f}/s, {loads[-1].cpu_us:.0f} us a request")

    def _fail(self, subject: Subject, error: Exception) -> None:
        say(f"  {subject.title}: {error}")
        self.standings.failures[subject.title] = str(error)


def time_alone(rig: Rig, scenario: Scenario, standings: Standings) -> None:
    """ONNX Runtime alone, in runs of as many rows as there are connections, and as deepserve had so far."""
    for rows in scenario.connections:
        standings.alone.setdefault(str(rows), []).append(rig.alone(scenario, rows))
    own = standings.median(DEEPSERVE, BATCHED, lambda load: load.rows)
    if own is not None:
        standings.alone.setdefault(OWN_BATCHES, []).append(rig.alone(scenario, round(own)))


if __name__ == "__main__":
    main()
