"""Wait for a condition that another process or thread brings about."""

import time
from collections.abc import Callable


def wait_until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Return once `holds()` is true.

    Raises:
        AssertionError: it is still false after `seconds`.
    """
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"the condition does not hold after {seconds} seconds"
        time.sleep(0.02)
