"""Counters of a real worker as an exposition that keeps Prometheus' conventions."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sfu import border, control
from sfu.metrics import WorkerMetrics
from sfu.node import Node, NodeError
from sfu.settings import NodeSettings


class Silent:
    """A worker that does not answer."""

    index = 7

    @property
    def info(self) -> control.Welcome:
        raise AssertionError("nothing is said about a worker that does not answer")

    async def counters(self) -> control.Counters:
        raise NodeError("no answer")


@pytest.fixture
async def exposition(run_directory: Path) -> str:
    node = Node(NodeSettings(workers=1, udp_port=0, run_directory=run_directory), lambda *_: None, lambda _: None)
    [worker] = await node.start()
    try:
        worker.send(border.RemoveTransport(transport=404))
        registry = CollectorRegistry()
        metrics = WorkerMetrics()
        registry.register(metrics)
        await metrics.refresh([worker, Silent()], 5)
        return generate_latest(registry).decode()
    finally:
        await node.stop(0)


async def test_figures_of_the_core_arrive(exposition: str) -> None:
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }
    worker = ("worker", "0")
    assert samples["callyard_commands_total", (worker,)] == 1
    assert samples["callyard_commands_rejected_total", (worker,)] == 1
    assert samples["callyard_worker_resident_bytes", (worker,)] > 1_000_000
    assert samples["callyard_workers", (("state", "answering"),)] == 1
    assert samples["callyard_workers", (("state", "silent"),)] == 1
    assert samples["callyard_workers", (("state", "missing"),)] == 3
    assert samples["callyard_packets_total", (("direction", "up"), ("kind", "video"), worker)] == 0
    assert samples["callyard_forward_latency_seconds_bucket", (("le", "0.001"), worker)] == 0
    assert samples["callyard_worker_info", (("build", "0.1.0"), worker)] == 1


async def test_names_and_labels_keep_the_conventions(exposition: str) -> None:
    families = list(text_string_to_metric_families(exposition))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.name.startswith("callyard_")
        assert not family.name.endswith(("_ms", "_us", "_microseconds", "_milliseconds"))
        assert family.documentation.endswith(".")
        for sample in family.samples:
            assert set(sample.labels) <= {
                "worker", "build", "state", "direction", "kind", "reason", "cipher", "protocol", "le", "level"
            }  # fmt: skip
            if family.type == "counter":
                assert sample.name.endswith("_total")
