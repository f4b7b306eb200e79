"""Names have one spelling and cannot change how others' text is shown."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.errors import InvalidRequest, TooLarge
from signaling.rooms.names import check_text, has_controls, normal


@pytest.mark.parametrize(
    "text",
    ["a\x00b", "a\nb", "a\x1b[31mb", "\x7f", "\x85", "\x9b", "\u202egpj.exe", "\u2067x\u2069", "a\u2028b", "\u202a"],
)
def test_what_controls_a_terminal_or_turns_text_is_no_name(text: str) -> None:
    """S-49"""
    with pytest.raises(InvalidRequest, match="The name has control characters"):
        check_text("name", text, 256)


@pytest.mark.parametrize(
    "text",
    ["Zoë", "дом", "\u05d3\u05d5\u05d3", "\u200f\u0645\u0631\u062d\u0628\u0627", "👩\u200d🔬", "O'Neil, J.", "名前"],
)
def test_names_of_all_scripts_pass(text: str) -> None:
    check_text("name", text, 256)


def test_a_name_is_bounded_in_bytes() -> None:
    """S-49"""
    with pytest.raises(TooLarge, match="257 bytes; at most 256"):
        check_text("name", "x" * 257, 256)


@given(st.text(max_size=40))
def test_a_spelling_is_final_and_the_same_for_all_that_is_equal(text: str) -> None:
    assert normal(text) == normal(unicodedata.normalize("NFD", text)) == normal(normal(text))
    assert has_controls(normal(text)) == has_controls(text)
