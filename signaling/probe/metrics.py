"""The watched probe's figures for Prometheus: base units, and only labels whose values are listed here.

Where a run failed, what it could not measure becomes NaN, so that a graph shows a gap and not yesterday's figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from signaling.probe.failure import Step
from signaling.probe.report import JOIN_STEPS, Leg, Report

KINDS = ("audio", "video")
_STEP_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 15)


class ProbeMetrics:
    """Owns a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.success = Gauge("callyard_probe_success", "1 when the last run held, else 0.", registry=self.registry)
        self.last_run = Gauge(
            "callyard_probe_last_run_timestamp_seconds", "When the last run began, Unix time.", registry=self.registry
        )
        self.runs = Counter("callyard_probe_runs", "Runs by result.", ["result"], registry=self.registry)
        self.failures = Counter("callyard_probe_failures", "Failed runs by step.", ["step"], registry=self.registry)
        self.steps = Histogram(
            "callyard_probe_step_seconds",
            "From the beginning of a join into a running call to each of its steps.",
            ["step"],
            buckets=_STEP_BUCKETS,
            registry=self.registry,
        )
        self.round_trip = Gauge(
            "callyard_probe_round_trip_seconds",
            "Median STUN round trip of the media path, the slower participant's.",
            registry=self.registry,
        )
        self.video_delay = Gauge(
            "callyard_probe_video_delay_seconds",
            "Median time from a frame's making to its decoding, the slower participant's.",
            registry=self.registry,
        )
        self.jitter = Gauge(
            "callyard_probe_jitter_seconds", "Interarrival jitter (RFC 3550).", ["kind"], registry=self.registry
        )
        self.packets = Counter(
            "callyard_probe_received_packets", "Media packets received.", ["kind"], registry=self.registry
        )
        self.lost = Counter("callyard_probe_lost_packets", "Never received.", ["kind"], registry=self.registry)
        self.recovered = Counter(
            "callyard_probe_recovered_packets", "Received by retransmission.", ["kind"], registry=self.registry
        )
        self.connection = Gauge(
            "callyard_probe_connection_info",
            "1 for what the last run negotiated.",
            ["path", "dtls", "srtp"],
            registry=self.registry,
        )
        for result in ("success", "failure"):
            self.runs.labels(result)
        for step in Step:
            self.failures.labels(step.value)

    def observe(self, report: Report) -> None:
        """Take in one run."""
        self.success.set(int(report.ok))
        self.last_run.set(report.started_at)
        self.runs.labels("success" if report.ok else "failure").inc()
        if report.failed_step is not None:
            self.failures.labels(report.failed_step.value).inc()
        if report.legs:
            for step in JOIN_STEPS:
                if (seconds := report.legs[-1].steps.get(step)) is not None:
                    self.steps.labels(step.value).observe(seconds)
        self.round_trip.set(_slowest(leg.round_trip_seconds for leg in report.legs))
        self.video_delay.set(_slowest(leg.video_delay_seconds for leg in report.legs))
        for kind in KINDS:
            figures = [leg.audio if kind == "audio" else leg.video for leg in report.legs]
            self.jitter.labels(kind).set(_slowest(one.jitter_seconds for one in figures if one.packets))
            self.packets.labels(kind).inc(sum(one.packets for one in figures))
            self.lost.labels(kind).inc(sum(one.lost for one in figures))
            self.recovered.labels(kind).inc(sum(one.recovered for one in figures))
        self.connection.clear()
        for leg in report.legs:
            if leg.srtp_cipher:
                self.connection.labels(*_negotiated(leg)).set(1)


def _negotiated(leg: Leg) -> tuple[str, str, str]:
    return leg.path, leg.dtls_version, leg.srtp_cipher


def _slowest(values: Iterable[float | None]) -> float:
    return max((value for value in values if value is not None), default=math.nan)
