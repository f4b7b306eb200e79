"""One participant of a load test: LiveKit's signaling in asyncio, media in the generator.

It publishes, takes whatever it is subscribed to, watches tracks in the layers of the plan, and knows no more: no data
channels, no resume. Two connections (`/rtc`), as most SDKs still do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import Callable
from itertools import count

from livekit.protocol import models, rtc

from sfu import load, sdp
from sfu.border import DtlsRole, Fingerprint, IceCredentials
from signaling.load import description
from signaling.load.description import DescriptionError, Sent, Side
from signaling.load.plan import Join, Track
from signaling.probe.failure import ProbeFailure
from signaling.probe.signal import PUBLISHER, SignalClient, dual_query

_QUALITIES = (models.VideoQuality.LOW, models.VideoQuality.MEDIUM, models.VideoQuality.HIGH)


_GATHERING_SECONDS = 0.2
"""How long candidates are waited for that may be better than those that came."""


class ParticipantError(Exception):
    """The server did not let somebody take part; the text is a sentence."""


class Media:
    """The generator as participants share it: transports, streams and ssrcs that are nobody else's."""

    def __init__(self, generator: load.Generator, fingerprint: Fingerprint, host: str) -> None:
        self.generator = generator
        self.host = host
        """Where the server's signaling is reached."""
        self.fingerprint = fingerprint
        self._transports = count(1)
        self._streams = count(1)
        self._ssrcs = count(100_000, 2)

    def open(self) -> Connection:
        ice = IceCredentials(ufrag=secrets.token_hex(4), pwd=secrets.token_hex(16))
        return Connection(self, next(self._transports), Side(ice, (self.fingerprint,)))

    def sent(self, track: Track) -> Sent:
        encodings = [
            load.Encoding(
                ssrc=(ssrc := next(self._ssrcs)),
                rtx_ssrc=ssrc + 1 if track.is_video else None,
                rid=layer.rid,
                packets_per_second=layer.packets_per_second,
                payload_bytes=layer.payload_bytes,
            )
            for layer in track.layers
        ]
        return Sent(cid=f"load-{encodings[0].ssrc}", track=track, encodings=tuple(encodings))

    def stream(self) -> int:
        return next(self._streams)


class Connection:
    """One transport: opened in the generator once the server's side and an address of it are known.

    The generator checks one address only: that of the signal server where it is among the candidates, else an IPv4 one.
    """

    def __init__(self, media: Media, transport: int, own: Side) -> None:
        self.transport = transport
        self.own = own
        self.is_open = False
        self._media = media
        self._remote: tuple[Side, DtlsRole] | None = None
        self._candidates: list[tuple[str, int]] = []
        self._is_deciding = False
        self._is_controlled = False
        self._waiting: list[load.Command] = []

    def send(self, *commands: load.Command) -> None:
        """About this transport; they wait until it is open."""
        if self.is_open:
            self._media.generator.send(*commands)
        else:
            self._waiting += commands

    def described(self, remote: sdp.Session, *, is_offer: bool) -> None:
        self._is_controlled = is_offer and not remote.ice_lite
        self._remote = description.remote_side(remote)
        self._candidates += description.udp_candidates(remote)
        self._decide()

    def candidate(self, init: str) -> None:
        """A trickled candidate: JSON with a `candidate` line (RFC 8839 §5.1). All but UDP host candidates are left."""
        fields = str(json.loads(init).get("candidate", "")).split()
        if len(fields) >= 8 and fields[2].lower() == "udp" and fields[7] == "host":
            self._candidates.append((fields[4], int(fields[5])))
            self._decide()

    def _decide(self) -> None:
        """At once if the best address is there, else after a while, for candidates come one by one."""
        if self.is_open or self._remote is None or not self._candidates:
            return
        if any(host == self._media.host for host, _ in self._candidates):
            self._open()
        elif not self._is_deciding:
            self._is_deciding = True
            asyncio.get_running_loop().call_later(_GATHERING_SECONDS, self._open)

    def _open(self) -> None:
        if self.is_open or self._remote is None:
            return
        self.is_open = True
        host, port = min(self._candidates, key=lambda c: (c[0] != self._media.host, ":" in c[0]))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        side, role = self._remote
        self._media.generator.send(
            load.Open(
                transport=self.transport,
                local=self.own.ice,
                remote=side.ice,
                fingerprints=side.fingerprints,
                role=role,
                controlling=not self._is_controlled,
                address=address,
            ),
            *self._waiting,
        )
        self._waiting.clear()


class Participant:
    """Give `run` a token; it returns when the server ends the session, or raises `ParticipantError`."""

    def __init__(self, media: Media, join: Join, tracks: tuple[Track, ...], timeout_seconds: float) -> None:
        self.join = join
        self.sid = ""
        self.subscriber = media.open()
        self.publisher = media.open()
        self._media = media
        self._timeout = timeout_seconds
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
            query = dual_query() | {"auto_subscribe": "1" if self.join.receives else "0"}
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
                self._publish(sdp.parse(message.answer.sdp))
            case "trickle":
                target = self.publisher if message.trickle.target == PUBLISHER else self.subscriber
                target.candidate(message.trickle.candidateInit)
            case "track_published":
                self._published[message.track_published.cid] = message.track_published.track.sid
                if len(self._published) == len(self._sent) and not self._has_offered:
                    self._has_offered = True
                    await self._offer()
            case "leave":
                raise ParticipantError(f"{self.join.identity}: the server said leave ({message.leave.reason}).")
            case _:
                pass

    async def _offer(self) -> None:
        text = sdp.write(description.offer(self.publisher.own, self._sent))
        await self._send(rtc.SignalRequest(offer=rtc.SessionDescription(type="offer", sdp=text, id=1)))

    def _publish(self, answered: sdp.Session) -> None:
        self.publisher.described(answered, is_offer=False)
        ids = description.extension_ids(answered.media)
        for index, sent in enumerate(self._sent):
            section = answered.media[index] if index < len(answered.media) else None
            if section is None or section.rejected or not section.codecs:
                raise DescriptionError(f"The server took no {sent.track.codec.mime}.")
            codec = next(
                (c for c in sdp.agree(section).codecs if c.mime.lower() == sent.track.codec.mime.lower()), None
            )
            if codec is None:
                raise DescriptionError(f"The server took no {sent.track.codec.mime}.")
            period_us = round(1_000_000 / sent.track.frames_per_second)
            self.publisher.send(
                load.Publish(
                    transport=self.publisher.transport,
                    stream=self._media.stream(),
                    codec=sent.track.codec,
                    pt=codec.pt,
                    rtx_pt=codec.rtx_pt,
                    mid=section.mid or str(index),
                    extensions=ids,
                    frames_per_second=sent.track.frames_per_second,
                    encodings=sent.encodings,
                    # The golden ratio spreads any number of publishers evenly over a period.
                    phase_us=round(period_us * (self.publisher.transport * 0.618_034 % 1)),
                )
            )

    async def _answer(self, offer: rtc.SessionDescription) -> None:
        offered = sdp.parse(offer.sdp)
        session, agreed = description.answer(self.subscriber.own, offered)
        answer = rtc.SessionDescription(type="answer", sdp=sdp.write(session), id=offer.id)
        await self._send(rtc.SignalRequest(answer=answer))
        self.subscriber.described(offered, is_offer=True)
        sections = [section for section, _ in agreed]
        self.subscriber.send(
            load.Receive(
                transport=self.subscriber.transport,
                codecs=description.receive_codecs([common for _, common in agreed]),
                extensions=description.extension_ids(sections),
                repairs=description.repairs(sections),
            )
        )
        await self._watch(sections)

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
    return rtc.AddTrackRequest(
        cid=sent.cid,
        name="camera",
        type=models.TrackType.VIDEO,
        source=models.TrackSource.CAMERA,
        width=track.layers[-1].width,
        height=track.layers[-1].height,
        layers=layers,
        simulcast_codecs=[rtc.SimulcastCodec(codec=track.codec.value, cid=sent.cid, layers=layers)],
    )
