"""What is measured, as data: who sends what to whom. Nothing here knows a server or a clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from sfu.load import Codec
from signaling.load.plan import MICROPHONE, Layer, Track


class Cipher(StrEnum):
    """What a client offers; the server may take the stronger of two GCMs."""

    GCM = "gcm"
    CM = "cm"


@dataclass(frozen=True)
class Scenario:
    """`speakers` send, `viewers` receive, `members` do both; everybody who receives gets all tracks but his own.

    Counts of people are those of one room.
    """

    name: str
    title: str
    tracks: tuple[Track, ...]
    speakers: int = 0
    members: int = 0
    viewers: int = 0
    cipher: Cipher = Cipher.GCM
    rooms: int = 1
    """At once, where nothing else is asked for."""
    group: str = "other"
    """What is measured together, and what plots are drawn from: `--group`."""
    tiles: int | None = None
    """Videos that one subscriber is sent, those of the first publishers (last-N); None: all."""
    voices: int | None = None
    """The same for audio."""
    loss: float = 0.0
    """Share of media packets lost, in each direction."""
    joins_per_second: float | None = None
    """Viewers come one by one at this rate, whatever became of those before; None: all at once."""
    churn_per_second: float = 0.0
    """So many viewers leave and come back each second while it is measured."""
    takes_runs: bool = False
    """Clients take a segmented run in one piece (UDP_GRO), so that nobody cuts it: what is left to the sender where a
    network card segments."""
    is_ramped: bool = False
    """With ever more rooms, until the server's core is full."""
    target_us: float | None = None
    """CPU per forwarded packet to be reached, microseconds."""
    peers_us: Mapping[str, float] = field(default_factory=dict, hash=False)
    """What others were found to cost on an idle Sapphire Rapids machine, microseconds a packet."""

    @property
    def publishers(self) -> int:
        return self.speakers + self.members

    @property
    def subscribers(self) -> int:
        return self.members + self.viewers

    @property
    def sent_per_second(self) -> float:
        """Packets a second that one room's publishers send, all layers together."""
        return self.publishers * sum(layer.packets_per_second for track in self.tracks for layer in track.layers)

    def takes(self, track: Track, position: int) -> bool:
        """Whether a subscriber is sent his n-th track of this kind."""
        most = self.tiles if track.is_video else self.voices
        return most is None or position < most

    @property
    def received_tracks(self) -> int:
        """What one room's subscribers are sent, together."""
        return sum(1 for _ in self.received())

    @property
    def forwarded_per_second(self) -> float:
        """Packets a second that one room's subscribers are to get, retransmissions aside."""
        return sum(track.layers[track.layer_for(position)].packets_per_second for track, position in self.received())

    def received(self) -> Iterator[tuple[Track, int]]:
        """Of one room: every track as one subscriber is sent it, and the how manieth of its kind it is to him."""
        for subscriber in range(self.subscribers):
            others = self.publishers - (1 if subscriber < self.members else 0)
            for position in range(others):
                yield from ((track, position) for track in self.tracks if self.takes(track, position))


CAMERA = Track(Codec.VP8, 30, (Layer(260, 1_160),))
"""2.4 Mbit/s; with RTP header, extensions and tag a datagram is 1 200 bytes long."""
SIMULCAST = Track(
    Codec.VP8,
    30,
    (
        Layer(30, 620, 320, 180, "q"),
        Layer(60, 1_060, 640, 360, "h"),
        Layer(200, 1_160, 1280, 720, "f"),
    ),
    watched=(2, 1, 1, 0),
)
"""One large tile, two of medium size, the rest small."""

SMALL = Track(Codec.VP8, 30, (Layer(60, 1_060, 640, 360),))
"""0.5 Mbit/s, for more people than one core could send large pictures to."""
THUMBNAIL = Track(Codec.VP8, 15, (Layer(30, 620, 320, 180),))
"""0.15 Mbit/s."""

STANDARD = (
    Scenario(
        "video-1-50",
        "video, 1 → 50, AES-GCM",
        (CAMERA,),
        speakers=1,
        viewers=50,
        group="headline",
        is_ramped=True,
        target_us=2.0,
        peers_us={"LiveKit": 15.5, "mediasoup": 12.8, "Janus": 18.2, "Pion SFU": 20.4},
    ),
    Scenario(
        "video-1-50-cm",
        "video, 1 → 50, AES-CM-SHA1",
        (CAMERA,),
        speakers=1,
        viewers=50,
        group="headline",
        cipher=Cipher.CM,
        peers_us={"LiveKit": 18.5, "mediasoup": 13.2, "Janus": 30.1, "Pion SFU": 22.6},
    ),
    Scenario(
        "audio-10-20",
        "audio, 10 → 20",
        (MICROPHONE,),
        speakers=10,
        viewers=20,
        group="headline",
        target_us=2.5,
        peers_us={"LiveKit": 15.4, "mediasoup": 8.5, "Janus": 16.9, "Pion SFU": 22.8},
    ),
    Scenario(
        "meeting-6",
        "meeting, 6 × 6, simulcast and audio",
        (SIMULCAST, MICROPHONE),
        members=6,
        group="headline",
        is_ramped=True,
        target_us=5.0,
        peers_us={"LiveKit": 23.3, "mediasoup": 18.2, "Janus": 24.6, "Pion SFU": 26.3},
    ),
)


def _fan_out(viewers: int) -> Scenario:
    title = f"livestream of 0.5 Mbit/s, 1 → {viewers:_}".replace("_", " ")
    return Scenario(f"live-1-{viewers}", title, (SMALL,), speakers=1, viewers=viewers, group="fan-out")


def _rooms(rooms: int) -> Scenario:
    title = f"{rooms} {'room' if rooms == 1 else 'rooms'}, 1 → 4 at 0.5 Mbit/s each"
    return Scenario(f"rooms-{rooms}", title, (SMALL,), speakers=1, viewers=4, rooms=rooms, group="rooms")


def _lossy(percent: int) -> Scenario:
    title = f"video, 1 → 50, {percent} % lost each way"
    return Scenario(
        f"video-1-50-loss-{percent}", title, (CAMERA,), speakers=1, viewers=50, loss=percent / 100, group="loss"
    )


def _variant(scenario: Scenario, suffix: str, words: str, group: str) -> Scenario:
    """The same people, measured by itself: what is known and wanted of the original is not of it."""
    return replace(
        scenario,
        name=f"{scenario.name}-{suffix}",
        title=f"{scenario.title}, {words}",
        group=group,
        is_ramped=False,
        target_us=None,
        peers_us={},
    )


def _with_and_without(scenario: Scenario) -> Scenario:
    """For the same server with a part of its work and without."""
    return _variant(scenario, "both", "with and without", "estimation")


def _taking_runs(scenario: Scenario) -> Scenario:
    return replace(_variant(scenario, "runs", "clients take runs", "offload"), takes_runs=True)


FULL = (
    *STANDARD,
    *map(_with_and_without, STANDARD),
    *map(_taking_runs, STANDARD),
    Scenario(
        "video-1-200",
        "video, 1 → 200",
        (CAMERA,),
        speakers=1,
        viewers=200,
        group="large",
        peers_us={"LiveKit": 9.1, "mediasoup": 9.3, "Pion SFU": 11.0},
    ),
    Scenario("video-1-500", "video, 1 → 500", (CAMERA,), speakers=1, viewers=500, group="large"),
    Scenario("audio-10-500", "audio, 10 → 500", (MICROPHONE,), speakers=10, viewers=500, group="large"),
    Scenario(
        "meeting-50",
        "meeting, 50 × 50, 9 tiles and 4 voices each",
        (SIMULCAST, MICROPHONE),
        members=50,
        tiles=9,
        voices=4,
        group="large",
    ),
    Scenario(
        "rooms-100x4",
        "100 rooms of 4, thumbnails and audio",
        (THUMBNAIL, MICROPHONE),
        members=4,
        rooms=100,
        group="large",
    ),
    *map(_fan_out, (10, 50, 200, 500, 2_000)),
    *map(_rooms, (1, 10, 100, 500)),
    *map(_lossy, (1, 5)),
    Scenario(
        "join-50",
        "50 joins a second, one room",
        (SMALL,),
        speakers=1,
        viewers=250,
        joins_per_second=50,
        group="joins",
    ),
    Scenario(
        "join-50-rooms",
        "50 joins a second, 25 rooms",
        (SMALL,),
        speakers=1,
        viewers=10,
        rooms=25,
        joins_per_second=50,
        group="joins",
    ),
    Scenario(
        "join-200",
        "200 joins a second, 20 rooms",
        (SMALL,),
        speakers=1,
        viewers=50,
        rooms=20,
        joins_per_second=200,
        group="joins",
    ),
    Scenario(
        "churn",
        "10 rooms 1 → 20, 20 viewers a second leave and come back",
        (SMALL,),
        speakers=1,
        viewers=20,
        rooms=10,
        churn_per_second=20,
        group="joins",
    ),
)
GROUPS = tuple(dict.fromkeys(scenario.group for scenario in FULL))


def named(name: str) -> Scenario:
    """`KeyError` if there is none."""
    return {scenario.name: scenario for scenario in FULL}[name]
