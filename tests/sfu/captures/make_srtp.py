"""Writes `sfu/core/proto/tests/fixtures/srtp/libsrtp.txt`: what libsrtp makes of packets, to hold our own SRTP against.

`PYTHONPATH=. python tests/sfu/captures/make_srtp.py`. Per profile one sender: RTP of every shape over two roll-overs of
its numbers, then RTCP. A line: `rtp` or `rtcp`, the packet in clear and the sealed one in hexadecimal digits.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from pylibsrtp import Policy, Session

FILE = Path(__file__).parents[3] / "sfu/core/proto/tests/fixtures/srtp/libsrtp.txt"
PROFILES = {
    "AeadAes128Gcm": (Policy.SRTP_PROFILE_AEAD_AES_128_GCM, 16, 12),
    "AeadAes256Gcm": (Policy.SRTP_PROFILE_AEAD_AES_256_GCM, 32, 12),
    "Aes128CmSha1_80": (Policy.SRTP_PROFILE_AES128_CM_SHA1_80, 16, 14),
}
SSRC = 0xCA11_4A8D
LENGTHS = (0, 1, 2, 15, 16, 17, 31, 100, 1_199, 1_200)


def rtp(seq: int, payload: bytes, csrcs: int, extension: bytes | None, padding: int) -> bytes:
    """RFC 3550 §5.1, §5.3.1."""
    first = 0x80 | (0x20 if padding else 0) | (0x10 if extension is not None else 0) | csrcs
    packet = bytes([first, 0x80 | 96]) + seq.to_bytes(2, "big") + (seq * 3_000 & 0xFFFF_FFFF).to_bytes(4, "big")
    packet += SSRC.to_bytes(4, "big") + b"".join((0x1000 + n).to_bytes(4, "big") for n in range(csrcs))
    if extension is not None:
        packet += b"\xbe\xde" + (len(extension) // 4).to_bytes(2, "big") + extension
    return packet + payload + (bytes(padding - 1) + bytes([padding]) if padding else b"")


def shapes(random_: random.Random) -> Iterator[bytes]:
    """In order of their numbers, which roll over twice: far apart in between, but within half the number space."""
    seqs = [*range(65_530, 65_536), *range(6), 20_000, 45_000, 65_534, 65_535, 0, 1, 2, 30_000]
    for index, seq in enumerate(seqs):
        payload = random_.randbytes(LENGTHS[index % len(LENGTHS)])
        extension = (None, b"", b"\x10\xff\x00\x00", b"\x22\x01\x02\x03\x00\x00\x00\x00")[index % 4]
        yield rtp(seq, payload, (0, 1, 15)[index % 3], extension, (0, 0, 1, 40)[index % 4])


def reports(random_: random.Random) -> Iterator[bytes]:
    """An empty receiver report, a sender report, a PLI, and a compound of them with feedback."""
    sender = SSRC.to_bytes(4, "big")
    empty = bytes([0x80, 201, 0, 1]) + sender
    full = bytes([0x80, 200, 0, 6]) + sender + random_.randbytes(20)
    pli = bytes([0x81, 206, 0, 2]) + sender + random_.randbytes(4)
    feedback = bytes([0x8F, 205, 0, 6]) + sender + random_.randbytes(20)
    yield from (empty, full, pli, full + pli + feedback, empty)


def lines() -> Iterator[str]:
    for name, (profile, key_bytes, salt_bytes) in PROFILES.items():
        random_ = random.Random(name)
        key, salt = random_.randbytes(key_bytes), random_.randbytes(salt_bytes)
        yield f"profile {name} {key.hex()} {salt.hex()}"
        policy = Policy(key + salt, Policy.SSRC_ANY_OUTBOUND, srtp_profile=profile)
        session = Session(policy=policy)
        for packet in shapes(random_):
            yield f"rtp {packet.hex()} {session.protect(packet).hex()}"
        for packet in reports(random_):
            yield f"rtcp {packet.hex()} {session.protect_rtcp(packet).hex()}"


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text("".join(f"{line}\n" for line in lines()))
