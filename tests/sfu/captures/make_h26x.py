"""Writes `h264-simulcast.dump` and `h265-simulcast.dump`: three sizes of one moving picture, of x264 and of x265.

`python tests/sfu/captures/make_h26x.py`. The smallest size has whole key pictures in one aggregation packet, the others
their parameters in one and the pictures in fragments; H.264's largest has two slices a picture (x265 breaks its heap on
several slices of so few rows). RFC 6184 §5.6-5.8, RFC 7798 §4.4.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import av
import numpy as np

FPS = 10
PICTURES = 120
MTU = 1_100


@dataclass(frozen=True)
class Size:
    width: int
    height: int
    bits_a_second: int
    slices: int
    #: Every so many pictures one is a key picture, from this one on.
    key_every: int
    first_key: int


SIZES = [Size(160, 96, 20_000, 1, 7, 0), Size(320, 192, 35_000, 1, 9, 3), Size(480, 288, 50_000, 2, 11, 5)]


class H264:
    """RFC 6184: a unit's header is a byte, its kind the last five bits."""

    name, encoder = "h264", "libx264"
    mime, fmtp = "video/H264", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"
    parameters, sei, note = (7, 8), (6,), bytes([6, 5])
    header_bytes = 1
    options: ClassVar = {"profile": "baseline", "preset": "medium", "tune": "zerolatency"}
    settings = "slices={slices}:sliced-threads=0:scenecut=0:repeat-headers=1:rc-lookahead=0"

    @staticmethod
    def kind(unit: bytes) -> int:
        return unit[0] & 31

    @staticmethod
    def aggregation() -> bytes:
        return bytes([0x78])

    @staticmethod
    def fragment(unit: bytes, flags: int) -> bytes:
        return bytes([unit[0] & 0x60 | 28, flags | unit[0] & 31])


class H265:
    """RFC 7798: a unit's header is two bytes, its kind six bits of the first."""

    name, encoder = "h265", "libx265"
    mime, fmtp = "video/H265", "level-id=93;profile-id=1;tier-flag=0;tx-mode=SRST"
    parameters, sei, note = (32, 33, 34), (39, 40), bytes([39 << 1, 1, 5])
    header_bytes = 2
    options: ClassVar = {"preset": "medium", "tune": "zerolatency", "forced-idr": "1"}
    settings = "scenecut=0:repeat-headers=1:open-gop=0:pools=none:frame-threads=1:log-level=none"

    @staticmethod
    def kind(unit: bytes) -> int:
        return unit[0] >> 1 & 63

    @staticmethod
    def aggregation() -> bytes:
        return bytes([48 << 1, 1])

    @staticmethod
    def fragment(unit: bytes, flags: int) -> bytes:
        return bytes([unit[0] & 0x81 | 49 << 1, unit[1], flags | unit[0] >> 1 & 63])


Codec = type[H264] | type[H265]


def main() -> None:
    for codec in (H264, H265):
        Path(__file__).with_name(f"{codec.name}-simulcast.dump").write_bytes(_capture(codec))


def _capture(codec: Codec) -> bytes:
    layers = [{"spatial": i, "width": s.width, "height": s.height, "bitrate_bps": 0} for i, s in enumerate(SIZES)]
    described = {
        "pt": 102,
        "mime": codec.mime,
        "clock_rate": 90_000,
        "fmtp": codec.fmtp,
        "rtx_pt": 103,
        "feedback": ["nack", "nack pli", "transport-cc"],
    }
    head = {"codec": described, "mode": "simulcast", "extensions": [], "layers": layers}
    streams = [list(_stream(codec, size)) for size in SIZES]
    sequences = [65_500, 65_520, 65_530]
    out = bytearray(json.dumps(head, separators=(",", ":")).encode() + b"\n")
    for picture in range(PICTURES):
        at = picture * 1_000_000 // FPS
        for stream, size in enumerate(SIZES):
            payloads = list(_payloads(codec, streams[stream][picture], picture, stream))
            for index, payload in enumerate(payloads):
                marker = 0x80 if index + 1 == len(payloads) else 0
                timestamp = (2**32 - 90_000 + stream * 12_345 + picture * 90_000 // FPS) % 2**32
                packet = bytes([0x80, marker | 102]) + sequences[stream].to_bytes(2)
                packet += timestamp.to_bytes(4) + (1_000 + stream).to_bytes(4) + payload
                sequences[stream] = (sequences[stream] + 1) % 65_536
                out += (at + 500 * stream).to_bytes(4) + len(packet).to_bytes(2) + packet
            assert size.width % 16 == size.height % 16 == 0, "no cropping"
    return bytes(out)


def _stream(codec: Codec, size: Size) -> Iterator[list[bytes]]:
    """NAL units of each picture."""
    encoder: Any = av.CodecContext.create(codec.encoder, "w")
    encoder.width, encoder.height, encoder.pix_fmt = size.width, size.height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, FPS), Fraction(FPS)
    encoder.bit_rate, encoder.thread_count, encoder.gop_size = size.bits_a_second, 1, 1_000
    encoder.options = {**codec.options, f"{codec.encoder[3:]}-params": codec.settings.format(slices=size.slices)}
    frames = (_frame(size, picture) for picture in range(PICTURES))
    encoded = [bytes(packet) for frame in (*frames, None) for packet in encoder.encode(frame)]
    assert len(encoded) == PICTURES, "one each, in order"
    for one in encoded:
        units = [unit for unit in one.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if unit]
        yield [unit for unit in units if codec.kind(unit) not in codec.sei]


def _frame(size: Size, picture: int) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(_picture(size, picture), format="rgb24")
    frame.pts = picture
    is_key = picture >= size.first_key and (picture - size.first_key) % size.key_every == 0
    frame.pict_type = av.video.frame.PictureType.I if is_key else av.video.frame.PictureType.NONE
    return frame


def _picture(size: Size, picture: int) -> np.ndarray:
    """A drifting gradient with a box that runs across it: every picture differs."""
    y, x = np.mgrid[0 : size.height, 0 : size.width] * (480 / size.width)
    red = (x + 3 * picture) % 256
    green = (y + 2 * picture) % 256
    blue = np.full_like(red, 40)
    left = 15 * picture % 400
    blue[(x >= left) & (x < left + 60) & (y >= 90) & (y < 150)] = 230
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def _payloads(codec: Codec, units: list[bytes], picture: int, stream: int) -> Iterator[bytes]:
    parameters = [unit for unit in units if codec.kind(unit) in codec.parameters]
    slices = [unit for unit in units if codec.kind(unit) not in codec.parameters]
    if parameters:
        # What says nothing to a decoder makes each of these packets another one.
        text = f"callyard capture{picture:03}{stream}".encode()
        parameters.append(codec.note + bytes([len(text)]) + text + b"\x80")
        together = _aggregate(codec, [*parameters, *slices])
        if stream == 0 and len(together) <= MTU:
            yield together
            return
        yield _aggregate(codec, parameters)
    for unit in slices:
        yield from [unit] if len(unit) <= MTU else _fragments(codec, unit)


def _aggregate(codec: Codec, units: list[bytes]) -> bytes:
    return codec.aggregation() + b"".join(len(unit).to_bytes(2) + unit for unit in units)


def _fragments(codec: Codec, unit: bytes) -> Iterator[bytes]:
    body = unit[codec.header_bytes :]
    parts = [body[at : at + MTU] for at in range(0, len(body), MTU)]
    for index, part in enumerate(parts):
        flags = (0x80 if index == 0 else 0) | (0x40 if index + 1 == len(parts) else 0)
        yield codec.fragment(unit, flags) + part


if __name__ == "__main__":
    main()
