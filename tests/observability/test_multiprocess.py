"""Workers share their metrics: each exposes the sum over all, and counters survive the death of workers."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from service.observability.multiprocess import FILE_BYTES
from tests.paths import ROOT

WORKER = """
import os
import sys
from pathlib import Path
os.environ["PROMETHEUS_MULTIPROC_DIR"] = "/nonexistent"  # as BentoML sets it for its own metrics
from service.observability import series
from service.observability.exposition import exposition, share

sets, counts = series.Gauge("sets", "What is", ("of",)), series.Counter("counts", "What was", ("of",))
least, times = series.Gauge("least", "The least", merge=min), series.Histogram("times", "How long", (), (1, 2))
alone = series.Counter("alone", "Without labels", ())
share(Path(sys.argv[1]), int(sys.argv[2]))
for line in sys.stdin:
    if line.startswith("count"):
        by = float(line.split()[1])
        counts.gathered('a "quoted" name\\n').inc(by)
        alone.gathered().inc(by)
        sets.labels("x").set(by)
        least.labels().set(by)
        times.gathered().observe_traced(by, f"{int(by):032x}")
        series.flush()
        print("done", flush=True)
    elif line.startswith("withdraw"):
        sets.labels("x").withdraw()
        print("done", flush=True)
    else:
        text = exposition(line.strip())[0].decode()
        print(len(text.splitlines()), text, sep="\\n", end="", flush=True)
"""


class Worker:
    """A process that counts."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, folder, str(workers)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def count(self, by: float) -> None:
        assert self._ask(f"count {by}") == "done"

    def withdraw(self) -> None:
        assert self._ask("withdraw") == "done"

    def samples(self) -> dict[str, float]:
        return {
            f"{sample.name}{sorted(sample.labels.values())}": sample.value
            for family in parse_text(self.text("text/plain"))
            for sample in family.samples
        }

    @property
    def names(self) -> list[str]:
        """Of the workers that it sees."""
        return [name for name in self.samples() if name.startswith("deepserve_worker_resident_bytes")]

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


def test_every_worker_exposes_the_sum_over_all(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as (one, other):
        one.count(1)
        other.count(2)
        for worker in (one, other):
            told = worker.samples()
            assert told[COUNTED] == told["sets['x']"] == told["times_sum[]"] == told["alone_total[]"] == 3
            assert told["least[]"] == 1
            assert (told["times_bucket['1.0']"], told["times_bucket['2.0']"], told["times_bucket['+Inf']"]) == (1, 2, 2)
            assert told["times_count[]"] == 2
            assert worker.names == [f"deepserve_worker_resident_bytes['{number}']" for number in range(2)]


def test_a_gauge_is_exposed_without_the_worker_that_withdrew_it(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as (one, other):
        one.count(1)
        other.count(2)
        one.withdraw()
        assert other.samples()["sets['x']"] == 2
        other.withdraw()
        assert "sets['x']" not in other.samples()


def test_killed_workers_leave_their_counters_and_no_gauges_and_files_do_not_pile_up(tmp_path: Path) -> None:
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
            assert len(survivor.names) == 1
        files = list((tmp_path / "metrics").iterdir())
        assert len(files) == 2 * (1 + len(FILE_BYTES)), "of two workers"
        assert sum(path.stat().st_size for path in files) < 2 * sum(FILE_BYTES.values()) + 100


def test_a_worker_that_starts_after_all_have_died_goes_on_counting(tmp_path: Path) -> None:
    for _ in range(3):
        with workers(tmp_path, 2) as started:
            for worker in started:
                worker.count(2)
    with workers(tmp_path, 1) as [worker]:
        assert "sets['x']" not in worker.samples()
        worker.count(1)
        assert worker.samples()[COUNTED] == 13
        assert worker.samples()["sets['x']"] == 1


def test_counters_never_fall_while_workers_die_and_others_start(tmp_path: Path) -> None:
    with workers(tmp_path, 1) as [survivor]:
        survivor.count(1)
        told = [1.0]
        ended = threading.Event()

        def read() -> None:
            while not ended.is_set():
                told.append(survivor.samples()[COUNTED])

        reading = threading.Thread(target=read)
        reading.start()
        for _ in range(5):
            with workers(tmp_path, 2) as victims:
                for victim in victims:
                    victim.count(1)
        ended.set()
        reading.join()
        assert told == sorted(told)
        assert survivor.samples()[COUNTED] == 11


def test_several_workers_have_openmetrics_without_exemplars_and_one_has_them(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as (one, other):
        one.count(1)
        other.count(2)
        assert exemplars(one) == {"1.0": None, "2.0": None, "+Inf": None}
    alone = Worker(tmp_path, workers=1)
    alone.count(1)
    found = exemplars(alone)
    assert found == {"1.0": {"trace_id": f"{1:032x}"}, "2.0": None, "+Inf": None}
    assert "trace_id" not in alone.text("text/plain")
    assert alone.names == ["deepserve_worker_resident_bytes['0']"]
    alone.kill()


def exemplars(worker: Worker) -> dict[str, dict[str, str] | None]:
    families = {family.name: family for family in parse_openmetrics(worker.text("application/openmetrics-text"))}
    return {
        sample.labels["le"]: sample.exemplar and sample.exemplar.labels
        for sample in families["times"].samples
        if sample.name == "times_bucket"
    }
