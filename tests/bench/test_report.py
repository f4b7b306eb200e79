"""From raw results to tables and the page."""

from __future__ import annotations

import msgspec

from bench import report
from bench.results import Figure, Gap
from tests.bench.made import results, run

MEASURED = results(
    run("Callyard", 3.0), run("Other", 9.0), run("Callyard", 1.0), run("Callyard", 2.0),
    skipped=(Gap("", "Another", "not to be had here"),),
)  # fmt: skip


def test_figures_are_medians_with_their_spread() -> None:
    assert Figure.of([3.0, 1.0, 2.0]) == Figure(2.0, 1.0, 3.0)
    assert Figure.of([3.0, 1.0, 2.0]).show() == "2.00 (1.00 – 3.00)"
    assert Figure.of([1.0]).show(1) == "1.0"


def test_rows_keep_servers_apart() -> None:
    ours, other = report.rows(MEASURED)
    assert (ours.peer, ours.runs, ours.cpu_us.value) == ("Callyard", 3, 2.0)
    assert (other.peer, other.cpu_us.value) == ("Other", 9.0)


def test_the_page_has_the_figures_the_machine_and_what_was_left_out() -> None:
    page = report.page(MEASURED)
    assert "A processor, 2 cores, Linux 6.1" in page
    assert "| 2.00 (1.00 – 3.00) | 1.0 + 1.0 | ≤ 2 | 0.60 | 1.20 |" in page
    assert "* Another: not to be had here" in page
    assert "**The machine was busy" not in page


def test_the_page_says_when_the_machine_or_the_clients_were_busy() -> None:
    assert "**The machine was busy" in report.page(results(run("Callyard", 3.0, load=9.0)))
    late = report.page(results(run("Callyard", 3.0, lateness_us=50_000)))
    assert "| 3.00 † |" in late
    assert "The clients' core was full" in late


def test_targets_are_held_against_the_best_other_server_and_the_limit() -> None:
    found = report.checks(results(run("Callyard", 2.0), run("Slow", 20.0), run("Fast", 9.0, p99_us=400)))
    assert [(check.found, check.passed) for check in found] == [
        ("4.5 × (Fast); the limit itself 15.0 ×", False),
        ("0.30", False),
        ("700, 400 (Fast)", False),
        ("100", True),
    ]
    good = report.checks(results(run("Callyard", 0.8), run("Fast", 9.0)))
    assert [check.passed for check in good] == [True, True, True, True]


def test_the_floor_is_shown_beside_the_servers_but_is_none_of_them() -> None:
    found = report.checks(results(run("Callyard", 2.0), run("Fast", 9.0), run(report.FLOOR, 6.0, p99_us=1)))
    assert found[0].found == "4.5 × (Fast), 3.0 × (floor); the limit itself 15.0 ×"
    assert found[2].found == "700, 700 (Fast)"


def test_flatness_is_told_by_the_worst_of_a_group() -> None:
    flat, steep = (
        report.checks(results(run("Callyard", 1.0, scenario="rooms-1"), run("Callyard", us, scenario="rooms-500")))[-1]
        for us in (1.1, 2.0)
    )
    assert (flat.passed, steep.passed) == (True, False)
    assert flat.found == "1.00 – 1.10 µs, 5% off the median", "the limit is that of one room"
    people = results(run("Callyard", 1.0, scenario="live-1-10"), run("Callyard", 2.0, scenario="live-1-50"))
    assert report.checks(people)[-1].found == (
        "1.00 – 2.00 µs, 33% off the median; the limit itself 0.60 – 0.60 µs, 0% off the median"
    )


def test_what_estimation_costs_is_told_beside_the_same_server_without_it() -> None:
    pair = [
        run("Callyard", 2.2, scenario="audio-10-20-both"),
        run(report.UNESTIMATED, 2.0, scenario="audio-10-20-both"),
    ]
    (check,) = report.checks(results(*pair))
    assert (check.found, check.passed) == ("2.00 → 2.20 µs, +10%", True)
    (dear,) = report.checks(results(msgspec.structs.replace(pair[0], cpu_us_per_packet=2.4), pair[1]))
    assert (dear.found, dear.passed) == ("2.00 → 2.40 µs, +20%", False)


def test_first_pictures_have_their_table_and_their_target() -> None:
    page = report.page(results(run("Callyard", 2.0, scenario="join-50", first_ms=400)))
    assert "| 50 joins a second, one room | Callyard | 50 | 200 / 400 | 20 | 20 | 20 | 20 | 3.0 |" in page
    assert "* 50 joins a second, one room, Callyard: first picture p99 ≤ 300 ms: 400 ms ✗" in page


def test_the_knee_is_the_greatest_load_carried_well_and_says_when_it_was_not_found() -> None:
    ramp = (
        run("Callyard", 2.0, rooms=10),
        run("Callyard", 2.0, rooms=20, lateness_us=50_000),
        run("Other", 9.0, rooms=3),
        run("Other", 9.0, rooms=6, p99_us=90_000),
        run("Lossy", 9.0, rooms=2, lost=50_000),
    )
    measured = results(run("Callyard", 2.0), run("Other", 9.0), run("Lossy", 9.0, lost=50_000), ramp=ramp)
    ours, other, lossy = report.knees(measured)
    assert ours.best is not None
    assert (ours.best.rooms, ours.is_beyond) == (10, True), "where the clients were full nothing was learnt"
    assert other.best is not None
    assert (other.best.rooms, other.is_beyond) == (3, False)
    assert lossy.best is None
    assert "| ≥ 10 | ≥ 130 000 |" in report.page(measured)


def test_the_readme_shows_all_servers_side_by_side() -> None:
    table = report.readme(MEASURED)
    assert "| CPU µs a forwarded packet | Callyard | Other | fan-out limit | bare `sendto` |" in table
    assert "| video, 1 → 50, AES-GCM | 2.0 | 9.0 | 0.6 | 1.2 |" in table
