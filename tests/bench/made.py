"""Raw results made up for tests."""

from __future__ import annotations

from bench.machine import Machine
from bench.measure import Joins, Limit, Quantiles, Run
from bench.results import Gap, Results
from bench.scenarios import named

MACHINE = Machine(cpu="A processor", cores=2, kernel="6.1", python="3.11.7")


def joins(p99_ms: float = 200) -> Joins:
    one = Quantiles(p50_ms=10, p99_ms=20)
    total = Quantiles(p50_ms=p99_ms / 2, p99_ms=p99_ms)
    return Joins(count=50, total=total, signal=one, ice=one, dtls=one, media=one, cpu_ms=3.0)


def run(
    peer: str,
    cpu_us: float,
    *,
    scenario: str = "video-1-50",
    rooms: int | None = None,
    load: float = 0.5,
    p99_us: float = 700,
    lost: int = 0,
    kb: float = 100,
    lateness_us: float = 50,
    first_ms: float = 200,
) -> Run:
    shape = named(scenario)
    count = shape.rooms if rooms is None else rooms
    packets = round(shape.forwarded_per_second * count * 6)
    return Run(
        peer=peer,
        scenario=scenario,
        rooms=count,
        seconds=6.0,
        cipher="aead_aes_256_gcm",
        publishers=shape.publishers * count,
        subscribers=shape.subscribers * count,
        received_tracks=shape.received_tracks * count,
        sent=round(shape.sent_per_second * count * 6),
        packets=packets,
        bytes=packets * 1_000,
        expected=packets,
        lost=lost,
        recovered=0,
        duplicates=0,
        cpu_us_per_packet=cpu_us,
        user_us_per_packet=cpu_us / 2,
        system_us_per_packet=cpu_us / 2,
        core_share=packets * cpu_us / 6e6,
        switches_per_1000=10,
        p50_us=300,
        p99_us=p99_us,
        p999_us=900,
        idle_bytes=30_000_000,
        published_bytes=600_000,
        subscribed_bytes=round(kb * 1_000 * shape.subscribers * count),
        joins=joins(first_ms),
        generator_overflows=0,
        generator_lateness_p99_us=lateness_us,
        load_average=load,
    )


def results(*runs: Run, ramp: tuple[Run, ...] = (), skipped: tuple[Gap, ...] = (), date: str = "2026-01-02") -> Results:
    """With a limit of 1.2 µs bare and 0.6 µs fanned out in every scenario that was run."""
    names = dict.fromkeys(run.scenario for run in runs)
    limits = tuple(Limit(scenario=name, bare_us=1.2, fanout_us=0.6) for name in names)
    return Results(machine=MACHINE, date=date, runs=runs, ramp=ramp, limits=limits, skipped=skipped)
