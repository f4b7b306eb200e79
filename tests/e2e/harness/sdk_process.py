"""People who use an SDK of another language: a program each, told what to do and telling what happens by JSON lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from livekit import rtc

from tests.e2e.harness.people import Person
from tests.e2e.harness.server import Endpoint


class SdkProcess:
    """One client, running; `told` is what it said, in order."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.told: list[dict[str, Any]] = []
        self._changed = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            if line.startswith(b"{"):
                self.told.append(json.loads(line))
                self._changed.set()

    async def do(self, what: str, **fields: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": what, **fields}).encode() + b"\n")
        await self.process.stdin.drain()

    async def event(self, name: str, *, seconds: float = 40, count: int = 1, **fields: Any) -> dict[str, Any]:
        """The `count`-th event with these fields."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            found = [
                event
                for event in self.told
                if event["event"] == name and all(event.get(key) == value for key, value in fields.items())
            ]
            if len(found) >= count:
                return found[count - 1]
            left = deadline - asyncio.get_running_loop().time()
            assert left > 0, f"no {name} {fields} in {seconds} s; told {self.told}"
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()

    async def more(self) -> None:
        """Until it tells something."""
        self._changed.clear()
        await self._changed.wait()

    async def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        await self.process.wait()
        await self._reading


class SdkProcesses:
    """Whoever a test brings in; all leave at its end."""

    def __init__(self, server: Endpoint, room: str) -> None:
        self._server = server
        self._room = room
        self._started: list[SdkProcess] = []

    def _token(self, identity: str) -> str:
        return self._server.token(self._room, identity, can_update_own_metadata=True)

    async def close(self) -> None:
        for client in self._started:
            await client.close()


async def talk(python: Person, other: SdkProcess, identity: str) -> None:
    """Data and calls pass both ways, metadata is seen, and leaving."""
    await python.me.publish_data(b"to you", topic="t")
    data = await other.event("data")
    assert (data["identity"], data["text"], data["topic"]) == ("python", "to you", "t")
    await other.do("data", text="to python", topic="u")
    (packet,) = await python.event("data_received")
    assert (packet.data, packet.topic, packet.participant.identity) == (b"to python", "u", identity)
    await other.do("answer", name="greet")
    python.me.register_rpc_method("shout", _shout)
    await other.do("ask", to=["python"], name="shout", text="hello")
    assert (await other.event("answered"))["text"] == "HELLO"
    answer = await python.me.perform_rpc(destination_identity=identity, method="greet", payload="hi")
    assert answer == "python said hi"
    await other.do("metadata", text="seat 4")
    seen = await python.sees(identity)
    await python.until(lambda: seen.metadata == "seat 4", what="the metadata")
    await other.do("leave")
    await other.event("left")
    await python.loses(identity, seconds=5)


async def _shout(data: rtc.RpcInvocationData) -> str:
    return data.payload.upper()
