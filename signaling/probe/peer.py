"""One WebRTC association of a client that nobody here wrote: aiortc's DTLS, SRTP, RTP and SCTP over our ICE link.

`Peer` makes offers and answers, starts what they agree on, and lets its user watch and lose packets. It is the probe's
transport and the tests' raw peer. Not here: LiveKit's signaling (`participant.py`), what the media shows (`media.py`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import aioice
from aiortc import RTCDataChannel, RTCRtpReceiver, RTCRtpSender, sdp
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtcdatachannel import RTCDataChannelParameters
from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsParameters
from aiortc.rtcicetransport import RTCIceParameters, candidate_to_aioice
from aiortc.rtcrtpparameters import (
    RTCRtpCodecParameters,
    RTCRtpDecodingParameters,
    RTCRtpHeaderExtensionParameters,
    RTCRtpReceiveParameters,
    RTCRtpRtxParameters,
    RTCRtpSendParameters,
)
from aiortc.rtcrtpreceiver import RemoteStreamTrack
from aiortc.rtcsctptransport import RTCSctpCapabilities, RTCSctpTransport
from aiortc.rtp import RTCP_PSFB_FIR, RTCP_PSFB_PLI, AnyRtcpPacket, RtcpPsfbPacket, RtpPacket

from signaling.probe import description
from signaling.probe.dtls import CIPHERS, PacketFilter, ProbeDtls, TransportFeedback
from signaling.probe.ice import IceLink, Paths, RemoteSide
from signaling.probe.reception import Reception

log = logging.getLogger(__name__)

_CANCEL_AGAIN_SECONDS = 0.1


@dataclass(frozen=True)
class PeerOptions:
    """`ciphers`: SRTP profiles, best first. `feedback`: congestion feedback to ask for on what we send and receive.

    `video`: codecs, the first of which is sent; aiortc itself encodes and decodes VP8 only.
    """

    paths: Paths = field(default_factory=Paths)
    ciphers: tuple[str, ...] = tuple(CIPHERS)
    send_feedback: tuple[str, ...] = ("transport-cc", "goog-remb")
    receive_feedback: tuple[str, ...] = ("goog-remb",)
    video: tuple[str, ...] = ("VP8",)


@dataclass
class Section:
    """One m= line. `direction` is ours: `sendonly`, `recvonly` or `inactive`."""

    kind: str
    mid: str
    direction: str
    sender: RTCRtpSender | None = None
    receiver: RTCRtpReceiver | None = None
    stream_id: str = ""
    codecs: list[RTCRtpCodecParameters] = field(default_factory=list)
    extensions: list[RTCRtpHeaderExtensionParameters] = field(default_factory=list)
    remote: sdp.MediaDescription | None = None
    sending: bool = False
    received_ssrcs: tuple[int, ...] = ()

    @property
    def msid(self) -> str | None:
        """`STREAM TRACK` as the server said it; None while the section carries nothing."""
        if self.remote is None:
            return None
        return self.remote.msid or next((ssrc.msid for ssrc in self.remote.ssrc if ssrc.msid), None)


@dataclass
class Counts:
    """RTCP heard, by what matters to a client, and retransmissions seen. Kept whole: a probe lives for seconds."""

    nacks: int = 0
    plis: int = 0
    firs: int = 0
    rembs: int = 0
    transport_feedbacks: int = 0
    sender_reports: int = 0
    receiver_reports: int = 0
    retransmissions: int = 0
    transport_sequence_numbers: int = 0
    first_packet_at: float | None = None


class Peer:
    """`on_track(section, track)` and `on_message(label, data)` are called on the loop. Use inside one running loop."""

    def __init__(self, options: PeerOptions | None = None) -> None:
        self.options = options or PeerOptions()
        self.link = IceLink(self.options.paths)
        self.sections: list[Section] = []
        self.channels: dict[str, RTCDataChannel] = {}
        self.counts = Counts()
        self.receptions: dict[int, Reception] = {}
        self.drop_in: PacketFilter | None = None
        self.drop_out: PacketFilter | None = None
        self.on_track: Callable[[Section, MediaStreamTrack], None] | None = None
        self.on_message: Callable[[str, bytes], None] | None = None
        self.on_rtp: Callable[[RtpPacket], None] | None = None
        self.on_rtcp: Callable[[AnyRtcpPacket | TransportFeedback], None] | None = None
        self.dtls_at: float | None = None
        self._certificate = RTCCertificate.generateCertificate()
        self.dtls = ProbeDtls(self.link, self._certificate, self.options.ciphers, self)
        self._sctp: RTCSctpTransport | None = None
        self._data_mid: str | None = None
        self._remote_dtls: RTCDtlsParameters | None = None
        self._remote_data: tuple[RTCSctpCapabilities, int] | None = None
        self._cname = secrets.token_hex(8)
        self._version = 0
        self._next_mid = 0
        self._connecting: asyncio.Task[None] | None = None
        self._connects: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._up: asyncio.Future[None] = self._loop.create_future()
        self._rtcp_ssrc = secrets.randbits(32)
        self._rtx_of: dict[int, int] = {}
        self._codecs: dict[int, RTCRtpCodecParameters] = {}

    # sections

    def add_receiving(self, kind: str) -> Section:
        """A section for the server to send on, in the next offer."""
        return self._add(Section(kind, self._new_mid(), "recvonly"))

    def add_sending(self, track: MediaStreamTrack, stream_id: str) -> Section:
        """A section to send `track` on, in the next offer; its msid is `stream_id` and the track's id."""
        sender = RTCRtpSender(track, self.dtls)
        return self._add(Section(track.kind, self._new_mid(), "sendonly", sender=sender, stream_id=stream_id))

    def add_channel(self, label: str, *, ordered: bool, max_retransmits: int | None = None) -> RTCDataChannel:
        """A data channel, opened in band (RFC 8832)."""
        if self._data_mid is None:
            self._data_mid = self._add(Section("application", self._new_mid(), "sendrecv")).mid
        channel = RTCDataChannel(
            self._association(),
            RTCDataChannelParameters(label=label, ordered=ordered, maxRetransmits=max_retransmits),
        )
        self._adopt(channel)
        return channel

    # offers and answers

    async def offer(self, *, restart: bool = False) -> str:
        """The next offer. `restart`: with new ICE credentials (RFC 8445 §9)."""
        if restart:
            self.link.prepare_restart()
        await self.link.gather()
        return self._write("offer", [self._offered(section) for section in self.sections])

    async def accept(self, answer_sdp: str) -> None:
        """Take the server's answer to the last offer. Raises ValueError when it does not fit."""
        answer = description.parse(answer_sdp, "answer")
        mids = [media.rtp.muxId for media in answer.media]
        if mids != [section.mid for section in self.sections][: len(mids)]:
            raise ValueError("the sections of the server's answer do not match the offer")
        for section, media in zip(self.sections, answer.media, strict=False):
            self._agree(section, media)
        await self._take_transport(answer, we_offered=True)
        self.start()

    async def answer(self, offer_sdp: str) -> str:
        """Answer the server's offer: receive whatever it sends that we can decode. Send the text, then `start`."""
        offer = description.parse(offer_sdp, "offer")
        if self.link.is_restart(description.transport(offer)[0].usernameFragment or ""):
            self.link.prepare_restart()
        known = {section.mid: section for section in self.sections}
        for media in offer.media:
            section = known.get(media.rtp.muxId)
            if section is None:
                section = self._add(Section(media.kind, media.rtp.muxId, "recvonly"))
            if media.kind == "application":
                self._data_mid = media.rtp.muxId
                self._association()
            self._agree(section, media)
        await self.link.gather()
        setup = RTCDtlsParameters(fingerprints=self.dtls.getLocalParameters().fingerprints, role="client")
        text = self._write("answer", [self._answered(known_or_new) for known_or_new in self._in_order(offer)], setup)
        await self._take_transport(offer, we_offered=False)
        return text

    def start(self) -> None:
        """Bring about what the last description says. A server knows our side only once it has our answer."""
        self._connecting = asyncio.create_task(self._connect(self._connecting))
        self._connects.add(self._connecting)
        self._connecting.add_done_callback(self._connected)

    async def add_candidate(self, init: str, final: bool = False) -> None:
        """A trickled `RTCIceCandidateInit` as JSON text. Raises ValueError when it cannot be read."""
        if init:
            try:
                text = json.loads(init).get("candidate", "")
                parsed = aioice.Candidate.from_sdp(text.removeprefix("candidate:")) if text else None
            except (ValueError, AttributeError, TypeError) as error:
                raise ValueError(f"the server's ICE candidate cannot be read: {init!r}") from error
            if parsed is not None:
                await self.link.add_candidate(parsed)
        if final:
            await self.link.add_candidate(None)

    # life

    async def wait_up(self) -> None:
        """Until ICE and DTLS are up. Raises ConnectionError when they fail."""
        await asyncio.shield(self._up)

    async def settled(self) -> None:
        """Until what the last description asked for is done, a restart included. Raises ConnectionError."""
        if self._connecting is not None:
            await asyncio.shield(self._connecting)

    async def close(self) -> None:
        """End everything, with DTLS's close_notify. First what connects: it would start receivers, each a thread."""
        for task in list(self._connects):
            await _ended(task)
        for section in self.sections:
            if section.sender is not None:
                await section.sender.stop()
            if section.receiver is not None:
                await section.receiver.stop()
        if self._sctp is not None:
            await self._sctp.stop()
        await self.dtls.stop()
        await self.link.close()

    async def ask_keyframe(self, media_ssrc: int) -> None:
        """Send a PLI (RFC 4585 §6.3.1)."""
        await self.dtls.send_rtcp(RtcpPsfbPacket(fmt=RTCP_PSFB_PLI, ssrc=self._rtcp_ssrc, media_ssrc=media_ssrc))

    async def command_keyframe(self, media_ssrc: int, number: int) -> None:
        """Send a FIR (RFC 5104 §4.3.1); one that is sent again keeps its number."""
        entry = media_ssrc.to_bytes(4) + bytes([number, 0, 0, 0])
        await self.dtls.send_rtcp(RtcpPsfbPacket(fmt=RTCP_PSFB_FIR, ssrc=self._rtcp_ssrc, media_ssrc=0, fci=entry))

    async def wait_channel(self, label: str) -> RTCDataChannel:
        """Until a channel of that label is open, ours or the server's."""
        while True:
            channel = self.channels.get(label)
            if channel is not None and channel.readyState == "open":
                return channel
            await asyncio.sleep(0.01)

    async def round_trip_by_rtcp(self) -> float | None:
        """Seconds, from the server's receiver reports on what we send (RFC 3550 §6.4.1); None before the first."""
        for section in self.sections:
            if section.sender is not None:
                for stats in (await section.sender.getStats()).values():
                    if stats.type == "remote-inbound-rtp" and stats.roundTripTime is not None:
                        return float(stats.roundTripTime)
        return None

    # Observer of the DTLS transport

    def receiving(self, packet: RtpPacket) -> bool:
        if self.drop_in is not None and not self.drop_in(packet):
            return False
        now = self._loop.time()
        if self.counts.first_packet_at is None:
            self.counts.first_packet_at = now
        if packet.extensions.transport_sequence_number is not None:
            self.counts.transport_sequence_numbers += 1
        self._count(packet, now)
        if self.on_rtp is not None:
            self.on_rtp(packet)
        return True

    def sending(self, packet: RtpPacket) -> bool:
        return self.drop_out is None or self.drop_out(packet)

    def heard(self, packet: AnyRtcpPacket | TransportFeedback) -> None:
        name = _rtcp_name(packet)
        if name is not None:
            setattr(self.counts, name, getattr(self.counts, name) + 1)
        if name == "firs":
            self._obey(packet)
        if self.on_rtcp is not None:
            self.on_rtcp(packet)

    # inside

    def _obey(self, fir: AnyRtcpPacket | TransportFeedback) -> None:
        """A FIR names its targets in its entries (RFC 5104 §4.3.1.1), where aiortc does not look for them."""
        assert isinstance(fir, RtcpPsfbPacket)
        targets = {int.from_bytes(fir.fci[at : at + 4]) for at in range(0, len(fir.fci) - 7, 8)}
        for section in self.sections:
            if section.sender is not None and section.sender._ssrc in targets:
                section.sender._send_keyframe()

    def _count(self, packet: RtpPacket, now: float) -> None:
        codec = self._codecs.get(packet.payload_type)
        if codec is None:
            return
        sequence_number, ssrc, recovered = packet.sequence_number, packet.ssrc, False
        if codec.name.lower() == "rtx":
            original = self._rtx_of.get(packet.ssrc)
            if original is None or len(packet.payload) < 2:
                return
            self.counts.retransmissions += 1
            sequence_number, ssrc, recovered = int.from_bytes(packet.payload[:2], "big"), original, True
        reception = self.receptions.setdefault(ssrc, Reception(codec.clockRate))
        reception.add(sequence_number, packet.timestamp, now, recovered=recovered)

    def _add(self, section: Section) -> Section:
        self.sections.append(section)
        return section

    def _new_mid(self) -> str:
        mid = str(self._next_mid)
        self._next_mid += 1
        return mid

    def _in_order(self, remote: sdp.SessionDescription) -> list[Section]:
        by_mid = {section.mid: section for section in self.sections}
        return [by_mid[media.rtp.muxId] for media in remote.media]

    def _association(self) -> RTCSctpTransport:
        if self._sctp is None:
            self._sctp = RTCSctpTransport(self.dtls, description.SCTP_PORT)
            self._sctp.on("datachannel", self._adopt)
        return self._sctp

    def _adopt(self, channel: RTCDataChannel) -> None:
        self.channels[channel.label] = channel

        def on_message(data: bytes | str) -> None:
            if self.on_message is not None:
                self.on_message(channel.label, data.encode() if isinstance(data, str) else data)

        channel.on("message", on_message)

    def _offered(self, section: Section) -> sdp.MediaDescription:
        if section.kind == "application":
            return description.data_section(section.mid)
        feedback = self._feedback(section)
        codecs = section.codecs or description.codecs(section.kind, feedback, self.options.video)
        extensions = section.extensions or description.extensions(section.kind, feedback)
        return self._media(section, section.direction, codecs, extensions)

    def _answered(self, section: Section) -> sdp.MediaDescription:
        if section.kind == "application":
            return description.data_section(section.mid)
        direction = "recvonly" if section.remote is not None and _sends(section.remote) else "inactive"
        return self._media(section, direction, section.codecs, section.extensions)

    def _media(
        self,
        section: Section,
        direction: str,
        codecs: list[RTCRtpCodecParameters],
        extensions: list[RTCRtpHeaderExtensionParameters],
    ) -> sdp.MediaDescription:
        msid, ssrcs = None, []
        if section.sender is not None and section.sender.track is not None:
            msid = f"{section.stream_id} {section.sender.track.id}"
            ssrcs = [section.sender._ssrc] + ([section.sender._rtx_ssrc] if section.kind == "video" else [])
        return description.media_section(
            section.kind,
            section.mid,
            direction,
            codec_list=codecs,
            extension_list=extensions,
            msid=msid,
            ssrcs=ssrcs,
            cname=self._cname,
        )

    def _write(self, kind: str, media: Sequence[sdp.MediaDescription], dtls: RTCDtlsParameters | None = None) -> str:
        self._version += 1
        username, password = self.link.credentials
        return description.session(
            kind,
            media,
            version=self._version,
            ice=RTCIceParameters(usernameFragment=username, password=password),
            dtls=dtls or self.dtls.getLocalParameters(),
            candidates=self.link.local_candidates,
        )

    def _feedback(self, section: Section) -> tuple[str, ...]:
        return self.options.receive_feedback if section.sender is None else self.options.send_feedback

    def _agree(self, section: Section, media: sdp.MediaDescription) -> None:
        section.remote = media
        if media.kind == "application":
            port = media.sctp_port or description.SCTP_PORT
            self._remote_data = (media.sctpCapabilities or RTCSctpCapabilities(maxMessageSize=65_536), port)
            return
        if media.port == 0:
            section.codecs = []
            return
        feedback = self._feedback(section)
        section.codecs = [
            _without_feedback(codec, feedback)
            for codec in description.agreed_codecs(media.kind, media.rtp.codecs, self.options.video)
        ]
        self._codecs |= {codec.payloadType or 0: codec for codec in section.codecs}
        section.extensions = description.agreed_extensions(media.kind, media.rtp.headerExtensions, feedback)

    async def _take_transport(self, remote: sdp.SessionDescription, *, we_offered: bool) -> None:
        ice, dtls = description.transport(remote)
        await self.link.set_remote(RemoteSide(ice.usernameFragment or "", ice.password or "", ice.iceLite))
        for media in remote.media:
            for candidate in media.ice_candidates:
                await self.link.add_candidate(candidate_to_aioice(candidate))
        if any(media.ice_candidates_complete for media in remote.media):
            await self.link.add_candidate(None)
        if self._remote_dtls is None:
            self._remote_dtls = dtls
            self.dtls._set_role("client" if not we_offered or dtls.role == "server" else "server")

    async def _connect(self, former: asyncio.Task[None] | None) -> None:
        if former is not None:
            await former
        if self.link.state == "new" or self.link.restarting:
            await self.link.connect()
        if self.dtls.state == "new":
            assert self._remote_dtls is not None
            await self.dtls.start(self._remote_dtls)
            if self.dtls.state != "connected":
                raise ConnectionError(f"the DTLS handshake failed (cipher offers: {', '.join(self.options.ciphers)})")
            self.dtls_at = self._loop.time()
        await self._apply()

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connects.discard(task)
        if task.cancelled():
            self._up.cancel()
        elif (error := task.exception()) is not None and not self._up.done():
            self._up.set_exception(error)
            self._up.exception()  # whoever waits is told; nobody has to
        elif not self._up.done():
            self._up.set_result(None)

    async def _apply(self) -> None:
        """Start and stop senders, receivers and SCTP as the descriptions now say."""
        for section in self.sections:
            remote = section.remote
            if section.kind == "application" or remote is None:
                continue
            if section.sender is not None and section.codecs and _receives(remote) and not section.sending:
                section.sending = True
                await section.sender.send(self._send_parameters(section))
            ssrcs = tuple(ssrc.ssrc for ssrc in remote.ssrc) if _sends(remote) else ()
            if section.sender is None and ssrcs != section.received_ssrcs:
                await self._receive(section, ssrcs)
        if self._sctp is not None and self._remote_data is not None and self._sctp.state == "new":
            await self._sctp.start(*self._remote_data)

    def _send_parameters(self, section: Section) -> RTCRtpSendParameters:
        assert section.sender is not None
        parameters = RTCRtpSendParameters(codecs=section.codecs, headerExtensions=section.extensions, muxId=section.mid)
        parameters.rtcp.cname = self._cname
        parameters.rtcp.ssrc = section.sender._ssrc
        parameters.rtcp.mux = True
        return parameters

    async def _receive(self, section: Section, ssrcs: tuple[int, ...]) -> None:
        """The section carries other ssrcs now: a new receiver, a new track."""
        former, section.receiver, section.received_ssrcs = section.receiver, None, ssrcs
        if former is not None:
            await former.stop()
        if not ssrcs or not section.codecs:
            return
        receiver = RTCRtpReceiver(section.kind, self.dtls)
        receiver._set_rtcp_ssrc(self._rtcp_ssrc)
        track = RemoteStreamTrack(section.kind)
        receiver._track = track
        rtx = ssrcs[1] if len(ssrcs) > 1 else None
        if rtx is not None:
            self._rtx_of[rtx] = ssrcs[0]
        media_codecs = [codec for codec in section.codecs if codec.name.lower() != "rtx"]
        encodings = [
            RTCRtpDecodingParameters(
                ssrc=ssrcs[0],
                payloadType=codec.payloadType or 0,
                rtx=RTCRtpRtxParameters(ssrc=rtx) if rtx is not None else None,
            )
            for codec in media_codecs
        ]
        parameters = RTCRtpReceiveParameters(
            codecs=section.codecs, headerExtensions=section.extensions, muxId=section.mid, encodings=encodings
        )
        section.receiver = receiver
        await receiver.receive(parameters)
        if self.on_track is not None:
            self.on_track(section, track)


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancel until it is so: `asyncio.wait_for`, which DTLS waits with, loses a cancellation that comes beside its
    result before Python 3.12 (python/cpython#86296)."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_AGAIN_SECONDS)


def _sends(media: sdp.MediaDescription) -> bool:
    return media.port != 0 and (media.direction or "sendrecv") in ("sendonly", "sendrecv")


def _receives(media: sdp.MediaDescription) -> bool:
    return media.port != 0 and (media.direction or "sendrecv") in ("recvonly", "sendrecv")


def _without_feedback(codec: RTCRtpCodecParameters, wanted: Sequence[str]) -> RTCRtpCodecParameters:
    codec.rtcpFeedback = [
        item for item in codec.rtcpFeedback if item.type not in ("goog-remb", "transport-cc") or item.type in wanted
    ]
    return codec


def _rtcp_name(packet: AnyRtcpPacket | TransportFeedback) -> str | None:
    match type(packet).__name__, getattr(packet, "fmt", None):
        case "RtcpSrPacket", _:
            return "sender_reports"
        case "RtcpRrPacket", _:
            return "receiver_reports"
        case "RtcpRtpfbPacket", 1:
            return "nacks"
        case "TransportFeedback", _:
            return "transport_feedbacks"
        case "RtcpPsfbPacket", 1:
            return "plis"
        case "RtcpPsfbPacket", 4:
            return "firs"
        case "RtcpPsfbPacket", 15:
            return "rembs"
        case _:
            return None
