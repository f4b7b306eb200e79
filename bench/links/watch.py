"""A process beside the server that asks it, again and again, why everybody gets what he gets (`/debug/rooms/{room}`).

Orders come on the first line of its input; at the end of its input it leaves the answers, each with its moment.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import httpx2
import msgspec

_WATCH_SECONDS = 0.2


class Orders(msgspec.Struct, frozen=True):
    url: str
    token: str
    #: Whose connections and tracks are noted.
    viewer: str


class Look(msgspec.Struct, frozen=True):
    """What the server said of the viewer at some moment."""

    #: Monotonic seconds.
    at: float
    connections: list[dict[str, Any]]
    receives: list[dict[str, Any]]


async def main() -> None:
    orders = msgspec.json.decode(sys.stdin.buffer.readline(), type=Orders)
    looks: list[Look] = []
    watching = asyncio.create_task(_watch(orders, looks))
    await asyncio.to_thread(sys.stdin.buffer.read)
    watching.cancel()
    sys.stdout.buffer.write(msgspec.json.encode(looks))
    sys.stdout.flush()


async def _watch(orders: Orders, looks: list[Look]) -> None:
    headers = {"Authorization": f"Bearer {orders.token}"}
    async with httpx2.AsyncClient(headers=headers) as client:
        while True:
            answer = await client.get(orders.url)
            if answer.status_code == 200:
                person = answer.json()["participants"].get(orders.viewer)
                if person is not None:
                    looks.append(Look(time.monotonic(), person["connections"], person["receives"]))
            await asyncio.sleep(_WATCH_SECONDS)


if __name__ == "__main__":
    asyncio.run(main())
