"""A TURN server (RFC 8656) as far as a client's tests need one: UDP allocations with channels, over UDP or TCP.

Long-term credentials are checked; permissions are those of bound channels. Built on aioice's STUN messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

from aioice import stun

USERNAME, PASSWORD, REALM, NONCE = "user", "password", "realm", b"nonce"
KEY = hashlib.md5(f"{USERNAME}:{REALM}:{PASSWORD}".encode()).digest()

Address = tuple[str, int]


class Relay:
    """Counts what it carried, so that a test can tell a relayed path from a direct one."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.port = 0
        self.to_peers = 0
        self.from_peers = 0
        self.clients: list[Client] = []


class Client:
    """One 5-tuple's allocation. `reply` sends to the client."""

    def __init__(self, relay: Relay, address: Address, reply: Callable[[bytes], None]) -> None:
        self._relay, self._address, self._reply = relay, address, reply
        self._socket: asyncio.DatagramTransport | None = None
        self._peers: dict[int, Address] = {}
        relay.clients.append(self)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    async def received(self, data: bytes) -> None:
        if data[0] & 0xC0 == 0x40:
            channel, length = struct.unpack_from("!HH", data)
            if self._socket is not None and channel in self._peers:
                self._relay.to_peers += 1
                self._socket.sendto(data[4 : 4 + length], self._peers[channel])
            return
        request = stun.parse_message(data)
        if not request.check_message_integrity(KEY):
            self._answer(request, {"ERROR-CODE": (401, "Unauthorized"), "REALM": REALM, "NONCE": NONCE}, failed=True)
        elif request.message_method == stun.Method.ALLOCATE:
            loop = asyncio.get_running_loop()
            self._socket, _ = await loop.create_datagram_endpoint(
                lambda: FromPeers(self), local_addr=(self._relay.host, 0)
            )
            relayed = self._socket.get_extra_info("sockname")[:2]
            mapped = {"XOR-MAPPED-ADDRESS": self._address, "XOR-RELAYED-ADDRESS": relayed}
            self._answer(request, {"LIFETIME": 600, **mapped})
        elif request.message_method == stun.Method.CHANNEL_BIND:
            self._peers[request.attributes["CHANNEL-NUMBER"]] = request.attributes["XOR-PEER-ADDRESS"]
            self._answer(request, {})
        else:
            self._answer(request, {"LIFETIME": request.attributes.get("LIFETIME", 600)})

    def from_peer(self, data: bytes, peer: Address) -> None:
        for channel, address in self._peers.items():
            if address == peer:
                self._relay.from_peers += 1
                framed = struct.pack("!HH", channel, len(data)) + data
                self._reply(framed + bytes(-len(framed) % 4))

    def _answer(self, request: stun.Message, attributes: dict[str, Any], *, failed: bool = False) -> None:
        response = stun.Message(
            message_method=request.message_method,
            message_class=stun.Class.ERROR if failed else stun.Class.RESPONSE,
            transaction_id=request.transaction_id,
        )
        response.attributes.update(attributes)
        if not failed:
            response.add_message_integrity(KEY)
        self._reply(bytes(response))


class FromPeers(asyncio.DatagramProtocol):
    def __init__(self, client: Client) -> None:
        self._client = client

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._client.from_peer(data, (addr[0], addr[1]))


class OverUdp(asyncio.DatagramProtocol):
    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._clients: dict[Address, Client] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        client = self._clients.get(addr)
        if client is None:
            client = Client(self._relay, addr, lambda reply: self._transport.sendto(reply, addr))
            self._clients[addr] = client
        task = asyncio.create_task(client.received(data))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _over_tcp(relay: Relay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    client = Client(relay, writer.get_extra_info("peername")[:2], writer.write)
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readexactly(4)
            length = struct.unpack("!HH", head)[1]
            rest = length + (-length % 4) + (0 if head[0] & 0xC0 == 0x40 else 16)
            await client.received(head + await reader.readexactly(rest))
    writer.close()


@contextlib.asynccontextmanager
async def relay(transport: str, host: str = "127.0.0.1") -> AsyncIterator[Relay]:
    """A running relay on a port of its own."""
    running = Relay(host)
    if transport == "udp":
        loop = asyncio.get_running_loop()
        listening, _ = await loop.create_datagram_endpoint(lambda: OverUdp(running), local_addr=(host, 0))
        running.port = listening.get_extra_info("sockname")[1]
        stop: Callable[[], None] = listening.close
    else:
        server = await asyncio.start_server(lambda r, w: _over_tcp(running, r, w), host, 0)
        running.port = server.sockets[0].getsockname()[1]
        stop = server.close
    try:
        yield running
    finally:
        stop()
        for client in running.clients:
            client.close()
