"""What is measured, as data: who sends what to whom. Nothing here knows a server or a clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sfu.load import Codec
from signaling.load.plan import MICROPHONE, Layer, Track


class Cipher(StrEnum):
    """What a client offers; the server may take the stronger of two GCMs."""

    GCM = "gcm"
    CM = "cm"


@dataclass(frozen=True)
class Scenario:
    """`speakers` send, `viewers` receive, `members` do both; everybody who receives gets all tracks but his own."""

    name: str
    title: str
    tracks: tuple[Track, ...]
    speakers: int = 0
    members: int = 0
    viewers: int = 0
    cipher: Cipher = Cipher.GCM
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

    @property
    def forwarded_per_second(self) -> float:
        """Packets a second that one room's subscribers are to get, retransmissions aside."""
        total = 0.0
        for subscriber in range(self.subscribers):
            others = self.publishers - (1 if subscriber < self.members else 0)
            for position in range(others):
                total += sum(track.layers[track.layer_for(position)].packets_per_second for track in self.tracks)
        return total


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

STANDARD = (
    Scenario(
        "video-1-50",
        "video, 1 → 50, AES-GCM",
        (CAMERA,),
        speakers=1,
        viewers=50,
        target_us=2.0,
        peers_us={"LiveKit": 15.5, "mediasoup": 12.8, "Janus": 18.2, "Pion SFU": 20.4},
    ),
    Scenario(
        "video-1-50-cm",
        "video, 1 → 50, AES-CM-SHA1",
        (CAMERA,),
        speakers=1,
        viewers=50,
        cipher=Cipher.CM,
        peers_us={"LiveKit": 18.5, "mediasoup": 13.2, "Janus": 30.1, "Pion SFU": 22.6},
    ),
    Scenario(
        "audio-10-20",
        "audio, 10 → 20",
        (MICROPHONE,),
        speakers=10,
        viewers=20,
        target_us=2.5,
        peers_us={"LiveKit": 15.4, "mediasoup": 8.5, "Janus": 16.9, "Pion SFU": 22.8},
    ),
    Scenario(
        "meeting-6",
        "meeting, 6 × 6, simulcast and audio",
        (SIMULCAST, MICROPHONE),
        members=6,
        target_us=5.0,
        peers_us={"LiveKit": 23.3, "mediasoup": 18.2, "Janus": 24.6, "Pion SFU": 26.3},
    ),
)

FULL = (
    *STANDARD,
    Scenario(
        "video-1-200",
        "video, 1 → 200",
        (CAMERA,),
        speakers=1,
        viewers=200,
        peers_us={"LiveKit": 9.1, "mediasoup": 9.3, "Pion SFU": 11.0},
    ),
    Scenario("video-1-500", "video, 1 → 500", (CAMERA,), speakers=1, viewers=500),
    Scenario("audio-10-500", "audio, 10 → 500", (MICROPHONE,), speakers=10, viewers=500),
)
