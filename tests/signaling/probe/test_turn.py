"""Relayed paths: everything goes through the relay, over UDP and over TCP, or the failure says why not."""

from __future__ import annotations

import asyncio

import pytest

from signaling.probe.ice import Paths, TurnServer
from signaling.probe.peer import Peer, PeerOptions
from tests.signaling.probe.pairs import LOOPBACK, eventually, tell_addresses
from tests.signaling.probe.relay import PASSWORD, USERNAME, relay


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_data_passes_through_the_relay(transport: str) -> None:
    async with relay(transport) as running:
        turn = TurnServer("127.0.0.1", running.port, transport, USERNAME, PASSWORD)
        relayed, direct = Peer(PeerOptions(paths=Paths(turn=turn))), Peer(PeerOptions(paths=LOOPBACK))
        got: list[bytes] = []
        direct.on_message = lambda label, data: got.append(data)
        relayed.add_channel("chat", ordered=True)
        try:
            answer = await direct.answer(await relayed.offer())
            await relayed.accept(answer)
            direct.start()
            await tell_addresses(direct, relayed)
            async with asyncio.timeout(10):
                (await relayed.wait_channel("chat")).send(b"through")
            await eventually(lambda: got == [b"through"])
            assert relayed.link.path[0] == f"turn-{transport}"
            assert running.to_peers > 0
            assert running.from_peers > 0
        finally:
            await relayed.close()
            await direct.close()


async def test_a_relay_that_refuses_is_told() -> None:
    async with relay("udp") as running:
        turn = TurnServer("127.0.0.1", running.port, "udp", USERNAME, "wrong")
        peer = Peer(PeerOptions(paths=Paths(turn=turn)))
        peer.add_channel("chat", ordered=True)
        with pytest.raises(ConnectionError, match="gave no relay address"):
            await peer.offer()
        await peer.close()
