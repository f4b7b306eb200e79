"""Figures of the rooms: counted where effects are carried out, gauges read at scrape time. Labels from closed sets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from signaling.rooms.core import RoomCore

_JOIN_BUCKETS = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 20)


class Hosted(Protocol):
    @property
    def cores(self) -> Iterator[RoomCore]: ...


class RoomMetrics(Collector):
    def __init__(self, registry: CollectorRegistry) -> None:
        self.dropped = Counter(
            "callyard_signal_dropped", "Messages and data of clients that were not used.", ["reason"], registry=registry
        )
        self.rejected = Counter(
            "callyard_commands_rejected", "Commands that a worker could not apply.", ["code"], registry=registry
        )
        self.refused = Counter(
            "callyard_joins_refused", "Signal connections refused before they began.", ["code"], registry=registry
        )
        self.left = Counter("callyard_participants_left", "Participants who have left.", ["reason"], registry=registry)
        self.join_seconds = Histogram(
            "callyard_join_duration_seconds",
            "From a participant's join to connected media.",
            buckets=_JOIN_BUCKETS,
            registry=registry,
        )
        self._hosted: Hosted | None = None
        registry.register(self)

    def watch(self, hosted: Hosted) -> None:
        """Whose rooms are counted."""
        self._hosted = hosted

    def collect(self) -> Iterator[Metric]:
        cores = list(self._hosted.cores) if self._hosted is not None else []
        people = [participant for core in cores for participant in core.participants.values()]
        tracks = [track for participant in people for track in participant.tracks.values() if track.is_published]
        yield GaugeMetricFamily("callyard_rooms", "Rooms that are open.", len(cores))
        yield GaugeMetricFamily("callyard_participants", "Participants in all rooms.", len(people))
        published = GaugeMetricFamily("callyard_tracks_published", "Published tracks.", labels=["kind"])
        for kind in ("audio", "video"):
            published.add_metric([kind], sum(track.kind == kind for track in tracks))
        yield published
        subscriptions = sum(len(participant.subscriptions) for participant in people)
        yield GaugeMetricFamily("callyard_tracks_subscribed", "Subscriptions to tracks.", subscriptions)
