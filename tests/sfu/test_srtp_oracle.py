"""What our SRTP is held against in `sfu/core/proto/tests/srtp_agrees_with_libsrtp.rs` is what libsrtp says today."""

from __future__ import annotations

from tests.sfu.captures.make_srtp import FILE, lines


def test_what_is_kept_is_what_libsrtp_says() -> None:
    assert FILE.read_text().splitlines() == list(lines())
