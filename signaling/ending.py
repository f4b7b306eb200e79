"""How a command that runs until it is told ends: by SIGINT or SIGTERM, wherever it was started."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator

_ENDING = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def told_to_end() -> Iterator[asyncio.Future[signal.Signals]]:
    """Gives the first of these signals, once it has come; a second one acts as ever.

    The loop takes the signals: a KeyboardInterrupt would be raised in whatever line happens to run, and is lost where
    that is a callback of the garbage collector or of a C library; and it never comes where SIGINT is ignored from the
    start, as it is in the background jobs of a shell's scripts.
    """
    loop = asyncio.get_running_loop()
    told: asyncio.Future[signal.Signals] = loop.create_future()

    def tell(number: signal.Signals) -> None:
        if not told.done():
            told.set_result(number)
        as_ever()

    def as_ever() -> None:
        for number in _ENDING:
            loop.remove_signal_handler(number)

    for number in _ENDING:
        loop.add_signal_handler(number, tell, number)
    try:
        yield told
    finally:
        as_ever()
