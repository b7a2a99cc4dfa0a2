"""What all workers have counted, collected for those who watch them.

That takes milliseconds, and longer while another worker has it: in a thread of its own nobody else waits for it,
neither requests nor loads.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.errors import Unavailable

T = TypeVar("T")

_THREAD = ThreadPoolExecutor(1, thread_name_prefix="collect")


async def collect(work: Callable[[], T]) -> T:
    """What `work` returns, one after the other.

    Raises:
        Unavailable: it waited too long for another worker.
    """
    try:
        return await asyncio.get_running_loop().run_in_executor(_THREAD, work)
    except TimeoutError as error:
        raise Unavailable("Another worker does not let go of what all have counted.") from error
