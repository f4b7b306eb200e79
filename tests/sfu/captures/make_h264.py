"""Writes `h264-simulcast.dump`: three sizes of one moving picture, encoded by x264 and sent in three ways.

`python tests/sfu/captures/make_h264.py`. The smallest size has whole key pictures in one STAP-A, the middle one its
parameters in a STAP-A and the pictures in FU-A, the largest one two slices a picture (RFC 6184 §5.6–5.8).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

OUT = Path(__file__).with_name("h264-simulcast.dump")
FPS = 10
PICTURES = 120
MTU = 1_100
PAYLOAD_TYPE = 102
CODEC = {
    "pt": PAYLOAD_TYPE,
    "mime": "video/H264",
    "clock_rate": 90_000,
    "fmtp": "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
    "rtx_pt": 103,
    "feedback": ["nack", "nack pli", "transport-cc"],
}
IDR, SEI, SPS, PPS = 5, 6, 7, 8


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


def main() -> None:
    layers = [{"spatial": i, "width": s.width, "height": s.height, "bitrate_bps": 0} for i, s in enumerate(SIZES)]
    head = {"codec": CODEC, "mode": "simulcast", "extensions": [], "layers": layers}
    streams = [list(_stream(size)) for size in SIZES]
    sequences = [65_500, 65_520, 65_530]
    out = bytearray(json.dumps(head, separators=(",", ":")).encode() + b"\n")
    for picture in range(PICTURES):
        at = picture * 1_000_000 // FPS
        for stream, size in enumerate(SIZES):
            payloads = list(_payloads(streams[stream][picture], picture, stream))
            for index, payload in enumerate(payloads):
                marker = 0x80 if index + 1 == len(payloads) else 0
                timestamp = (2**32 - 90_000 + stream * 12_345 + picture * 90_000 // FPS) % 2**32
                packet = bytes([0x80, marker | PAYLOAD_TYPE]) + sequences[stream].to_bytes(2)
                packet += timestamp.to_bytes(4) + (1_000 + stream).to_bytes(4) + payload
                sequences[stream] = (sequences[stream] + 1) % 65_536
                out += (at + 500 * stream).to_bytes(4) + len(packet).to_bytes(2) + packet
            assert size.width % 16 == size.height % 16 == 0, "no cropping"
    OUT.write_bytes(out)


def _stream(size: Size) -> Iterator[list[bytes]]:
    """NAL units of each picture."""
    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = size.width, size.height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, FPS), Fraction(FPS)
    encoder.bit_rate, encoder.thread_count, encoder.gop_size = size.bits_a_second, 1, 1_000
    encoder.options = {
        "profile": "baseline",
        "preset": "medium",
        "tune": "zerolatency",
        "x264-params": f"slices={size.slices}:sliced-threads=0:scenecut=0:repeat-headers=1:rc-lookahead=0",
    }
    for picture in range(PICTURES):
        frame = av.VideoFrame.from_ndarray(_picture(size, picture), format="rgb24")
        frame.pts = picture
        is_key = picture >= size.first_key and (picture - size.first_key) % size.key_every == 0
        frame.pict_type = av.video.frame.PictureType.I if is_key else av.video.frame.PictureType.NONE
        (packet,) = encoder.encode(frame)
        units = [unit for unit in bytes(packet).replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if unit]
        yield [unit for unit in units if unit[0] & 31 != SEI]


def _picture(size: Size, picture: int) -> np.ndarray:
    """A drifting gradient with a box that runs across it: every picture differs."""
    y, x = np.mgrid[0 : size.height, 0 : size.width] * (480 / size.width)
    red = (x + 3 * picture) % 256
    green = (y + 2 * picture) % 256
    blue = np.full_like(red, 40)
    left = 15 * picture % 400
    blue[(x >= left) & (x < left + 60) & (y >= 90) & (y < 150)] = 230
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def _payloads(units: list[bytes], picture: int, stream: int) -> Iterator[bytes]:
    parameters = [unit for unit in units if unit[0] & 31 in (SPS, PPS)]
    slices = [unit for unit in units if unit[0] & 31 not in (SPS, PPS)]
    if parameters:
        # What says nothing to a decoder makes each of these packets another one.
        note = bytes([SEI, 5, 20]) + f"callyard capture{picture:03}{stream}".encode() + b"\x80"
        parameters.append(note)
        together = _stap_a([*parameters, *slices])
        if stream == 0 and len(together) <= MTU:
            yield together
            return
        yield _stap_a(parameters)
    for unit in slices:
        yield from [unit] if len(unit) <= MTU else _fu_a(unit)


def _stap_a(units: list[bytes]) -> bytes:
    return bytes([0x78]) + b"".join(len(unit).to_bytes(2) + unit for unit in units)


def _fu_a(unit: bytes) -> Iterator[bytes]:
    body = unit[1:]
    parts = [body[at : at + MTU] for at in range(0, len(body), MTU)]
    for index, part in enumerate(parts):
        flags = (0x80 if index == 0 else 0) | (0x40 if index + 1 == len(parts) else 0)
        yield bytes([unit[0] & 0x60 | 28, flags | unit[0] & 31]) + part


if __name__ == "__main__":
    main()
