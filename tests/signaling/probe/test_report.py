"""What a run says to people, to programs and to Prometheus."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from signaling.probe.failure import Step
from signaling.probe.metrics import ProbeMetrics
from signaling.probe.report import Leg, MediaFigures, Report, table

LEG = Leg(
    name="second",
    steps={Step.SIGNAL: 0.01, Step.ICE: 0.05, Step.DTLS: 0.06, Step.FIRST_PACKET: 0.1, Step.FIRST_FRAME: 0.2},
    path="udp",
    remote="192.0.2.1:7882",
    dtls_version="DTLSv1.2",
    srtp_cipher="AEAD_AES_256_GCM",
    round_trip_seconds=0.004,
    audio=MediaFigures(packets=98, lost=2, jitter_seconds=0.001),
    video=MediaFigures(packets=50, recovered=3, jitter_seconds=0.002),
    tone_hz=440.0,
    frames=45,
    video_delay_seconds=0.07,
    reliable_messages=3,
    lossy_messages=10,
)
GOOD = Report("ws://host", "dual", 1_700_000_000.0, 4.0, (replace(LEG, name="first", round_trip_seconds=0.001), LEG))
BAD = Report("ws://host", "dual", 1_700_000_060.0, 15.0, (Leg("first"),), Step.ICE, "No path to the server.")


def test_the_table_has_each_step_and_figure() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table(GOOD.legs))
    text = console.export_text()
    for expected in (
        "first packet",
        "100.0 ms",
        "udp 192.0.2.1:7882",
        "AEAD_AES_256_GCM",
        "98 packets, 2 lost (2.0 %)",
    ):
        assert expected in text
    assert "3 by RTX" in text


def test_the_verdict_is_one_sentence() -> None:
    assert GOOD.verdict() == "ws://host works: audio, video and data passed in both directions."
    assert BAD.verdict() == "Failed at ice: No path to the server."


def test_json_is_one_line_with_base_units() -> None:
    text = GOOD.as_json()
    assert "\n" not in text
    document = json.loads(text)
    assert document["ok"] is True
    assert document["legs"][1]["steps"]["first_frame"] == 0.2
    assert document["legs"][1]["audio"] == {"packets": 98, "lost": 2, "recovered": 0, "jitter_seconds": 0.001}
    assert json.loads(BAD.as_json())["failed_step"] == "ice"


def samples(metrics: ProbeMetrics) -> dict[tuple[str, tuple[str, ...]], float]:
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith(("_created", "_bucket"))
    }


def test_metrics_follow_the_runs() -> None:
    metrics = ProbeMetrics()
    metrics.observe(GOOD)
    metrics.observe(GOOD)
    seen = samples(metrics)
    assert seen["callyard_probe_success", ()] == 1
    assert seen["callyard_probe_runs_total", ("success",)] == 2
    assert seen["callyard_probe_runs_total", ("failure",)] == 0
    assert seen["callyard_probe_lost_packets_total", ("audio",)] == 8
    assert seen["callyard_probe_recovered_packets_total", ("video",)] == 12
    assert seen["callyard_probe_round_trip_seconds", ()] == 0.004, "the slower of the two"
    assert seen["callyard_probe_step_seconds_count", ("first_frame",)] == 2
    assert seen["callyard_probe_connection_info", ("DTLSv1.2", "udp", "AEAD_AES_256_GCM")] == 1


def test_a_failed_run_leaves_gaps_instead_of_old_figures() -> None:
    metrics = ProbeMetrics()
    metrics.observe(GOOD)
    metrics.observe(BAD)
    seen = samples(metrics)
    assert seen["callyard_probe_success", ()] == 0
    assert seen["callyard_probe_failures_total", ("ice",)] == 1
    assert seen["callyard_probe_last_run_timestamp_seconds", ()] == 1_700_000_060
    assert math.isnan(seen["callyard_probe_round_trip_seconds", ()])
    assert math.isnan(seen["callyard_probe_jitter_seconds", ("audio",)])
    assert not [key for key in seen if key[0] == "callyard_probe_connection_info"]


def test_every_label_value_is_known_beforehand() -> None:
    metrics = ProbeMetrics()
    metrics.observe(replace(BAD, failure="x" * 1000, url="ws://" + "y" * 1000))
    labels = {value for _, values in samples(metrics) for value in values}
    assert labels <= {*(step.value for step in Step), "success", "failure", "audio", "video"}
