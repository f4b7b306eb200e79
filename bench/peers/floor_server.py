"""The floor: the least that a forwarder does, in Python on uvloop with libsrtp. To be measured, not to be used.

Open each packet once, then for every subscriber rewrite its header, seal it, send it. Who sends what to whom, and the
keys, are told over TCP as one line of JSON. There is no DTLS, no RTCP, no retransmission, no key frame request, no
statistics; ICE is an answer to every check whose user name is known.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import struct
from dataclasses import dataclass

import msgspec
import uvloop
from aioice import stun
from pylibsrtp import Error, Policy, Session

_POLICIES = {1: Policy.SRTP_PROFILE_AES128_CM_SHA1_80, 8: Policy.SRTP_PROFILE_AEAD_AES_256_GCM}
"""By their numbers in RFC 5764 §4.1.2 and RFC 7714 §14.2."""
_MAX_LINE_BYTES = 64 << 20
_SEQ = struct.Struct("!H")
_SSRC = struct.Struct("!I")


class ClientSpec(msgspec.Struct, frozen=True):
    """Keys come with their salt behind them."""

    ufrag: str
    """The server's, by which the client's checks are known."""
    pwd: str
    profile: int
    inbound: bytes
    outbound: bytes


class Route(msgspec.Struct, frozen=True):
    """What comes with `ssrc` goes to the client `ufrag` as `out_ssrc`."""

    ssrc: int
    ufrag: str
    out_ssrc: int


class Plan(msgspec.Struct, frozen=True):
    """Clients and routes that are new."""

    clients: list[ClientSpec]
    routes: list[Route]


class Client:
    def __init__(self, spec: ClientSpec) -> None:
        profile = _POLICIES[spec.profile]
        self.key = spec.pwd.encode()
        self.address: tuple[str, int] | None = None
        self.inbound = Session(Policy(spec.inbound, Policy.SSRC_ANY_INBOUND, srtp_profile=profile))
        self.outbound = Session(Policy(spec.outbound, Policy.SSRC_ANY_OUTBOUND, srtp_profile=profile))


@dataclass(slots=True)
class Leg:
    client: Client
    ssrc: int
    seq: int = 0


class Floor(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self._transport: asyncio.DatagramTransport | None = None
        self._clients: dict[str, Client] = {}
        self._by_address: dict[tuple[str, int], Client] = {}
        self._legs: dict[int, list[Leg]] = {}

    def take(self, plan: Plan) -> None:
        self._clients |= {spec.ufrag: Client(spec) for spec in plan.clients}
        for route in plan.routes:
            self._legs.setdefault(route.ssrc, []).append(Leg(self._clients[route.ufrag], route.out_ssrc))

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        if len(data) < 12:
            return
        if data[0] >= 128:
            # Payload types 64 to 95 are RTCP's (RFC 5761 §4); reports are nobody's concern here.
            if not 192 <= data[1] < 224:
                self._forward(data, address)
        elif data[0] < 4:
            self._answer_check(data, address)

    def _forward(self, data: bytes, address: tuple[str, int]) -> None:
        client = self._by_address.get(address)
        if client is None or self._transport is None:
            return
        try:
            packet = bytearray(client.inbound.unprotect(data))
        except Error:
            return
        (ssrc,) = _SSRC.unpack_from(packet, 8)
        sendto = self._transport.sendto
        for leg in self._legs.get(ssrc, ()):
            leg.seq = (leg.seq + 1) & 0xFFFF
            _SEQ.pack_into(packet, 2, leg.seq)
            _SSRC.pack_into(packet, 8, leg.ssrc)
            subscriber = leg.client
            if subscriber.address is not None:
                sendto(subscriber.outbound.protect(bytes(packet)), subscriber.address)

    def _answer_check(self, data: bytes, address: tuple[str, int]) -> None:
        try:
            check = stun.parse_message(data)
        except ValueError:
            return
        client = self._clients.get(str(check.attributes.get("USERNAME", "")).partition(":")[0])
        if client is None or check.message_class is not stun.Class.REQUEST or self._transport is None:
            return
        client.address = address
        self._by_address[address] = client
        answer = stun.Message(check.message_method, stun.Class.RESPONSE, transaction_id=check.transaction_id)
        answer.attributes["XOR-MAPPED-ADDRESS"] = address
        answer.add_message_integrity(client.key)
        self._transport.sendto(bytes(answer), address)


async def serve(control_port: int, media_port: int) -> None:
    floor = Floor()
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: floor, local_addr=("127.0.0.1", media_port))
    plans = msgspec.json.Decoder(Plan)

    async def obey(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            floor.take(plans.decode(line))
            writer.write(b"taken\n")
        writer.close()

    server = await asyncio.start_server(obey, "127.0.0.1", control_port, limit=_MAX_LINE_BYTES)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--control-port", type=int, required=True)
    parser.add_argument("--media-port", type=int, required=True)
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(arguments.control_port, arguments.media_port))


if __name__ == "__main__":
    main()
