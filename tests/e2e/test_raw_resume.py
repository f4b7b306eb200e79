"""A lost signal connection, taken up again under the same sid: media never stops, no message is lost or told twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from livekit.protocol import models, rtc

from signaling.probe.participant import JoinOptions
from signaling.probe.signal import SignalClient, dual_query, single_query
from tests.e2e.harness.server import Endpoint, ServerProcess
from tests.e2e.raw_call import DISCONNECTED, eventually, payloads, raw_call, still_a_call

pytestmark = pytest.mark.e2e

StartServer = Callable[..., Awaitable[ServerProcess]]
BOTH_MODES = pytest.mark.parametrize("single", [False, True], ids=["dual", "single"])


@BOTH_MODES
async def test_media_goes_on_while_signaling_is_lost_and_resumed(server: Endpoint, room: str, single: bool) -> None:
    """F-12"""
    async with raw_call(server, room, JoinOptions(single=single)) as (alice, bob):
        sid, session = alice.participant.sid, alice.participant.publisher.dtls._ssl
        await alice.participant.lose_signal()
        await bob.sees_more()
        await alice.sees_more()
        await alice.participant.resume()
        await still_a_call(alice, bob)
        assert alice.participant.sid == sid
        assert alice.participant.publisher.dtls._ssl is session
        assert not bob.saw(alice.participant, DISCONNECTED)
        assert bob.video_lost()[0] == alice.video_lost()[0] == 0
        told = [m for m in alice.participant.messages if m.WhichOneof("message") == "update"]
        assert sid in {info.sid for message in told for info in message.update.participants}, "of itself too"


@BOTH_MODES
async def test_reliable_messages_arrive_once_across_a_resume(server: Endpoint, room: str, single: bool) -> None:
    async with raw_call(server, room, JoinOptions(single=single)) as (alice, bob):
        await alice.participant.send(b"a1", reliable=True)
        await eventually(lambda: b"a1" in payloads(bob.participant), 10, "a1 did not come")
        await alice.participant.lose_signal()
        for payload in (b"a2", b"a3"):
            await alice.participant.send(payload, reliable=True)
        for payload in (b"b1", b"b2"):
            await bob.participant.send(payload, reliable=True)
        await eventually(lambda: b"a3" in payloads(bob.participant), 10, "data needs no signaling")
        await alice.participant.resume()
        assert alice.participant.last_message_seq == 3
        await alice.participant.send(b"a4", reliable=True)
        await eventually(lambda: b"a4" in payloads(bob.participant), 10, "a4 did not come")
        await eventually(lambda: b"b2" in payloads(alice.participant), 10, "b2 did not come")
        await asyncio.sleep(0.3)
        assert payloads(bob.participant) == [b"a1", b"a2", b"a3", b"a4"]
        assert payloads(alice.participant) == [b"b1", b"b2"]


@BOTH_MODES
async def test_killed_signaling_costs_no_media_packet(own_server: StartServer, room: str, single: bool) -> None:
    """F-14"""
    server = await own_server(workers=1)
    async with raw_call(server, room, JoinOptions(single=single)) as (alice, bob):
        server.kill()
        for caller in (alice, bob):
            await caller.sees_more(15)
        await server.start()
        for caller in (alice, bob):
            await caller.participant.lose_signal()
            await caller.participant.resume()
        await still_a_call(alice, bob)
        for caller in (alice, bob):
            assert {reception.lost for reception in caller.participant.subscriber.receptions.values()} == {0}


@BOTH_MODES
async def test_an_unknown_sid_is_told_to_come_back_afresh(server: Endpoint, room: str, single: bool) -> None:
    path = "/rtc/v1" if single else "/rtc"
    sid = "PA_nobodyhere"
    query = single_query(participant_sid=sid) if single else dual_query(participant_sid=sid)
    client = await SignalClient.connect(server.ws_url, path, query, server.token(room, "ghost"), 5)
    try:
        async with asyncio.timeout(5):
            first = await client.receive()
        assert first.WhichOneof("message") == "leave"
        assert first.leave.reason == models.DisconnectReason.STATE_MISMATCH
        assert first.leave.action == rtc.LeaveRequest.Action.RECONNECT
    finally:
        await client.close()
