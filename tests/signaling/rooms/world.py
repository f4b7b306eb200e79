"""A room in virtual time: clients that offer and answer as real ones do, a worker that refuses what a real one would.

`World` carries effects out in order and settles what they cause. Every command is checked against what the worker knows
at that moment, so no test needs to ask for that. Not here: any expectation of a single test.
"""

from __future__ import annotations

import itertools
import zlib
from collections import deque
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import msgspec
from livekit.protocol import models, rtc
from livekit.protocol.webhook import WebhookEvent

from sfu import border, sdp
from sfu.border import AnyCommand, Fingerprint, IceCredentials, TransportStatus
from sfu.sdp import Direction, Media, Msid, Session, Setup
from signaling.rooms.core import Moment, ServerFacts, Sources, WorkerSide
from signaling.rooms.effects import CloseSignal, Effect, Notify, RefreshToken, Send, ToWorker, Welcome
from signaling.rooms.grants import Grants
from signaling.rooms.memory import Unpacker, pack
from signaling.rooms.presence import JoinParameters
from signaling.rooms.room import Room
from signaling.rooms.settings import RoomSettings
from signaling.rooms.state import Participant, RoomRecord
from signaling.rooms.transport import Address
from signaling.wire.livekit.frames import JoinFrame

ROOM = 7
UNIX_MS = 1_700_000_000_000
STATES = models.ParticipantInfo.State
REASONS = models.DisconnectReason
ACTIONS = rtc.LeaveRequest.Action
CAMERA = models.TrackSource.CAMERA
MICROPHONE = models.TrackSource.MICROPHONE
SCREEN = models.TrackSource.SCREEN_SHARE
AUDIO = models.TrackType.AUDIO
VIDEO = models.TrackType.VIDEO
LOW, MEDIUM, HIGH = models.VideoQuality.LOW, models.VideoQuality.MEDIUM, models.VideoQuality.HIGH
THREE_LAYERS = ((LOW, 320, 180), (MEDIUM, 640, 360), (HIGH, 1280, 720))
RIDS = ("q", "h", "f")
WORKER = WorkerSide(
    Fingerprint(algorithm="sha-256", value="AA:BB"),
    (Address("192.0.2.7", 7882), Address("192.0.2.7", 7882, "tcp")),
)
SERVER = ServerFacts(
    models.ServerInfo(version="1.0", protocol=17, region="here", node_id="ND_1"),
    (rtc.ICEServer(urls=["stun:192.0.2.9:3478"]),),
    b"trailer",
)
_STEPS_MAX = 2_000
"""Messages that one step may cause; more is a loop between room and client."""


class FakeWorker:
    """What a worker knows. An id that it does not know, or knows already, fails the test."""

    def __init__(self) -> None:
        self.transports: dict[int, border.AddTransport] = {}
        self.remotes: dict[int, border.Remote] = {}
        self.restarts: list[border.RestartIce] = []
        self.opened: dict[int, tuple[str, ...]] = {}
        self.uptracks: dict[int, border.AddUptrack] = {}
        self.downtracks: dict[int, border.AddDowntrack] = {}
        self.data_uptracks: dict[int, border.AddDataUptrack] = {}
        self.data_downtracks: dict[tuple[int, int], int] = {}
        self.data: list[border.SendData] = []
        self.log: list[AnyCommand] = []
        self.ended: set[int] = set()
        """What ended with a transport; that room and worker both end a thing at the same time is no error."""

    def apply(self, command: AnyCommand) -> None:
        self.log.append(command)
        match command:
            case border.AddTransport(transport=transport):
                assert transport not in self.transports
                self.transports[transport] = command
                if command.remote is not None:
                    self.remotes[transport] = command.remote
            case border.SetRemote(transport=transport, remote=remote):
                assert transport in self.transports
                self.remotes[transport] = remote
            case border.RestartIce(transport=transport):
                assert transport in self.transports
                self.restarts.append(command)
            case border.RemoveTransport(transport=transport):
                if transport not in self.ended:
                    self.close(transport)
            case border.OpenDataChannels(transport=transport, channels=channels):
                assert transport in self.transports
                self.opened[transport] = tuple(channel.label for channel in channels)
            case border.SendData(transports=transports):
                assert transports
                assert set(transports) <= self.transports.keys()
                self.data.append(command)
            case border.AddUptrack(uptrack=uptrack, transport=transport):
                assert uptrack not in self.uptracks
                assert transport in self.transports
                self.uptracks[uptrack] = command
            case border.UpdateUptrack(uptrack=uptrack, muted=muted):
                self.uptracks[uptrack] = msgspec.structs.replace(self.uptracks[uptrack], muted=muted)
            case border.RemoveUptrack(uptrack=uptrack) if uptrack not in self.ended:
                del self.uptracks[uptrack]
                for downtrack, added in tuple(self.downtracks.items()):
                    if added.uptrack == uptrack:
                        del self.downtracks[downtrack]
            case border.AddDowntrack(downtrack=downtrack, uptrack=uptrack, transport=transport, mid=mid):
                assert downtrack not in self.downtracks
                assert uptrack in self.uptracks
                assert transport in self.transports
                assert transport != self.uptracks[uptrack].transport
                others = [d.mid for d in self.downtracks.values() if d.transport == transport]
                assert mid not in others
                self.downtracks[downtrack] = command
            case border.SetDowntrack(downtrack=downtrack, want=want):
                self.downtracks[downtrack] = msgspec.structs.replace(self.downtracks[downtrack], want=want)
            case border.RemoveDowntrack(downtrack=downtrack) if downtrack not in self.ended:
                del self.downtracks[downtrack]
            case border.RemoveUptrack() | border.RemoveDowntrack():
                pass
            case border.AddDataUptrack(data_uptrack=number, transport=transport, pub_handle=handle):
                assert number not in self.data_uptracks
                assert transport in self.transports
                taken = {(d.transport, d.pub_handle) for d in self.data_uptracks.values()}
                assert (transport, handle) not in taken
                self.data_uptracks[number] = command
            case border.RemoveDataUptrack(data_uptrack=number):
                # The worker takes it of one that it has closed with its transport.
                self.data_uptracks.pop(number, None)
                self._forget_data(lambda uptrack, _: uptrack == number)
            case border.AddDataDowntrack(data_uptrack=number, transport=transport, handle=handle):
                assert number in self.data_uptracks
                assert transport in self.transports
                handles = [h for (_, to), h in self.data_downtracks.items() if to == transport]
                assert handle not in handles
                self.data_downtracks[number, transport] = handle
            case border.BoundDownlink(transport=transport):
                assert transport in self.transports
            case border.RemoveDataDowntrack(data_uptrack=number, transport=transport):
                self.data_downtracks.pop((number, transport), None)
            case _:
                raise AssertionError(command)

    def close(self, transport: int) -> None:
        del self.transports[transport]
        before = self.uptracks.keys() | self.downtracks.keys()
        self.remotes.pop(transport, None)
        gone = {number for number, added in self.uptracks.items() if added.transport == transport}
        self.uptracks = {number: added for number, added in self.uptracks.items() if number not in gone}
        self.downtracks = {
            number: added
            for number, added in self.downtracks.items()
            if added.transport != transport and added.uptrack not in gone
        }
        ended = {number for number, added in self.data_uptracks.items() if added.transport == transport}
        self.data_uptracks = {n: added for n, added in self.data_uptracks.items() if n not in ended}
        self._forget_data(lambda uptrack, to: uptrack in ended or to == transport)
        self.ended |= {transport} | (before - self.uptracks.keys() - self.downtracks.keys())

    def _forget_data(self, is_gone: Any) -> None:
        self.data_downtracks = {key: handle for key, handle in self.data_downtracks.items() if not is_gone(*key)}

    def of(self, kind: type[AnyCommand]) -> list[Any]:
        return [command for command in self.log if isinstance(command, kind)]


# --- what clients say -----------------------------------------------------------------------------------------------


@dataclass
class Section:
    mid: str
    kind: str
    direction: Direction
    cid: str = ""
    rids: tuple[str, ...] = ()
    codecs: tuple[str, ...] = ()
    """Names of codecs; empty: all that we know."""


@cache
def _known(kind: str) -> Media:
    return sdp.supported(kind)


def _lines(media: Media, names: tuple[str, ...]) -> tuple[sdp.Codec, ...]:
    if not names:
        return media.codecs
    kept = {str(line.pt) for line in media.codecs if line.name in names}
    return tuple(
        line
        for line in media.codecs
        if line.name in names or (line.name == "rtx" and line.fmtp.removeprefix("apt=") in kept)
    )


FINGERPRINT = Fingerprint(algorithm="sha-256", value=":".join(["AB"] * 32))


def offer_of(sections: list[Section], *, ufrag: str = "clnt", version: int = 1) -> str:
    """Return an offer with these sections, and one for data channels at the end."""
    media = []
    for section in sections:
        known = _known(section.kind)
        sends = bool(section.cid) and section.direction.sends
        simulcast = sdp.Simulcast(send=tuple(sdp.SimulcastStream(rids=(rid,)) for rid in section.rids))
        media.append(
            msgspec.structs.replace(
                known,
                mid=section.mid,
                direction=section.direction,
                rtcp_mux=True,
                rtcp_rsize=True,
                codecs=_lines(known, section.codecs),
                msids=(Msid(stream="stream", track=section.cid),) if sends else (),
                rids=tuple(sdp.Rid(id=rid, direction="send") for rid in section.rids) if sends else (),
                simulcast=simulcast if sends and section.rids else None,
            )
        )
    data = Media(
        kind="application",
        protocol="UDP/DTLS/SCTP",
        formats=("webrtc-datachannel",),
        mid="data",
        sctp_port=5000,
        max_message_size=262_144,
    )
    placed = tuple(
        msgspec.structs.replace(
            section,
            ice_ufrag=ufrag,
            ice_pwd="p" * 24,
            fingerprints=(FINGERPRINT,),
            setup=Setup.ACTPASS,
        )
        for section in (*media, data)
    )
    mids = tuple(section.mid or "" for section in placed)
    return sdp.write(
        Session(
            origin=sdp.Origin(session_id=1, session_version=version),
            groups=(sdp.Group(semantics="BUNDLE", mids=mids),),
            extmap_allow_mixed=True,
            media=placed,
        )
    )


def answer_to(offer: str, *, codecs: tuple[str, ...] = ()) -> str:
    """Answer as a client that takes all that is sent, in these codecs."""
    session = sdp.parse(offer)
    flipped = {Direction.SENDONLY: Direction.RECVONLY}
    media = tuple(
        msgspec.structs.replace(
            section,
            direction=flipped.get(section.direction, section.direction),
            setup=Setup.ACTIVE,
            ice_ufrag="clnt",
            ice_pwd="p" * 24,
            fingerprints=(FINGERPRINT,),
            candidates=(),
            end_of_candidates=False,
            msids=(),
            ssrcs=(),
            ssrc_groups=(),
            codecs=(_lines(section, codecs) or section.codecs) if section.kind == "video" else section.codecs,
        )
        for section in session.media
    )
    return sdp.write(msgspec.structs.replace(session, ice_lite=False, media=media))


FRESH = 2.0**40
"""When tokens were issued that nobody has revoked: after everything that happens here, in Unix seconds."""


@dataclass(eq=False)
class Client:
    """One SDK client: what it has heard, what it believes, and the answers it gives by itself."""

    world: World
    grants: Grants
    is_single: bool
    codecs: tuple[str, ...] = ()
    protocol: int = 17
    session: int | None = None
    sid: str = ""
    inbox: list[rtc.SignalResponse] = field(default_factory=list)
    people: dict[str, models.ParticipantInfo] = field(default_factory=dict)
    room: models.Room = field(default_factory=models.Room)
    sections: list[Section] = field(default_factory=list)
    tokens: list[Grants] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    offers: int = 0
    ufrag: str = "clnt"
    answers_by_itself: bool = True
    speaking: set[str] = field(default_factory=set)
    handles: dict[int, str] = field(default_factory=dict)
    """Data tracks by the handle under which they come."""
    refused: set[str] = field(default_factory=set)
    """Tracks that may not be received."""
    unanswered: rtc.SessionDescription | None = None
    asked: list[int] = field(default_factory=lambda: [0, 0])
    must_offer: bool = False

    @property
    def identity(self) -> str:
        return self.grants.identity

    @property
    def record(self) -> Participant:
        return self.world.room.core.participants[self.sid]

    # --- in ----------------------------------------------------------------------------------------------------------

    def receive(self, message: rtc.SignalResponse) -> None:
        self.inbox.append(message)
        match message.WhichOneof("message"):
            case "join":
                self.sid = message.join.participant.sid
                self.people = {info.sid: info for info in message.join.other_participants}
                self.people[self.sid] = message.join.participant
                self.room = message.join.room
            case "update":
                for info in message.update.participants:
                    self._learn(info)
            case "room_update":
                self.room = message.room_update.room
            case "speakers_changed":
                for speaker in message.speakers_changed.speakers:
                    (self.speaking.add if speaker.active else self.speaking.discard)(speaker.sid)
            case "data_track_subscriber_handles":
                handles = message.data_track_subscriber_handles.sub_handles
                self.handles = {handle: entry.track_sid for handle, entry in handles.items()}
            case "subscription_permission_update":
                change = message.subscription_permission_update
                (self.refused.discard if change.allowed else self.refused.add)(change.track_sid)
            case "offer":
                self.unanswered = message.offer
                if self.answers_by_itself:
                    self.catch_up()
            case "media_sections_requirement":
                wanted = message.media_sections_requirement
                self.asked = [self.asked[0] + wanted.num_audios, self.asked[1] + wanted.num_videos]
                self.must_offer = True
                if self.answers_by_itself:
                    self.catch_up()

    def catch_up(self) -> None:
        """Answer what is not answered yet."""
        self.answers_by_itself = True
        if self.unanswered is not None:
            self.answer(self.unanswered)
            self.unanswered = None
        if self.must_offer:
            self.add_sections("audio", self.asked[0])
            self.add_sections("video", self.asked[1])
            self.asked, self.must_offer = [0, 0], False
            self.offer()

    def _learn(self, info: models.ParticipantInfo) -> None:
        known = self.people.get(info.sid)
        if known is not None and known.version > info.version:
            return
        for other in [one for one in self.people.values() if one.identity == info.identity]:
            # As in the SDKs, which keep people by identity: who left is gone whatever his sid, a newcomer replaces him.
            if info.identity != self.identity and (info.state == STATES.DISCONNECTED or other.sid != info.sid):
                del self.people[other.sid]
                self.speaking.discard(other.sid)
                self.refused -= {track.sid for track in other.tracks}
        if info.state == STATES.DISCONNECTED:
            return
        if known is not None:
            self.refused -= {track.sid for track in known.tracks} - {track.sid for track in info.tracks}
        self.people[info.sid] = info

    def heard(self, kind: str) -> list[Any]:
        return [getattr(message, kind) for message in self.inbox if message.WhichOneof("message") == kind]

    def order(self) -> list[str]:
        return [message.WhichOneof("message") or "" for message in self.inbox]

    def forget(self) -> None:
        """Of what was heard; what is believed stays."""
        self.inbox.clear()

    # --- out ---------------------------------------------------------------------------------------------------------

    def say(self, **message: Any) -> None:
        """Send a message now, and let everything settle."""
        if self.session is not None:
            self.world.queue.append((self.session, rtc.SignalRequest(**message)))
        self.world.settle()

    def _reply(self, **message: Any) -> None:
        if self.session is not None:
            self.world.queue.append((self.session, rtc.SignalRequest(**message)))

    def add_sections(self, kind: str, count: int) -> None:
        for _ in range(count):
            self.sections.append(Section(str(len(self.sections)), kind, Direction.RECVONLY, codecs=self._taken(kind)))

    def _taken(self, kind: str) -> tuple[str, ...]:
        return self.codecs if kind == "video" else ()

    def description(self) -> rtc.SessionDescription:
        self.offers += 1
        text = offer_of(self.sections, ufrag=self.ufrag, version=self.offers)
        return rtc.SessionDescription(type="offer", sdp=text, id=self.offers)

    def offer(self) -> None:
        self._reply(offer=self.description())

    def answer(self, offer: rtc.SessionDescription) -> None:
        text = answer_to(offer.sdp, codecs=self.codecs)
        self._reply(answer=rtc.SessionDescription(type="answer", sdp=text, id=offer.id))

    def announce(self, cid: str, kind: models.TrackType, source: models.TrackSource, **more: Any) -> None:
        self.say(add_track=rtc.AddTrackRequest(cid=cid, type=kind, source=source, **more))

    def send_on(self, cid: str, kind: str, *, rids: tuple[str, ...] = (), codecs: tuple[str, ...] = ()) -> None:
        """Offer a section that carries the track."""
        taken = codecs or (("VP8",) if kind == "video" else ())
        self.sections.append(Section(str(len(self.sections)), kind, Direction.SENDONLY, cid, rids, taken))
        self.offer()
        self.world.settle()

    def stop_sending(self, cid: str) -> None:
        """As SDKs do it: the section stays and is inactive."""
        for section in self.sections:
            if section.cid == cid:
                section.direction, section.cid = Direction.INACTIVE, ""
        self.offer()
        self.world.settle()

    def publish_audio(self, cid: str = "mic", **more: Any) -> models.TrackInfo:
        self.announce(cid, AUDIO, MICROPHONE, **more)
        self.send_on(cid, "audio")
        return self.track(cid)

    def publish_video(
        self,
        cid: str = "cam",
        *,
        layers: tuple[tuple[int, int, int], ...] = THREE_LAYERS,
        codec: str = "vp8",
        source: models.TrackSource = CAMERA,
        **more: Any,
    ) -> models.TrackInfo:
        declared = [
            models.VideoLayer(quality=models.VideoQuality.Name(q), width=w, height=h, bitrate=w * 1000)
            for q, w, h in layers
        ]
        self.announce(cid, VIDEO, source, width=layers[-1][1], height=layers[-1][2], layers=declared, **more)
        self.send_on(cid, "video", rids=RIDS[: len(layers)] if len(layers) > 1 else (), codecs=(codec.upper(),))
        return self.track(cid)

    def track(self, cid: str) -> models.TrackInfo:
        sid = next(reply.track.sid for reply in reversed(self.heard("track_published")) if reply.cid == cid)
        track = self.record.tracks.get(sid)
        assert track is not None
        return track.info


# --- the world ------------------------------------------------------------------------------------------------------


@dataclass
class World:
    settings: RoomSettings = field(default_factory=RoomSettings)
    seconds: float = 1000.0
    participants_max: int = 0
    metadata: str = ""
    empty_timeout_seconds: float = 300.0
    departure_timeout_seconds: float = 20.0
    clients: dict[int, Client] = field(default_factory=dict)
    """By open signal connection."""
    worker: FakeWorker = field(default_factory=FakeWorker)
    notified: list[WebhookEvent] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    """Those that concern neither clients nor worker."""
    queue: deque[tuple[int, rtc.SignalRequest]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._sessions = itertools.count(1)
        self._numbers = itertools.count((ROOM << 30) + 1)
        self._sids = itertools.count(1)
        self._credentials = itertools.count(1)
        self._ssrcs = itertools.count(10_001)
        self.record = RoomRecord(
            sid="RM_1",
            name="lobby",
            number=ROOM,
            metadata=self.metadata,
            created_at_ms=UNIX_MS,
            empty_timeout_seconds=self.empty_timeout_seconds,
            departure_timeout_seconds=self.departure_timeout_seconds,
            participants_max=self.participants_max,
        )
        self.room = self._room(self.record)
        self.apply(self.room.open(self.now))

    def _room(self, record: RoomRecord) -> Room:
        return Room(record, self.settings, SERVER, WORKER, self.sources)

    @property
    def sources(self) -> Sources:
        return Sources(
            number=lambda: next(self._numbers),
            sid=lambda prefix: f"{prefix}{next(self._sids)}",
            ssrc=lambda: next(self._ssrcs),
            credentials=self.credentials,
        )

    def credentials(self) -> IceCredentials:
        return IceCredentials(ufrag=f"srvr{next(self._credentials)}", pwd="s" * 24)

    @property
    def now(self) -> Moment:
        return Moment(self.seconds, UNIX_MS + int((self.seconds - 1000) * 1000))

    # --- carrying out ------------------------------------------------------------------------------------------------

    def apply(self, effects: list[Effect]) -> list[Effect]:
        for effect in effects:
            match effect:
                case Send(session=session, message=message):
                    copy = rtc.SignalResponse()
                    copy.CopyFrom(message)
                    self.clients[session].receive(copy)
                case Welcome(session=session, response=response, others=others):
                    self.clients[session].receive(rtc.SignalResponse.FromString(JoinFrame(response, others).binary))
                case RefreshToken(session=session, grants=grants):
                    client = self.clients[session]
                    client.tokens.append(grants)
                    client.inbox.append(rtc.SignalResponse(refresh_token="signed"))
                case CloseSignal(session=session, reason=reason):
                    client = self.clients.pop(session)
                    client.session = None if client.session == session else client.session
                    client.closed.append(reason)
                case ToWorker(command=command):
                    self.worker.apply(command)
                case Notify(event=event):
                    copy_of = WebhookEvent()
                    copy_of.CopyFrom(event)
                    self.notified.append(copy_of)
                case _:
                    self.effects.append(effect)
        return effects

    def settle(self) -> None:
        for _ in range(_STEPS_MAX):
            if not self.queue:
                return
            session, request = self.queue.popleft()
            self.apply(self.room.request(session, request, self.now))
        raise AssertionError("room and clients do not come to rest")

    def of(self, kind: type[Any]) -> list[Any]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def events(self) -> list[str]:
        return [event.event for event in self.notified]

    # --- people ------------------------------------------------------------------------------------------------------

    def client(self, identity: str, *, single: bool = True, protocol: int = 17, **grants: Any) -> Client:
        claims = Grants(key="devkey", identity=identity, room="lobby", room_join=True, **{"issued_at": FRESH, **grants})
        client = Client(self, claims, single, protocol=protocol)
        if single:
            client.add_sections("audio", 3)
            client.add_sections("video", 3)
        return client

    def parameters(self, client: Client, **more: Any) -> JoinParameters:
        info = models.ClientInfo(sdk=models.ClientInfo.SDK.JS, protocol=client.protocol, client_protocol=1)
        return JoinParameters(grants=client.grants, client=info, is_single=client.is_single, **more)

    def enter(self, client: Client, *, offers: bool = True, **more: Any) -> Client:
        client.session = next(self._sessions)
        self.clients[client.session] = client
        offer = client.description() if client.is_single and offers else None
        self.apply(self.room.join(client.session, self.parameters(client, offer=offer, **more), self.now))
        self.settle()
        return client

    def enter_with(self, newcomer: Client, **more: Any) -> None:
        """Join with just these parameters."""
        newcomer.session = next(self._sessions)
        self.clients[newcomer.session] = newcomer
        self.apply(self.room.join(newcomer.session, replace(self.parameters(newcomer), **more), self.now))
        self.settle()

    def join(self, identity: str, *, single: bool = True, connected: bool = True, **grants: Any) -> Client:
        """Let somebody join and, if `connected`, let his media come up."""
        client = self.enter(self.client(identity, single=single, **grants))
        if connected:
            self.connect(client)
        return client

    def resume(self, client: Client, **more: Any) -> Client:
        """Come back on a new signal connection, as a client does that has noticed that its own is gone."""
        client.session = next(self._sessions)
        self.clients[client.session] = client
        parameters = self.parameters(client, is_reconnect=True, participant_sid=client.sid, **more)
        self.apply(self.room.resume(client.session, parameters, self.now))
        self.settle()
        return client

    def lose_signal(self, client: Client) -> None:
        if client.session is not None:
            session, client.session = client.session, None
            del self.clients[session]
            self.queue = deque((to, request) for to, request in self.queue if to != session)
            self.apply(self.room.signal_closed(session, self.now))
            self.settle()

    # --- the worker's news -------------------------------------------------------------------------------------------

    def event(self, event: border.AnyEvent) -> None:
        self.apply(self.room.event(event, self.now))
        self.settle()

    def transport(self, number: int, state: TransportStatus, reason: str = "") -> None:
        if state is TransportStatus.CLOSED:
            self.worker.close(number)
        self.event(border.TransportState(transport=number, state=state, reason=reason))

    def unanswered(self, number: int) -> None:
        self.event(border.Unanswered(transport=number))

    def connect(self, client: Client) -> None:
        """Media comes up: connected, channels open."""
        record = self.room.core.participants.get(client.sid)
        if record is None:
            return
        for connection in (record.publisher, record.subscriber):
            if connection is not None and connection.is_added:
                self.transport(connection.transport, TransportStatus.CONNECTED)
                for label in ("_reliable", "_lossy", "_data_track"):
                    self.event(border.DataChannelOpen(transport=connection.transport, label=label))

    def data(self, client: Client, packet: models.DataPacket, label: str = "_reliable") -> None:
        transport = client.record.publisher.transport
        self.event(border.DataMessage(transport=transport, label=label, payload=packet.SerializeToString()))

    # --- time --------------------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Let time pass; what is due happens at its time."""
        until = self.seconds + seconds
        for _ in range(_STEPS_MAX):
            due = self.room.deadline()
            if due is None or due > until:
                self.seconds = until
                return
            self.seconds = max(self.seconds, due)
            self.apply(self.room.timeout(self.now))
            self.settle()
        raise AssertionError("the timers do not come to rest")

    # --- a restart of signaling --------------------------------------------------------------------------------------

    def restart(self) -> None:
        """The signaling process dies and another takes its place, with the worker's memory; all signals are gone."""
        core = self.room.core
        packed = [pack(participant) for participant in core.participants.values()]
        unpacker = Unpacker(self.credentials)
        record = unpacker.room(pack(core.record))
        for client in self.clients.values():
            client.session = None
        self.clients.clear()
        self.queue.clear()
        self.room = self._room(record)
        self.apply(self.room.revive([unpacker.participant(one) for one in packed], self.now))

    def snapshot(self, **states: TransportStatus) -> border.Snapshot:
        """What the worker would answer now. `states`: of the transports of identities, else connected."""
        by_identity = {
            connection.transport: states.get(participant.identity, TransportStatus.CONNECTED)
            for participant in self.room.core.participants.values()
            for connection in (participant.publisher, participant.subscriber)
            if connection is not None
        }
        return border.Snapshot(
            transports=tuple(
                border.TransportSummary(
                    transport=number,
                    room=added.room,
                    state=by_identity.get(number, TransportStatus.CONNECTED),
                    channels=("_reliable", "_lossy", "_data_track"),
                )
                for number, added in self.worker.transports.items()
            ),
            uptracks=tuple(
                border.UptrackSummary(
                    uptrack=number, transport=added.transport, mime=added.codecs[0].mime, layers=(), max_spatial=None
                )
                for number, added in self.worker.uptracks.items()
            ),
            downtracks=tuple(
                border.DowntrackSummary(downtrack=number, uptrack=added.uptrack, transport=added.transport, active=True)
                for number, added in self.worker.downtracks.items()
            ),
        )


def last_leave(client: Client) -> rtc.LeaveRequest:
    leave: rtc.LeaveRequest = client.heard("leave")[-1]
    return leave


def states_of(client: Client, sid: str) -> list[int]:
    """Return the states of a participant that a client was told, in order."""
    return [info.state for update in client.heard("update") for info in update.participants if info.sid == sid]


def unpacked(packed: bytes) -> bytes:
    """Return a record that was packed as it is before it is compressed."""
    return zlib.decompress(packed) if packed[:1] == b"\x78" else packed


def user_packet(payload: bytes, **more: Any) -> models.DataPacket:
    return models.DataPacket(user=models.UserPacket(payload=payload), **more)


def without_permission(grants: Grants, **more: Any) -> models.ParticipantPermission:
    """Return the permission that an administrator would set."""
    return replace(grants, **more).permission()
