"""From measured costs to cores, memory and bandwidth: `python -m bench.sizing`, and the page `docs/sizing.md`. Pure."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bench import report, results
from bench.measure import Run
from bench.report import OURS, WHOLE, Row
from bench.results import Figure, Results
from bench.scenarios import CAMERA, SIMULCAST, Scenario
from signaling.load.plan import MICROPHONE

RAW = Path(__file__).parent.parent / "docs" / "benchmarks.json"
USE = 0.6
"""Of every core: what is left takes bursts, joins and a neighbour's failure."""
TILES, VOICES = 9, 4
SPEAKERS = 10
_RTP_BYTES, _IP_BYTES = 40, 28
"""RTP header with extensions and SRTP tag; UDP and IPv4."""
_FLEET = 10_000


class Shape(StrEnum):
    MEETING = "meeting"
    LIVESTREAM = "livestream"
    AUDIO = "audio"


_MEASURED = {
    Shape.MEETING: ("meeting-6", "meeting-50"),
    Shape.LIVESTREAM: ("video-1-50", "video-1-200", "video-1-500"),
    Shape.AUDIO: ("audio-10-20", "audio-10-500"),
}
"""What costs of a packet are taken from: of these the one with the most similar number of people."""


class SizingError(Exception):
    """What is needed was not measured; the text is a sentence."""


def room(shape: Shape, people: int) -> Scenario:
    """Who sends what to whom in a room of so many people, at least two."""
    match shape:
        case Shape.MEETING:
            tracks = (SIMULCAST, MICROPHONE)
            return Scenario("room", "room", tracks, members=people, tiles=TILES, voices=VOICES)
        case Shape.LIVESTREAM:
            return Scenario("room", "room", (CAMERA, MICROPHONE), speakers=1, viewers=people - 1)
        case Shape.AUDIO:
            speakers = min(SPEAKERS, people)
            return Scenario("room", "room", (MICROPHONE,), members=speakers, viewers=people - speakers)


@dataclass(frozen=True)
class Memory:
    """Resident bytes of a worker, from growth in measured runs."""

    idle: float
    participant: float
    track: float
    """One track as one subscriber is sent it."""
    publisher: float
    """What is kept of one who sends, for retransmissions."""


@dataclass(frozen=True)
class Need:
    """Of so many rooms, all full at once."""

    cores: float
    """At `use` of each."""
    memory_bytes: float
    up_bps: float
    """Into the server; without feedback."""
    down_bps: float
    nodes: int


def memory(measured: Results) -> Memory:
    """`SizingError` without the runs that it takes."""

    def runs_of(*scenarios: str) -> list[Run]:
        for scenario in scenarios:
            own = [run for run in measured.runs if (run.scenario, run.peer) == (scenario, OURS)]
            if own:
                return own
        raise SizingError(f"Memory is taken from {scenarios[0]}, which was not measured.")

    # One more subscriber of one video, and one more of ten sounds: two equations for a participant and a track. With
    # many of them the growth is theirs and not the server's own.
    of_video = Figure.of(run.bytes_per_subscriber for run in runs_of("live-1-2000", "live-1-500", "video-1-50")).value
    of_sounds = Figure.of(run.bytes_per_subscriber for run in runs_of("audio-10-500", "audio-10-20")).value
    track = max(0.0, (of_sounds - of_video) / 9)
    participant = max(0.0, of_video - track)
    meetings = runs_of("meeting-6")
    grown = Figure.of((run.published_bytes + run.subscribed_bytes) / run.publishers for run in meetings).value
    publisher = max(0.0, grown - participant - 10 * track)
    return Memory(Figure.of(run.idle_bytes for run in meetings).value, participant, track, publisher)


def cost(measured: Results, shape: Shape, people: int) -> Row:
    """The measured scenario that is most alike. `SizingError` if there is none."""
    found = [row for name in _MEASURED[shape] if (row := report.row_of(report.rows(measured), name)) is not None]
    if not found:
        raise SizingError(f"No scenario of the kind “{shape}” was measured.")
    return min(found, key=lambda row: abs(math.log(_people(row.scenario) / people)))


def need(
    measured: Results, shape: Shape, rooms: int, people: int, *, cores: int = 16, gbps: float = 10, use: float = USE
) -> Need:
    """Rooms do not share a core, nor a packet. `cores` and `gbps`: of one node."""
    scenario = room(shape, people)
    us = cost(measured, shape, people).cpu_us.value
    kept = memory(measured)
    busy = rooms * scenario.forwarded_per_second * us / 1e6 / use
    down, up = rooms * _bps(scenario, is_down=True), rooms * _bps(scenario, is_down=False)
    everybody = scenario.publishers + scenario.viewers
    of_room = (
        everybody * kept.participant + scenario.received_tracks * kept.track + scenario.publishers * kept.publisher
    )
    nodes = max(math.ceil(busy / cores), math.ceil(max(up, down) / (gbps * 1e9 * use)), 1)
    return Need(
        cores=busy,
        memory_bytes=rooms * of_room + max(1, math.ceil(busy)) * kept.idle,
        up_bps=up,
        down_bps=down,
        nodes=nodes,
    )


def largest_room(measured: Results, shape: Shape, use: float = USE) -> int:
    """People in one room that one core carries; a room is never on two."""
    people = 2
    while need(measured, shape, 1, people * 2, use=use).cores <= 1 and people < 1 << 20:
        people *= 2
    low, high = people, people * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if need(measured, shape, 1, middle, use=use).cores <= 1 else (low, middle)
    return low


def _people(scenario: Scenario) -> int:
    return scenario.speakers + scenario.members + scenario.viewers


def _bps(scenario: Scenario, *, is_down: bool) -> float:
    over = _RTP_BYTES + _IP_BYTES
    if is_down:
        rates = (track.layers[track.layer_for(position)] for track, position in scenario.received())
        return sum(layer.packets_per_second * (layer.payload_bytes + over) * 8 for layer in rates)
    layers = [layer for track in scenario.tracks for layer in track.layers]
    return scenario.publishers * sum(layer.packets_per_second * (layer.payload_bytes + over) * 8 for layer in layers)


_HEAD = """\
# Sizing

Written by `python -m bench --pages` from [raw results](benchmarks.json); do not edit. Other rooms and machines:
`python -m bench.sizing --shape meeting --rooms 100 --people 6 --cores 16 --gbps 10`.

Measured on {machine.cpu}, Linux {machine.kernel}, {date} ([benchmarks](benchmarks.md)). Another machine: measure it
(`make bench`), or scale by the bare `sendto`, which is most of the cost. Over loopback the sender also pays for the
delivery; a network card that segments (UDP GSO) makes it cheaper.

## What one thing costs

| | |
|---|---|
"""
_RULES = """
## The arithmetic

* **Cores** = rooms × packets a second that one room's subscribers get × CPU a packet ÷ {use:g}. The cost is that of the
  measured scenario most alike; what publishers send is in it. A room is on one core: the largest room is what one core
  carries, and rooms of all sizes pack onto cores.
* **Memory** = people × participant + tracks received × track + people who send × what is kept of them, and an idle
  worker a core.
* **Bandwidth** counts UDP and IPv4 headers; feedback and retransmissions add a few per cent. The last table says where
  it is the network card that fills first.
* **Keep {rest:.0%} of every core free**: joins, key frames and speech come in bursts, and latency rises before a core
  is full (the knee in the benchmarks).

Meetings: everybody sends 720p simulcast of 2.4 Mbit/s and audio, and is sent {tiles} tiles (one large, two medium) and
{voices} voices. Livestreams: one camera of 2.4 Mbit/s with audio. Audio: {speakers} people speak, all listen.
"""
_PAPER = """
## On paper: {fleet} nodes

Nothing here was run at this size; it is the arithmetic above, times {fleet}. Nodes of 16 cores and 10 Gbit/s, at
{use:.0%} of either:
"""
_LIMITS = """
What makes this more than a multiplication, and what does not:

* **Forwarding** shares nothing between rooms, workers or nodes, so it multiplies. A room is as large as one core
  carries: an audience larger than the table's needs to be spread over several rooms by whoever publishes into them.
* **Which node has a room**: of a call the database says, whichever server is asked
  ([lifecycle](concepts/lifecycle.md)). A plain room is on the node that is asked for it: whoever runs several sends its
  people to one of them (by a hash of its name, or from the application's own records).
* **Calls** may be kept in one PostgreSQL for many nodes; what grows with joins are its writes. Their benchmark:
  `python -m bench.calls`.
* **Losing a node** loses its rooms' connections: clients come back at once, {per_node} people in the largest case, at
  the rate of joins that others take. Spread them over many nodes rather than one spare.
"""


def page(measured: Results) -> str:
    """The committed page; says what is missing where something was not measured."""
    head = _HEAD.format(machine=measured.machine, date=measured.date)
    try:
        return head + _body(measured)
    except SizingError as error:
        return f"{head}| not complete | {error} |\n"


def _body(measured: Results) -> str:
    kept = memory(measured)
    lines = [
        f"| a packet forwarded, {row.scenario.title} | {row.cpu_us.show()} µs of a core |" for row in _rows(measured)
    ]
    lines += [
        f"| a participant connected | {kept.participant / 1_000:.0f} KB |",
        f"| a track that he is sent | {kept.track / 1_000:.0f} KB |",
        f"| kept of one who sends simulcast and audio | {kept.publisher / 1_000:.0f} KB |",
        f"| an idle worker | {kept.idle / 1e6:.0f} MB |",
    ]
    joining = report.row_of(report.rows(measured), "join-50-rooms", WHOLE)
    if joining is not None:
        own = [run.joins.cpu_ms for run in measured.runs if (run.scenario, run.peer) == ("join-50-rooms", WHOLE)]
        lines.append(f"| a join, signaling and media, one core for both | {Figure.of(own).value:.0f} ms of a core |")
    rules = _RULES.format(use=USE, rest=1 - USE, tiles=TILES, voices=VOICES, speakers=SPEAKERS)
    lines += [rules, "## Rooms", ""]
    heads = ("rooms", "cores", "memory", "in", "out", "nodes of 16 cores, 10 Gbit/s")
    wanted = (
        (Shape.MEETING, 1, 6), (Shape.MEETING, 100, 6), (Shape.MEETING, 1_000, 4), (Shape.MEETING, 20, 50),
        (Shape.LIVESTREAM, 1, 500), (Shape.LIVESTREAM, 100, 50), (Shape.AUDIO, 1, 500), (Shape.AUDIO, 500, 20),
    )  # fmt: skip
    lines += report.markdown(heads, (_line(measured, *one) for one in wanted))
    largest = "; ".join(f"{shape} {_number(largest_room(measured, shape))}" for shape in Shape)
    lines += ["", f"The largest room that one core carries at {USE:.0%}, in people: {largest}."]
    lines.append(_PAPER.format(fleet=_number(_FLEET), use=USE))
    fleet = [(shape, people, _rooms_of_node(measured, shape, people)) for shape, people in _TYPICAL]
    paper_heads = ("rooms", "rooms a node", "people a node", "people in all", "out, in all", "fills first")
    lines += report.markdown(paper_heads, (_paper(measured, *one) for one in fleet))
    lines.append(_LIMITS.format(per_node=_number(max(rooms * people for _, people, rooms in fleet))))
    return "\n".join(lines).rstrip() + "\n"


_TYPICAL = ((Shape.MEETING, 6), (Shape.MEETING, 50), (Shape.LIVESTREAM, 100), (Shape.AUDIO, 20))


def _rows(measured: Results) -> list[Row]:
    names = [name for names in _MEASURED.values() for name in names]
    return [row for row in report.rows(measured) if row.peer == OURS and row.scenario.name in names]


def _line(measured: Results, shape: Shape, rooms: int, people: int) -> tuple[str, ...]:
    found = need(measured, shape, rooms, people)
    return (
        _rooms_text(shape, rooms, people),
        f"{found.cores:.1f}",
        _bytes(found.memory_bytes),
        _bits(found.up_bps),
        _bits(found.down_bps),
        str(found.nodes),
    )


def _rooms_of_node(measured: Results, shape: Shape, people: int) -> int:
    one = need(measured, shape, 1, people)
    return max(1, int(min(16 / one.cores, 10e9 * USE / max(one.up_bps, one.down_bps))))


def _paper(measured: Results, shape: Shape, people: int, rooms: int) -> tuple[str, ...]:
    one = need(measured, shape, 1, people)
    first = "cores" if 16 / one.cores < 10e9 * USE / max(one.up_bps, one.down_bps) else "the network card"
    return (
        f"{shape}, {people} people each",
        _number(rooms),
        _number(rooms * people),
        _number(rooms * people * _FLEET),
        _bits(rooms * _FLEET * one.down_bps),
        first,
    )


def _rooms_text(shape: Shape, rooms: int, people: int) -> str:
    return f"{_number(rooms)} × {shape}, {people} people" + (" each" if rooms > 1 else "")


def _number(value: float) -> str:
    return f"{value:_.0f}".replace("_", " ")


def _bytes(value: float) -> str:
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def _bits(value: float) -> str:
    for unit, size in (("Tbit/s", 1e12), ("Gbit/s", 1e9)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value / 1e6:.0f} Mbit/s"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.sizing", description=__doc__)
    parser.add_argument("--shape", type=Shape, choices=list(Shape), default=Shape.MEETING)
    parser.add_argument("--rooms", type=int, default=1, help="full at once")
    parser.add_argument("--people", type=int, default=6, help="in each, two at least")
    parser.add_argument("--cores", type=int, default=16, help="of one node")
    parser.add_argument("--gbps", type=float, default=10.0, help="of one node's network card")
    parser.add_argument("--use", type=float, default=USE, help="of each core and card")
    parser.add_argument("--results", type=Path, default=RAW, help="raw results to reckon with")
    given = parser.parse_args()
    if given.rooms < 1 or given.people < 2 or given.cores < 1 or given.gbps <= 0 or not 0 < given.use <= 1:
        parser.error("A room has two people at least, a node a core, and what is used is a share of it.")
    try:
        measured = results.read(given.results)
        found = need(
            measured, given.shape, given.rooms, given.people, cores=given.cores, gbps=given.gbps, use=given.use
        )
    except SizingError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{_rooms_text(given.shape, given.rooms, given.people)}, at {given.use:.0%} of each core:")
    print(f"  cores   {found.cores:.2f}")
    print(f"  memory  {_bytes(found.memory_bytes)}")
    print(f"  in      {_bits(found.up_bps)}")
    print(f"  out     {_bits(found.down_bps)}")
    print(f"  nodes   {found.nodes} of {given.cores} cores and {given.gbps:g} Gbit/s")
    if need(measured, given.shape, 1, given.people, use=given.use).cores > 1:
        print("  One such room is more than one core carries: a room is on one core.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
