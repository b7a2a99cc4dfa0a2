"""What the workers of a server count is one, whoever is asked, and whoever has died since."""

import fcntl
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from service import machine
from service.observability.board import BOARD, Board
from service.observability.series import Counter, Gauge, Histogram, WorkersCollector
from tests.paths import ROOT

WORKER = """
import resource
import sys
from pathlib import Path
from service.observability.board import BOARD
from service.observability.series import Counter, Gauge, Histogram, exposition

sets, counts = Gauge("sets", "What is", ("of",)), Counter("counts", "What was", ("of",))
least, times = Gauge("least", "The least", least=True), Histogram("times", "How long", (), (1, 2), exemplars=True)
BOARD.share(Path(sys.argv[1]))
for line in sys.stdin:
    if line.startswith("count"):
        by = float(line.split()[1])
        counts.labels(line.split()[2] if line.count(" ") > 1 else 'a "quoted" name\\n').inc(by)
        sets.labels("x").set(by)
        least.labels().set(by)
        observed = times.labels()
        observed.observe(by)
        observed.exemplify(by, bytes([int(by)] * 16))
        print("done", flush=True)
    elif line.startswith("bound"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(line.split()[1]), resource.RLIM_INFINITY))
        print("done", flush=True)
    else:
        told, _ = exposition(BOARD.read().rows, line.strip())
        text = told.decode()
        print(len(text.splitlines()), text, sep="\\n", end="", flush=True)
"""


class Worker:
    """A process that counts."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, folder],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def count(self, by: float, of: str = "") -> None:
        assert self._ask(f"count {by} {of}".strip()) == "done"

    def bound(self, most: int) -> None:
        """Lets no file of it grow beyond so many bytes, as if the disk were full; -1 is for no bound."""
        assert self._ask(f"bound {most}") == "done"

    def samples(self) -> dict[str, float]:
        text = self.text("text/plain")
        return {
            f"{sample.name}{sorted(sample.labels.values())}": sample.value
            for family in parse_text(text)
            for sample in family.samples
        }

    def text(self, form: str) -> str:
        lines = int(self._ask(form))
        assert self.process.stdout is not None
        return "".join(self.process.stdout.readline() for _ in range(lines))

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _ask(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        return self.process.stdout.readline().strip()


@contextmanager
def workers(folder: Path, count: int) -> Iterator[list[Worker]]:
    started = [Worker(folder) for _ in range(count)]
    try:
        yield started
    finally:
        for worker in started:
            worker.kill()


COUNTED = "counts_total['a \"quoted\" name\\n']"


def test_every_worker_tells_of_all(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as (one, other):
        one.count(1)
        other.count(2)
        for worker in (one, other):
            told = worker.samples()
            assert told[COUNTED] == told["sets['x']"] == told["times_sum[]"] == 3
            assert told["least[]"] == 1
            assert (told["times_bucket['1.0']"], told["times_bucket['2.0']"], told["times_bucket['+Inf']"]) == (1, 2, 2)
            assert told["times_count[]"] == 2


def test_a_killed_worker_leaves_what_it_counted_and_nothing_else(tmp_path: Path) -> None:
    with workers(tmp_path, 1) as [survivor]:
        survivor.count(5)
        for deaths in range(1, 5):
            with workers(tmp_path, 1) as [victim]:
                victim.count(1)
                assert survivor.samples()["sets['x']"] == 6
            told = survivor.samples()
            assert told[COUNTED] == told["times_sum[]"] == 5 + deaths
            assert told["times_bucket['1.0']"] == deaths
            assert told["sets['x']"] == told["least[]"] == 5
            assert len(list(tmp_path.glob("*.numbers"))) == 2  # until the next one starts
        assert sum(path.stat().st_blocks * 512 for path in tmp_path.iterdir()) < 2**21 + 2**15


def test_a_disk_that_is_full_for_a_moment_costs_no_more_than_the_series_of_that_moment(tmp_path: Path) -> None:
    with workers(tmp_path, 1) as [victim]:
        victim.count(1)
        [index] = tmp_path.glob("*.index")
        for room in (10, 0):
            victim.bound(index.stat().st_size + room)
            victim.count(1, f"lost-{room}")
        victim.bound(-1)
        victim.count(1, "found")
        told = victim.samples()
        assert (told[COUNTED], told["counts_total['found']"], told["times_sum[]"]) == (1, 1, 4)
        assert not any("lost" in name for name in told)
    with workers(tmp_path, 1) as [another]:
        assert another.samples()["counts_total['found']"] == 1


def test_who_starts_after_all_have_died_goes_on_counting(tmp_path: Path) -> None:
    for _ in range(3):
        with workers(tmp_path, 2) as started:
            for worker in started:
                worker.count(2)
    with workers(tmp_path, 1) as [worker]:
        worker.count(1)
        assert worker.samples()[COUNTED] == 13


def test_a_worker_that_died_while_it_buried_another_has_not_counted_it_twice(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as (survivor, victim):
        survivor.count(1)
        victim.count(2)
        victim.kill()
        files = {path: path.read_bytes() for path in tmp_path.iterdir()}
        with workers(tmp_path, 1) as [another]:
            another.count(1)
            gone = {path for path in files if not path.exists()}
            assert {path.suffix for path in gone} == {".index", ".numbers"}
        for path in gone:
            path.write_bytes(files[path])
        assert survivor.samples()[COUNTED] == 4  # the files of the other are not yet gone
        with workers(tmp_path, 1) as [another]:
            another.count(1)
            assert not any(path.exists() for path in gone)
            assert survivor.samples()[COUNTED] == 5


def test_who_reads_waits_for_nobody(tmp_path: Path) -> None:
    with workers(tmp_path, 1) as [worker]:
        worker.count(1)
        with (tmp_path / "lock").open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # as one does that was stopped while it started
            assert worker.samples()[COUNTED] == 1


def test_what_is_read_while_workers_die_and_others_start_is_all_there_is(tmp_path: Path) -> None:
    with workers(tmp_path, 1) as [survivor]:
        survivor.count(1)
        told = [1.0]
        ended = threading.Event()

        def read() -> None:
            while not ended.is_set():
                told.append(survivor.samples()[COUNTED])

        reading = threading.Thread(target=read)
        reading.start()
        for _ in range(8):
            with workers(tmp_path, 2) as victims:
                for victim in victims:
                    victim.count(1)
        ended.set()
        reading.join()
        assert told == sorted(told)
        assert survivor.samples()[COUNTED] == 17


def test_exemplars_are_the_latest_of_the_living_and_in_openmetrics_alone(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as (one, other):
        one.count(1)
        other.count(1)
        other.count(2)
        [times] = [
            family for family in parse_openmetrics(one.text("application/openmetrics-text")) if family.name == "times"
        ]
        found = {sample.labels["le"]: sample.exemplar for sample in times.samples if sample.name == "times_bucket"}
        assert {name: example and example.labels for name, example in found.items()} == {
            "1.0": {"trace_id": "01" * 16},
            "2.0": {"trace_id": "02" * 16},
            "+Inf": None,
        }
        assert "trace_id" not in one.text("text/plain")


def samples(name: str) -> dict[str, float]:
    """Those of a family of this process."""
    families = {family.name: family for family in WorkersCollector(BOARD.read().rows).collect()}
    return {sample.name: sample.value for sample in families[name].samples}


def test_a_gauge_that_is_cleared_is_not_told() -> None:
    gauge = Gauge("a_gauge_that_is_cleared", "It", ("of",))
    number = gauge.labels("x")
    assert samples("a_gauge_that_is_cleared") == {}
    number.set(0)
    assert samples("a_gauge_that_is_cleared") == {"a_gauge_that_is_cleared": 0.0}
    number.clear()
    assert samples("a_gauge_that_is_cleared") == {}


def test_the_same_labels_are_the_same_series_and_others_are_refused() -> None:
    counter = Counter("a_counter", "It", ("of",))
    counter.labels("x").inc()
    counter.labels("x").inc(2)
    assert samples("a_counter") == {"a_counter_total": 3.0}
    with pytest.raises(ValueError, match="a_counter has the labels"):
        counter.labels("x", "y")


def test_what_a_histogram_observes_is_in_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram("a_histogram", "It", (), (1, 10), exemplars=True)
    observed = histogram.labels()
    for value in (0, 1, 1.5, 10, 11, math.inf):
        observed.observe(value)
    observed.exemplify(10, b"0123456789abcdef")
    [told] = [family for family in WorkersCollector(BOARD.read().rows).collect() if family.name == "a_histogram"]
    assert [(each.labels.get("le"), each.value) for each in told.samples] == [
        ("1.0", 2),
        ("10.0", 4),
        ("+Inf", 6),
        (None, 6),
        (None, math.inf),
    ]
    example = told.samples[1].exemplar
    assert example is not None
    assert (example.labels, example.value) == ({"trace_id": b"0123456789abcdef".hex()}, 10)
    assert told.samples[0].exemplar is told.samples[2].exemplar is None


def test_what_there_is_no_room_for_is_not_told_and_harms_nobody() -> None:
    board = Board()
    first = board.take("first", (), 1, 1)
    places = {board.take("more", (str(n),), 1000, 1000) for n in range(1000)}
    assert len(places) > 100
    last = max(places)
    board.numbers[first] = 1
    board.numbers[last + 255] = 5
    rows = {(name, labels): numbers for name, labels, numbers in board.read().rows}
    assert list(rows["first", ()]) == [1.0]
    assert not any(any(numbers) for (name, _), numbers in rows.items() if name == "more")


def test_a_process_takes_memory_and_time() -> None:
    usage = machine.usage(os.getpid())
    assert 2**20 < usage.resident < 2**40
    assert 0 < usage.cpu_seconds < 1e6
    with pytest.raises(OSError, match="No such"):
        machine.usage(2**30)
