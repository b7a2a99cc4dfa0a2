"""The benchmark checks that responses equal ONNX Runtime's outputs, and counts every request."""

import asyncio
from collections.abc import Callable

import pytest

from load_tests.bench.overload import overload
from load_tests.bench.scenarios import Scenario, digits, sentiment


@pytest.mark.parametrize("scenario", [digits, sentiment])
def test_the_service_returns_the_outputs_of_onnx_runtime(server: str, scenario: Callable[[], Scenario]) -> None:
    asked = scenario()
    asked.check(server + asked.route)


def test_an_overload_test_counts_every_request(server: str) -> None:
    scenario = digits()
    seen = asyncio.run(overload(server + scenario.route, scenario.bodies, rate=400, connections=8, seconds=1))
    assert seen.failed == 0
    assert seen.answered_per_second > 0
    assert seen.probes_answered == seen.probes > 0
