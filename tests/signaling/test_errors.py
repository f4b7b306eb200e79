from __future__ import annotations

import re

import pytest

from signaling import errors
from signaling.errors import STATUS, CallyardError, Refusal, status_of


def leaves(base: type[CallyardError]) -> list[type[CallyardError]]:
    found = []
    for child in base.__subclasses__():
        found += [child, *leaves(child)]
    return found


def test_every_refusal_has_a_row_of_its_own() -> None:
    own = [leaf for leaf in leaves(Refusal) if leaf.__module__ == errors.__name__]
    assert own
    assert {leaf.__name__ for leaf in own} == {leaf.__name__ for leaf in STATUS}


def test_codes_are_snake_case_and_unique() -> None:
    codes = [leaf.code for leaf in STATUS]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_the_docstring_draws_the_whole_tree() -> None:
    drawn = set(re.findall(r"── (\w+)", errors.__doc__ or ""))
    assert drawn == {leaf.__name__ for leaf in leaves(CallyardError) if leaf.__module__ == errors.__name__}


@pytest.mark.parametrize(
    ("refusal", "http", "websocket"),
    [
        (errors.InvalidRequest("x"), 400, 1007),
        (errors.Unauthenticated("x"), 401, 4001),
        (errors.PermissionDenied("x"), 403, 4003),
        (errors.TooLarge("x"), 413, 1009),
        (errors.Unavailable("x"), 503, 1013),
        (errors.Overloaded("x"), 503, 1013),
    ],
)
def test_status(refusal: Refusal, http: int, websocket: int) -> None:
    assert (status_of(refusal).http, status_of(refusal).websocket) == (http, websocket)


def test_a_new_leaf_answers_as_its_parent_does() -> None:
    class NoSuchTrack(errors.NotFound):
        code = "no_such_track"

    assert status_of(NoSuchTrack("x")).http == 404
