"""What a load test does, as values: who joins where and when, what they send and watch. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from sfu.load import Codec


@dataclass(frozen=True)
class Layer:
    packets_per_second: float
    payload_bytes: int
    width: int = 1280
    height: int = 720
    rid: str | None = None

    @property
    def bitrate_bps(self) -> int:
        return int(self.packets_per_second * self.payload_bytes * 8)


@dataclass(frozen=True)
class Track:
    codec: Codec
    frames_per_second: float
    layers: tuple[Layer, ...]
    """Lowest first."""
    watched: tuple[int, ...] = (0,)
    """Which layer a subscriber's n-th track of this codec is watched in; the last stands for all that follow."""

    @property
    def is_video(self) -> bool:
        return self.codec is not Codec.OPUS

    def layer_for(self, position: int) -> int:
        return self.watched[min(position, len(self.watched) - 1)]

    def phase_us(self, number: int) -> int:
        """When the `number`th publisher begins, microseconds: any number is spread evenly over a picture's time."""
        golden_ratio = 0.618_034
        return round(round(1_000_000 / self.frames_per_second) * (number * golden_ratio % 1))


MICROPHONE = Track(Codec.OPUS, 50, (Layer(50, 100, 0, 0),))


def camera(codec: Codec, bitrate_bps: int, *, layers: int) -> Track:
    """A camera at 30 pictures a second, with 1 to 3 layers: of all of the bitrate, a quarter, an eighth."""

    def layer(bps: float, width: int, height: int, rid: str | None) -> Layer:
        # As few packets as the largest payload allows, but one a picture.
        packets = max(30.0, bps / 8 / 1_160)
        return Layer(packets, max(64, min(1_160, int(bps / 8 / packets))), width, height, rid)

    if layers == 1:
        return Track(codec, 30, (layer(bitrate_bps, 1280, 720, None),))
    # Two layers are named as browsers name the lower two of three.
    names = ("q", "h", "f")[:layers]
    shapes = ((8, 320, 180), (4, 640, 360), (1, 1280, 720))[-layers:]
    sizes = tuple(
        layer(bitrate_bps / part, width, height, rid) for (part, width, height), rid in zip(shapes, names, strict=True)
    )
    watched = (layers - 1, 1, 1, 0) if layers == 3 else (1, 0)
    return Track(codec, 30, sizes, watched=watched)


@dataclass(frozen=True)
class Join:
    """One participant, and when he comes, seconds after the start."""

    room: str
    identity: str
    sends: bool
    receives: bool
    at_seconds: float


@dataclass(frozen=True)
class Plan:
    """In each room `speakers` send, `viewers` receive, `members` do both; nobody is sent his own tracks."""

    rooms: int
    tracks: tuple[Track, ...]
    prefix: str
    """Room names are this and a number."""
    speakers: int = 0
    members: int = 0
    viewers: int = 0
    joins_per_second: float = 50.0

    def joins(self) -> Iterator[Join]:
        """In the order of their coming: those who send first, so that viewers find something."""
        numbers = count()
        roles = (("speaker", self.speakers, True, False), ("member", self.members, True, True))
        for name, people, sends, receives in (*roles, ("viewer", self.viewers, False, True)):
            for index in range(people):
                for room in range(self.rooms):
                    at = next(numbers) / self.joins_per_second
                    yield Join(f"{self.prefix}-{room}", f"{name}-{index}", sends, receives, at)

    @property
    def participants(self) -> int:
        return self.rooms * (self.speakers + self.members + self.viewers)

    @property
    def expects_media(self) -> int:
        """How many participants are to get media."""
        publishers = self.speakers + self.members
        members = self.members if publishers > 1 else 0
        return self.rooms * (members + self.viewers if publishers else 0)
