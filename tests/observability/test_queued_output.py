"""Log lines arrive whole and in order. A reader that does not read loses lines and blocks nothing."""

import logging
import os
import re
import threading
import time

import pytest

from service.observability.logging import MAX_LINES, QueuedOutput


def say(writer: QueuedOutput, *messages: str) -> None:
    for message in messages:
        writer.handle(logging.LogRecord("test", logging.INFO, "", 0, message, None, None))


def read(pipe: int, until: str) -> list[str]:
    """Read lines from a pipe up to one that starts with `until`."""
    text = b""
    while f"\n{until}".encode() not in b"\n" + text or not text.endswith(b"\n"):
        text += os.read(pipe, 65536)
    return text.decode().splitlines()


def test_lines_come_in_order_and_flush_waits_for_them() -> None:
    reader, pipe = os.pipe()
    writer = QueuedOutput(pipe, float)
    wanted = [f"line {number}" for number in range(300)]
    say(writer, *wanted)
    writer.flush()
    assert os.read(reader, 65536).decode().splitlines() == wanted


def test_lines_beyond_the_queue_are_dropped_counted_and_reported_once_there_is_room() -> None:
    reader, pipe = os.pipe()
    counted: list[float] = []
    writer = QueuedOutput(pipe, counted.append)
    said = 2 * MAX_LINES
    say(writer, *(f"line {number} {'x' * 50}" for number in range(said)))
    assert counted
    lines: list[str] = []
    reading = threading.Thread(target=lambda: lines.extend(read(reader, "again")))
    reading.start()
    writer.flush()
    say(writer, "again")
    reading.join()
    numbers = [int(line.split()[1]) for line in lines if line.startswith("line ")]
    assert numbers == sorted(set(numbers))
    gaps = [re.match(r"(\d+) lines of the log were dropped", line) for line in lines if line[0].isdigit()]
    assert sum(int(gap[1]) for gap in gaps if gap is not None) == sum(counted) == said - len(numbers)
    assert len(lines) == len(numbers) + len(gaps) + 1


def test_lines_of_several_workers_stay_whole_in_one_pipe() -> None:
    reader, pipe = os.pipe()
    writers = [QueuedOutput(pipe, float) for _ in range(4)]
    wanted = [
        [f"{name} {number} {'x' * (number * 37 % 500)} end" for number in range(2000)] for name in range(len(writers))
    ]
    threads = [
        threading.Thread(target=say, args=(writer, *lines)) for writer, lines in zip(writers, wanted, strict=True)
    ]
    for thread in threads:
        thread.start()
    got: list[list[str]] = [[] for _ in writers]
    text = ""
    while sum(map(len, got)) < sum(map(len, wanted)):
        *lines, text = (text + os.read(reader, 5000).decode()).split("\n")
        for line in lines:
            got[int(line[0])].append(line)
    assert got == wanted
    for thread in threads:
        thread.join()


def test_without_a_reader_lines_are_dropped_and_nothing_blocks() -> None:
    reader, pipe = os.pipe()
    counted: list[float] = []
    writer = QueuedOutput(pipe, counted.append)
    os.close(reader)
    started = time.monotonic()
    say(writer, "one", "two")
    writer.flush()
    assert sum(counted) == 2
    assert time.monotonic() - started < 1


def test_a_record_that_cannot_be_formatted_does_not_stop_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    reader, pipe = os.pipe()
    writer = QueuedOutput(pipe, float)
    writer.handle(logging.LogRecord("test", logging.INFO, "", 0, "%d", ("no number",), None))
    say(writer, "lone \ud800")
    assert read(reader, "lone") == [r"lone \ud800"]
    assert "TypeError" in capsys.readouterr().err
