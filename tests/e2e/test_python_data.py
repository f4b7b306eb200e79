"""Data between Python SDKs: packets, streams, RPC, data tracks, metadata and attributes."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from livekit import api, rtc

from tests.e2e.harness.people import Party, Person

pytestmark = pytest.mark.e2e

MODES = pytest.mark.parametrize("single", [True, False], ids=["single", "dual"])


async def pair(party: Party, single: bool = True, **grants: Any) -> tuple[Person, Person]:
    alice = await party.join("alice", single=single, **grants)
    bob = await party.join("bob", single=single, **grants)
    await ready(alice, bob)
    return alice, bob


async def ready(*people: Person) -> None:
    """Waits until each knows the others to be active: data channels are then open."""
    for person in people:
        for other in people:
            if other is not person:
                seen = await person.sees(other.identity)
                await person.until(
                    lambda seen=seen: seen.state == rtc.ParticipantState.PARTICIPANT_STATE_ACTIVE,  # type: ignore[misc]
                    what=f"{other.identity} to be active",
                )


def received(person: Person) -> list[rtc.DataPacket]:
    return [packet for (packet,) in person.events("data_received")]


@MODES
@pytest.mark.parametrize("reliable", [True, False], ids=["reliable", "lossy"])
async def test_a_packet_arrives_with_its_topic_and_sender(party: Party, single: bool, reliable: bool) -> None:
    alice, bob = await pair(party, single)
    await alice.me.publish_data(b"\x00hello\xff", reliable=reliable, topic="greeting")
    (packet,) = await bob.event("data_received")
    assert packet.data == b"\x00hello\xff"
    assert packet.topic == "greeting"
    assert packet.participant is not None
    assert packet.participant.identity == "alice"
    assert packet.kind == (rtc.DataPacketKind.KIND_RELIABLE if reliable else rtc.DataPacketKind.KIND_LOSSY)
    assert not alice.events("data_received")


async def test_many_packets_arrive_whole_and_in_order(party: Party) -> None:
    alice, bob = await pair(party)
    random.seed(7)
    sent = [random.randbytes(random.randrange(1, 14_000)) for _ in range(120)]
    for data in sent:
        await alice.me.publish_data(data)
    await bob.event("data_received", count=len(sent), seconds=30)
    assert [packet.data for packet in received(bob)] == sent


async def test_a_packet_goes_only_where_it_is_sent(party: Party) -> None:
    """S-48"""
    alice, bob = await pair(party)
    carol = await party.join("carol")
    await ready(alice, carol)
    await alice.me.publish_data(b"for bob", destination_identities=["bob"])
    await alice.me.publish_data(b"for all")
    await carol.event("data_received")
    await bob.event("data_received", count=2)
    assert [packet.data for packet in received(carol)] == [b"for all"]
    assert [packet.data for packet in received(bob)] == [b"for bob", b"for all"]


async def test_who_may_not_publish_data_is_not_heard(party: Party) -> None:
    alice = await party.join("alice", can_publish_data=False)
    bob = await party.join("bob")
    await ready(alice, bob)
    await alice.me.publish_data(b"unheard")
    await bob.me.publish_data(b"heard")
    await alice.event("data_received")
    await asyncio.sleep(0.5)
    assert not bob.events("data_received")


@MODES
async def test_text_and_bytes_stream_whole(party: Party, single: bool, tmp_path: Path) -> None:
    alice, bob = await pair(party, single)
    texts: asyncio.Queue[tuple[str, str, dict[str, str]]] = asyncio.Queue()
    files: asyncio.Queue[tuple[str, str, bytes]] = asyncio.Queue()
    tasks = []

    def on_text(reader: rtc.TextStreamReader, sender: str) -> None:
        async def read() -> None:
            await texts.put((sender, await reader.read_all(), dict(reader.info.attributes or {})))

        tasks.append(asyncio.create_task(read()))

    def on_bytes(reader: rtc.ByteStreamReader, sender: str) -> None:
        async def read() -> None:
            await files.put((sender, reader.info.name, b"".join([part async for part in reader])))

        tasks.append(asyncio.create_task(read()))

    bob.room.register_text_stream_handler("chat", on_text)
    bob.room.register_byte_stream_handler("files", on_bytes)
    long = "Grüße, 世界! " * 5000
    random.seed(3)
    path = tmp_path / "noise.bin"
    path.write_bytes(random.randbytes(200_000))
    async with asyncio.timeout(20):
        await alice.me.send_text("short", topic="chat", attributes={"mood": "fine"})
        assert await texts.get() == ("alice", "short", {"mood": "fine"})
        await alice.me.send_text(long, topic="chat")
        assert (await texts.get())[:2] == ("alice", long)
        writer = await alice.me.stream_text(topic="chat")
        for word in ("one ", "two ", "three"):
            await writer.write(word)
        await writer.aclose()
        assert (await texts.get())[1] == "one two three"
        await alice.me.send_file(str(path), topic="files")
        assert await files.get() == ("alice", "noise.bin", path.read_bytes())


@MODES
async def test_a_call_of_another_s_method_is_answered(party: Party, single: bool) -> None:
    alice, bob = await pair(party, single)

    async def greet(data: rtc.RpcInvocationData) -> str:
        return f"{data.caller_identity} said {data.payload}"

    async def fail(data: rtc.RpcInvocationData) -> str:
        raise rtc.RpcError(4711, "no such luck", "details")

    bob.me.register_rpc_method("greet", greet)
    bob.me.register_rpc_method("fail", fail)
    call = alice.me.perform_rpc
    assert await call(destination_identity="bob", method="greet", payload="hi") == "alice said hi"
    long = "x" * 14_000
    assert await call(destination_identity="bob", method="greet", payload=long) == f"alice said {long}"
    with pytest.raises(rtc.RpcError) as failed:
        await call(destination_identity="bob", method="fail", payload="")
    assert (failed.value.code, failed.value.message, failed.value.data) == (4711, "no such luck", "details")
    with pytest.raises(rtc.RpcError) as unknown:
        await call(destination_identity="bob", method="other", payload="")
    assert unknown.value.code == rtc.RpcError.ErrorCode.UNSUPPORTED_METHOD


@MODES
async def test_a_data_track_carries_frames_to_who_subscribes(party: Party, single: bool) -> None:
    alice, bob = await pair(party, single)
    local = await alice.me.publish_data_track(name="positions")
    (remote,) = await bob.event("data_track_published")
    assert (remote.info.name, remote.publisher_identity) == ("positions", "alice")
    stream = remote.subscribe()
    frames: list[rtc.DataTrackFrame] = []
    big = bytes(range(256)) * 20

    async def read() -> None:
        async for frame in stream:
            frames.append(frame)

    async def push() -> None:
        number = 0
        while True:
            number += 1
            local.try_push(rtc.DataTrackFrame(b"%d " % number + big, user_timestamp=number))
            await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(read()), asyncio.create_task(push())]
    try:
        await bob.until(lambda: len(frames) >= 10, what="ten frames of the data track")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await stream.aclose()
    stamps = [frame.user_timestamp or 0 for frame in frames]
    for frame, stamp in zip(frames, stamps, strict=True):
        assert frame.payload == b"%d " % stamp + big
    assert stamps == sorted(set(stamps))
    await local.unpublish()
    (sid,) = await bob.event("data_track_unpublished")
    assert sid == remote.info.sid


async def test_one_s_own_name_metadata_and_attributes_reach_all(party: Party) -> None:
    alice, bob = await pair(party, can_update_own_metadata=True)
    seen = await bob.sees("alice")
    async with asyncio.timeout(10):
        await alice.me.set_metadata('{"seat": 4}')
        await alice.me.set_name("Alice A.")
        await alice.me.set_attributes({"hand": "raised", "colour": "blue"})
    await bob.until(lambda: seen.metadata == '{"seat": 4}', what="the metadata")
    await bob.until(lambda: seen.name == "Alice A.", what="the name")
    await bob.until(lambda: seen.attributes == {"hand": "raised", "colour": "blue"}, what="the attributes")
    await alice.until(lambda: alice.me.attributes == {"hand": "raised", "colour": "blue"}, what="her own attributes")
    async with asyncio.timeout(10):
        await alice.me.set_attributes({"hand": ""})
    await bob.until(lambda: seen.attributes == {"colour": "blue"}, what="the attribute to go")
    late = await party.join("late")
    met = await late.sees("alice")
    assert (met.metadata, met.name, met.attributes) == ('{"seat": 4}', "Alice A.", {"colour": "blue"})


async def test_who_may_not_change_its_metadata_changes_nothing(party: Party) -> None:
    """S-66"""
    alice, bob = await pair(party, can_update_own_metadata=False)
    seen = await bob.sees("alice")
    # The SDK reports no refusal; that it is one, the tests of the signal messages show.
    async with asyncio.timeout(10):
        await alice.me.set_metadata("mine")
        await alice.me.set_attributes({"a": "b"})
        await alice.me.set_name("King")
    await alice.me.publish_data(b"done")
    await bob.event("data_received")
    assert (seen.metadata, seen.name, seen.attributes) == ("", "Alice", {})


async def test_room_metadata_is_there_at_the_join_and_when_it_changes(party: Party, room: str) -> None:
    async with party.server.api() as service:
        await service.room.create_room(api.CreateRoomRequest(name=room, metadata="first"))
        alice = await party.join("alice")
        assert alice.room.metadata == "first"
        assert (await alice.room.sid).startswith("RM_")
        await service.room.update_room_metadata(api.UpdateRoomMetadataRequest(room=room, metadata="second"))
        assert await alice.event("room_metadata_changed") == ("first", "second")
