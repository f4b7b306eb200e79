"""Workers' counters as Prometheus metrics: base units, `_total`, labels from closed sets only.

Read at scrape time: `refresh` asks every worker, `collect` turns the answers into samples. Counting is the core's
business (`sfu/core/proto/src/counters.rs`, `sfu/core/net/src/counters.rs`); no name of a room or client comes here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from sfu import control

_MICROSECONDS = 1e-6


class Worker(Protocol):
    """What is needed of a `sfu.node.WorkerHandle`."""

    @property
    def index(self) -> int: ...
    @property
    def info(self) -> control.Welcome: ...
    async def counters(self) -> control.Counters: ...


class _Plain(NamedTuple):
    """One figure of one counters section."""

    name: str
    help: str
    section: str
    field: str
    scale: float = 1


class _Labelled(NamedTuple):
    """A map of figures: each key is a label's value."""

    name: str
    help: str
    label: str
    field: str


# Prometheus appends `_total` to counters.
_COUNTERS = (
    _Plain("callyard_worker_cpu_seconds", "CPU time of the worker process.", "process", "cpu_seconds"),
    _Plain(
        "callyard_packet_thread_cpu_seconds",
        "CPU time of the worker's packet thread.",
        "net",
        "cpu_microseconds",
        _MICROSECONDS,
    ),
    _Plain("callyard_packet_thread_wakes", "Times the packet thread slept.", "net", "wakes"),
    _Plain("callyard_packet_thread_ticks", "Sleeps of a fixed tick, so that packets share wakes.", "net", "ticks"),
    _Plain("callyard_events_lost", "Events dropped because the queue to signaling was full.", "net", "events_dropped"),
    _Plain("callyard_udp_send_calls", "System calls that sent datagrams.", "net", "udp_send_calls"),
    _Plain("callyard_udp_sent_messages", "Messages sent; a segmented run is one.", "net", "udp_sent_messages"),
    _Plain("callyard_udp_receive_calls", "System calls that received datagrams.", "net", "udp_receive_calls"),
    _Plain(
        "callyard_udp_segmentation_refused",
        "Segmented runs a route refused; sent datagram by datagram.",
        "net",
        "udp_segmentation_refused",
    ),
    _Plain(
        "callyard_udp_received_aside",
        "Pictures' datagrams that stood aside for sound because the packet thread was late.",
        "net",
        "udp_received_aside",
    ),
    _Plain("callyard_ice_tcp_accepted", "ICE-TCP connections accepted.", "net", "tcp_accepted"),
    _Plain("callyard_commands", "Commands of signaling applied.", "engine", "commands"),
    _Plain("callyard_commands_rejected", "Commands that could not be applied.", "engine", "commands_rejected"),
    _Plain("callyard_events", "Events told to signaling.", "engine", "events"),
    _Plain("callyard_retransmitted_packets", "Packets sent again to subscribers.", "engine", "retransmitted"),
    _Plain(
        "callyard_retransmission_misses",
        "Packets asked for again that were no longer in the history or over the budget.",
        "engine",
        "retransmission_missed",
    ),
    _Plain("callyard_dtls_handshakes", "DTLS handshakes finished.", "engine", "dtls_handshakes"),
    _Plain("callyard_dtls_failures", "DTLS handshakes that failed.", "engine", "dtls_failed"),
    _Plain("callyard_dtls_refused", "DTLS handshakes that had to wait for room.", "engine", "dtls_refused"),
    _Plain("callyard_data_messages_dropped", "Data-channel messages dropped.", "engine", "data_messages_dropped"),
    _Plain(
        "callyard_data_channels_stalled",
        "Data channels reset because their reader did not read.",
        "engine",
        "data_channels_stalled",
    ),
    _Plain("callyard_panics", "Panics caught; each closed one transport.", "engine", "panics"),
    _Plain("callyard_path_switches", "Transports whose client changed its address.", "engine", "path_switches"),
    _Plain("callyard_layer_switches", "Subscribers' copies moved to another layer.", "engine", "layer_switches"),
    _Plain(
        "callyard_pictures_from_kept",
        "Pictures that began with a key frame that was kept.",
        "engine",
        "pictures_from_kept",
    ),
    _Plain(
        "callyard_climbs_in_two",
        "Climbs to a larger picture before whose key frame the smaller one of that moment was sent.",
        "engine",
        "climbs_in_two",
    ),
    _Plain("callyard_pacer_held_packets", "Packets that waited for a subscriber's link.", "engine", "pacer_held"),
    _Plain("callyard_pacer_dropped_packets", "Packets dropped while they waited.", "engine", "pacer_dropped"),
    _Plain("callyard_probes", "Probe clusters sent to learn what a link carries.", "engine", "probes"),
    _Plain("callyard_allocations", "Times that a subscriber's layers were chosen anew.", "engine", "allocations"),
    _Plain("callyard_breaker_trips", "Times that a circuit breaker (RFC 8083) has tripped.", "engine", "breaker_trips"),
    _Plain("callyard_unanswered", "Clients that answered and then fell silent.", "engine", "unanswered"),
    _Plain("callyard_traces", "Traces of subscribers that were begun.", "engine", "traces"),
    _Plain("callyard_traces_cut", "Traces that ended early because of their size.", "engine", "traces_cut"),
    _Plain("callyard_bandwidth_pauses", "Video paused for want of bandwidth.", "engine", "bandwidth_pauses"),
    _Plain(
        "callyard_redundancy_withheld",
        "Times that a subscriber's link had no room for redundant sound.",
        "engine",
        "redundancy_withheld",
    ),
    _Plain(
        "callyard_resent_unasked",
        "Retransmissions that were reported lost and left again before they were asked for.",
        "engine",
        "resent_unasked",
    ),
    _Plain("callyard_pings", "Pings to subscribers whose links limit what they get.", "engine", "pings"),
    _Plain("callyard_pongs", "Pings that were answered.", "engine", "pongs"),
)
_GAUGES = (
    _Plain("callyard_worker_resident_bytes", "Resident memory of the worker process.", "process", "resident_bytes"),
    _Plain("callyard_worker_memory_bytes", "What signaling left with the worker.", "process", "memory_bytes"),
    _Plain(
        "callyard_worker_loop_lag_seconds",
        "Longest lag of the worker's event loop since the last heartbeat.",
        "process",
        "loop_lag_seconds",
    ),
    _Plain("callyard_worker_uptime_seconds", "Age of the worker process.", "process", "uptime_seconds"),
    _Plain("callyard_worker_draining", "1 while the worker drains.", "process", "draining"),
    _Plain(
        "callyard_packet_thread_longest_pass_seconds",
        "Longest single pass of the packet thread since the last reading.",
        "net",
        "longest_pass_microseconds",
        _MICROSECONDS,
    ),
    _Plain("callyard_ice_tcp_connections", "ICE-TCP connections open now.", "net", "tcp_connections"),
    _Plain(
        "callyard_worker_overload_level",
        "What is given up for want of CPU: 0 nothing, 1 probes, 2 top layers, 3 many videos, 4 new videos, 5 joins.",
        "engine",
        "overload_level",
    ),
    _Plain("callyard_worker_rooms", "Rooms with transports on the worker.", "engine", "rooms"),
    _Plain("callyard_uptracks", "Published tracks as received, one per codec.", "engine", "uptracks"),
    _Plain("callyard_downtracks", "Subscribers' copies of tracks.", "engine", "downtracks"),
)
_LABELLED_COUNTERS = (
    _Labelled("callyard_packets_dropped", "Datagrams, or parts of them, thrown away.", "reason", "dropped"),
    _Labelled("callyard_copies_withheld", "Copies of packets not made for a subscriber.", "reason", "withheld"),
    _Labelled(
        "callyard_overload_seconds", "Time for which so much was given up for want of CPU.", "level", "overload_seconds"
    ),
    _Labelled("callyard_nacks_refused", "Packets asked for again and not sent again.", "reason", "nacks_refused"),
    _Labelled("callyard_transports_connected", "Transports connected so far.", "cipher", "ciphers"),
)
_NET_FAILURES = {
    "receive_overflow": "udp_receive_overflows",
    "receive_failed": "udp_receive_failed",
    "receive_truncated": "udp_received_truncated",
    "send_failed": "udp_send_failed",
    "send_would_block": "udp_send_would_block",
    "send_no_buffers": "udp_send_no_buffers",
    "tcp_send_dropped": "tcp_send_dropped",
    "tcp_refused": "tcp_refused",
    "tcp_idle_closed": "tcp_idle_closed",
    "tcp_malformed": "tcp_malformed",
}
_SOCKET_TRAFFIC = (
    ("up", "udp", "udp_received_datagrams", "udp_received_bytes"),
    ("down", "udp", "udp_sent_datagrams", "udp_sent_bytes"),
    ("up", "tcp", "tcp_received_frames", "tcp_received_bytes"),
    ("down", "tcp", "tcp_sent_frames", "tcp_sent_bytes"),
)


class WorkerMetrics(Collector):
    """Register once; `await refresh(node.workers)` before each exposition."""

    def __init__(self) -> None:
        self._readings: list[tuple[Worker, control.Counters]] = []
        self._workers = 0
        self._wanted = 0

    async def refresh(self, workers: Sequence[Worker], wanted: int) -> None:
        """Asks all workers at once. One that does not answer is left out, and shows in `callyard_workers`.

        wanted: how many there should be.
        """
        answers = await asyncio.gather(*(worker.counters() for worker in workers), return_exceptions=True)
        for answer in answers:
            # Whatever a worker does, metrics of the others go out; a programming error does not hide here.
            if isinstance(answer, BaseException) and not isinstance(answer, Exception):
                raise answer
        self._workers, self._wanted = len(workers), wanted
        self._readings = [
            (worker, answer)
            for worker, answer in zip(workers, answers, strict=True)
            if isinstance(answer, control.Counters)
        ]

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are fixed here, and registering must not ask workers."""
        return ()

    def collect(self) -> Iterator[Metric]:
        workers = GaugeMetricFamily(
            "callyard_workers", "Worker processes by whether they are there and answer.", labels=["state"]
        )
        workers.add_metric(["answering"], len(self._readings))
        workers.add_metric(["silent"], self._workers - len(self._readings))
        workers.add_metric(["missing"], max(0, self._wanted - self._workers))
        yield workers
        info = GaugeMetricFamily("callyard_worker_info", "Build of each worker; always 1.", labels=["worker", "build"])
        for worker, _ in self._readings:
            info.add_metric([str(worker.index), worker.info.build], 1)
        yield info
        yield from self._plain_families()
        yield from self._labelled_families()
        yield from self._traffic_families()
        yield self._forward_latency()

    def _each(self) -> Iterator[tuple[str, control.Counters]]:
        for worker, counters in self._readings:
            yield str(worker.index), counters

    def _plain_families(self) -> Iterator[Metric]:
        for spec in _COUNTERS:
            counter = CounterMetricFamily(spec.name, spec.help, labels=["worker"])
            for worker, counters in self._each():
                counter.add_metric([worker], _figure(counters, spec))
            yield counter
        for spec in _GAUGES:
            gauge = GaugeMetricFamily(spec.name, spec.help, labels=["worker"])
            for worker, counters in self._each():
                gauge.add_metric([worker], _figure(counters, spec))
            yield gauge

    def _labelled_families(self) -> Iterator[Metric]:
        for spec in _LABELLED_COUNTERS:
            counter = CounterMetricFamily(spec.name, spec.help, labels=["worker", spec.label])
            for worker, counters in self._each():
                for key, value in counters.engine.get(spec.field, {}).items():
                    counter.add_metric([worker, key], value)
            yield counter
        failures = CounterMetricFamily(
            "callyard_socket_failures", "What the kernel or a limit did not let through.", labels=["worker", "reason"]
        )
        transports = GaugeMetricFamily("callyard_transports", "Transports by state.", labels=["worker", "state"])
        feedback = CounterMetricFamily(
            "callyard_feedback_messages",
            "RTCP feedback by kind; up: from clients. NACK counts packets asked for.",
            labels=["worker", "direction", "kind"],
        )
        for worker, counters in self._each():
            for reason, field in _NET_FAILURES.items():
                failures.add_metric([worker, reason], counters.net[field])
            for state, value in counters.engine["transports"].items():
                transports.add_metric([worker, state], value)
            for direction, field in (("up", "feedback_in"), ("down", "feedback_out")):
                for kind, value in counters.engine[field].items():
                    feedback.add_metric([worker, direction, kind], value)
        yield from (failures, transports, feedback)

    def _traffic_families(self) -> Iterator[Metric]:
        labels = ["worker", "direction", "kind"]
        packets = CounterMetricFamily("callyard_packets", "Packets by kind; up: from clients.", labels=labels)
        octets = CounterMetricFamily("callyard_bytes", "Bytes of UDP payload by kind; up: from clients.", labels=labels)
        datagrams = CounterMetricFamily(
            "callyard_socket_datagrams",
            "Datagrams (or frames) through the sockets.",
            labels=["worker", "direction", "protocol"],
        )
        socket_bytes = CounterMetricFamily(
            "callyard_socket_bytes", "Bytes through the sockets.", labels=["worker", "direction", "protocol"]
        )
        messages = CounterMetricFamily(
            "callyard_data_messages", "Data-channel messages; up: from clients.", labels=["worker", "direction"]
        )
        message_bytes = CounterMetricFamily(
            "callyard_data_message_bytes", "Bytes of data-channel messages.", labels=["worker", "direction"]
        )
        for worker, counters in self._each():
            for direction in ("up", "down"):
                for kind, traffic in counters.engine[direction].items():
                    packets.add_metric([worker, direction, kind], traffic["packets"])
                    octets.add_metric([worker, direction, kind], traffic["bytes"])
            for direction, protocol, count, size in _SOCKET_TRAFFIC:
                datagrams.add_metric([worker, direction, protocol], counters.net[count])
                socket_bytes.add_metric([worker, direction, protocol], counters.net[size])
            for direction, field in (("up", "data_messages_in"), ("down", "data_messages_out")):
                messages.add_metric([worker, direction], counters.engine[field]["packets"])
                message_bytes.add_metric([worker, direction], counters.engine[field]["bytes"])
        yield from (packets, octets, datagrams, socket_bytes, messages, message_bytes)

    def _forward_latency(self) -> Metric:
        histogram = HistogramMetricFamily(
            "callyard_forward_latency_seconds",
            "From a packet's arrival in the kernel to its copies being ready to send.",
            labels=["worker"],
        )
        for worker, counters in self._each():
            latency = counters.engine["forward_latency"]
            histogram.add_metric([worker], buckets=_cumulative(latency), sum_value=latency["sum_us"] * _MICROSECONDS)
        return histogram


def _figure(counters: control.Counters, spec: _Plain) -> float:
    section: Mapping[str, Any] = {"net": counters.net, "engine": counters.engine, "process": counters.process}[
        spec.section
    ]
    # A worker may be older than this process: what it does not count yet is zero.
    return float(section.get(spec.field, 0)) * spec.scale


def _cumulative(latency: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Prometheus' buckets count everything up to their bound."""
    buckets: list[tuple[str, float]] = []
    total = 0
    bounds = [f"{bound * _MICROSECONDS:g}" for bound in latency["bounds_us"]]
    for bound, count in zip([*bounds, "+Inf"], latency["buckets"], strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
