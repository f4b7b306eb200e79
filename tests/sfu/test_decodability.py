"""What the core forwards can be decoded, by a decoder that nobody here wrote, whatever layers it switched between.

Streams of real encoders, most of them captured from Chromium (`tests/sfu/captures`), pass through the real core in
virtual time to one viewer whose wishes, mutes and link change at random (`callyard-sim forward`). Every picture that
reaches him must come out of the decoder just as it comes out of the whole stream: a reference that is missing shows as
another picture. His numbering must have no hole, and picture ids, TL0PICIDX and frame numbers must run on.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from av.video.frame import VideoFrame

REPOSITORY = Path(__file__).resolve().parents[2]
CAPTURES = sorted(Path(__file__).with_name("captures").glob("*.dump"))
SEEDS = range(1, 7)
DECODERS = {
    "video/VP8": "vp8",
    "video/VP9": "vp9",
    "video/AV1": "libdav1d",
    "video/H264": "h264",
    "video/H265": "hevc",
}
NAL_UNITS = {"video/H264", "video/H265"}


# --- packets --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packet:
    timestamp: int
    payload: bytes
    source: int = 0
    """Stream it came on, where there are several."""
    seq: int = 0
    descriptor: bytes = b""


@dataclass(frozen=True)
class Layered:
    """One packet as its payload describes it; the body is what no forwarding changes."""

    timestamp: int
    source: int
    spatial: int
    temporal: int
    picture_id: int
    tl0: int
    body: bytes
    back: tuple[int, ...] | None = None
    """How many picture ids back those are that it refers to, where that is how it is told (VP9's flexible mode)."""


def captured(path: Path) -> tuple[dict[str, Any], list[Packet]]:
    """The capture's head and its packets, padding alone left out."""
    line, _, data = path.read_bytes().partition(b"\n")
    sources: dict[bytes, int] = {}
    packets: list[Packet] = []
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at + 4 : at + 6])
        packet = data[at + 6 : at + 6 + length]
        at += 6 + length
        source = sources.setdefault(packet[8:12], len(sources))
        start = 12 + 4 * (packet[0] & 15)
        if packet[0] & 0x10:
            start += 4 + 4 * int.from_bytes(packet[start + 2 : start + 4])
        end = len(packet) - (packet[-1] if packet[0] & 0x20 else 0)
        if end > start:
            packets.append(Packet(int.from_bytes(packet[4:8]), packet[start:end], source))
    return json.loads(line), packets


def forwarded(path: Path, seed: int, trouble: str | None, out: Path) -> list[Packet]:
    """What one viewer got of a capture, in order of sequence."""
    command = ["cargo", "run", "--quiet", "--locked", "--manifest-path", str(REPOSITORY / "sfu/core/Cargo.toml")]
    command += ["-p", "callyard-sim", "--", "forward", str(path), "--seed", str(seed), "--out", str(out)]
    command += ["--trouble", trouble] if trouble else []
    subprocess.run(command, check=True, timeout=600)
    data = out.read_bytes()
    packets: list[Packet] = []
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 2])
        record = data[at + 2 : at + 2 + length]
        at += 2 + length
        body = 8 + record[7]
        timestamp, seq = int.from_bytes(record[2:6]), int.from_bytes(record[:2])
        packets.append(Packet(timestamp, record[body:], seq=seq, descriptor=record[8:body]))
    return packets


def layered(mime: str, packet: Packet) -> Layered:
    """Read the payload's descriptor (RFC 7741 §4.2, RFC 9628 §4.2); AV1 has none that names a layer, H.264 none."""
    payload, at = packet.payload, 1
    spatial = temporal = 0
    picture_id = tl0 = -1
    back: tuple[int, ...] | None = None
    if mime == "video/VP8" and payload[0] & 0x80:
        flags, at = payload[1], 2
        if flags & 0x80:
            picture_id = int.from_bytes(payload[at : at + 2]) & 0x7FFF if payload[at] & 0x80 else payload[at]
            at += 2 if payload[at] & 0x80 else 1
        if flags & 0x40:
            tl0, at = payload[at], at + 1
        if flags & 0x30:
            temporal, at = payload[at] >> 6, at + 1
    elif mime == "video/VP9":
        flags = payload[0]
        if flags & 0x80:
            picture_id = int.from_bytes(payload[at : at + 2]) & 0x7FFF if payload[at] & 0x80 else payload[at]
            at += 2 if payload[at] & 0x80 else 1
        if flags & 0x20:
            temporal, spatial, at = payload[at] >> 5, payload[at] >> 1 & 7, at + 1
            if not flags & 0x10:
                tl0, at = payload[at], at + 1
        if flags & 0x10:
            back = ()
        if flags & 0x50 == 0x50:
            back, at = _distances(payload, at)
        if flags & 0x02:
            at = _behind_scalability_structure(payload, at)
    elif mime == "video/AV1" or mime in NAL_UNITS:
        at = 0
    return Layered(packet.timestamp, packet.source, spatial, temporal, picture_id, tl0, payload[at:], back)


def _distances(payload: bytes, at: int) -> tuple[tuple[int, ...], int]:
    """Read P_DIFF, as often as it comes; and where it ends."""
    start = at
    while payload[at] & 1:
        at += 1
    return tuple(byte >> 1 for byte in payload[start : at + 1]), at + 1


def _behind_scalability_structure(payload: bytes, at: int) -> int:
    flags, at = payload[at], at + 1
    if flags & 0x10:
        at += 4 * ((flags >> 5) + 1)
    if flags & 0x08:
        pictures, at = payload[at], at + 1
        for _ in range(pictures):
            at += 1 + (payload[at] >> 2 & 3)
    return at


# --- pictures -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """One layer of one picture: what a decoder takes at once."""

    spatial: int
    data: bytes


def frames(mime: str, packets: list[Layered]) -> list[Frame]:
    """The frames in one picture's packets, lowest layer first."""
    if mime == "video/AV1":
        return _layer_frames([packet.body for packet in packets])
    if mime in NAL_UNITS:
        units = _nal_units(mime, (packet.body for packet in packets))
        return [Frame(0, b"".join(b"\0\0\0\1" + unit for unit in units))]
    by_layer = groupby(packets, key=lambda packet: packet.spatial)
    return [Frame(spatial, b"".join(packet.body for packet in one)) for spatial, one in by_layer]


def _layer_frames(payloads: list[bytes]) -> list[Frame]:
    """OBUs of RTP payloads with their sizes put back, by layer (AV1 RTP specification §4.4, AV1 specification §5.2)."""
    elements: list[bytes] = []
    for payload in payloads:
        header, at = payload[0], 1
        count = header >> 4 & 3
        number = 0
        while at < len(payload):
            number += 1
            length = len(payload) - at
            if number != count:
                length, at = _leb128(payload, at)
            element = payload[at : at + length]
            at += length
            if header & 0x80 and number == 1:
                elements[-1] += element
            else:
                elements.append(element)
    # A temporal delimiter begins the picture; what names no layer, sequence headers, goes with the lowest.
    layers: dict[int, bytes] = {0: b"\x12\x00"}
    for element in elements:
        extension = 1 if element[0] & 4 else 0
        spatial = element[1] >> 3 & 3 if extension else 0
        body = element[1 + extension :]
        obu = bytes([element[0] | 2]) + element[1 : 1 + extension] + _as_leb128(len(body)) + body
        layers[spatial] = layers.get(spatial, b"") + obu
    return [Frame(spatial, layers[spatial]) for spatial in sorted(layers)]


def _nal_units(mime: str, payloads: Iterable[bytes]) -> list[bytes]:
    """NAL units of RTP payloads, fragments put together again (RFC 6184 §5.6-5.8, RFC 7798 §4.4)."""
    header, aggregation, fragmentation = (1, 24, 28) if mime == "video/H264" else (2, 48, 49)
    units: list[bytes] = []
    for payload in payloads:
        kind = _unit_kind(mime, payload)
        if kind == aggregation:
            at = header
            while at < len(payload):
                length = int.from_bytes(payload[at : at + 2])
                units.append(payload[at + 2 : at + 2 + length])
                at += 2 + length
        elif kind != fragmentation:
            units.append(payload)
        elif payload[header] & 0x80:
            first = (
                (payload[0] & 0x60 | payload[1] & 31) if header == 1 else (payload[0] & 0x81 | payload[2] << 1 & 126)
            )
            units.append(bytes([first]) + payload[1:header] + payload[header + 1 :])
        else:
            units[-1] += payload[header + 1 :]
    return units


def _unit_kind(mime: str, unit: bytes) -> int:
    return unit[0] & 31 if mime == "video/H264" else unit[0] >> 1 & 63


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at


def _as_leb128(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


class Decoder:
    """A real one, a frame in, its pictures out at once."""

    def __init__(self, mime: str) -> None:
        codec: Any = av.CodecContext.create(DECODERS[mime], "r")
        codec.thread_count = 1
        if mime == "video/AV1":
            codec.options = {"alllayers": "1", "max_frame_delay": "1"}
        self._codec = codec

    def decode(self, data: bytes) -> list[str]:
        """Sizes and hashes of the pictures. Raises what the decoder raises on an error."""
        return [_mark(frame) for frame in self._codec.decode(av.Packet(data))]


def _mark(frame: VideoFrame) -> str:
    digest = hashlib.sha256()
    for plane in frame.planes:
        # What stands behind a line's end is no part of the picture.
        lines = memoryview(plane).cast("B")
        for start in range(0, plane.height * plane.line_size, plane.line_size):
            digest.update(lines[start : start + plane.width])
    return f"{frame.width}x{frame.height} {digest.hexdigest()[:16]}"


def pictures(mime: str, packets: Iterable[Packet]) -> Iterator[list[Layered]]:
    """Packets of one picture together."""
    described = (layered(mime, packet) for packet in packets)
    for _, one in groupby(described, key=lambda packet: (packet.source, packet.timestamp)):
        yield list(one)


@cache
def reference(
    path: Path,
) -> tuple[str, dict[bytes, tuple[int, int, int]], dict[tuple[int, int], list[tuple[int, list[str]]]]]:
    """The codec; where each body belongs: stream, timestamp and how many there are of it; what each picture shows."""
    head, packets = captured(path)
    mime: str = head["codec"]["mime"]
    owners: dict[bytes, tuple[int, int, int]] = {}
    shown: dict[tuple[int, int], list[tuple[int, list[str]]]] = {}
    for source in {packet.source for packet in packets}:
        decoder = Decoder(mime)
        for picture in pictures(mime, [packet for packet in packets if packet.source == source]):
            per_layer: dict[int, int] = {}
            for packet in picture:
                per_layer[packet.spatial] = per_layer.get(packet.spatial, 0) + 1
            for packet in picture:
                owners[packet.body] = (source, packet.timestamp, per_layer[packet.spatial])
            decoded = [(frame.spatial, decoder.decode(frame.data)) for frame in frames(mime, picture)]
            shown[source, picture[0].timestamp] = decoded
    marks = {mark for layers in shown.values() for _, marks in layers for mark in marks}
    assert len(marks) > 30, "pictures that differ"
    return mime, owners, shown


# --- the property ---------------------------------------------------------------------------------------------------


@pytest.mark.timeout(600)  # the first builds the program that forwards
@pytest.mark.parametrize("trouble", [None, "narrow"], ids=["free", "narrow"])
@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_whatever_is_forwarded_is_decoded_to_the_same_pictures(path: Path, trouble: str | None, tmp_path: Path) -> None:
    mime, owners, shown = reference(path)
    sizes: set[str] = set()
    for seed in SEEDS:
        packets = forwarded(path, seed, trouble, tmp_path / "packets")
        assert len(packets) > 20, seed
        decoder = Decoder(mime)
        for picture in pictures(mime, packets):
            source, timestamp, _ = owners[picture[0].body]
            assert {owners[packet.body][:2] for packet in picture} == {(source, timestamp)}, "of one picture"
            expected = dict(shown[source, timestamp])
            for frame in frames(mime, picture):
                decoded = decoder.decode(frame.data)
                assert decoded == expected[frame.spatial], (seed, timestamp, frame.spatial)
                sizes.update(mark.split()[0] for mark in decoded)
        _numbers_run_on(mime, packets)
    assert len(sizes) > 1, "layers were switched"


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_what_a_lost_packet_leaves_whole_is_decoded_to_the_same_pictures(path: Path, tmp_path: Path) -> None:
    """A publisher's link loses 5 %, not all of it repaired. What came whole, and nothing but what came whole before
    it since the last key picture, owes nothing to what is missing."""
    mime, owners, shown = reference(path)
    judged = total = 0
    for seed in SEEDS:
        decoder, is_intact = Decoder(mime), False
        previous: Packet | None = None
        for one in _pictures_as_sent(forwarded(path, seed, "lossy", tmp_path / "packets")):
            follows = previous is None or one[0].seq == (previous.seq + 1) % 65_536
            previous, total = one[-1], total + 1
            # Padding alone stands where a late packet was left out, or is missing of a stream that was left.
            is_intact &= all(packet.payload for packet in one)
            one = [packet for packet in one if packet.payload]
            if not one:
                continue
            if _is_key(mime, one[0]):
                decoder, is_intact = Decoder(mime), True
            picture = [layered(mime, packet) for packet in one]
            is_intact &= (follows or _is_key(mime, one[0])) and _is_whole(
                mime, one, [owners[p.body][2] for p in picture]
            )
            if not is_intact:
                continue
            judged += 1
            source, timestamp, _ = owners[picture[0].body]
            for frame in frames(mime, picture):
                expected = dict(shown[source, timestamp])[frame.spatial]
                assert decoder.decode(frame.data) == expected, (seed, timestamp, frame.spatial)
    assert judged > total // 2, (judged, total)


def _pictures_as_sent(packets: list[Packet]) -> Iterator[list[Packet]]:
    for _, one in groupby(packets, key=lambda packet: packet.timestamp):
        yield list(one)


def _is_key(mime: str, packet: Packet) -> bool:
    """Whether a picture's first packet begins with a frame that refers to nothing."""
    if mime == "video/AV1":
        # Its descriptor carries a structure.
        return len(packet.descriptor) > 3 and packet.descriptor[3] & 0x80 > 0
    if mime in NAL_UNITS:
        # Its parameter sets come first: of the sequence in H.264, of the video in H.265.
        kinds = {_unit_kind(mime, unit) for unit in _nal_units(mime, [packet.payload])}
        return bool(kinds & {7 if mime == "video/H264" else 32})
    if mime == "video/VP8":
        return packet.payload[0] & 0x10 > 0 and layered(mime, packet).body[0] & 1 == 0
    return packet.payload[0] & 0x48 == 0x08 and layered(mime, packet).spatial == 0


def _is_whole(mime: str, packets: list[Packet], counts: list[int]) -> bool:
    """Whether each layer's frame has all of its packets; `counts`: how many the capture has of each one's layer."""
    if any(after.seq != (before.seq + 1) % 65_536 for before, after in pairwise(packets)):
        return False
    if mime == "video/AV1":
        # Layers cannot be told by the payload; descriptors say where each frame starts and ends.
        of_frames = [list(one) for _, one in groupby(packets, key=lambda packet: packet.descriptor[1:3])]
        return all(one[0].descriptor[0] & 0x80 and one[-1].descriptor[0] & 0x40 for one in of_frames)
    layers = [layered(mime, packet).spatial for packet in packets]
    return all(layers.count(layer) == count for layer, count in zip(layers, counts, strict=True))


def _numbers_run_on(mime: str, packets: list[Packet]) -> None:
    assert all(after.seq == (before.seq + 1) % 65_536 for before, after in pairwise(packets)), "no hole"
    timestamps = [packet.timestamp for packet in packets]
    assert all((after - before) % 2**32 < 2**31 for before, after in pairwise(timestamps))
    if any(packet.descriptor for packet in packets):
        numbers = [int.from_bytes(packet.descriptor[1:3]) for packet in packets]
        assert all((after - before) % 65_536 < 64 for before, after in pairwise(numbers))
    firsts = []
    came: set[int] = set()
    for picture in pictures(mime, packets):
        firsts.append(picture[0])
        if picture[0].back == () and picture[0].spatial == 0:
            came.clear()  # a key picture
        came.add(picture[0].picture_id)
        for packet in picture:
            referred = {(packet.picture_id - back) % 0x8000 for back in packet.back or ()}
            assert referred <= came, "picture ids keep the distances by which references are told"
    for before, after in pairwise(firsts):
        if after.back is not None:
            assert 0 < (after.picture_id - before.picture_id) % 0x8000 < 0x4000
        elif before.picture_id >= 0:
            assert after.picture_id == (before.picture_id + 1) % 0x8000, "no picture id is left out"
        if before.tl0 >= 0:
            assert (after.tl0 - before.tl0) % 256 == (1 if after.temporal == 0 else 0), "TL0PICIDX counts base pictures"
