"""What a token allows, read from claims and written to them."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from livekit.protocol import models

from signaling.rooms.grants import SOURCES, Grants, grants_of
from signaling.rooms.names import normal

KINDS = models.ParticipantInfo.Kind
_NAMES = st.text(max_size=8).map(normal)
_FLAGS = [field.name for field in fields(Grants) if field.type == "bool" and field.name != "managed"]
_GRANTS = st.builds(
    Grants,
    key=st.just("devkey"),
    identity=_NAMES,
    name=_NAMES,
    metadata=_NAMES,
    attributes=st.dictionaries(_NAMES, _NAMES, max_size=2),
    kind=st.sampled_from(("", "agent", "sip")),
    room=_NAMES,
    can_publish_sources=st.lists(st.sampled_from(sorted(SOURCES)), unique=True, max_size=4).map(tuple),
    managed=st.booleans(),
    **{name: st.booleans() for name in _FLAGS},
)


@given(_GRANTS)
def test_claims_say_exactly_the_grants(grants: Grants) -> None:
    claims = {"iss": "devkey", **grants.claims()}
    assert grants_of(claims, lifetime_seconds=grants.lifetime_seconds) == grants


@pytest.mark.parametrize(
    ("video", "allowed"),
    [
        ({}, True),
        ({"canPublish": True}, True),
        ({"canPublish": False}, False),
        ({"canPublish": False, "canPublishData": None}, False),
        ({"canPublish": False, "canPublishData": True}, True),
        ({"canPublish": True, "canPublishData": False}, False),
        ({"canPublishData": False}, False),
    ],
)
def test_a_token_that_does_not_speak_of_data_allows_it_to_who_may_publish(
    video: dict[str, bool | None], allowed: bool
) -> None:
    grants = grants_of({"iss": "devkey", "video": video}, lifetime_seconds=600)
    assert grants.can_publish_data == allowed
    assert grants.claims()["video"]["canPublishData"] == allowed, "a refreshed token says it"


@given(_GRANTS, _GRANTS)
def test_within_another_s_bounds_nothing_is_allowed_that_one_of_them_does_not(one: Grants, other: Grants) -> None:
    both = one.within(other)
    for name in ("can_subscribe", "can_publish_data", "can_update_own_metadata", "can_subscribe_metrics"):
        assert getattr(both, name) == (getattr(one, name) and getattr(other, name))
    for source in SOURCES.values():
        assert both.may_publish(source) == (one.may_publish(source) and other.may_publish(source))
    assert (both.identity, both.room, both.hidden) == (one.identity, one.room, one.hidden)


@given(_GRANTS)
def test_a_permission_set_to_what_it_is_changes_nothing(grants: Grants) -> None:
    again = grants.with_permission(grants.permission())
    assert again.permission() == grants.permission()


@pytest.mark.parametrize(
    ("kind", "agent", "expected"),
    [
        ("", False, KINDS.STANDARD),
        ("standard", False, KINDS.STANDARD),
        ("AGENT", False, KINDS.AGENT),
        ("egress", False, KINDS.EGRESS),
        ("ingress", False, KINDS.INGRESS),
        ("sip", False, KINDS.SIP),
        ("of the future", False, KINDS.STANDARD),
        ("", True, KINDS.AGENT),
    ],
)
def test_kinds(kind: str, agent: bool, expected: int) -> None:
    assert Grants(key="k", kind=kind, agent=agent).participant_kind == expected


def test_sources_limit_what_may_be_published() -> None:
    some = Grants(key="k", can_publish_sources=("camera", "screen_share_audio"))
    allowed = {source for source in models.TrackSource.values() if some.may_publish(source)}
    assert allowed == {models.TrackSource.CAMERA, models.TrackSource.SCREEN_SHARE_AUDIO}
    assert all(Grants(key="k").may_publish(source) for source in models.TrackSource.values())
    assert not any(Grants(key="k", can_publish=False).may_publish(source) for source in models.TrackSource.values())
