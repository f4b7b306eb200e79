"""What every push provider takes, whatever people are called and write."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from signaling.events.push_message import PAYLOAD_MAX_BYTES, fitted

RING: dict[str, Any] = {"type": "call.ring", "cid": "default:x", "ring_id": "r", "video": True, "caller_name": None}


@pytest.mark.parametrize("character", ["a", "é", "あ", "🎉", '"', "\\", "\x01"])
def test_texts_are_cut_to_what_fits_even_twice(character: str) -> None:
    payload = {
        "type": "call.notification",
        "cid": f"default:{'x' * 64}",
        "title": character * 256,
        "body": character * 1_024,
        "caller_id": "u" * 128,
        "caller_name": character * 4_096,
    }
    fit = fitted(payload)
    assert fit.keys() == payload.keys()
    sent = msgspec.json.encode({"data": fit, "notification": {"title": fit["title"], "body": fit["body"]}})
    assert len(sent) < PAYLOAD_MAX_BYTES + 100


def test_what_fits_stays_as_it_is() -> None:
    alert = {"type": "call.notification", "cid": "default:x", "title": "Standup", "body": "b" * 1_024}
    ring = {**RING, "custom": {"note": "n" * 2_800}}
    assert (fitted(alert), fitted(ring)) == (alert, ring)


@pytest.mark.parametrize("custom", [{"note": "n" * 3_000}, {"note": '"' * 800}, {str(n): n for n in range(300)}])
def test_custom_data_is_left_out_if_it_is_too_long_as_the_string_that_fcm_is_sent(custom: dict[str, Any]) -> None:
    assert fitted({**RING, "custom": custom}) == RING
