"""Logs as events: JSON lines for machines, coloured lines on a terminal, both without clients' addresses.

Room and participant are bound once by `structlog.contextvars` and stand on every line of their task. Records of the
standard library (the node, uvicorn, asyncio) leave by the same pipe, with their `extra`. Workers write theirs
themselves, in the same style (`style_of_workers`). Not here: what is worth logging.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog
from structlog.typing import Processor

from sfu.worker import LogStyle
from signaling.settings import LogFormat, LogSettings

REDACTED = "[ip]"

# Loose on purpose: `ipaddress` decides what is one. A version such as 1.2.3.4 is redacted too; better that than a leak.
_V4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)")
_V6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:[0-9A-Fa-f]{0,4}|(?:\d{1,3}\.){3}\d{1,3})(?:%\w+)?(?![\w:])")


def configure(settings: LogSettings, stream: TextIO = sys.stderr) -> None:
    """Set up structlog and the standard library's logging for the whole process."""
    as_json = _as_json(settings, stream)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        # Before the redactor, so that an address inside an exception's text does not slip past it.
        structlog.processors.format_exc_info,
    ]
    if not settings.addresses:
        shared.append(redact_addresses)
    renderer: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if as_json
        else structlog.dev.ConsoleRenderer(colors=stream.isatty(), repr_native_str=True)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(settings.level.value),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.value.upper())
    for chatty in ("httpx2", "httpcore2", "websockets", "asyncio", "uvicorn", "aiosqlite", "alembic"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


def style_of_workers(settings: LogSettings, stream: TextIO = sys.stderr) -> LogStyle:
    """What to tell a node, whose workers write to the same stream."""
    return LogStyle(level=settings.level.value, json=_as_json(settings, stream))


def _as_json(settings: LogSettings, stream: TextIO) -> bool:
    return settings.format is LogFormat.JSON or (settings.format is LogFormat.AUTO and not stream.isatty())


def redact_addresses(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace every IP address in the event by `[ip]`; loopback and unspecified ones stay, they are nobody's."""
    for name, value in event.items():
        if name != "timestamp":
            event[name] = _redacted(value)
    return event


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return _V6.sub(_replacement, _V4.sub(_replacement, value)) if "." in value or ":" in value else value
    if isinstance(value, dict):
        return {_redacted(key): _redacted(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_redacted(item) for item in value]
    if isinstance(value, bytes):
        return _redacted(value.decode("utf-8", "backslashreplace"))
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _redacted(str(value))


def _replacement(found: re.Match[str]) -> str:
    text = found.group()
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    return text if address.is_loopback or address.is_unspecified else REDACTED
