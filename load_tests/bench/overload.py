"""More requests than a server can answer: sent at a fixed rate, whatever becomes of those before them.

As a program, `python -m load_tests.bench.overload URL BODIES RATE CONNECTIONS SECONDS` prints an `Overload` as JSON.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import uvloop

from load_tests.open_loop import Connection, End, evenly, offer

PROBE_EVERY = 0.05


@dataclass(frozen=True)
class Overload:
    """What came of it."""

    offered_per_second: float
    """Requests that were sent, or would have been had a connection been free."""
    answered_per_second: float
    """With status 200."""
    refused_share: float
    """Of the requests sent, those that got 503."""
    refused_p99_ms: float | None
    """How long they took to be refused; None if none was."""
    failed: int
    """Requests that got another status or no answer."""
    unsent_share: float
    """Of the requests offered, those that found every connection waiting."""
    probes: int
    """Requests to /livez meanwhile, with `PROBE_EVERY` seconds between them."""
    probes_answered: int
    probe_slowest_ms: float


async def overload(url: str, bodies: list[bytes], rate: float, connections: int, seconds: float) -> Overload:
    """Offers `rate` requests a second for that many `seconds`.

    Args:
        url: where they are posted.
        bodies: JSON, sent in turn.
        rate: requests a second.
        connections: at most as many wait for their answers.
        seconds: how long.
    """
    requests = cycle([_request("POST", urlsplit(url).path, body) for body in bodies])
    probing = asyncio.create_task(_probe(url, seconds))
    offered = await offer(url, requests, evenly(rate, seconds), connections, patient=False)
    finish = offered[0].at + seconds
    sent = [due for due in offered if due.sent]
    ends = [due.end for due in sent if due.end is not None]
    refused = [end.seconds for end in ends if end.status == 503]
    probes = await probing
    return Overload(
        offered_per_second=len(offered) / seconds,
        answered_per_second=sum(end.status == 200 and end.ended <= finish for end in ends) / seconds,
        refused_share=len(refused) / len(sent),
        refused_p99_ms=float(np.percentile(refused, 99)) * 1e3 if refused else None,
        failed=len(sent) - len(ends) + sum(end.status not in (200, 503) for end in ends),
        unsent_share=1 - len(sent) / len(offered),
        probes=len(probes),
        probes_answered=sum(end.status == 200 for end in probes),
        probe_slowest_ms=max(end.seconds for end in probes) * 1e3,
    )


async def _probe(url: str, seconds: float) -> list[End]:
    """Asks /livez again and again, on a connection of its own."""
    connection = await Connection.to(url)
    probes = []
    finish = time.perf_counter() + seconds
    while time.perf_counter() < finish:
        probes.append(await connection.ask(_request("GET", "/livez", b"")))
        await asyncio.sleep(PROBE_EVERY)
    connection.close()
    return probes


def _request(method: str, path: str, body: bytes) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


if __name__ == "__main__":
    target, file, per_second, width, duration = sys.argv[1:]
    lines = Path(file).read_bytes().splitlines()
    print(json.dumps(asdict(uvloop.run(overload(target, lines, float(per_second), int(width), float(duration))))))
