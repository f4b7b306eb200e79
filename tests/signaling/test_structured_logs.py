from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from sfu.worker import LogStyle
from signaling.settings import LogFormat, LogLevel, LogSettings
from signaling.structured_logs import REDACTED, configure, redact_addresses, style_of_workers


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def redact(**event: Any) -> dict[str, Any]:
    return dict(redact_addresses(None, "info", event))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from 203.0.113.9", f"from {REDACTED}"),
        ("203.0.113.9:5004", f"{REDACTED}:5004"),
        ("10.1.2.3, 2001:db8::1", f"{REDACTED}, {REDACTED}"),
        ("[2001:db8::1]:443", f"[{REDACTED}]:443"),
        ("fe80::1%eth0", REDACTED),
        ("::ffff:198.51.100.7", f"::ffff:{REDACTED}"),
        (
            "candidate:1 1 udp 2130706431 192.0.2.4 7882 typ host",
            f"candidate:1 1 udp 2130706431 {REDACTED} 7882 typ host",
        ),
        ("http://127.0.0.1:7880 and ::1 and 0.0.0.0", "http://127.0.0.1:7880 and ::1 and 0.0.0.0"),
        ("12:30:45", "12:30:45"),
        ("signaling::rooms", "signaling::rooms"),
        ("version 1.13.5", "version 1.13.5"),
        ("999.1.1.1", "999.1.1.1"),
    ],
)
def test_addresses_are_redacted(text: str, expected: str) -> None:
    assert redact(event=text) == {"event": expected}


@given(st.ip_addresses(), st.sampled_from(["", "to ", "('", "path="]), st.sampled_from(["", " ", "')", ", "]))
def test_no_address_survives(address: Any, before: str, after: str) -> None:
    """S-74"""
    if address.is_loopback or address.is_unspecified:
        return
    redacted = redact(event=f"{before}{address}{after}")["event"]
    assert str(address) not in redacted
    assert REDACTED in redacted


def test_addresses_inside_values_of_any_shape_are_redacted() -> None:
    class Candidate:
        def __str__(self) -> str:
            return "udp 192.0.2.4"

    event = redact(pair=("192.0.2.4", 7882), by={"192.0.2.4": ["198.51.100.1"]}, raw=b"192.0.2.4", of=Candidate(), n=4)
    assert event == {
        "pair": [REDACTED, 7882],
        "by": {REDACTED: [REDACTED]},
        "raw": REDACTED,
        "of": f"udp {REDACTED}",
        "n": 4,
    }


def test_json_lines_carry_bound_identities_and_no_address() -> None:
    stream = io.StringIO()
    configure(LogSettings(), stream)
    structlog.contextvars.bind_contextvars(room="standup", participant="alice")
    structlog.get_logger().info("participant_joined", address="203.0.113.9")
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "participant_joined",
        "level": "info",
        "room": "standup",
        "participant": "alice",
        "address": REDACTED,
    }


def test_a_name_with_newlines_and_escapes_stays_on_its_line() -> None:
    """S-74"""
    for format_ in LogFormat:
        stream = io.StringIO()
        configure(LogSettings(format=format_), stream)
        structlog.get_logger().info("participant_joined", participant="eve\r\n\x1b[31mERROR forged")
        assert len(stream.getvalue().splitlines()) == 1
        assert "\x1b[31m" not in stream.getvalue()


def test_an_address_in_an_exception_is_redacted() -> None:
    stream = io.StringIO()
    configure(LogSettings(), stream)
    try:
        raise OSError("no route to 203.0.113.9")
    except OSError:
        structlog.get_logger().exception("delivery_failed")
    (line,) = lines(stream)
    assert "no route to [ip]" in line["exception"]


def test_standard_library_records_leave_by_the_same_pipe() -> None:
    stream = io.StringIO()
    configure(LogSettings(), stream)
    logging.getLogger("uvicorn.error").warning("peer %s went away", "203.0.113.9")
    (line,) = lines(stream)
    assert (line["event"], line["level"]) == ("peer [ip] went away", "warning")


def test_what_a_standard_library_record_adds_stands_on_its_line() -> None:
    stream = io.StringIO()
    configure(LogSettings(), stream)
    logging.getLogger("sfu.node").error("worker_lost", extra={"worker": "0-a", "reason": "gone, last at 203.0.113.9"})
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "worker_lost", "level": "error", "worker": "0-a", "reason": "gone, last at [ip]"}


def test_workers_are_told_the_style_of_the_same_stream() -> None:
    assert style_of_workers(LogSettings(level=LogLevel.ERROR), io.StringIO()) == LogStyle(level="error", json=True)
    assert not style_of_workers(LogSettings(format=LogFormat.CONSOLE), io.StringIO()).json


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colour_and_anything_else_lines_of_json() -> None:
    for stream, is_coloured in ((Terminal(), True), (io.StringIO(), False)):
        configure(LogSettings(), stream)
        structlog.get_logger().warning("loud", room="demo")
        assert ("\x1b[" in stream.getvalue()) == is_coloured
        assert stream.getvalue().startswith("{") != is_coloured


def test_level_and_addresses_are_settings() -> None:
    stream = io.StringIO()
    configure(LogSettings(level=LogLevel.WARNING, addresses=True), stream)
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud", address="203.0.113.9")
    (line,) = lines(stream)
    assert (line["event"], line["address"]) == ("loud", "203.0.113.9")
