"""The edge around rooms: where they live, who is connected, effects in order; with workers in memory and real ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop
import websockets
from livekit.protocol import models, rtc
from livekit.protocol import room as api
from starlette.applications import Starlette
from structlog.testing import capture_logs

from sfu import border
from sfu.border import AnyCommand, TransportStatus
from signaling import runtime, tokens
from signaling.api.signal import signal_routes
from signaling.errors import (
    CallFailed,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    Overloaded,
    PermissionDenied,
    Refusal,
    TimedOut,
    Unauthenticated,
    Unavailable,
)
from signaling.rooms.grants import Grants
from signaling.rooms.presence import RoomFull
from signaling.wire.livekit.frames import Frame
from tests.signaling.edge import Edge, MemoryWorker, Signal, real, until
from tests.signaling.listening import listening
from tests.signaling.rooms.world import user_packet

ACTIONS = rtc.LeaveRequest.Action
REASONS = models.DisconnectReason

# --- effects --------------------------------------------------------------------------------------------------------


async def test_the_worker_knows_before_clients_do_and_remembers_before_that() -> None:
    edge = await Edge.start()
    edge.rooms.create("lobby")
    log = edge.worker_of().log
    signal = await edge.join()
    kinds = [entry if isinstance(entry, tuple) else type(entry).__name__ for entry in log]
    told = [index for index, entry in enumerate(kinds) if entry[0] == "told"]
    assert max(i for i, entry in enumerate(kinds) if entry == "AddTransport") < told[0]
    assert (
        max(i for i, entry in enumerate(kinds) if entry == ("remember", f"participant/{number_of(edge)}/{signal.sid}"))
        < told[0]
    )
    assert signal.kinds() == ["join", "refresh_token", "update", "answer"]


def number_of(edge: Edge, room: str = "lobby") -> int:
    return edge.hosted(room).record.number


async def test_a_refreshed_token_opens_the_same_room_with_the_same_rights() -> None:
    """S-62"""
    edge = await Edge.start()
    signal = await edge.join(grants=edge.grants(can_publish=False, name="A"))
    text = signal.messages[1].refresh_token
    grants = tokens.verify(text, edge.rooms.settings.keyring, edge.rooms._unix_ms() / 1000)
    assert (grants.identity, grants.room, grants.room_join, grants.can_publish) == ("alice", "lobby", True, False)
    assert grants.name == "A"


@asynccontextmanager
async def served(edge: Edge) -> AsyncIterator[str]:
    """The signal connection over HTTP, by its URL."""
    settings = edge.rooms.settings

    def verify(token: str) -> Grants:
        return tokens.verify(token, settings.keyring, edge.rooms._unix_ms() / 1000, settings.rooms)

    app = Starlette(routes=signal_routes(edge.rooms, verify, settings.rooms, lambda _: None))
    async with listening(app, settings.http) as (port, _):
        yield f"ws://127.0.0.1:{port}/rtc"


async def first_and_token(client: websockets.ClientConnection) -> tuple[rtc.SignalResponse, str]:
    """Return the first message, and the refreshed token."""
    messages: list[rtc.SignalResponse] = []
    async for frame in client:
        messages.append(rtc.SignalResponse.FromString(cast(bytes, frame)))
        if messages[-1].WhichOneof("message") == "refresh_token":
            return messages[0], messages[-1].refresh_token
    raise AssertionError("no token came")


@pytest.mark.parametrize("character", ["m", "漢", "🙂", '"'])
async def test_a_refreshed_token_opens_the_room_whatever_its_bearer_carries(character: str) -> None:
    edge = await Edge.start()
    most, size = edge.rooms.settings.rooms, len(character.encode())
    metadata = character * (most.metadata_max_bytes // size)
    attributes = {"key": character * ((most.attributes_max_bytes - 3) // size)}
    grants = edge.grants(name="n" * most.name_max_bytes, metadata=metadata, attributes=attributes)
    async with served(edge) as url:

        async def come(token: str, more: str = "") -> tuple[rtc.SignalResponse, str]:
            query = f"access_token={token}&protocol=17{more}"
            async with asyncio.timeout(20), websockets.connect(f"{url}?{query}", max_size=None) as client:
                told = await first_and_token(client)
                transport = edge.hosted().room.core.by_identity["alice"].primary.transport
                connected = border.TransportState(transport=transport, state=TransportStatus.CONNECTED, reason="")
                edge.says(edge.worker_of(), connected)
            return told

        first, token = await come(tokens.sign(grants, edge.rooms.settings.keyring, edge.rooms._unix_ms() / 1000))
        resumed, token = await come(token, f"&reconnect=1&sid={first.join.participant.sid}")
        assert resumed.WhichOneof("message") == "reconnect"
        # The room is over, and has forgotten him.
        edge.rooms.apply(edge.hosted(), edge.hosted().room.close(REASONS.ROOM_DELETED, edge.rooms.now()))
        again, _ = await come(token)
        assert (again.join.participant.metadata, dict(again.join.participant.attributes)) == (metadata, attributes)


async def test_webhooks_and_figures_follow_from_effects() -> None:
    edge = await Edge.start()
    signal = await edge.join()
    edge.connect(signal)
    assert [event.event for event in edge.events] == ["room_started", "participant_joined"]
    assert edge.counted("callyard_rooms") == edge.counted("callyard_participants") == 1
    assert edge.counted("callyard_join_duration_seconds_count") == 1
    edge.rooms.request(signal.number, rtc.SignalRequest(answer=rtc.SessionDescription()))
    assert edge.counted("callyard_signal_dropped_total", reason="answer_in_single_mode") == 1
    edge.rooms.request(signal.number, rtc.SignalRequest(leave=rtc.LeaveRequest()))
    assert signal.closed == "client_initiated"
    assert edge.counted("callyard_participants_left_total", reason="client_initiated") == 1
    assert edge.counted("callyard_participants") == 0


async def test_a_request_says_how_much_it_makes_another_be_told() -> None:
    edge = await Edge.start()
    alice = await edge.join(grants=edge.grants(metadata="m" * 10_000))
    publish = rtc.SignalRequest(publish_data_track_request=rtc.PublishDataTrackRequest(pub_handle=1, name="d"))
    assert edge.rooms.request(alice.number, publish) == (0, 0), "nobody else is there"
    others = [await edge.join("bob"), await edge.join("carol")]
    before = [len(other.messages) for other in others]
    publish.publish_data_track_request.MergeFrom(rtc.PublishDataTrackRequest(pub_handle=2, name="e"))
    told = edge.rooms.request(alice.number, publish)
    for other, count in zip(others, before, strict=True):
        assert sum(message.ByteSize() for message in other.messages[count:]) == told.most_bytes > 10_000
    assert told.messages == sum(len(other.messages) - count for other, count in zip(others, before, strict=True)) > 1
    assert edge.rooms.request(alice.number, rtc.SignalRequest(ping=1)) == (0, 0)
    assert edge.rooms.request(99, rtc.SignalRequest(ping=1)) == (0, 0)


async def test_what_is_told_to_many_is_written_once() -> None:
    edge = await Edge.start()
    frames: list[Frame] = []

    @dataclass
    class Noting(Signal):
        def send(self, frame: Frame) -> None:
            frames.append(frame)

    for number in range(3):
        edge.rooms.connect(Noting(), edge.parameters(f"u{number}"))
    frames.clear()
    await edge.join("late")
    updates = [frame for frame in frames if frame.message.WhichOneof("message") == "update"]
    assert len(updates) == 3
    assert len({id(frame) for frame in updates}) == 1


async def test_messages_of_a_connection_that_is_gone_go_nowhere() -> None:
    edge = await Edge.start()
    signal, other = await edge.join(), await edge.join("bob")
    edge.connect(signal)
    edge.rooms.disconnected(signal.number)
    before = len(signal.messages)
    edge.rooms.request(signal.number, rtc.SignalRequest(leave=rtc.LeaveRequest()))
    edge.rooms.request(other.number, rtc.SignalRequest(leave=rtc.LeaveRequest()))
    assert len(signal.messages) == before
    assert signal.sid in edge.hosted().room.core.participants
    edge.rooms.disconnected(signal.number)


async def test_counts_are_remembered_a_little_later() -> None:
    edge = await Edge.start()
    signal = await edge.join()
    edge.connect(signal)
    worker = edge.worker_of()
    transport = edge.hosted().room.core.participants[signal.sid].publisher.transport
    worker.log.clear()
    for number in (1, 2, 3):
        payload = user_packet(b"x", sequence=number).SerializeToString()
        edge.says(worker, border.DataMessage(transport=transport, label="_reliable", payload=payload))
    assert not worker.log
    await until(lambda: bool(worker.log))
    assert worker.log == [("remember", f"participant/{number_of(edge)}/{signal.sid}")]


async def test_a_participant_who_cannot_be_remembered_is_not_found_again_as_he_was_before() -> None:
    edge = await Edge.start()
    alice, bob = await edge.join(), await edge.join("bob")
    worker, number = edge.worker_of(), number_of(edge)
    keys = {f"room/{number}", *(f"participant/{number}/{one.sid}" for one in (alice, bob))}
    assert set(worker.memory) == keys
    worker.value_max_bytes = 1
    edge.connect(alice)
    edge.rooms.apply(edge.hosted(), edge.hosted().room.update_metadata("longer"))
    assert set(worker.memory) == keys - {f"participant/{number}/{alice.sid}"}
    worker.value_max_bytes = 1 << 20
    edge.rooms.disconnected(alice.number)
    assert set(worker.memory) == keys


async def test_a_room_that_ends_is_forgotten_everywhere() -> None:
    """F-41"""
    edge = await Edge.start()
    signal = await edge.join()
    worker = edge.worker_of()
    edge.rooms.apply(edge.hosted(), edge.hosted().room.close(REASONS.ROOM_DELETED, edge.rooms.now()))
    assert signal.leave.reason == REASONS.ROOM_DELETED
    assert not worker.memory
    assert not worker.transports
    assert not edge.rooms.hosted
    assert [event.event for event in edge.events][-1] == "room_finished"


async def test_who_was_removed_does_not_wait_for_the_end_of_the_room() -> None:
    edge = await Edge.start()
    before, after = (edge.grants(issued_at=at) for at in (1.0, 2.0**40))
    await edge.join(grants=before)
    edge.rooms.apply(edge.hosted(), edge.hosted().room.remove("alice", edge.rooms.now()))
    edge.rooms.apply(edge.hosted(), edge.hosted().room.close(REASONS.ROOM_DELETED, edge.rooms.now()))
    with pytest.raises(Unauthenticated, match="before this participant was removed"):
        await edge.join(grants=before)
    await edge.join("bob")
    with pytest.raises(Unauthenticated, match="before this participant was removed"):
        await edge.join(grants=before)
    assert (await edge.join(grants=after)).kinds()[0] == "join"


@pytest.mark.parametrize("killed", [False, True])
async def test_a_removal_and_a_narrowed_permission_outlive_a_restart(tmp_path: Path, killed: bool) -> None:
    """S-62"""
    file = tmp_path / "cutoffs.sqlite"
    edge = await Edge.start(cutoffs=file)
    mallory, bob = (edge.grants(identity, issued_at=1.0, metadata="m") for identity in ("mallory", "bob"))
    for grants in (mallory, bob):
        await edge.join(grants.identity, grants=grants)
    room, now = edge.hosted().room, edge.rooms.now()
    narrowed = models.ParticipantPermission(can_subscribe=True)
    edge.rooms.apply(edge.hosted(), room.remove("mallory", now))
    request = api.UpdateParticipantRequest(room="lobby", identity="bob", permission=narrowed)
    edge.rooms.apply(edge.hosted(), room.update_participant(request, now))
    if not killed:
        dismissed = asyncio.create_task(edge.rooms.dismiss())
        await asyncio.sleep(0)
        dismissed.cancel()
    # The workers have gone with it, and what they remembered.
    after = await Edge.start(cutoffs=file)
    for _ in range(2):
        with pytest.raises(Unauthenticated, match="before this participant was removed"):
            await after.join("mallory", grants=mallory)
        signal = await after.join("bob", grants=bob)
        held = after.hosted().room.core.participants[signal.sid].grants
        assert (held.can_publish, held.can_subscribe, held.metadata) == (False, True, "m")
    assert (await after.join("mallory", grants=edge.grants("mallory", issued_at=2.0**40))).kinds()[0] == "join"
    without = await Edge.start(cutoffs=file, rooms={"removal_revokes_tokens": False})
    assert (await without.join("mallory", grants=mallory)).kinds()[0] == "join"


async def test_a_room_ends_by_its_own_time() -> None:
    edge = await Edge.start()
    edge.rooms.create("lobby", empty_timeout_seconds=1)
    await until(lambda: not edge.rooms.hosted)
    assert [event.event for event in edge.events] == ["room_started", "room_finished"]


def test_a_timer_that_is_late_already_is_set_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    # Only uvloop's timers of this kind do not know their time.
    async def late_then_early() -> None:
        edge = await Edge.start()
        await edge.join()
        hosted, now = edge.hosted(), asyncio.get_running_loop().time()
        timers = []
        for deadline in (now - 1, now - 1, now - 2, now + 100):
            monkeypatch.setattr(hosted.room, "deadline", lambda at=deadline: at)
            edge.rooms._schedule(hosted)
            timers.append(hosted.timer)
        assert timers[0] is timers[1]
        assert len(set(map(id, timers))) == 3

    uvloop.run(late_then_early())


# --- admission ------------------------------------------------------------------------------------------------------


async def test_without_rooms_on_demand_only_those_that_were_made_are_joined() -> None:
    edge = await Edge.start(rooms={"auto_create": False})
    with pytest.raises(NotFound, match="requested room does not exist"):
        await edge.join()
    await edge.join(room="mine", grants=edge.grants(room="mine", room_create=True))
    edge.rooms.create("lobby")
    assert (await edge.join()).kinds()[0] == "join"


async def test_a_token_may_bring_the_configuration_of_a_room_that_it_makes() -> None:
    edge = await Edge.start()
    config = {"emptyTimeout": 7, "departure_timeout": 8, "maxParticipants": 1, "metadata": "m", "egress": {}}
    await edge.join(grants=edge.grants(room_config=config))
    record = edge.hosted().record
    assert (record.empty_timeout_seconds, record.departure_timeout_seconds) == (7, 8)
    assert (record.participants_max, record.metadata) == (1, "m")
    with pytest.raises(RoomFull):
        await edge.join("bob")
    odd = {"emptyTimeout": -1, "departureTimeout": "x", "maxParticipants": True, "metadata": 5}
    await edge.join(room="odd", grants=edge.grants(room="odd", room_config=odd))
    assert edge.hosted("odd").record.participants_max == 0


async def test_what_a_token_asks_of_a_room_and_is_not_offered_is_said_in_the_log_once_a_room() -> None:
    edge = await Edge.start()
    config = {"egress": {"tracks": {}}, "agents": [{"agentName": "scribe"}]}
    with capture_logs() as logs:
        for identity in ("alice", "bob"):
            await edge.join(identity, grants=edge.grants(identity, room_config=config, room_preset="large"))
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [(entry["event"], entry["room"], entry["not_offered"]) for entry in warnings] == [
        ("room_not_as_asked", "lobby", "agents, egress, preset")
    ]


async def test_an_overloaded_worker_takes_nobody_else_and_the_other_does() -> None:
    """F-32"""
    edge = await Edge.start()
    alice = await edge.join("alice")
    edge.connect(alice)
    loaded = edge.worker_of()
    edge.says(loaded, border.Overload(level=4, memory=0))
    await edge.join("bob")
    edge.says(loaded, border.Overload(level=5, memory=0))
    with pytest.raises(Overloaded, match="lets nobody else in"):
        await edge.join("carol")
    # Whoever takes his own place or goes on may come, and a new room finds another worker.
    again = await edge.join("alice")
    assert again.kinds()[0] == "join"
    back = await edge.join("bob", is_reconnect=True, participant_sid=edge.hosted().room.core.by_identity["bob"].sid)
    assert back.kinds()[0] == "reconnect"
    names = [f"room-{number}" for number in range(8)]
    for name in names:
        await edge.join(room=name)
    assert {edge.worker_of(name).id for name in names} == {one.id for one in edge.workers if one is not loaded}
    for worker in edge.workers:
        edge.says(worker, border.Overload(level=5, memory=0))
    with pytest.raises(Overloaded, match="takes no new rooms"):
        await edge.join(room="elsewhere")
    assert not edge.rooms.takes_rooms
    edge.says(loaded, border.Overload(level=4, memory=0))
    await edge.join("carol")
    await edge.join(room="elsewhere")
    # With the worker what it said is gone.
    edge.says(loaded, border.Overload(level=5, memory=3))
    other = next(one for one in edge.workers if one is not loaded)
    edge.says(other, border.NO_OVERLOAD)
    edge.lose(loaded)
    await edge.join("dave")


async def test_without_memory_nobody_else_comes_and_who_idles_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """F-31"""
    monkeypatch.setattr(runtime, "_SHED_SECONDS", 0)
    edge = await Edge.start([MemoryWorker("0-a")])
    (worker,) = edge.workers
    talker = await edge.join("talker")
    idlers = [await edge.join(f"idler-{number}", room=f"room-{number % 2}") for number in range(3)]
    edge.rooms.request(talker.number, rtc.SignalRequest(add_track=rtc.AddTrackRequest(cid="mic")))
    edge.says(worker, border.Overload(level=0, memory=1))
    with pytest.raises(Overloaded):
        await edge.join("late")
    assert edge.rooms.participant_count() == 4
    edge.says(worker, border.Overload(level=0, memory=3))
    await asyncio.sleep(0)
    assert [idler.kinds()[-1] == "leave" for idler in idlers] == [True, False, False], "the first to come"
    edge.says(worker, border.Overload(level=0, memory=2))
    await asyncio.sleep(0.02)
    assert edge.rooms.participant_count() == 3
    edge.says(worker, border.Overload(level=0, memory=3))
    await asyncio.sleep(0.02)
    assert edge.rooms.participant_count() == 1, "who talks stays"
    edge.says(worker, border.NO_OVERLOAD)
    await edge.join("idler-0", room="room-0")


async def test_refusals_make_nothing() -> None:
    edge = await Edge.start(rooms={"rooms_max": 1})
    await edge.join(room="one")
    with pytest.raises(LimitExceeded, match="as many as it may"):
        await edge.join(room="two")
    with pytest.raises(PermissionDenied, match="not open"):
        await edge.join(room="managed", grants=edge.grants(room="managed", managed=True))
    edge.rooms.is_draining = True
    with pytest.raises(Unavailable, match="about to stop"):
        await edge.join(room="three")
    assert (await edge.join("bob", room="one")).kinds()[0] == "join"
    assert list(edge.rooms.hosted) == ["one"]


async def test_a_resume_to_a_room_that_is_gone_is_sent_away_afresh() -> None:
    edge = await Edge.start()
    signal = await edge.join(is_reconnect=True, participant_sid="PA_none")
    assert (signal.leave.reason, signal.leave.action) == (REASONS.STATE_MISMATCH, ACTIONS.RECONNECT)
    assert signal.closed is not None
    assert not edge.rooms.hosted


async def test_a_resume_finds_its_place_while_draining() -> None:
    edge = await Edge.start()
    first = await edge.join()
    edge.connect(first)
    edge.rooms.disconnected(first.number)
    edge.rooms.is_draining = True
    again = await edge.join(is_reconnect=True, participant_sid=first.sid)
    assert again.kinds()[0] == "reconnect"


# --- workers --------------------------------------------------------------------------------------------------------


async def test_rooms_go_where_the_fewest_people_are() -> None:
    edge = await Edge.start()
    for number in range(5):
        await edge.join(f"u{number}", room="large")
    for number in range(4):
        await edge.join(room=f"small-{number}")
    assert {edge.worker_of(f"small-{number}").id for number in range(3)} == {edge.worker_of("small-0").id}
    assert edge.worker_of("small-0") is not edge.worker_of("large")


async def test_a_lost_worker_costs_its_own_rooms_and_they_go_on_elsewhere() -> None:
    edge = await Edge.start()
    here, there = await edge.join(room="here"), await edge.join(room="there")
    assert edge.worker_of("here") is not edge.worker_of("there")
    lost, other = edge.worker_of("here"), edge.worker_of("there")
    edge.lose(lost)
    assert (here.leave.reason, here.leave.action) == (REASONS.STATE_MISMATCH, ACTIONS.RECONNECT)
    assert "leave" not in there.kinds()
    sid = edge.hosted("here").record.sid
    again = await edge.join(room="here")
    assert again.kinds()[0] == "join"
    assert edge.worker_of("here") is other
    assert edge.hosted("here").record.sid == sid
    assert f"room/{number_of(edge, 'here')}" in other.memory


async def test_without_any_worker_newcomers_are_told_to_wait_and_the_room_goes_on_after() -> None:
    edge = await Edge.start([MemoryWorker("0-a")])
    await edge.join()
    edge.lose(edge.workers[0])
    assert edge.rooms.not_ready() == {"workers": "0 of 2 workers are up."}
    with pytest.raises(Unavailable, match="No worker is up"):
        await edge.join()
    with pytest.raises(Unavailable, match="No worker is up"):
        await edge.join(room="new")
    assert len(edge.rooms._sessions) == 1
    edge.workers.append(MemoryWorker("0-b"))
    assert (await edge.join()).kinds()[0] == "join"


async def test_events_of_a_worker_that_does_not_have_the_room_are_nothing() -> None:
    edge = await Edge.start()
    signal = await edge.join()
    transport = edge.hosted().room.core.participants[signal.sid].publisher.transport
    stranger = next(worker for worker in edge.workers if worker is not edge.worker_of())
    event = border.TransportState(transport=transport, state=TransportStatus.CLOSED, reason="")
    edge.says(stranger, event)
    edge.says(edge.worker_of(), border.TransportState(transport=5, state=TransportStatus.CLOSED, reason=""))
    assert signal.sid in edge.hosted().room.core.participants
    edge.says(edge.worker_of(), event)
    assert not edge.hosted().room.core.participants


async def test_quality_is_told_in_each_room_of_its_own() -> None:
    edge = await Edge.start([MemoryWorker("0-a")])
    signals = {room: await edge.join(room=room) for room in ("one", "two")}
    reports = []
    for room, signal in signals.items():
        edge.connect(signal, room)
        transport = edge.hosted(room).room.core.participants[signal.sid].publisher.transport
        reports.append(border.TransportQuality(transport=transport, has_media=True, loss_up=0.3))
    edge.says(edge.workers[0], border.Quality(reports=(*reports, border.TransportQuality(transport=1))))
    for signal in signals.values():
        (update,) = [m.connection_quality for m in signal.messages if m.WhichOneof("message") == "connection_quality"]
        assert [one.participant_sid for one in update.updates] == [signal.sid]


async def test_rejected_commands_are_counted_but_for_what_was_gone_already() -> None:
    edge = await Edge.start()
    for command in ("add_downtrack", "remove_transport"):
        rejected = border.Rejected(command=command, subject=1, code="unknown_transport", message="There is none.")
        edge.says(edge.workers[0], rejected)
    assert edge.counted("callyard_commands_rejected_total", code="unknown_transport") == 1


# --- calls of the server --------------------------------------------------------------------------------------------


async def called(edge: Edge, identity: str = "alice") -> asyncio.Task[str]:
    request = api.PerformRpcRequest(room="lobby", destination_identity=identity, method="m")
    task = asyncio.create_task(edge.rooms.call(edge.hosted(), request))
    await asyncio.sleep(0)
    return task


async def test_a_call_is_answered_by_its_callee() -> None:
    edge = await Edge.start()
    signal = await edge.join()
    transport = edge.hosted().room.core.participants[signal.sid].publisher.transport
    task = await called(edge)
    (request_id,) = edge.hosted().room.core.server_calls
    answer = models.DataPacket(rpc_response=models.RpcResponse(request_id=request_id, payload="done"))
    payload = answer.SerializeToString()
    edge.says(edge.worker_of(), border.DataMessage(transport=transport, label="_reliable", payload=payload))
    assert await task == "done"
    assert not edge.rooms._rpc


@pytest.mark.parametrize(
    ("code", "refusal"),
    [(1400, InvalidRequest), (1500, CallFailed), (1502, TimedOut), (101, CallFailed), (0, CallFailed)],
)
async def test_a_call_that_fails_is_refused_by_its_kind(code: int, refusal: type[Refusal]) -> None:
    edge = await Edge.start()
    signal = await edge.join()
    transport = edge.hosted().room.core.participants[signal.sid].publisher.transport
    task = await called(edge)
    (request_id,) = edge.hosted().room.core.server_calls
    error = models.RpcError(code=code, message="it did not work")
    answer = models.DataPacket(rpc_response=models.RpcResponse(request_id=request_id, error=error))
    payload = answer.SerializeToString()
    edge.says(edge.worker_of(), border.DataMessage(transport=transport, label="_reliable", payload=payload))
    with pytest.raises(refusal, match="it did not work") as raised:
        await asyncio.wait_for(task, 5)
    assert type(raised.value) is refusal


async def test_a_call_to_one_who_leaves_ends_with_him() -> None:
    edge = await Edge.start()
    signal = await edge.join()
    task = await called(edge)
    edge.rooms.request(signal.number, rtc.SignalRequest(leave=rtc.LeaveRequest()))
    with pytest.raises(Unavailable, match="has left"):
        await asyncio.wait_for(task, 5)


# --- stopping -------------------------------------------------------------------------------------------------------


async def test_draining_ends_when_the_last_has_left_or_at_the_deadline() -> None:
    edge = await Edge.start()
    signal = await edge.join()
    edge.connect(signal)
    await edge.rooms.drain(0.05)
    assert edge.rooms.participant_count() == 1
    drained = asyncio.create_task(edge.rooms.drain(60))
    await asyncio.sleep(0)
    assert not drained.done()
    edge.rooms.request(signal.number, rtc.SignalRequest(leave=rtc.LeaveRequest()))
    await asyncio.wait_for(drained, 5)


async def test_those_who_are_left_are_told_to_come_back_elsewhere() -> None:
    """F-17"""
    edge = await Edge.start()
    signal = await edge.join()
    dismissed = asyncio.create_task(edge.rooms.dismiss())
    await asyncio.sleep(0)
    assert (signal.leave.reason, signal.leave.action) == (REASONS.SERVER_SHUTDOWN, ACTIONS.RECONNECT)
    edge.rooms.disconnected(signal.number)
    await asyncio.wait_for(dismissed, 5)
    assert not edge.rooms.hosted


# --- after a restart ------------------------------------------------------------------------------------------------


async def test_a_successor_finds_rooms_and_people_and_they_resume() -> None:
    edge = await Edge.start()
    alice, bob = await edge.join("alice"), await edge.join("bob", room="other")
    edge.connect(alice)
    edge.connect(bob, "other")
    before = {room: edge.hosted(room).record.sid for room in ("lobby", "other")}
    highest = max(worker_id for worker in edge.workers for worker_id in worker.transports)
    commands = {worker.id: len(worker.log) for worker in edge.workers}
    after = await Edge.start(edge.workers)
    assert {room: after.hosted(room).record.sid for room in before} == before
    for worker in after.workers:
        sent = [entry for entry in worker.log[commands[worker.id] :] if not isinstance(entry, tuple)]
        assert sent == [border.TakeSnapshot()]
    again = await after.join(is_reconnect=True, participant_sid=alice.sid)
    assert again.kinds()[:2] == ["reconnect", "update"]
    carol = await after.join("carol", room="other")
    new = after.hosted("other").room.core.participants[carol.sid].publisher.transport
    assert new not in {number for number in edge.workers[0].transports if number <= highest} or new > highest


async def test_nobody_joins_before_the_workers_have_shown_what_they_have() -> None:
    edge = await Edge.start()
    await edge.join()

    class Slow(MemoryWorker):
        def send(self, *commands: AnyCommand) -> None:
            shown.append(commands)
            if commands == (border.TakeSnapshot(),):
                assert self.events is not None
                asyncio.get_running_loop().call_later(0.2, self.events, self, self.snapshot())

    shown: list[Any] = []
    old = edge.worker_of()
    slow = Slow("0-a", memory=old.memory, transports=old.transports)
    after = await Edge.start([slow])
    assert after.rooms._early is None
    newcomer = await after.join("bob")
    assert "leave" not in newcomer.kinds()


async def test_who_joins_before_a_snapshot_arrives_stays() -> None:
    """As when the connection to a worker broke and was made anew in the middle of a call."""
    edge = await Edge.start()
    alice = await edge.join("alice")
    worker = edge.worker_of()
    shown = worker.snapshot()
    worker.unshown.sent([border.TakeSnapshot()])
    bob = await edge.join("bob")
    await edge.join("gone")
    edge.rooms.apply(edge.hosted(), edge.hosted().room.remove("gone", edge.rooms.now()))
    commands = len(worker.log)
    edge.says(worker, shown)
    assert not any("leave" in signal.kinds() for signal in (alice, bob))
    assert not [entry for entry in worker.log[commands:] if not isinstance(entry, tuple)]
    edge.says(worker, shown)
    assert "leave" in bob.kinds()


async def test_what_belongs_to_nobody_is_cleared_away() -> None:
    edge = await Edge.start()
    await edge.join()
    worker = edge.worker_of()
    number = number_of(edge)
    worker.transports[77] = border.AddTransport(
        transport=77, room=3, local=next(iter(worker.transports.values())).local
    )
    worker.memory["room/99"] = b"\xc1"
    worker.memory["participant/99/PA_x"] = b"\xc1"
    worker.memory["participant/98/PA_y"] = worker.memory[next(k for k in worker.memory if k.startswith("participant"))]
    worker.memory[f"participant/{number}/PA_broken"] = b"\xc1"
    after = await Edge.start(edge.workers)
    assert border.RemoveTransport(transport=77) in worker.log
    assert {key for key in worker.memory if not key.startswith((f"room/{number}", f"participant/{number}/"))} == set()
    assert f"participant/{number}/PA_broken" not in worker.memory
    assert after.rooms.participant_count() == 1


async def test_a_room_that_two_workers_remember_lives_once() -> None:
    """F-23"""
    edge = await Edge.start()
    await edge.join()
    other = next(worker for worker in edge.workers if worker is not edge.worker_of())
    other.memory.update(edge.worker_of().memory)
    after = await Edge.start(edge.workers)
    assert len(after.rooms.hosted) == 1
    assert sum(bool(worker.memory) for worker in after.workers) == 1


# --- real workers ---------------------------------------------------------------------------------------------------


async def test_rooms_and_people_are_found_again_on_real_workers(run_directory: Path) -> None:
    async with real(run_directory) as edge:
        alice = await edge.join("alice")
        bob = await edge.join("bob")
        pid = edge.rooms.node.workers[0].info.pid
        before = {one.identity: one.info() for one in edge.hosted().room.core.participants.values()}
        # As if the process had been killed: its connection breaks, nothing is said.
        await edge.rooms.node.detach()
        async with real(run_directory) as after:
            assert after.rooms.node.workers[0].info.pid == pid
            people = {one.identity: one.info() for one in after.hosted().room.core.participants.values()}
            assert people == before
            for signal, identity in ((alice, "alice"), (bob, "bob")):
                again = await after.join(identity, is_reconnect=True, participant_sid=signal.sid)
                assert again.kinds()[0] == "reconnect"
            stats = await after.rooms.node.workers[0].room_stats(number_of(after))
            assert len(stats.transports) == 2
            assert after.counted("callyard_commands_rejected_total", code="duplicate_id") == 0
            await after.rooms.node.stop(0)


async def test_a_worker_that_is_killed_is_replaced_and_its_room_goes_on(run_directory: Path) -> None:
    async with real(run_directory) as edge:
        alice = await edge.join()
        worker = edge.rooms.node.workers[0]
        worker._process.kill()
        await until(lambda: alice.kinds()[-1] == "leave")
        assert alice.leave.action == ACTIONS.RECONNECT
        await until(lambda: bool(edge.rooms.node.workers))
        again = await edge.join()
        assert again.kinds()[:2] == ["join", "refresh_token"]
        replacement = edge.rooms.node.workers[0]
        assert replacement.id != worker.id
        stats = await replacement.room_stats(number_of(edge))
        assert len(stats.transports) == 1


def test_no_two_transports_share_credentials() -> None:
    """S-06"""
    made = [runtime._credentials() for _ in range(100_000)]
    assert len({one.ufrag for one in made}) == len({one.pwd for one in made}) == len(made)
    assert {(len(one.ufrag), len(one.pwd)) for one in made} == {(24, 48)}
