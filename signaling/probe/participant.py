"""A participant as a LiveKit client makes one: signal connection, one or two peers, tracks, data.

Both connection modes. Raises `ProbeFailure` with the step and a sentence. Used by the probe's run and by tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiortc.mediastreams import MediaStreamTrack
from google.protobuf.message import DecodeError
from livekit.protocol import models, rtc

from signaling.probe import signal
from signaling.probe.content import HEIGHT, WIDTH
from signaling.probe.failure import ProbeFailure, Step
from signaling.probe.media import AudioSink, PictureTrack, VideoSink
from signaling.probe.peer import Peer, PeerOptions, Section
from signaling.probe.signal import SUBSCRIBER, SignalClient

T = TypeVar("T")

RELIABLE, LOSSY, DATA_TRACK = "_reliable", "_lossy", "_data_track"
_SINGLE_AUDIOS = _SINGLE_VIDEOS = 3
"""Receiving sections of the first offer in single mode, as LiveKit's SDKs make it."""

_MAX_SECTIONS = 50
"""More than that at once is no wish that a call of two can have."""


@dataclass(frozen=True)
class JoinOptions:
    """`timeout_seconds` bounds each step; `single`: one peer connection (`/rtc/v1`)."""

    single: bool = False
    peer: PeerOptions = field(default_factory=PeerOptions)
    timeout_seconds: float = 15.0


@dataclass
class Times:
    """Loop times of the steps; None until reached."""

    started: float = 0.0
    signal: float | None = None
    ice: float | None = None
    dtls: float | None = None


class Participant:
    """`await join()`, then `publish`, `send`; `close()` whatever happened."""

    def __init__(self, url: str, token: str, options: JoinOptions | None = None) -> None:
        self.options = options or JoinOptions()
        self.url = url
        self.token = token
        self.times = Times()
        self.join_response: rtc.JoinResponse | None = None
        self.participants: dict[str, models.ParticipantInfo] = {}
        self.published: dict[str, models.TrackInfo] = {}
        self.sinks: list[AudioSink | VideoSink] = []
        self.received: list[models.DataPacket] = []
        self.messages: list[rtc.SignalResponse] = []
        self.picture_source: PictureTrack | None = None
        """The other side's picture track when it lives in this process; gives the delay."""
        self.publisher: Peer
        self.subscriber: Peer
        self._signal: SignalClient | None = None
        self._reader: asyncio.Task[None] | None = None
        self._failure: asyncio.Future[None] | None = None
        self._changed = asyncio.Condition()
        self._offer_ids = itertools.count(1)
        self._offering = asyncio.Lock()
        self._answer: asyncio.Future[rtc.SessionDescription] | None = None
        self._answer_id = 0
        self._sequence = itertools.count(1)
        self._sent: list[models.DataPacket] = []
        self._last_offer = rtc.SessionDescription()
        self._last_answer = rtc.SessionDescription()
        self.last_message_seq: int | None = None
        """What the server said at the last resume to have seen of our reliable messages."""
        self._early: list[tuple[Peer, str, bool]] = []
        self._described: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    # joining

    async def join(self) -> None:
        """Until the primary connection is up (RTP may flow) and the first description is settled."""
        loop = asyncio.get_running_loop()
        self._failure = loop.create_future()
        self.times.started = loop.time()
        self.publisher = Peer(self.options.peer)
        self.subscriber = self.publisher if self.options.single else Peer(self.options.peer)
        for peer in {self.publisher, self.subscriber}:
            peer.on_track, peer.on_message = self._on_track, self._on_message
        await self._open()
        await self._up(self.subscriber)

    async def _open(self) -> None:
        timeout = self.options.timeout_seconds
        self._add_channels()
        if self.options.single:
            for kind, count in (("audio", _SINGLE_AUDIOS), ("video", _SINGLE_VIDEOS)):
                for _ in range(count):
                    self.publisher.add_receiving(kind)
            offer = await self._gathered(self.publisher.offer())
            self._answer_id = next(self._offer_ids)
            self._answer = asyncio.get_running_loop().create_future()
            path, query = "/rtc/v1", signal.single_query(offer, offer_id=self._answer_id)
        else:
            path, query = "/rtc", signal.dual_query()
        self._signal = await SignalClient.connect(self.url, path, query, self.token, timeout)
        await self._expect_join()
        self._reader = asyncio.create_task(self._read())
        if self.options.single:
            await self._take_answer()

    def _add_channels(self) -> None:
        self.publisher.add_channel(LOSSY, ordered=False, max_retransmits=0)
        self.publisher.add_channel(RELIABLE, ordered=True)
        self.publisher.add_channel(DATA_TRACK, ordered=False, max_retransmits=0)

    async def _expect_join(self) -> None:
        assert self._signal is not None
        first = await self._in_time(self._signal.receive(), Step.SIGNAL, "The server sent no join message")
        if first.WhichOneof("message") != "join":
            kind = first.WhichOneof("message")
            raise ProbeFailure(Step.SIGNAL, f"The server's first message is {kind}, not join.")
        self.join_response = first.join
        if first.join.subscriber_primary is self.options.single:
            mode = "single" if self.options.single else "dual"
            raise ProbeFailure(Step.SIGNAL, f"The join answer has the wrong subscriber_primary for {mode} mode.")
        self.times.signal = asyncio.get_running_loop().time()
        for info in (first.join.participant, *first.join.other_participants):
            self.participants[info.sid] = info
        self._signal.keep_alive(first.join.ping_interval)

    async def _up(self, peer: Peer) -> None:
        """Until ICE and DTLS of `peer` are up, told apart in a failure."""
        try:
            await self._in_time(peer.wait_up(), Step.ICE, "")
        except ConnectionError as error:
            step = Step.DTLS if peer.link.connected_at is not None else Step.ICE
            raise ProbeFailure(step, _sentence(step, peer, str(error))) from error
        except ProbeFailure as error:
            if error.sentence:
                raise
            step = Step.DTLS if peer.link.connected_at is not None else Step.ICE
            late = f"nothing within {self.options.timeout_seconds:g} s"
            raise ProbeFailure(step, _sentence(step, peer, late)) from error
        if self.times.ice is None:
            self.times.ice, self.times.dtls = peer.link.connected_at, peer.dtls_at

    # publishing

    async def publish(self, *tracks: MediaStreamTrack) -> list[models.TrackInfo]:
        """Announce and offer tracks; returns what the server made of them."""
        for track in tracks:
            await self._send(rtc.SignalRequest(add_track=_add_track(track, self.options.peer.video[0])))
        infos = [
            await self.until(_published(self, track.id), Step.PUBLISH, "The server did not confirm a track")
            for track in tracks
        ]
        for track in tracks:
            self.publisher.add_sending(track, "camera")
        await self.negotiate()
        await self._up(self.publisher)
        return infos

    async def negotiate(self, *, restart: bool = False) -> None:
        """Offer on the connection that we offer on, and take the answer."""
        async with self._offering:
            offer = await self._gathered(self.publisher.offer(restart=restart))
            self._answer_id = next(self._offer_ids)
            self._answer = asyncio.get_running_loop().create_future()
            description = rtc.SessionDescription(type="offer", sdp=offer, id=self._answer_id)
            await self._send(rtc.SignalRequest(offer=description))
            await self._take_answer()

    # data

    async def send(self, payload: bytes, *, reliable: bool, topic: str = "probe") -> None:
        """Send user data, opening the publisher connection first where that is needed."""
        if self.publisher.link.state == "new":
            await self.negotiate()
            await self._up(self.publisher)
        label = RELIABLE if reliable else LOSSY
        kinds = models.DataPacket.Kind
        packet = models.DataPacket(
            kind=kinds.RELIABLE if reliable else kinds.LOSSY,
            user=models.UserPacket(payload=payload, topic=topic),
            sequence=next(self._sequence) if reliable else 0,
        )
        channel = await self._in_time(
            self.publisher.wait_channel(label), Step.DATA, f"The data channel {label} did not open"
        )
        if reliable:
            self._sent.append(packet)
        channel.send(packet.SerializeToString())

    # reconnecting, by the ways of the protocol

    async def restart_ice(self) -> None:
        """Restart ICE on the connection that we offer on; the session and its keys stay."""
        await self.negotiate(restart=True)
        try:
            await self._in_time(self.publisher.settled(), Step.ICE, "The ICE restart did not come up")
        except ConnectionError as error:
            raise ProbeFailure(Step.ICE, f"The ICE restart failed: {error}.") from error

    async def lose_signal(self) -> None:
        """The signal connection breaks off without a word; media goes on."""
        assert self._signal is not None
        await self._stop_reading()
        await self._signal.abort()

    async def resume(self) -> None:
        """Come back under the same sid: signal connection, `sync_state`, ICE restarts, replay of what was missed."""
        if self.options.single:
            path, query = "/rtc/v1", signal.single_query(participant_sid=self.sid)
        else:
            path, query = "/rtc", signal.dual_query(participant_sid=self.sid)
        self._failure = asyncio.get_running_loop().create_future()
        self._signal = await SignalClient.connect(self.url, path, query, self.token, self.options.timeout_seconds)
        first = await self._in_time(self._signal.receive(), Step.SIGNAL, "The server sent no reconnect message")
        if first.WhichOneof("message") != "reconnect":
            raise ProbeFailure(Step.SIGNAL, f"The server answered a resume with {first.WhichOneof('message')}.")
        self.last_message_seq = first.reconnect.last_message_seq
        self._reader = asyncio.create_task(self._read())
        await self._send(rtc.SignalRequest(sync_state=self._sync_state()))
        former = self.subscriber.link.credentials
        if self.publisher.link.state != "new":
            await self.restart_ice()
        if not self.options.single:
            await self.until(
                lambda: self.subscriber.link.credentials != former and not self.subscriber.link.restarting,
                Step.ICE,
                "The server did not restart the subscriber connection",
            )
        missed = [packet for packet in self._sent if packet.sequence > self.last_message_seq]
        for packet in missed:
            self.publisher.channels[RELIABLE].send(packet.SerializeToString())

    def _sync_state(self) -> rtc.SyncState:
        heard: dict[str, int] = {}
        for packet in self.received:
            if packet.sequence:
                heard[packet.participant_sid] = max(heard.get(packet.participant_sid, 0), packet.sequence)
        state = rtc.SyncState(
            subscription=rtc.UpdateSubscription(subscribe=False),
            publish_tracks=[rtc.TrackPublishedResponse(cid=cid, track=track) for cid, track in self.published.items()],
            datachannel_receive_states=[
                rtc.DataChannelReceiveState(publisher_sid=sid, last_seq=last) for sid, last in heard.items()
            ],
        )
        if not self.options.single:
            state.offer.CopyFrom(self._last_offer)
            state.answer.CopyFrom(self._last_answer)
        return state

    async def _stop_reading(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def leave(self) -> None:
        """Say goodbye, then close."""
        if self._signal is not None:
            leave = rtc.LeaveRequest(reason=models.DisconnectReason.CLIENT_INITIATED)
            with contextlib.suppress(ProbeFailure):  # gone already; closing is what matters
                await self._send(rtc.SignalRequest(leave=leave))
        await self.close()

    async def close(self) -> None:
        """End tasks, tracks, peers and the socket. Safe to call twice and after any failure."""
        tasks = [*self._tasks, *([self._reader] if self._reader is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for sink in self.sinks:
            await sink.close()
        for peer in {peer for name in ("publisher", "subscriber") if (peer := getattr(self, name, None))}:
            await peer.close()
        if self._signal is not None:
            await self._signal.close()

    # waiting

    async def until(self, wanted: Callable[[], T | None], step: Step, otherwise: str) -> T:
        """Until `wanted()` is neither None nor False, asked after each message and each 50 ms."""

        async def wait() -> T:
            while True:
                value = wanted()
                if value is not None and value is not False:
                    return value
                async with self._changed:
                    try:
                        async with asyncio.timeout(0.05):
                            await self._changed.wait()
                    except TimeoutError:
                        continue

        return await self._in_time(wait(), step, otherwise)

    @property
    def sid(self) -> str:
        assert self.join_response is not None
        return self.join_response.participant.sid

    @property
    def signal_round_trip_seconds(self) -> float | None:
        return self._signal.round_trip_seconds if self._signal is not None else None

    @property
    def audio(self) -> AudioSink | None:
        return next((sink for sink in reversed(self.sinks) if isinstance(sink, AudioSink)), None)

    @property
    def video(self) -> VideoSink | None:
        return next((sink for sink in reversed(self.sinks) if isinstance(sink, VideoSink)), None)

    async def _in_time(self, doing: Awaitable[T], step: Step, otherwise: str) -> T:
        """Bound `doing` by the step's time, and end it at once when the signal connection tells of a failure."""
        task = asyncio.ensure_future(doing)
        waits: set[asyncio.Future[Any]] = {task}
        if self._failure is not None:
            waits.add(self._failure)
        try:
            timeout = self.options.timeout_seconds
            done, _ = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if task in done:
                return task.result()
            if self._failure in done:
                self._failure.result()
            raise ProbeFailure(step, f"{otherwise} within {timeout:g} s." if otherwise else "")
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _gathered(self, doing: Coroutine[Any, Any, str]) -> str:
        try:
            return await doing
        except ConnectionError as error:
            raise ProbeFailure(Step.ICE, f"No local candidates: {error}.") from error

    # the server's messages

    async def _read(self) -> None:
        assert self._signal is not None
        try:
            while True:
                message = await self._signal.receive()
                self.messages.append(message)
                await self._handle(message)
                async with self._changed:
                    self._changed.notify_all()
        except ProbeFailure as failure:
            self._fail(failure)
        except (ValueError, ConnectionError) as error:
            self._fail(ProbeFailure(Step.SIGNAL, f"{error}."))

    def _fail(self, failure: BaseException) -> None:
        """End whatever waits; the first failure counts."""
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(failure)
            self._failure.exception()  # whoever waits is told; nobody has to

    async def _handle(self, message: rtc.SignalResponse) -> None:
        match message.WhichOneof("message"):
            case "offer":
                text = await self._gathered(self.subscriber.answer(message.offer.sdp))
                await self._described_now(self.subscriber)
                self._last_offer.CopyFrom(message.offer)
                self._last_answer = rtc.SessionDescription(type="answer", sdp=text, id=message.offer.id)
                await self._send(rtc.SignalRequest(answer=self._last_answer))
                self.subscriber.start()
            case "answer":
                waiting = self._answer
                if waiting is not None and not waiting.done() and message.answer.id in (0, self._answer_id):
                    waiting.set_result(message.answer)
            case "trickle":
                peer = self.subscriber if message.trickle.target == SUBSCRIBER else self.publisher
                await self._candidate(peer, message.trickle.candidateInit, message.trickle.final)
            case "update":
                for info in message.update.participants:
                    self.participants[info.sid] = info
            case "track_published":
                self.published[message.track_published.cid] = message.track_published.track
            case "media_sections_requirement":
                wanted = message.media_sections_requirement
                if max(wanted.num_audios, wanted.num_videos) > _MAX_SECTIONS:
                    raise ProbeFailure(
                        Step.SIGNAL, f"The server wants {wanted.num_audios}+{wanted.num_videos} sections."
                    )
                for kind, count in (("audio", wanted.num_audios), ("video", wanted.num_videos)):
                    for _ in range(count):
                        self.publisher.add_receiving(kind)
                self._later(self.negotiate())
            case "leave":
                reason = models.DisconnectReason.Name(message.leave.reason)
                raise ProbeFailure(Step.SIGNAL, f"The server told us to leave ({reason}).")
            case _:
                pass

    async def _candidate(self, peer: Peer, init: str, final: bool) -> None:
        """Candidates may come before the description they belong to (RFC 8838 §9)."""
        if id(peer) in self._described:
            await peer.add_candidate(init, final)
        else:
            self._early.append((peer, init, final))

    async def _described_now(self, peer: Peer) -> None:
        self._described.add(id(peer))
        early, self._early = self._early, []
        for owner, init, final in early:
            await self._candidate(owner, init, final)

    async def _take_answer(self) -> None:
        assert self._answer is not None
        answer = await self._in_time(self._answer, Step.SIGNAL, "The server did not answer our offer")
        try:
            await self.publisher.accept(answer.sdp)
        except ValueError as error:
            raise ProbeFailure(Step.SIGNAL, f"{error}.") from error
        await self._described_now(self.publisher)

    async def _send(self, request: rtc.SignalRequest) -> None:
        assert self._signal is not None
        await self._signal.send(request)

    def _later(self, doing: Coroutine[Any, Any, None]) -> None:
        """Run beside the reader, which must go on reading for the answer."""
        task = asyncio.create_task(doing)
        self._tasks.add(task)

        def done(ended: asyncio.Task[None]) -> None:
            self._tasks.discard(ended)
            error = None if ended.cancelled() else ended.exception()
            if error is not None:
                self._fail(error)

        task.add_done_callback(done)

    # media and data that arrive

    def _on_track(self, section: Section, track: MediaStreamTrack) -> None:
        if section.kind == "audio":
            self.sinks.append(AudioSink(track))
        else:
            self.sinks.append(VideoSink(track, self.picture_source))

    def _on_message(self, label: str, data: bytes) -> None:
        if label in (RELIABLE, LOSSY):
            try:
                self.received.append(models.DataPacket.FromString(data))
            except DecodeError:
                self._fail(ProbeFailure(Step.DATA, f"The server sent a message on {label} that is no DataPacket."))


def _published(participant: Participant, cid: str) -> Callable[[], models.TrackInfo | None]:
    return lambda: participant.published.get(cid)


def _add_track(track: MediaStreamTrack, codec: str) -> rtc.AddTrackRequest:
    if track.kind == "audio":
        return rtc.AddTrackRequest(
            cid=track.id,
            name="tone",
            type=models.TrackType.AUDIO,
            source=models.TrackSource.MICROPHONE,
            stream="camera",
            disable_red=True,
        )
    layer = models.VideoLayer(quality=models.VideoQuality.HIGH, width=WIDTH, height=HEIGHT, bitrate=500_000)
    return rtc.AddTrackRequest(
        cid=track.id,
        name="picture",
        type=models.TrackType.VIDEO,
        source=models.TrackSource.CAMERA,
        stream="camera",
        width=WIDTH,
        height=HEIGHT,
        layers=[layer],
        simulcast_codecs=[rtc.SimulcastCodec(codec=codec.lower(), cid=track.id, layers=[layer])],
    )


def _sentence(step: Step, peer: Peer, why: str) -> str:
    if step is Step.DTLS:
        return f"ICE is up, but DTLS is not: {why}."
    paths = peer.link.paths
    ways = "TURN" if paths.turn else " and ".join([*(["UDP"] if paths.udp else []), *(["TCP"] if paths.tcp else [])])
    return f"No path to the server over {ways}: {why}."
