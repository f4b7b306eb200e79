"""The contract: Python and Rust know the same commands and events, with the same content."""

from __future__ import annotations

import re
import types
import typing
from enum import Enum
from typing import Any, Union, get_args, get_origin

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfu import _core, border

U8, U16, U32, U64 = 2**8 - 1, 2**16 - 1, 2**32 - 1, 2**64 - 1

# The widths of Rust's integers, where they are narrower than an id.
WIDTHS = {
    "pt": U8,
    "rtx_pt": U8,
    "id": U8,
    "spatial": U8,
    "max_spatial": U8,
    "current_spatial": U8,
    "target_spatial": U8,
    "current_temporal": U8,
    "layers": U8,
    "quality": U8,
    "level": U8,
    "memory": U8,
    "max_retransmits": U16,
    "pub_handle": U16,
    "handle": U16,
    "ssrc": U32,
    "rtx_ssrc": U32,
    "clock_rate": U32,
    "width": U32,
    "height": U32,
    "bitrate_bps": U32,
    "fps": U32,
    "priority": U32,
}

COMMANDS = get_args(border.AnyCommand)
EVENTS = get_args(border.AnyEvent)
TEXT = st.text(max_size=12)


def strategy_for(hint: Any, name: str) -> st.SearchStrategy[Any]:
    origin = get_origin(hint)
    if origin in {Union, types.UnionType}:
        return st.one_of([strategy_for(part, name) for part in get_args(hint)])
    if origin is tuple:
        return st.lists(strategy_for(get_args(hint)[0], name), max_size=3).map(tuple)
    if hint is type(None):
        return st.none()
    if hint is bool:
        return st.booleans()
    if hint is int:
        return st.integers(0, WIDTHS.get(name, U64))
    if hint is float:
        return st.floats(0, 1e6, width=32)
    if hint is str:
        return st.just("panic") if name == "fault" else TEXT
    if hint is bytes:
        return st.binary(max_size=64)
    if issubclass(hint, Enum):
        return st.sampled_from(list(hint))
    return struct_strategy(hint)


def struct_strategy(struct: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(struct)
    # Two fields called `quality`: a subscriber's wish (a number) and a report (a struct).
    fields = {name: strategy_for(hints[name], name) for name in struct.__struct_fields__}
    return st.builds(struct, **fields)


def rust_variants(reencode: Any) -> set[str]:
    """Rust names all it knows when it is asked for something it does not."""
    with pytest.raises(ValueError, match="unknown variant") as caught:
        reencode(msgspec.msgpack.encode({"type": "nothing_of_the_kind"}))
    return set(re.findall(r"`(\w+)`", str(caught.value).split("expected", 1)[1]))


def tags(structs: tuple[type[msgspec.Struct], ...]) -> set[str]:
    return {str(struct.__struct_config__.tag) for struct in structs}


def test_both_sides_know_the_same_commands() -> None:
    assert rust_variants(_core.reencode_command) == tags(COMMANDS)


def test_both_sides_know_the_same_events() -> None:
    assert rust_variants(_core.reencode_event) == tags(EVENTS)


@pytest.mark.parametrize("struct", COMMANDS, ids=lambda struct: struct.__name__)
def test_commands_mean_the_same_on_both_sides(struct: type[border.Command]) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(struct_strategy(struct))
    def check(command: border.Command) -> None:
        encoded = _core.reencode_command(msgspec.msgpack.encode(command))
        assert msgspec.msgpack.decode(encoded, type=border.AnyCommand) == command
        assert set(msgspec.msgpack.decode(encoded)) == {"type", *struct.__struct_fields__}

    check()


@pytest.mark.parametrize("struct", EVENTS, ids=lambda struct: struct.__name__)
def test_events_mean_the_same_on_both_sides(struct: type[border.Event]) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(struct_strategy(struct))
    def check(event: border.Event) -> None:
        encoded = _core.reencode_event(msgspec.msgpack.encode(event))
        assert msgspec.msgpack.decode(encoded, type=border.AnyEvent) == event
        assert set(msgspec.msgpack.decode(encoded)) == {"type", *struct.__struct_fields__}

    check()


@given(st.binary(max_size=256))
def test_bytes_that_are_no_command_are_an_error_and_nothing_worse(data: bytes) -> None:
    """S-76"""
    with pytest.raises(ValueError, match="not a command"):
        _core.reencode_command(data)
