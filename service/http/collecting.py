"""What all workers have counted, collected for those who watch them.

That takes milliseconds: in a thread of its own nobody else waits for it, neither requests nor loads.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_THREAD = ThreadPoolExecutor(1, thread_name_prefix="collect")


async def collect(work: Callable[[], T]) -> T:
    """What `work` returns, one after the other."""
    return await asyncio.get_running_loop().run_in_executor(_THREAD, work)
