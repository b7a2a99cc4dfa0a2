"""Leaving without a failed request. From SIGTERM to its end a worker goes on serving for a while, says that it is not
ready, so that load balancers choose others, and closes each connection after an answer, so that its client does too.
"""

import asyncio
import signal

from service.errors import Unavailable


class Drain:
    """Whether this process has been told to stop, and is only waiting until nobody asks it any more."""

    def __init__(self) -> None:
        self.under_way = False

    def await_signal(self, seconds: float) -> None:
        """Has SIGTERM begin the drain, and what SIGTERM did so far happen `seconds` later, or at the second SIGTERM.

        To be called in the main thread, in the event loop that serves.
        """
        loop, stop = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
        assert callable(stop)  # uvicorn's, which ends its main loop

        def begin() -> None:
            delay = 0 if self.under_way else seconds
            self.under_way = True
            loop.call_later(delay, stop, signal.SIGTERM, None)

        loop.add_signal_handler(signal.SIGTERM, begin)

    def check_not_under_way(self) -> None:
        """Lets those pass who ask whether to send requests here.

        Raises:
            Unavailable: no longer.
        """
        if self.under_way:
            raise Unavailable("The server is about to stop.")


DRAIN = Drain()
"""Of this process."""
