"""The client with LiveKit's own SDK against a whole server: the README's example as written, and its clock for real."""

from __future__ import annotations

import asyncio
import os
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from livekit import rtc

from signaling.client import Backstage, CallyardClient, MissingCapability
from tests.signaling.client.test_example import README, block
from tests.signaling.console.served import Served

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Served(tmp_path_factory.mktemp("state"))
    yield server
    server.close()


class Everybody:
    def __init__(self, server: Served) -> None:
        self.server = server
        self.clients: list[CallyardClient] = []
        self.application = self.client(server.token(scope="server"))

    def client(self, token: str) -> CallyardClient:
        client = CallyardClient(self.server.url, token)
        self.clients.append(client)
        return client

    def __call__(self, user_id: str) -> CallyardClient:
        return self.client(self.server.token(sub=user_id))


@pytest.fixture
async def everybody(server: Served) -> AsyncIterator[Everybody]:
    everybody = Everybody(server)
    for user in ("host", "alice", "bob", "charlie", "doctor", "patient"):
        await everybody.application.admin.put_user(user)
    yield everybody
    for client in everybody.clients:
        await client.aclose()


async def test_the_example_runs_as_written_with_the_sdk(everybody: Everybody) -> None:
    admin = everybody.application.admin
    await admin.create_call_type("my-call-type")
    await admin.change_grants("my-call-type", "user", remove=["JoinCall"])
    await everybody("owner").make_call("my-call-type", "members-only").get_or_create()
    source = f"async def example(url, token_for, client_of):\n{textwrap.indent(block(), '    ')}\n    return locals()\n"
    names: dict[str, Any] = {}
    exec(compile(source, str(README), "exec"), names)
    token_for = lambda user: everybody.server.token(sub=user)  # noqa: E731
    found = await names["example"](everybody.server.url, token_for, everybody)
    room = found["room"]
    assert isinstance(room, rtc.Room)
    assert room.isconnected()
    assert room.local_participant.identity == "host:default"
    assert [p.user_id for p in await found["call"].participants()] == ["host"]
    with pytest.raises(MissingCapability):
        await everybody("dave").make_call("my-call-type", "members-only").join()
    await found["call"].leave()
    assert not room.isconnected()
    await found["client"].aclose()


async def test_the_clock_opens_the_gate_in_real_time(everybody: Everybody) -> None:
    """500 s and 300 s of the example, a hundredth of it: members at once, everybody else 2 s from now."""
    began = time.monotonic()
    host = everybody("host").make_call("livestream", "scaled")
    await host.get_or_create(
        members=["alice"],
        starts_at=datetime.now(UTC) + timedelta(seconds=5),
        settings={"backstage": {"enabled": True, "join_ahead_time_seconds": 3}},
    )
    alice = everybody("alice").make_call("livestream", "scaled")
    assert (await alice.join()).isconnected()
    dave = everybody("dave").make_call("livestream", "scaled")
    with pytest.raises(Backstage) as early:
        await dave.join()
    assert early.value.opens_at is not None
    await asyncio.sleep((early.value.opens_at - datetime.now(UTC)).total_seconds())
    room = await dave.join()
    assert 2.0 <= time.monotonic() - began < 5.0
    assert room.isconnected()
    assert not room.local_participant.track_publications
    await alice.leave()
    await dave.leave()


async def test_a44_a_removed_member_loses_his_media(everybody: Everybody) -> None:
    admin = everybody.application.admin
    await admin.create_call_type("closed")
    await admin.change_grants("closed", "user", remove=["JoinCall"])
    host = everybody("host").make_call("closed", "x")
    await host.get_or_create()
    await host.add_members(["charlie"])
    charlie = everybody("charlie").make_call("closed", "x")
    room = await charlie.join()
    gone = asyncio.Event()
    room.on("disconnected", lambda *_: gone.set())
    await host.remove_members(["charlie"])
    await asyncio.wait_for(gone.wait(), 5)
    with pytest.raises(MissingCapability):
        await charlie.join()


async def test_g1_a_grant_reaches_the_connected_sdk(everybody: Everybody) -> None:
    host = everybody("host").make_call("audio_room", "talk")
    await host.get_or_create()
    await host.join()
    await host.go_live()
    dave = everybody("dave").make_call("audio_room", "talk")
    room = await dave.join()
    async with everybody("host").events() as events:
        asked = await dave.request_permissions(["SendAudio"])
        async with asyncio.timeout(5):
            while (await anext(events)).type != "permission.requested":
                pass
        await host.grant(asked)
    source = rtc.AudioSource(48_000, 1)
    track = rtc.LocalAudioTrack.create_audio_track("microphone", source)
    options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
    heard = asyncio.Event()
    host.room.on("track_subscribed", lambda *_: heard.set())
    publication = await room.local_participant.publish_track(track, options)
    await asyncio.wait_for(heard.wait(), 10)
    # The right is taken back while he speaks: the track is gone for others.
    silent = asyncio.Event()
    host.room.on("track_unsubscribed", lambda *_: silent.set())
    await host.change_capabilities("dave", revoke=["media.audio"])
    await asyncio.wait_for(silent.wait(), 5)
    assert publication.sid
    await dave.leave()
    await host.leave()


async def test_the_console_shows_what_the_media_side_measures(everybody: Everybody, server: Served) -> None:
    call = everybody("host").make_call("default", "measured")
    await call.get_or_create()
    room = await call.join()
    source = rtc.AudioSource(48_000, 1)
    track = rtc.LocalAudioTrack.create_audio_track("microphone", source)
    await room.local_participant.publish_track(track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE))
    async with httpx2.AsyncClient(base_url=server.url, follow_redirects=True) as operator:
        reply = await operator.post("/console/login", data={"token": server.token(scope="server")})
        assert reply.status_code == 200
        measured: list[dict[str, Any]] = []
        async with asyncio.timeout(20):
            # The first interval may hold the last packets of its second only.
            while not any(one["up_bps"] > 1_000 for one in measured):
                for _ in range(50):
                    await source.capture_frame(rtc.AudioFrame(os.urandom(960), 48_000, 1, 480))
                told = (await operator.get("/console/calls/default/measured/figures")).json()
                measured = told["media"]["participants"]
    assert [one["identity"] for one in measured] == ["host:default"]
    assert measured[0]["quality"] in ("excellent", "good", "poor")
    assert measured[0]["up_bps"] < 1_000_000
    assert told["joins"]["counts"][-1] == 1
    await call.leave()
