"""What a run found, as values; as text for people and as JSON for programs. Figures are in base units."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from signaling.probe.failure import Step

JOIN_STEPS = (Step.SIGNAL, Step.ICE, Step.DTLS, Step.FIRST_PACKET, Step.FIRST_FRAME)
"""Those with a time, in order."""


@dataclass(frozen=True)
class MediaFigures:
    """Of one received stream. `lost` never came, `recovered` came by RTX."""

    packets: int = 0
    lost: int = 0
    recovered: int = 0
    jitter_seconds: float = 0.0


@dataclass(frozen=True)
class Leg:
    """What one participant saw.

    `steps`: seconds since its join began. The first participant joins an empty room, so its first packet and first
    frame count from the moment the second began to publish.
    """

    name: str
    steps: dict[Step, float] = field(default_factory=dict)
    path: str = ""
    remote: str = ""
    dtls_version: str = ""
    srtp_cipher: str = ""
    signal_round_trip_seconds: float | None = None
    round_trip_seconds: float | None = None
    rtcp_round_trip_seconds: float | None = None
    audio: MediaFigures = field(default_factory=MediaFigures)
    video: MediaFigures = field(default_factory=MediaFigures)
    tone_hz: float | None = None
    frames: int = 0
    video_delay_seconds: float | None = None
    reliable_messages: int = 0
    lossy_messages: int = 0


@dataclass(frozen=True)
class Report:
    """`failed_step` and `failure` are None when everything held."""

    url: str
    mode: str
    started_at: float
    seconds: float
    legs: tuple[Leg, ...]
    failed_step: Step | None = None
    failure: str | None = None

    @property
    def ok(self) -> bool:
        return self.failed_step is None

    def as_json(self) -> str:
        """One line."""
        document: dict[str, Any] = {"ok": self.ok, **asdict(self)}
        return json.dumps(document, separators=(",", ":"))

    def verdict(self) -> str:
        """The sentence that says how it went."""
        if self.ok:
            return f"{self.url} works: audio, video and data passed in both directions."
        return f"Failed at {self.failed_step}: {self.failure}"


def table(legs: Iterable[Leg]) -> Table:
    """One column a participant."""
    legs = list(legs)
    shown = Table("", *(leg.name for leg in legs), box=None, pad_edge=False)
    for name, *values in _rows(legs):
        shown.add_row(name, *(Text(value) for value in values))
    return shown


def _rows(legs: list[Leg]) -> Iterator[tuple[str, ...]]:
    for step in JOIN_STEPS:
        yield (step.replace("_", " "), *(_milliseconds(leg.steps.get(step)) for leg in legs))
    yield ("path", *(f"{leg.path} {leg.remote}".strip() for leg in legs))
    yield ("DTLS", *(leg.dtls_version or "-" for leg in legs))
    yield ("SRTP", *(leg.srtp_cipher or "-" for leg in legs))
    yield ("round trip", *(_milliseconds(leg.round_trip_seconds) for leg in legs))
    yield ("round trip by RTCP", *(_milliseconds(leg.rtcp_round_trip_seconds) for leg in legs))
    yield ("round trip of signaling", *(_milliseconds(leg.signal_round_trip_seconds) for leg in legs))
    yield ("audio", *(_media(leg.audio) for leg in legs))
    yield ("video", *(_media(leg.video) for leg in legs))
    yield ("tone", *(f"{leg.tone_hz:.0f} Hz" if leg.tone_hz is not None else "-" for leg in legs))
    yield ("frames", *(str(leg.frames) for leg in legs))
    yield ("camera to screen", *(_milliseconds(leg.video_delay_seconds) for leg in legs))
    yield ("messages", *(f"{leg.reliable_messages} reliable, {leg.lossy_messages} lossy" for leg in legs))


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"


def _media(figures: MediaFigures) -> str:
    expected = figures.packets + figures.lost
    share = 100 * figures.lost / expected if expected else 0.0
    jitter = _milliseconds(figures.jitter_seconds)
    text = f"{figures.packets} packets, {figures.lost} lost ({share:.1f} %), jitter {jitter}"
    return text + (f", {figures.recovered} by RTX" if figures.recovered else "")
