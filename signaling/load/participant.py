"""One participant of a load test: LiveKit's signaling in asyncio, media in the generator.

It publishes, takes whatever it is subscribed to, watches tracks in the layers of the plan, and knows no more: no data
channels, no resume. Two connections (`/rtc`), as most SDKs still do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from livekit.protocol import models, rtc

from sfu import load, sdp
from signaling.load import description
from signaling.load.connection import Media
from signaling.load.description import DescriptionError, Sent
from signaling.load.plan import Join, Track
from signaling.probe.failure import ProbeFailure
from signaling.probe.signal import PUBLISHER, SignalClient, dual_query

_QUALITIES = (models.VideoQuality.LOW, models.VideoQuality.MEDIUM, models.VideoQuality.HIGH)


class ParticipantError(Exception):
    """The server did not let somebody take part; the text is a sentence."""


@dataclass(frozen=True)
class Most:
    """How many tracks of others somebody subscribes to, the first that he hears of; None: all."""

    video: int | None = None
    audio: int | None = None

    @property
    def is_all(self) -> bool:
        return self.video is None and self.audio is None


_ALL = Most()


class Participant:
    """Give `run` a token; it returns when the server ends the session, or raises `ParticipantError`."""

    def __init__(
        self, media: Media, join: Join, tracks: tuple[Track, ...], timeout_seconds: float, most: Most = _ALL
    ) -> None:
        self.join = join
        self.sid = ""
        self.subscriber = media.open()
        self.publisher = media.open()
        self._media = media
        self._timeout = timeout_seconds
        self._most = most
        self._taken: dict[bool, set[str]] = {True: set(), False: set()}
        """Sids of tracks subscribed to one by one, by whether they are video."""
        self._sent = [media.sent(track) for track in tracks] if join.sends else []
        self._tracks = {track.codec: track for track in tracks}
        self._published: dict[str, str] = {}
        self._positions: dict[load.Codec, int] = {}
        self._watched: set[str] = set()
        self._signal: SignalClient | None = None
        self._has_offered = False

    async def run(self, url: str, token: str, joined: Callable[[], None]) -> None:
        """Connects and takes part until cancelled. `joined` is called once the server has let us in."""
        try:
            takes_all = self.join.receives and self._most.is_all
            query = dual_query() | {"auto_subscribe": "1" if takes_all else "0"}
            self._signal = await SignalClient.connect(url, "/rtc", query, token, self._timeout)
            async with asyncio.timeout(self._timeout):
                first = await self._signal.receive()
            if first.WhichOneof("message") != "join":
                raise ParticipantError(f"{self.join.identity}: the first message was no join.")
            self.sid = first.join.participant.sid
            self._signal.keep_alive(first.join.ping_interval)
            joined()
            for sent in self._sent:
                await self._signal.send(rtc.SignalRequest(add_track=_add_track(sent)))
            await self._choose(first.join.other_participants)
            while True:
                await self._take(await self._signal.receive())
        except (ProbeFailure, TimeoutError, DescriptionError, sdp.SdpError) as error:
            raise ParticipantError(f"{self.join.identity}: {error}") from error

    async def leave(self) -> None:
        """Says goodbye and ends the transports."""
        if self._signal is not None:
            with contextlib.suppress(ProbeFailure):
                await self._signal.send(rtc.SignalRequest(leave=rtc.LeaveRequest()))
            await self._signal.close()
        for connection in (self.subscriber, self.publisher):
            if connection.is_open:
                self._media.generator.send(load.Close(transport=connection.transport))

    async def _take(self, message: rtc.SignalResponse) -> None:
        match message.WhichOneof("message"):
            case "offer":
                await self._answer(message.offer)
            case "answer":
                self.publisher.publish(self._sent, sdp.parse(message.answer.sdp))
            case "trickle":
                target = self.publisher if message.trickle.target == PUBLISHER else self.subscriber
                target.candidate(message.trickle.candidateInit)
            case "track_published":
                self._published[message.track_published.cid] = message.track_published.track.sid
                if len(self._published) == len(self._sent) and not self._has_offered:
                    self._has_offered = True
                    await self._offer()
            case "update":
                await self._choose(message.update.participants)
            case "subscribed_quality_update":
                self._encode(message.subscribed_quality_update)
            case "leave":
                raise ParticipantError(f"{self.join.identity}: the server said leave ({message.leave.reason}).")
            case _:
                pass

    async def _choose(self, others: Iterable[models.ParticipantInfo]) -> None:
        """Subscribes to what there is room for, where not everything is wanted."""
        if self._most.is_all or not self.join.receives:
            return
        fresh = []
        for track in (track for other in others if other.sid != self.sid for track in other.tracks):
            is_video = track.type == models.TrackType.VIDEO
            taken, most = self._taken[is_video], self._most.video if is_video else self._most.audio
            if track.sid not in taken and (most is None or len(taken) < most):
                taken.add(track.sid)
                fresh.append(track.sid)
        if fresh:
            subscription = rtc.UpdateSubscription(track_sids=fresh, subscribe=True)
            await self._send(rtc.SignalRequest(subscription=subscription))

    def _encode(self, update: rtc.SubscribedQualityUpdate) -> None:
        """Sends those layers of a simulcast track that anybody wants (dynacast), if the plan says so."""
        cid = next((cid for cid, sid in self._published.items() if sid == update.track_sid), None)
        sent = next((sent for sent in self._sent if sent.cid == cid), None)
        if sent is None or len(sent.track.layers) == 1 or not self._media.dynacast:
            return
        told = [quality for codec in update.subscribed_codecs for quality in codec.qualities]
        wanted = {quality.quality for quality in told or update.subscribed_qualities if quality.enabled}
        active = tuple(quality in wanted for quality in _QUALITIES[: len(sent.track.layers)])
        self.publisher.set_encodings(sent, active)

    async def _offer(self) -> None:
        text = sdp.write(description.offer(self.publisher.own, self._sent, self._media.setup))
        await self._send(rtc.SignalRequest(offer=rtc.SessionDescription(type="offer", sdp=text, id=1)))

    async def _answer(self, offer: rtc.SessionDescription) -> None:
        offered = sdp.parse(offer.sdp)
        session, agreed = description.answer(self.subscriber.own, offered)
        answer = rtc.SessionDescription(type="answer", sdp=sdp.write(session), id=offer.id)
        await self._send(rtc.SignalRequest(answer=answer))
        self.subscriber.described(offered, is_offer=True)
        self.subscriber.receive(agreed)
        await self._watch([section for section, _ in agreed])

    async def _watch(self, sections: list[sdp.Media]) -> None:
        """Asks for the layer of the plan, for each simulcast track that is new."""
        for section in sections:
            sid = section.msids[0].track if section.msids else None
            track = next((t for t in self._tracks.values() if t.is_video), None)
            if section.kind != "video" or sid is None or sid in self._watched or track is None:
                continue
            self._watched.add(sid)
            position = self._positions.get(track.codec, 0)
            self._positions[track.codec] = position + 1
            if len(track.layers) == 1:
                continue
            layer = track.layer_for(position)
            quality = _QUALITIES[min(layer, 2)]
            settings = rtc.UpdateTrackSettings(track_sids=[sid], quality=quality)
            await self._send(rtc.SignalRequest(track_setting=settings))

    async def _send(self, request: rtc.SignalRequest) -> None:
        if self._signal is not None:
            await self._signal.send(request)


def _add_track(sent: Sent) -> rtc.AddTrackRequest:
    track = sent.track
    if not track.is_video:
        return rtc.AddTrackRequest(
            cid=sent.cid, name="microphone", type=models.TrackType.AUDIO, source=models.TrackSource.MICROPHONE
        )
    # One layer is the top one for whoever subscribes.
    qualities = _QUALITIES[: len(track.layers)] if len(track.layers) > 1 else _QUALITIES[2:]
    layers = [
        models.VideoLayer(quality=quality, width=layer.width, height=layer.height, bitrate=layer.bitrate_bps)
        for quality, layer in zip(qualities, track.layers, strict=True)
    ]
    modes = models.VideoLayer.Mode
    codec = rtc.SimulcastCodec(
        codec=track.codec.value,
        cid=sent.cid,
        layers=layers,
        video_layer_mode=modes.ONE_SPATIAL_LAYER_PER_STREAM if len(layers) > 1 else modes.MODE_UNUSED,
    )
    return rtc.AddTrackRequest(
        cid=sent.cid,
        name="camera",
        type=models.TrackType.VIDEO,
        source=models.TrackSource.CAMERA,
        width=track.layers[-1].width,
        height=track.layers[-1].height,
        layers=layers,
        simulcast_codecs=[codec],
    )
