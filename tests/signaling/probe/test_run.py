"""A run ends cleanly whatever happens to it: no socket, task or decoder thread outlives it."""

from __future__ import annotations

import asyncio
import threading

import pytest
from livekit.protocol import rtc
from websockets.asyncio.server import ServerConnection

from signaling.probe.failure import Step
from signaling.probe.participant import JoinOptions, Participant
from signaling.probe.run import RunOptions, run
from tests.signaling.probe.pairs import eventually
from tests.signaling.probe.test_signal import JOIN, server


async def never_offers(connection: ServerConnection) -> None:
    await connection.send(JOIN.SerializeToString())
    await connection.wait_closed()


async def test_a_failed_run_reports_what_it_reached() -> None:
    async with server(never_offers) as url:
        report = await run(RunOptions(url, ("one", "two"), JoinOptions(timeout_seconds=0.3)))
    assert not report.ok
    assert report.failed_step is Step.ICE
    first, second = report.legs
    assert set(first.steps) == {Step.SIGNAL}
    assert second.steps == {}
    assert report.verdict().startswith("Failed at ice: No path to the server over UDP: ")


async def test_a_cancelled_run_says_goodbye_and_leaves_no_thread() -> None:
    said: list[str | None] = []

    async def listen(connection: ServerConnection) -> None:
        await connection.send(JOIN.SerializeToString())
        async for data in connection:
            assert isinstance(data, bytes)
            said.append(rtc.SignalRequest.FromString(data).WhichOneof("message"))

    threads = threading.active_count()
    async with server(listen) as url:
        running = asyncio.create_task(run(RunOptions(url, ("one", "two"), JoinOptions(timeout_seconds=30))))
        await eventually(lambda: "ping_req" in said)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await eventually(lambda: "leave" in said)
    assert threading.active_count() <= threads


async def test_a_run_that_is_cancelled_while_it_leaves_still_closes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    leaving, closed = asyncio.Event(), []

    async def leave(self: Participant) -> None:
        leaving.set()
        await asyncio.sleep(0.05)
        closed.append(self.token)

    monkeypatch.setattr(Participant, "leave", leave)
    async with server(never_offers) as url:
        running = asyncio.create_task(run(RunOptions(url, ("one", "two"), JoinOptions(timeout_seconds=0.3))))
        await leaving.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert closed == ["two", "one"]
