"""A load test's outcome for people, for programs and for Prometheus. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from rich.table import Table

from sfu.load import MediaStats
from signaling.load.run import Outcome


def quantile(values: Sequence[float], share: float) -> float:
    """Nearest rank; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def document(outcome: Outcome) -> dict[str, Any]:
    """Everything, as JSON takes it. Times in seconds unless a name says otherwise."""
    progress = outcome.progress
    return {
        "participants": progress.participants,
        "joined": progress.joined,
        "left_and_came_back": progress.left,
        "transports_connected": progress.connected,
        "subscribers_with_media": progress.with_media,
        "failed": progress.failed,
        "failures": progress.failures,
        "ciphers": progress.ciphers,
        "join_seconds": {"p50": quantile(progress.join_seconds, 0.5), "p99": quantile(progress.join_seconds, 0.99)},
        "joining": msgspec.to_builtins(outcome.joining),
        "running": msgspec.to_builtins(outcome.stats),
    }


def table(outcome: Outcome) -> Table:
    progress, stats = outcome.progress, outcome.stats
    shown = Table(show_header=False, box=None)
    first_media = outcome.joining.first_media_time
    shown.add_row("participants", f"{progress.participants}; {progress.joined} joins, {progress.failed} failures")
    shown.add_row("media", f"reached {progress.with_media} subscribers")
    shown.add_row(
        "join",
        f"signal p50 {1_000 * quantile(progress.join_seconds, 0.5):.0f} ms, "
        f"p99 {1_000 * quantile(progress.join_seconds, 0.99):.0f} ms; "
        f"first media p50 {first_media.p50_ns / 1e6:.0f} ms, p99 {first_media.p99_ns / 1e6:.0f} ms "
        "after the transport's start",
    )
    shown.add_row("ciphers", ", ".join(f"{cipher} × {count}" for cipher, count in sorted(progress.ciphers.items())))
    for kind, media in (("audio", stats.audio), ("video", stats.video)):
        if media.sent_packets or media.received_packets:
            shown.add_row(kind, _media_line(media, stats.elapsed_us / 1e6))
    lateness = stats.send_lateness.p99_ns / 1e6
    shown.add_row("generator", f"p99 {lateness:.1f} ms late, {stats.socket_overflows} packets lost in its own sockets")
    for sentence in progress.failures:
        shown.add_row("failure", sentence)
    return shown


def _media_line(media: MediaStats, seconds: float) -> str:
    lost = media.lost / media.expected if media.expected else 0.0
    rate = media.received_packets / seconds if seconds else 0.0
    mbps = media.received_bytes * 8 / seconds / 1e6 if seconds else 0.0
    return (
        f"{media.sent_packets} packets sent, {media.received_packets} received on {media.streams} streams "
        f"({rate:.0f}/s, {mbps:.1f} Mbit/s); {lost:.2%} lost, {media.recovered} recovered, {media.duplicates} twice, "
        f"{media.reordered} late; "
        f"one way p50 {media.latency.p50_ns / 1e6:.2f} ms, p99 {media.latency.p99_ns / 1e6:.2f} ms"
    )


def prometheus(outcome: Outcome) -> str:
    """For the textfile collector."""
    progress, stats = outcome.progress, outcome.stats
    metrics: list[tuple[str, str, str, Mapping[str, str], float]] = [
        ("participants", "gauge", "Participants that joined", {}, progress.joined),
        ("failures", "gauge", "Participants and transports that failed", {}, progress.failed),
        (
            "join_seconds",
            "gauge",
            "Time to the join response",
            {"quantile": "0.99"},
            quantile(progress.join_seconds, 0.99),
        ),
        (
            "first_media_seconds",
            "gauge",
            "From a transport's start to its first media",
            {"quantile": "0.99"},
            outcome.joining.first_media_time.p99_ns / 1e9,
        ),
    ]
    for kind, media in (("audio", stats.audio), ("video", stats.video)):
        label = {"kind": kind}
        metrics += [
            ("received_packets", "gauge", "Packets received while running", label, media.received_packets),
            ("lost_packets", "gauge", "Packets that never came", label, media.lost),
            (
                "latency_seconds",
                "gauge",
                "One-way latency",
                label | {"quantile": "0.99"},
                media.latency.p99_ns / 1e9,
            ),
        ]
    return "\n".join(_lines(metrics)) + "\n"


def _lines(metrics: Sequence[tuple[str, str, str, Mapping[str, str], float]]) -> Iterator[str]:
    told: set[str] = set()
    for name, kind, text, labels, value in sorted(metrics, key=lambda metric: metric[0]):
        full = f"callyard_load_{name}"
        if full not in told:
            told.add(full)
            yield f"# HELP {full} {text}."
            yield f"# TYPE {full} {kind}"
        shown = ",".join(f'{key}="{label}"' for key, label in labels.items())
        yield f"{full}{{{shown}}} {value:g}" if shown else f"{full} {value:g}"
