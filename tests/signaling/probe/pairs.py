"""Two peers of the probe joined to each other over loopback, so that the tool is tested without any server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import aioice

from signaling.probe.ice import Paths
from signaling.probe.peer import Peer, PeerOptions

LOOPBACK = Paths(bind=("127.0.0.1",))


async def tell_addresses(of: Peer, to: Peer) -> None:
    """What a server's candidates do in real life: a peer does not advertise its own."""
    agent = of.link._next or of.link._agent
    for protocol in agent.protocols:
        host, port = protocol.transport.get_extra_info("sockname")[:2]
        text = f"1 1 {protocol.local_candidate.transport} 1000 {host} {port} typ host"
        await to.link.add_candidate(aioice.Candidate.from_sdp(text))


async def negotiate(offerer: Peer, answerer: Peer, *, restart: bool = False) -> None:
    """One round of offer and answer, up to both sides being settled."""
    answer = await answerer.answer(await offerer.offer(restart=restart))
    await offerer.accept(answer)
    answerer.start()
    if offerer.link.state == "new" or restart:
        await tell_addresses(offerer, answerer)
        await tell_addresses(answerer, offerer)
    async with asyncio.timeout(10):
        await asyncio.gather(offerer.settled(), answerer.settled())


@contextlib.asynccontextmanager
async def pair(
    options: PeerOptions | None = None, *, prepare: Callable[[Peer, Peer], None] | None = None
) -> AsyncIterator[tuple[Peer, Peer]]:
    """A connected pair; `prepare` adds what the first offer shall carry (by default a data channel)."""
    made = replace(options or PeerOptions(), paths=LOOPBACK)
    offerer, answerer = Peer(made), Peer(made)
    try:
        if prepare is not None:
            prepare(offerer, answerer)
        else:
            offerer.add_channel("chat", ordered=True)
        await negotiate(offerer, answerer)
        yield offerer, answerer
    finally:
        await offerer.close()
        await answerer.close()


async def eventually(true: Callable[[], object], seconds: float = 10.0) -> None:
    """Until it is true; the test's own failure otherwise."""
    async with asyncio.timeout(seconds):
        while True:
            if true():
                return
            await asyncio.sleep(0.01)
