"""Requests are logged, refusals only up to a limit: anybody can cause them, and they must not fill the disk."""

import asyncio
import logging
from collections.abc import Iterator

import pytest

from service.context import RequestContext
from service.observability import metrics
from service.observability.exposition import Reading
from service.observability.request_log import RequestLog, logger
from service.observability.series import flush
from service.settings import Settings

pytestmark = pytest.mark.anyio

MOST = 3


class Lines(logging.Handler):
    """Keeps the records of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.emit = self.records.append  # type: ignore[method-assign]

    @property
    def said(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, level = Lines(), logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def record(log: RequestLog, outcome: str, *, times: int = 1, authenticated: bool = False, client: str = "") -> None:
    for _ in range(times):
        log.record("GET", "other", RequestContext("id", client=client, authenticated=authenticated), outcome, 0.0)


def left_out() -> float:
    flush()
    return Reading().counter(metrics.LOG_LINES_LEFT_OUT)


async def at_the_begin_of_a_second() -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(1.01 - loop.time() % 1)


async def test_refusals_are_logged_up_to_a_limit_a_second_and_the_rest_is_summarised(
    lines: Lines,
) -> None:
    log = RequestLog(Settings(log_refusals_per_second=MOST))
    before = left_out()
    await at_the_begin_of_a_second()
    for outcome in ("invalid", "rejected", "expired", "abandoned"):
        record(log, outcome, times=50)
    assert lines.said == ["request"] * MOST
    assert left_out() == before + 200 - MOST
    await asyncio.sleep(1.1)
    assert lines.said[MOST:] == [f"{200 - MOST} similar lines were left out: the limit is {MOST} a second"]
    record(log, "invalid")
    assert lines.said[MOST + 1 :] == ["request"], "a new second"


async def test_an_endless_burst_is_summarised_once_a_second(lines: Lines) -> None:
    log = RequestLog(Settings(log_refusals_per_second=MOST))
    end = asyncio.get_running_loop().time() + 2.5
    said = 0
    while asyncio.get_running_loop().time() < end:
        record(log, "invalid", times=10)
        said += 10
        await asyncio.sleep(0.01)
    log.close()
    requests = [line for line in lines.said if line == "request"]
    told = [int(line.split()[0]) for line in lines.said if line != "request"]
    assert 2 <= len(told) <= 4
    assert len(requests) <= 4 * MOST
    assert sum(told) + len(requests) == said


async def test_the_last_summary_is_logged_at_the_end(lines: Lines) -> None:
    log = RequestLog(Settings(log_refusals_per_second=MOST))
    await at_the_begin_of_a_second()
    record(log, "invalid", times=MOST + 2)
    log.close()
    log.close()
    assert lines.said[MOST:] == ["2 similar lines were left out: the limit is 3 a second"]


async def test_clients_with_a_key_failures_of_the_server_and_answers_are_always_logged(
    lines: Lines,
) -> None:
    log = RequestLog(Settings(log_refusals_per_second=1, log_requests_fraction=1))
    record(log, "invalid", times=50, authenticated=True)
    record(log, "failed", times=50)
    record(log, "ok", times=50)
    assert lines.said == ["request"] * 150


async def test_without_a_limit_all_are_logged(lines: Lines) -> None:
    record(RequestLog(Settings(log_refusals_per_second=0)), "invalid", times=500)
    assert len(lines.said) == 500


async def test_lines_below_the_log_level_do_not_count_as_left_out(lines: Lines) -> None:
    log = RequestLog(Settings(log_refusals_per_second=1))
    before = left_out()
    logger.setLevel(logging.WARNING)
    record(log, "invalid", times=50)
    log.close()
    assert (lines.said, left_out()) == ([], before)


@pytest.mark.parametrize(("wanted", "facts"), [(True, {"client_address": "192.0.2.1"}), (False, {})])
async def test_the_address_of_the_client_can_be_left_out(lines: Lines, wanted: bool, facts: dict[str, str]) -> None:
    record(RequestLog(Settings(log_client_address=wanted)), "invalid", client="192.0.2.1")
    [line] = lines.records
    found = vars(line)["fields"]
    assert {name: found[name] for name in found if "client" in name or "192.0.2.1" in str(found[name])} == facts
