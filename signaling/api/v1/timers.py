"""Runs what is due: the timers of all calls, in whichever process gets to them first.

They are columns in the database, so a restart loses none. Not here: what a timer does (`operations/clock.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog
from msgspec import structs

from signaling.api.v1.service import SYSTEM, CallsService, Wanted
from signaling.calls.operations import clock
from signaling.calls.problems import Problem
from signaling.calls.state import Turn
from signaling.store.call_repository import due_calls, next_due
from signaling.store.database import DatabaseAway, outlived
from signaling.store.kinds import instant

log = structlog.get_logger(__name__)

AT_ONCE = 200
POLL_SECONDS = 1.0
"""How often other processes' timers are looked for; our own wake the loop."""


class Timers:
    """`catch_up` runs before each round: what could not be written down is found out first."""

    def __init__(self, service: CallsService, catch_up: Callable[[], Awaitable[None]]) -> None:
        self._service = service
        self._catch_up = catch_up

    async def run_due(self) -> None:
        """Do what is due now, of all calls."""
        while True:
            async with self._service.database.read() as connection:
                due = await due_calls(connection, self._service.now(), AT_ONCE)
            done = [await self._tick(*address) for address in due]
            # A call whose timer fails is due for ever; the others must not wait for it.
            if len(due) < AT_ONCE or not all(done):
                return

    async def _tick(self, type_: str, call_id: str) -> bool:
        try:
            await self._service.operate(SYSTEM, type_, call_id, _tick, Wanted(reach=False))
        except (Problem, DatabaseAway):
            return False
        except Exception:  # one call's fault; the timer stays due and is tried again
            log.exception("timer_failed", call=f"{type_}:{call_id}")
            return False
        return True

    async def loop(self) -> None:
        service = self._service
        while True:
            service.timers_changed.clear()
            # Not known while it is looked up: whatever is committed meanwhile wakes this loop again.
            service.timers_wait_until = None
            wait = POLL_SECONDS
            with outlived("timers_failed"):
                await self._catch_up()
                await self.run_due()
                async with service.database.read() as connection:
                    at = instant(await next_due(connection))
                if at is not None:
                    wait = min(wait, max(0.0, (at - service.now()) / timedelta(seconds=1)))
            service.timers_wait_until = service.now() + timedelta(seconds=wait)
            with contextlib.suppress(TimeoutError):
                # A timer that is overdue because it fails must not make this a busy loop.
                async with asyncio.timeout(max(wait, 0.02)):
                    await service.timers_changed.wait()


def _tick(turn: Turn) -> None:
    clock.tick(turn)
    # A timer that found nothing to do must still be put off.
    turn.state.call = structs.replace(turn.state.call)
