"""What strangers, eavesdroppers and broken clients send to the public media port, from real sockets against a real
worker: nobody is answered who has no business there, nobody is hurt, and each datagram is counted by its reason.

The forging is done with aioice's STUN and libsrtp, so it shares no code with what it attacks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aioice import stun
from aiortc.rtp import RTCP_RTPFB_NACK, RtcpRtpfbPacket, RtpPacket
from OpenSSL import SSL

from signaling.probe import description
from signaling.probe.failure import ProbeFailure
from signaling.probe.participant import JoinOptions, Participant
from signaling.probe.peer import Peer, PeerOptions
from signaling.probe.signal import SignalClient, single_query
from tests.e2e.harness import metrics
from tests.e2e.harness.server import ServerProcess
from tests.e2e.raw_call import Caller, eventually, raw_call, still_a_call

pytestmark = pytest.mark.e2e

SINGLE = JoinOptions(single=True, peer=PeerOptions(receive_feedback=()))
"""Who floods from the same process measures himself and no link: his pictures would be paused for want of bandwidth."""


@pytest.fixture(scope="module")
def target() -> Iterator[ServerProcess]:
    """A server of one worker, for this module alone: its counters are ours."""
    process = ServerProcess(workers=1)
    try:
        asyncio.run(process.start())
        yield process
    finally:
        process.close()


@contextlib.asynccontextmanager
async def call(target: ServerProcess, room: str) -> AsyncIterator[tuple[Caller, Caller]]:
    """A call in single mode: each side has one transport, and so one 5-tuple."""
    async with raw_call(target, room, SINGLE) as callers:
        yield callers


async def counted(target: ServerProcess, name: str) -> dict[str, float]:
    """A metric of the worker, by reason where it has one."""
    samples = await metrics.scrape(target.url)
    return {sample.labels.get("reason", ""): sample.value for sample in samples if sample.name == name}


async def dropped(target: ServerProcess) -> dict[str, float]:
    return await counted(target, "callyard_packets_dropped_total")


def growth(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}


class Stranger:
    """A socket of nobody's. `answers`: all that ever came back."""

    def __init__(self, target: ServerProcess) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.connect(("127.0.0.1", target.udp_port))

    def send(self, data: bytes) -> None:
        with contextlib.suppress(BlockingIOError):
            self._socket.send(data)

    def answers(self) -> list[bytes]:
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self._socket.recv(65_536))
        return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def stranger(target: ServerProcess) -> Iterator[Stranger]:
    made = Stranger(target)
    yield made
    made.close()


@dataclass(frozen=True)
class Secrets:
    """What an authenticated check to a transport is made of."""

    ours: str
    theirs: str
    password: str

    @classmethod
    def of(cls, peer: Peer) -> Secrets:
        remote = peer.link._remote
        assert remote is not None
        return cls(peer.link.credentials[0], remote.username, remote.password)

    def check(self, change: Callable[[stun.Message], None] | None = None, *, key: str | None = None) -> bytes:
        """A binding request that nominates; `change` edits it before it is signed."""
        message = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
        message.attributes["USERNAME"] = f"{self.theirs}:{self.ours}"
        message.attributes["PRIORITY"] = 1
        message.attributes["ICE-CONTROLLING"] = random.getrandbits(64)
        message.attributes["USE-CANDIDATE"] = None
        if change is not None:
            change(message)
        message.add_message_integrity((self.password if key is None else key).encode())
        return bytes(message)


def without(name: str) -> Callable[[stun.Message], None]:
    return lambda message: message.attributes.pop(name)


def with_value(name: str, value: Any) -> Callable[[stun.Message], None]:
    return lambda message: message.attributes.__setitem__(name, value)


def client_hello() -> bytes:
    """A real first flight, with SRTP profiles."""
    context = SSL.Context(SSL.DTLS_METHOD)
    context.set_tlsext_use_srtp(b"SRTP_AEAD_AES_128_GCM")
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    with contextlib.suppress(SSL.WantReadError):
        connection.do_handshake()
    return connection.bio_read(4_096)


def rtp(ssrc: int, sequence_number: int, size: int = 100, payload_type: int = 111) -> bytes:
    return RtpPacket(
        payload_type=payload_type, ssrc=ssrc, sequence_number=sequence_number, payload=bytes(size)
    ).serialize()


def malformed_checks(secrets: Secrets) -> dict[str, bytes]:
    good = secrets.check()
    flipped = bytearray(good)
    flipped[-1] ^= 1
    broken_integrity = bytearray(secrets.check()[:-8])
    broken_integrity[-1] ^= 1
    struct.pack_into("!H", broken_integrity, 2, len(broken_integrity) - 20)
    longer = bytearray(good)
    struct.pack_into("!H", longer, 2, len(good))
    username = secrets.theirs
    return {
        "wrong password": secrets.check(key="x" * 22),
        "empty password": secrets.check(key=""),
        "no username": secrets.check(without("USERNAME")),
        "username without colon": secrets.check(with_value("USERNAME", username)),
        "username turned round": secrets.check(with_value("USERNAME", f"{secrets.ours}:{username}")),
        "another peer's half": secrets.check(with_value("USERNAME", f"{username}:zzzz")),
        "empty half": secrets.check(with_value("USERNAME", f"{username}:")),
        "colon alone": secrets.check(with_value("USERNAME", ":")),
        "nul in the username": secrets.check(with_value("USERNAME", f"{username}\0:{secrets.ours}")),
        "very long username": secrets.check(with_value("USERNAME", f"{username}:" + "a" * 500)),
        "unknown user": secrets.check(with_value("USERNAME", f"{'q' * len(username)}:{secrets.ours}")),
        "no priority": secrets.check(without("PRIORITY")),
        "no role": secrets.check(without("ICE-CONTROLLING")),
        "bad fingerprint": bytes(flipped),
        "no fingerprint, broken integrity": bytes(broken_integrity),
        "length beyond the datagram": bytes(longer),
        "cut": good[:-4],
        "trailing bytes": good + b"\0\0\0\0",
        "header only": good[:20],
    }


async def test_a_malformed_check_with_a_real_user_name_binds_nothing(
    target: ServerProcess, room: str, stranger: Stranger
) -> None:
    """S-05"""
    async with call(target, room) as (alice, bob):
        secrets = Secrets.of(alice.participant.publisher)
        for name, datagram in malformed_checks(secrets).items():
            stranger.send(datagram)
            await asyncio.sleep(0.02)
            for answer in stranger.answers():
                message = stun.parse_message(answer)
                assert message.message_class is stun.Class.ERROR, f"{name} was answered as a good check"
                assert len(answer) <= 1.5 * len(datagram), f"{name} is amplified"
        stranger.send(rtp(1, 1))
        await still_a_call(alice, bob)
        assert not [answer for answer in stranger.answers() if answer[0] > 3], "media went to the stranger"


async def test_strangers_get_not_one_byte(target: ServerProcess, room: str, stranger: Stranger) -> None:
    """S-03, S-09"""
    async with call(target, room) as (alice, bob):
        before = await dropped(target)
        unknown = Secrets("aaaa", "b" * len(Secrets.of(alice.participant.publisher).theirs), "p" * 22)
        sent = 0
        for first in range(256):
            for size in (1, 12, 13, 20, 60, 1_200):
                stranger.send(bytes([first]) * size)
                sent += 1
            await asyncio.sleep(0)
        for datagram in (b"", client_hello(), unknown.check(), rtp(1, 1)):
            stranger.send(datagram)
            sent += 1
        await still_a_call(alice, bob)
        assert stranger.answers() == []
        after = await dropped(target)
        grown = {
            reason: count - before.get(reason, 0) for reason, count in after.items() if count != before.get(reason, 0)
        }
        assert sum(grown.values()) >= 0.99 * sent, grown
        assert {"unknown_protocol", "unvalidated_path", "stun_malformed", "stun_unknown_user"} & set(grown), grown


async def test_a_flood_of_checks_and_hellos_keeps_nobody_from_joining(target: ServerProcess, room: str) -> None:
    """S-01, S-04"""
    flooding = [Stranger(target) for _ in range(20)]
    hello, junk = client_hello(), [Secrets("aaaa", f"{i:08x}", "p" * 22).check() for i in range(50)]
    sent = 0

    async def flood() -> None:
        nonlocal sent
        while True:
            for one in flooding:
                one.send(hello)
                one.send(junk[sent % 50])
                sent += 2
            await asyncio.sleep(0.01)

    async with call(target, room) as (alice, bob):
        flooded = asyncio.create_task(flood())
        try:
            for number in range(3):
                async with call(target, f"{room}-{number}"):
                    pass
            await still_a_call(alice, bob)
            assert alice.video_lost()[0] == bob.video_lost()[0] == 0
            assert sent > 2_000
            assert [one.answers() for one in flooding] == [[]] * len(flooding)
        finally:
            flooded.cancel()
            for one in flooding:
                one.close()


def capture(peer: Peer) -> list[bytes]:
    """All that `peer` sends from now on, as it lies on the wire."""
    pair = peer.link._agent.pair
    assert pair is not None
    protocol, taken = pair.protocol, list[bytes]()
    transport = protocol.transport

    class Tapped:
        def sendto(self, data: bytes, addr: Any = None) -> None:
            taken.append(bytes(data))
            transport.sendto(data, addr)

        def __getattr__(self, name: str) -> Any:
            return getattr(transport, name)

    protocol.transport = Tapped()  # type: ignore[assignment]
    return taken


def inject(peer: Peer, data: bytes) -> None:
    """Send from the peer's own 5-tuple."""
    pair = peer.link._agent.pair
    assert pair is not None
    pair.protocol.transport.sendto(data, pair.remote_addr)


def is_stun(data: bytes) -> bool:
    return data[0] < 4


def is_media(data: bytes) -> bool:
    return 128 <= data[0] < 192 and not 192 <= data[1] <= 223


async def test_a_replayed_check_moves_no_media(target: ServerProcess, room: str, stranger: Stranger) -> None:
    """S-07"""
    async with call(target, room) as (alice, bob):
        taken = capture(alice.participant.publisher)
        await eventually(lambda: any(map(is_stun, taken)), 10, "no check to replay")
        for check in filter(is_stun, list(taken)):
            for _ in range(5):
                stranger.send(check)
        await still_a_call(alice, bob)
        assert not [answer for answer in stranger.answers() if not is_stun(answer)], "media followed the replay"


async def test_media_from_another_address_is_not_taken_and_teaches_nothing(
    target: ServerProcess, room: str, stranger: Stranger
) -> None:
    """S-13"""
    async with call(target, room) as (alice, bob):
        taken = capture(alice.participant.publisher)
        await eventually(lambda: sum(map(is_media, taken)) > 20, 10, "no media to copy")
        before = await dropped(target)
        copies = [data for data in taken if is_media(data)]
        for data in copies:
            stranger.send(data)
        await eventually_dropped(target, before, "unvalidated_path", len(copies))
        await still_a_call(alice, bob)
        assert stranger.answers() == []


async def eventually_dropped(target: ServerProcess, before: dict[str, float], reason: str, least: int) -> None:
    """Until that many more have been dropped for that reason."""
    grown: dict[str, float] = {}
    for _ in range(100):
        grown = growth(before, await dropped(target))
        if grown.get(reason, 0) >= least:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{reason}: {grown.get(reason, 0)} of {least}; {grown}")


async def test_replayed_media_is_forwarded_once(target: ServerProcess, room: str) -> None:
    """S-11"""
    async with call(target, room) as (alice, bob):
        received: list[tuple[int, int]] = []
        bob.participant.subscriber.on_rtp = lambda packet: received.append((packet.ssrc, packet.sequence_number))
        taken = capture(alice.participant.publisher)
        await eventually(lambda: sum(map(is_media, taken)) > 30, 10, "no media to replay")
        before = await dropped(target)
        replays = [data for data in taken if is_media(data)] * 10
        for data in replays:
            inject(alice.participant.publisher, data)
        await eventually_dropped(target, before, "srtp_replay", len(replays))
        await still_a_call(alice, bob)
        assert len(received) == len(set(received)), "a packet came twice"


async def test_forged_and_clear_packets_of_every_length_leave_the_session_up(target: ServerProcess, room: str) -> None:
    """S-10"""
    async with call(target, room) as (alice, bob):
        publisher = alice.participant.publisher
        taken = capture(publisher)
        await eventually(lambda: sum(map(is_media, taken)) > 5, 10, "no media")
        good = next(data for data in taken if is_media(data))
        before = await dropped(target)
        forged = 0
        noise = random.Random(7)
        for size in range(2_049):
            for head in (b"\x80\x6f", b"\x90\xe0", b"\x80\xc8", b"\xbf\xcd"):
                inject(publisher, (head + noise.randbytes(size))[:size])
                forged += size > 1
            if size % 16 == 0:
                await asyncio.sleep(0.001)
        for position in range(len(good)):
            changed = bytearray(good)
            changed[position] ^= 0x40
            inject(publisher, bytes(changed))
        for sender in [section.sender for section in publisher.sections if section.sender is not None]:
            inject(publisher, rtp(sender._ssrc, 1))
        await still_a_call(alice, bob)
        assert bob.video_lost()[0] == 0
        grown = growth(before, await dropped(target))
        refused = ("srtp_auth", "srtp_too_short", "rtp_truncated", "srtcp_not_encrypted")
        assert sum(grown.get(reason, 0) for reason in refused) > 0.99 * forged, grown
        assert await counted(target, "callyard_panics_total") == {"": 0}


async def test_clear_dtls_from_the_client_s_own_address_ends_nothing(target: ServerProcess, room: str) -> None:
    """S-02"""

    def record(kind: int, body: bytes, epoch: int = 0) -> bytes:
        return struct.pack("!BHHHIH", kind, 0xFEFD, epoch, 0, 9, len(body)) + body

    async with call(target, room) as (alice, bob):
        publisher = alice.participant.publisher
        session = publisher.dtls._ssl
        for datagram in (
            record(21, b"\x02\x28"),
            record(21, b"\x01\x00"),
            record(20, b"\x01"),
            record(22, bytes(80)),
            record(23, bytes(40), epoch=1),
            client_hello(),
        ):
            for _ in range(3):
                inject(publisher, datagram)
        await still_a_call(alice, bob)
        assert publisher.dtls._ssl is session
        assert publisher.dtls.state == "connected"


async def test_a_replayed_nack_is_answered_once(target: ServerProcess, room: str) -> None:
    """S-12"""
    async with call(target, room) as (alice, bob):
        subscriber = bob.participant.subscriber
        again: list[int] = []
        rtx_types = {c.payloadType for s in subscriber.sections for c in s.codecs if c.name == "rtx"}

        def note(packet: RtpPacket) -> None:
            if packet.payload_type in rtx_types and len(packet.payload) > 2:
                again.append(int.from_bytes(packet.payload[:2], "big"))

        subscriber.on_rtp = note
        await bob.sees_more(10)
        ssrc = bob.video_ssrc()
        wanted = subscriber.receptions[ssrc]._highest & 0xFFFF
        taken = capture(subscriber)
        packet = RtcpRtpfbPacket(fmt=RTCP_RTPFB_NACK, ssrc=subscriber._rtcp_ssrc, media_ssrc=ssrc)
        packet.lost = [wanted]
        await subscriber.dtls.send_rtcp(packet)
        sealed = taken[-1]
        await eventually(lambda: again == [wanted], 5, "the NACK was not answered")
        before = await dropped(target)
        for _ in range(20):
            inject(subscriber, sealed)
            await asyncio.sleep(0.02)
        await eventually_dropped(target, before, "srtp_replay", 20)
        assert again == [wanted]
        await still_a_call(alice, bob)


async def test_a_flood_of_streams_is_bounded_in_memory(target: ServerProcess, room: str) -> None:
    """S-24"""
    async with call(target, room) as (alice, bob):
        publisher = alice.participant.publisher
        [worker] = target.worker_pids()
        before, resident = await dropped(target), resident_bytes(worker)
        for ssrc in range(10_000, 30_000):
            inject(publisher, publisher.dtls._tx_srtp.protect(rtp(ssrc, 1, size=20)))
            if ssrc % 100 == 0:
                await asyncio.sleep(0.001)
        await still_a_call(alice, bob)
        assert sum(growth(before, await dropped(target)).values()) > 15_000
        assert resident_bytes(worker) - resident < 4 << 20


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("single", [False, True], ids=["server-of-dtls", "client-of-dtls"])
async def test_a_certificate_other_than_described_gets_no_media(target: ServerProcess, room: str, single: bool) -> None:
    """S-14"""
    participant = Participant(
        target.ws_url, target.token(room, "mallory"), JoinOptions(single=single, timeout_seconds=4)
    )
    original = Peer.__init__

    def with_wrong_fingerprint(peer: Peer, *arguments: Any) -> None:
        original(peer, *arguments)
        described = peer.dtls.getLocalParameters()
        for fingerprint in described.fingerprints:
            fingerprint.value = (
                "AB" + fingerprint.value[2:] if fingerprint.value[:2] != "AB" else "CD" + fingerprint.value[2:]
            )
        peer.dtls.getLocalParameters = lambda: described  # type: ignore[method-assign]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Peer, "__init__", with_wrong_fingerprint)
        try:
            with contextlib.suppress(ProbeFailure):
                await participant.join()
            await asyncio.sleep(1)
            mine = participant.participants.get(participant.sid)
            assert mine is None or mine.state != mine.State.ACTIVE, "it counts as connected"
            assert participant.subscriber.counts.first_packet_at is None
        finally:
            await participant.close()


async def test_a_handshake_of_endless_fragments_costs_neither_memory_nor_answers(
    target: ServerProcess, room: str, stranger: Stranger
) -> None:
    """S-15"""
    described = Peer()
    described.add_channel("_reliable", ordered=True)
    offer = (await described.offer()).replace("a=setup:actpass", "a=setup:active")
    client = await SignalClient.connect(target.ws_url, "/rtc/v1", single_query(offer), target.token(room, "giant"), 5)
    try:
        async with asyncio.timeout(5):
            while (message := await client.receive()).WhichOneof("message") != "answer":
                pass
        ice, dtls = description.transport(description.parse(message.answer.sdp, "answer"))
        assert dtls.role == "server", "so the server waits for our first flight"
        assert ice.usernameFragment
        assert ice.password
        secrets = Secrets(described.link.credentials[0], ice.usernameFragment, ice.password)
        checked: list[bytes] = []

        def answered() -> bool:
            # Said again until it is answered, as clients do: the answer may be here before the worker knows of us.
            stranger.send(secrets.check())
            checked.extend(stranger.answers())
            return any(stun.parse_message(one).message_class is stun.Class.RESPONSE for one in checked if is_stun(one))

        await eventually(answered, 5, "the check was not answered")
        [worker] = target.worker_pids()
        resident, sent = resident_bytes(worker), 0
        for number in range(8_000):
            body = bytes(1_000)
            # ClientHello of 16 MB, one kilobyte at a time, every second one out of its turn (RFC 6347 §4.2.2).
            offset = (number if number % 2 else 8_000 - number) * 1_000
            head = struct.pack(
                "!B3sH3s3s", 1, b"\xff\xff\xff", 0, offset.to_bytes(3, "big"), len(body).to_bytes(3, "big")
            )
            record = struct.pack("!BHHHIH", 22, 0xFEFD, 0, 0, number, len(head) + len(body))
            stranger.send(record + head + body)
            sent += len(record) + len(head) + len(body)
            if number % 50 == 0:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.3)
        assert resident_bytes(worker) - resident < 2 << 20
        assert sum(map(len, stranger.answers())) < sent / 100
        async with call(target, f"{room}-others") as (alice, bob):
            await still_a_call(alice, bob)
    finally:
        await client.close()
        await described.close()
