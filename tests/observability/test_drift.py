"""What all workers have seen lately is held against what is usual."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from service.observability.board import BOARD
from service.observability.drift import LEAST_ROWS, WINDOW, Drift, Seen
from service.observability.psi import stability_index
from tests.paths import ROOT

USUAL = (0.5, 0.3, 0.2, 0.0)
NUMBERS = count()


@pytest.fixture
def drift() -> Drift:
    return Drift(f"drift_{next(NUMBERS)}", "How far", ("of",))


def index(drift: Drift) -> float | None:
    """What the metrics say."""
    workers = [numbers for name, _, numbers in BOARD.read().rows if name == drift.name]
    samples = drift.metric({("x",): workers}).samples
    return samples[0].value if samples else None


def begun(drift: Drift) -> Seen:
    seen = drift.labels("x")
    seen.begin(USUAL)
    return seen


def test_the_index_is_that_of_the_rows_seen(drift: Drift) -> None:
    begun(drift).add(np.array([200, 300, 500, 0]))
    assert index(drift) == pytest.approx(stability_index(USUAL, (200, 300, 500, 0)))


def test_there_is_none_before_enough_rows_are_seen_nor_once_it_has_ended(drift: Drift) -> None:
    seen = drift.labels("x")
    assert index(drift) is None
    seen.begin(USUAL)
    seen.add(np.array([LEAST_ROWS - 1, 0, 0, 0]))
    assert index(drift) is None
    seen.add(np.array([0, 1, 0, 0]))
    assert index(drift) > 0.25
    seen.end()
    assert index(drift) is None
    seen.begin(USUAL)
    assert index(drift) is None


def test_what_was_seen_long_ago_fades(drift: Drift) -> None:
    seen = begun(drift)
    for _ in range(100):
        seen.add(np.array([0, 0, 0, 64]))
    assert index(drift) > 0.25
    for _ in range(5 * WINDOW // 100):
        seen.add(np.array([50, 30, 20, 0]))
    assert index(drift) < 0.1


def test_another_version_of_that_number_begins_anew_with_bins_of_its_own(drift: Drift) -> None:
    begun(drift).add(np.array([1000, 0, 0, 0]))
    other = drift.labels("x")
    other.begin((0.5, 0.5))
    other.add(np.array([300, 300]))
    assert index(drift) == 0


WORKER = """
import sys
from pathlib import Path
import numpy as np
from service.observability.board import BOARD
from service.observability.drift import DRIFT
from service.observability.series import TEXT, exposition

BOARD.share(Path(sys.argv[1]))
seen = DRIFT.labels("digits", "1", "ink")
seen.begin((0.5, 0.5))
for line in sys.stdin:
    seen.add(np.array([int(word) for word in line.split()]))
    print([line for line in exposition(BOARD.read().rows, TEXT)[0].decode().splitlines() if line[0] != "#"], flush=True)
"""


@contextmanager
def worker(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, folder],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        yield process
        process.kill()


def told(process: "subprocess.Popen[str]", *counts: int) -> str:
    """What the metrics say once this worker has seen so many rows in each bin."""
    assert process.stdin is not None
    assert process.stdout is not None
    print(*counts, file=process.stdin)
    return process.stdout.readline().strip()


def test_the_rows_of_all_workers_count_together_and_those_of_the_dead_no_more(tmp_path: Path) -> None:
    with ExitStack() as running:
        one, other = (running.enter_context(worker(tmp_path)) for _ in range(2))
        assert told(one, 400, 0) == "[]"
        expected = """['deepserve_drift_index{feature="ink",model="digits",version="1"} 0.0']"""
        assert told(other, 0, 400) == told(one, 0, 0) == expected
        other.kill()
        other.wait()
        assert told(one, 0, 0) == "[]"
