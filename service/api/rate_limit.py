"""How often one client may ask: a bucket of requests for each, which fills steadily and which all workers share.

A bucket is one number, the time at which it is full again (GCRA, the leaky bucket as a meter of ITU-T I.371). A full
one need not be kept, so that a table of fixed size in a file that the workers map does for any number of clients. It
has no lock, since a worker that is stopped must not hold up the others: two that write at the same instant may let a
client make a request more.
"""

import math
import mmap
import os
import time
from hashlib import blake2b
from pathlib import Path

from service.errors import TooManyRequests

_SETS, _WAYS = 4096, 8
"""A client's bucket is in one of the 8 places of one of 4,096 sets."""
_PLACES = _SETS * _WAYS
_WIDTH = 8
"""Bytes of a number in the table: a client's tag, or the time at which its bucket is full."""


class RateLimit:
    """So many requests a second for each client, and so many at once."""

    def __init__(self, file: Path, rate: float, burst: int) -> None:
        """Counts together with all who use `file`.

        Args:
            file: made by the first of them.
            rate: requests a second, above 0.
            burst: requests that a full bucket holds, at least 1.
        """
        with file.open("ab") as table:
            os.posix_fallocate(table.fileno(), 0, 2 * _WIDTH * _PLACES)  # a full disk would kill at a later write
        with file.open("r+b") as table:
            memory = memoryview(mmap.mmap(table.fileno(), 2 * _WIDTH * _PLACES))
        self._tags = memory[: _WIDTH * _PLACES].cast("Q")
        self._full_at = memory[_WIDTH * _PLACES :].cast("d")
        self._rate = rate
        self._interval = 1 / rate
        self._slack = (burst - 1) / rate

    def check(self, client: bytes) -> None:
        """Counts a request of a client, and lets it pass if there is one left in its bucket.

        Raises:
            TooManyRequests: there is none.
        """
        if (wait := self.wait(client, time.monotonic())) > 0:
            raise TooManyRequests(
                f"A client may make {self._rate:g} requests a second here, and this one has made more.",
                retry_after_seconds=math.ceil(wait),
            )

    def wait(self, client: bytes, now: float) -> float:
        """Takes a request out of a client's bucket, or says in how many seconds there will be one; 0 if it took one.

        Args:
            client: what tells it from others.
            now: seconds of a clock that only goes forward.
        """
        place = self._place(tag := int.from_bytes(blake2b(client, digest_size=_WIDTH).digest()) or 1)
        known = self._tags[place] == tag
        full_at = max(self._full_at[place], now) if known else now
        if (wait := full_at - now - self._slack) > 0:
            return wait
        self._full_at[place] = full_at + self._interval
        self._tags[place] = tag
        return 0.0

    def _place(self, tag: int) -> int:
        """Where a client's bucket is; if it has none, where the one is that is full already, or will be first."""
        places = range(first := tag % _SETS * _WAYS, first + _WAYS)
        tags = self._tags[first : first + _WAYS].tolist()
        return first + tags.index(tag) if tag in tags else min(places, key=self._full_at.__getitem__)
