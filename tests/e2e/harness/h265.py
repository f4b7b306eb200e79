"""H.265 for the raw peer: libx265 and FFmpeg's decoder, in packets of RFC 7798 that are made and read here.

Packets are kept small, so that a small picture comes in all three kinds: single units, aggregated and fragmented ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import aiortc.codecs
import av
import pytest
from aiortc.codecs.base import Decoder, Encoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters

from signaling.probe.media import FRAMES_PER_SECOND

MIME = "video/H265"
AGGREGATED, FRAGMENT = 48, 49
PARAMETER_SETS = {32, 33, 34}
RANDOM_ACCESS = set(range(16, 24))
"""Pictures that decoding may begin with (H.265 table 7-1)."""

_MOST_BYTES = 160
_CLOCK = 90_000
_START = b"\0\0\0\1"


def kind_of(payload: bytes) -> int:
    """Type of a unit or of a packet (RFC 7798 §1.1.4)."""
    return payload[0] >> 1 & 63


def unit_kinds(payload: bytes) -> set[int]:
    """Types of the units that a packet begins or holds."""
    match kind_of(payload):
        case 48:
            return {kind_of(unit) for unit in _aggregated(payload)}
        case 49:
            return {payload[2] & 63}
        case kind:
            return {kind}


def packets(units: list[bytes]) -> list[bytes]:
    """Payloads for the units of one picture: parameter sets together (§4.4.2), long units in pieces (§4.4.3)."""
    sets = [unit for unit in units if kind_of(unit) in PARAMETER_SETS]
    out = []
    if sets:
        out.append(bytes([AGGREGATED << 1, 1]) + b"".join(len(unit).to_bytes(2) + unit for unit in sets))
    for unit in units:
        if kind_of(unit) not in PARAMETER_SETS:
            out += [unit] if len(unit) <= _MOST_BYTES else _fragments(unit)
    return out


def depacketized(payload: bytes) -> bytes:
    """What a payload adds to the byte stream of its picture. Raises ValueError when it is cut."""
    if len(payload) < 3:
        raise ValueError("too short for H.265")
    match kind_of(payload):
        case 48:
            return b"".join(_START + unit for unit in _aggregated(payload))
        case 49:
            begins = _START + bytes([payload[0] & 0x81 | (payload[2] & 63) << 1, payload[1]])
            return (begins if payload[2] & 0x80 else b"") + payload[3:]
        case _:
            return _START + payload


def _fragments(unit: bytes) -> Iterator[bytes]:
    parts = [unit[at : at + _MOST_BYTES] for at in range(2, len(unit), _MOST_BYTES)]
    for index, part in enumerate(parts):
        flags = 0x80 * (index == 0) | 0x40 * (index + 1 == len(parts))
        yield bytes([unit[0] & 0x81 | FRAGMENT << 1, unit[1], flags | kind_of(unit)]) + part


def _aggregated(payload: bytes) -> Iterator[bytes]:
    at = 2
    while at < len(payload):
        size = int.from_bytes(payload[at : at + 2])
        if not 2 <= size <= len(payload) - at - 2:
            raise ValueError("an aggregation packet is cut")
        yield payload[at + 2 : at + 2 + size]
        at += 2 + size


class H265Encoder(Encoder):
    def __init__(self) -> None:
        self._codec: Any = None

    def encode(self, frame: Any, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        if self._codec is None:
            codec: Any = av.CodecContext.create("libx265", "w")
            codec.width, codec.height, codec.pix_fmt = frame.width, frame.height, "yuv420p"
            codec.time_base, codec.framerate = Fraction(1, _CLOCK), Fraction(FRAMES_PER_SECOND)
            codec.bit_rate, codec.gop_size = 500_000, 100_000
            quiet = "scenecut=0:repeat-headers=1:open-gop=0:info=0:pools=none:frame-threads=1:log-level=none"
            codec.options = {
                "preset": "ultrafast",
                "tune": "zerolatency",
                "forced-idr": "1",
                "x265-params": quiet,
            }
            self._codec = codec
        kinds = av.video.frame.PictureType
        frame.pict_type = kinds.I if force_keyframe else kinds.NONE
        stream = b"".join(bytes(packet) for packet in self._codec.encode(frame))
        units = [unit for unit in stream.replace(_START, _START[1:]).split(_START[1:]) if unit]
        return packets(units), frame.pts

    def pack(self, packet: Any) -> tuple[list[bytes], int]:
        raise NotImplementedError("tracks of the tests give frames")


class H265Decoder(Decoder):
    def __init__(self) -> None:
        self._codec: Any = av.CodecContext.create("hevc", "r")

    def decode(self, encoded_frame: JitterFrame) -> list[Any]:
        packet = av.Packet(encoded_frame.data)
        packet.pts, packet.time_base = encoded_frame.timestamp, Fraction(1, _CLOCK)
        return list(self._codec.decode(packet))


def teach_aiortc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give aiortc's senders and receivers the codec; all others stay its own."""

    def is_ours(codec: RTCRtpCodecParameters) -> bool:
        return codec.mimeType == MIME

    def encoder(codec: RTCRtpCodecParameters) -> Encoder:
        return H265Encoder() if is_ours(codec) else aiortc.codecs.get_encoder(codec)

    def decoder(codec: RTCRtpCodecParameters) -> Decoder:
        return H265Decoder() if is_ours(codec) else aiortc.codecs.get_decoder(codec)

    def depayload(codec: RTCRtpCodecParameters, payload: bytes) -> bytes:
        return depacketized(payload) if is_ours(codec) else aiortc.codecs.depayload(codec, payload)

    monkeypatch.setattr("aiortc.rtcrtpsender.get_encoder", encoder)
    monkeypatch.setattr("aiortc.rtcrtpreceiver.get_decoder", decoder)
    monkeypatch.setattr("aiortc.rtcrtpreceiver.depayload", depayload)
