"""The benchmark's honesty: what it counts, what it compares, and what it says when something is missing."""

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from load_tests.bench.__main__ import main
from load_tests.bench.alone import alone
from load_tests.bench.goals import Goal, goals
from load_tests.bench.load import Load, check_tools
from load_tests.bench.overload import Overload
from load_tests.bench.report import publish
from load_tests.bench.results import Record, Results, Standings, Strain
from load_tests.bench.scenarios import WrongAnswer, digits
from load_tests.processes import Memory, ServerError, free_ports, running
from load_tests.subjects import BARE, PEERS, UVICORN, Subject, peers

CORES = sorted(os.sched_getaffinity(0))[:1]

BURNING = """
import http.server, subprocess, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/burn":
            subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.5: pass"])
        self.send_response(200)
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def standings(**cpu_us: float) -> Standings:
    """One round of each server: 64 connections, that much CPU time a request."""
    return Standings(
        records={
            title: Record(1.0, Memory(100.0, 100.0), [Load(64, 1000, 1.0, 5.0, 9.0, 0, 0, cpu, 0.1, 0.25, 32.0)])
            for title, cpu in cpu_us.items()
        }
    )


def test_cpu_time_counts_children_that_have_ended(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with running(
        [sys.executable, "-c", BURNING, str(port)],
        cores=CORES,
        port=port,
        ready="/",
        directory=tmp_path,
        environment=os.environ,
        log=tmp_path / "log",
    ) as server:
        before = server.cpu_seconds()
        httpx.get(f"{server.url}/burn", timeout=30)
        assert server.cpu_seconds() - before > 0.4


def test_a_server_that_ends_is_reported_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('there is no model')"]
    (port,) = free_ports(1)
    with (
        pytest.raises(ServerError, match="there is no model"),
        running(
            command,
            cores=CORES,
            port=port,
            ready="/",
            directory=tmp_path,
            environment=os.environ,
            log=tmp_path / "log",
        ),
    ):
        pass


@pytest.mark.parametrize("subject", [BARE, UVICORN], ids=["own protocol class", "uvicorn's"])
def test_the_bare_server_answers_and_its_constant_is_noticed(subject: Subject, tmp_path: Path) -> None:
    scenario = digits()
    with subject.serving(scenario.graph, CORES, tmp_path) as server:
        answer = httpx.post(server.url + subject.route, content=scenario.bodies[0])
        assert answer.status_code == 200
        bad = httpx.post(server.url + subject.route, headers={"Expect": "tea"})
        assert bad.status_code == (417 if subject is BARE else 200), "which class serves"
        with pytest.raises(WrongAnswer):
            scenario.check(server.url + subject.route)


def test_onnx_runtime_alone_takes_time_for_a_row(tmp_path: Path) -> None:
    scenario = digits()
    inputs = tmp_path / "inputs.npy"
    np.save(inputs, np.concatenate(scenario.inputs[:16]))
    measured = alone(str(scenario.graph), str(inputs), rows=4, seconds=0.3)
    assert 0 < measured.cpu_us < 1.2 * measured.us, "one thread cannot have more CPU time than passes"


@pytest.mark.parametrize("path", sorted(PEERS.glob("*.py")), ids=lambda path: path.stem)
def test_a_peer_is_pinned_and_says_how_it_starts(path: Path) -> None:
    scenario = path.stem.partition("_")[0]
    (peer,) = (peer for peer in peers(scenario) if path.stem in peer.command or path.stem in str(peer.environment))
    assert peer.dependencies
    assert all(re.fullmatch(r"[a-z-]+(\[[a-z]+\])?==[0-9.]+", dependency) for dependency in peer.dependencies)


def test_goals_compare_medians_and_never_pass_for_want_of_a_peer() -> None:
    measured = standings(deepserve=100.0, mosec=200.0)
    for cpu_us in (90.0, 80.0):
        measured.records["mosec"].loads += standings(mosec=cpu_us).records["mosec"].loads
    verdicts = {goal.text: goal for goal in goals(Results(digits=measured))}
    mosec, fastapi = verdicts["CPU a request / mosec's"], verdicts["CPU a request / unbatched FastAPI's"]
    assert mosec.measured == pytest.approx(100 / 90)
    assert not mosec.reached
    assert fastapi.measured is None
    assert not fastapi.reached


def test_an_overload_that_nobody_was_refused_in_tells_nothing_of_refusals() -> None:
    """Not that they were refused at once."""
    load = standings(deepserve=100.0).records["deepserve"].loads[0]
    calm = Overload(100.0, 100.0, 0.0, None, 0, 0.0, 20, 20, 3.0)
    refusing = replace(calm, refused_share=0.5, refused_p99_ms=60.0)

    def p99(*overloads: Overload) -> Goal:
        strain = Strain([load], [load], list(overloads), [1.8 * load.per_second], load, load)
        (goal,) = (goal for goal in goals(Results(strain=strain)) if "p99 of a 503" in goal.text)
        return goal

    assert p99(calm, calm).measured is None
    assert str(p99(calm)).startswith("not measured")
    assert p99(calm, refusing).measured == 60
    assert not p99(calm, refusing).reached


def test_a_server_that_there_is_not_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--servers", "deepserve", "mosek"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "mosek" in said
    assert all(title in said for title in ("deepserve", "mosec", *(peer.title for peer in peers("sentiment"))))


def test_the_report_names_who_was_not_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = standings(deepserve=100.0, mosec=200.0)
    measured.failures["MLServer"] = "No matching distribution"
    publish(Results(digits=measured), {"rounds": 1}, tmp_path)
    printed = capsys.readouterr().out
    assert "Other programs had 25% of the server's core" in printed
    assert printed.index("| deepserve") < printed.index("| mosec")
    assert "MLServer: not measured: No matching distribution" in printed
    assert (tmp_path / "bench.json").stat().st_size > 1000
    assert (tmp_path / "bench.png").stat().st_size > 1000


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="apt-get install wrk"):
        check_tools()
