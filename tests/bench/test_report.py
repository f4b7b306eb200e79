"""From raw results to the table and the page."""

from __future__ import annotations

import msgspec

from bench import report
from bench.machine import Machine
from bench.measure import Limit, Run
from bench.report import Figure, Results

MACHINE = Machine(cpu="A processor", cores=2, kernel="6.1", python="3.11.7")


def run(peer: str, cpu_us: float, rooms: int = 1, load: float = 0.5) -> Run:
    return Run(
        peer=peer,
        scenario="video-1-50",
        rooms=rooms,
        seconds=6.0,
        cipher="aead_aes_256_gcm",
        sent=1_560,
        packets=78_000,
        expected=78_000,
        lost=1,
        duplicates=0,
        cpu_us_per_packet=cpu_us,
        user_us_per_packet=cpu_us / 2,
        system_us_per_packet=cpu_us / 2,
        core_share=0.5,
        switches_per_1000=10,
        p50_us=300,
        p99_us=700,
        p999_us=900,
        bytes_per_subscriber=100_000,
        first_media_p99_ms=200,
        generator_overflows=0,
        generator_lateness_p99_us=50,
        load_average=load,
    )


def results() -> Results:
    return Results(
        machine=MACHINE,
        date="2026-01-02",
        runs=(run("Callyard", 3.0), run("Other", 9.0), run("Callyard", 1.0), run("Callyard", 2.0)),
        half_load=(run("Callyard", 1.5, rooms=20),),
        limits=(Limit(scenario="video-1-50", bare_us=1.2, fanout_us=0.6),),
        skipped=("Another: not to be had here",),
    )


def test_figures_are_medians_with_their_spread() -> None:
    assert Figure.of([3.0, 1.0, 2.0]) == Figure(2.0, 1.0, 3.0)
    assert Figure.of([3.0, 1.0, 2.0]).show() == "2.00 (1.00 – 3.00)"
    assert Figure.of([1.0]).show(1) == "1.0"


def test_rows_keep_servers_apart_and_bring_their_own_half_load() -> None:
    ours, other = report.rows(results())
    assert (ours.peer, ours.runs, ours.cpu_us.value, ours.lost) == ("Callyard", 3, 2.0, 3)
    assert ours.half is not None
    assert (other.peer, other.cpu_us.value, other.half) == ("Other", 9.0, None)


def test_the_page_has_the_figures_the_machine_and_what_was_left_out() -> None:
    page = report.page(results())
    assert "A processor, 2 cores, Linux 6.1" in page
    assert "| 2.00 (1.00 – 3.00) | 1.0 + 1.0 | ≤ 2 | 0.60 | 1.20 |" in page
    assert "* Another: not to be had here" in page
    assert "**The machine was busy" not in page


def test_the_page_says_when_the_machine_was_busy() -> None:
    busy = msgspec.structs.replace(results(), runs=(run("Callyard", 3.0, load=9.0),))
    assert "**The machine was busy" in report.page(busy)
