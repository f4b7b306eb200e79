"""The sections of a peer connection, driven by offers captured from real clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfu import sdp
from sfu.border import CodecSpec, DtlsRole, Fingerprint, IceCredentials, Kind
from sfu.sdp import Direction, Setup
from signaling.rooms.negotiation import ClientOffered, ServerOffered
from signaling.rooms.transport import Address, LocalTransport, Publishing, ReceivedSection, SendParameters, Wanted

FIXTURES = Path(__file__).parents[3] / "sfu/core/proto/tests/fixtures/sdp"

LOCAL = LocalTransport(
    ice=IceCredentials(ufrag="abcd", pwd="0123456789abcdefghijkl"),
    fingerprint=Fingerprint(algorithm="sha-256", value="AA:BB"),
    addresses=(Address("192.0.2.7", 7882), Address("192.0.2.7", 7882, "tcp")),
)
FRESH = IceCredentials(ufrag="fresh", pwd="zyxwvutsrqponmlkjihgfe")
OPUS = CodecSpec(pt=111, mime="audio/opus", clock_rate=48000)
VP8 = CodecSpec(pt=120, mime="video/VP8", clock_rate=90000)
H265 = CodecSpec(pt=121, mime="video/H265", clock_rate=90000)


def captured(name: str) -> str:
    return (FIXTURES / f"{name}.sdp").read_bytes().decode()


def wanted(number: int, codec: CodecSpec = VP8) -> Wanted:
    kind = Kind(codec.mime.partition("/")[0])
    rtx = 2000 + number if kind is Kind.VIDEO else None
    return Wanted(number, f"TR_{number}", f"PA_x|TR_{number}", kind, (codec,), 1000 + number, rtx)


def client_offered(**options: tuple[str, ...]) -> ClientOffered:
    return ClientOffered(LOCAL, new_credentials=lambda: FRESH, **options)


def server_offered() -> ServerOffered:
    return ServerOffered(LOCAL, new_credentials=lambda: FRESH)


def by_mid(text: str) -> dict[str, sdp.Media]:
    return {media.mid: media for media in sdp.parse(text).media if media.mid is not None}


def changed(text: str, **values: object) -> str:
    """Change the same fields of every section of a description."""
    session = sdp.parse(text)
    media = tuple(msgspec.structs.replace(section, **values) for section in session.media)
    return sdp.write(msgspec.structs.replace(session, media=media))


# --- the client offers ----------------------------------------------------------------------------------------------


def test_an_answer_bundles_everything_on_our_lite_agent() -> None:
    answer = client_offered().answer(captured("chromium_single_join"))
    session = sdp.parse(answer.sdp)
    assert session.ice_lite
    assert session.groups == (sdp.Group(semantics="BUNDLE", mids=tuple("0123456")),)
    assert [media.direction for media in session.media[:6]] == [Direction.INACTIVE] * 6
    assert {media.setup for media in session.media} == {Setup.PASSIVE}
    assert {media.ice_ufrag for media in session.media} == {"abcd"}
    assert all(media.rtcp_mux and media.rtcp_rsize for media in session.media[:6])
    first = session.media[0]
    assert [(c.protocol, c.port, c.tcp_type) for c in first.candidates] == [
        ("udp", 7882, None),
        ("tcp", 7882, "passive"),
    ]
    assert first.candidates[0].priority > first.candidates[1].priority
    assert session.media[6].sctp_port == 5000
    assert answer.data_channels
    assert answer.remote.role is DtlsRole.SERVER
    assert answer.received == ()
    assert not answer.ice_restart


def test_a_wanted_track_is_named_on_a_free_section_and_leaves_it_again() -> None:
    server = client_offered()
    offer = captured("chromium_single_join")
    answer = server.answer(offer, [wanted(1)])
    section = by_mid(answer.sdp)["3"]
    msid = sdp.Msid(stream="PA_x|TR_1", track="TR_1")
    assert section.direction is Direction.SENDONLY
    assert section.msids == (msid,)
    assert [(source.ssrc, source.msid) for source in section.ssrcs] == [(1001, msid), (2001, msid)]
    assert section.ssrc_groups == (sdp.SsrcGroup(semantics="FID", ssrcs=(1001, 2001)),)
    assert answer.mid_to_track_id == {"3": "TR_1"}
    sent = answer.bound[1]
    assert (sent.mid, sent.codecs[0].mime, sent.codecs[0].pt) == ("3", "video/VP8", 96)
    assert sent.codecs[0].rtx_pt == 97

    gone = server.answer(offer, [])
    assert by_mid(gone.sdp)["3"].direction is Direction.INACTIVE
    assert by_mid(gone.sdp)["3"].msids == ()
    assert gone.bound == {}


def test_a_freed_section_rests_one_round_before_it_carries_another_track() -> None:
    server = client_offered()
    offer = captured("chromium_single_join")
    server.answer(offer, [wanted(1), wanted(2), wanted(3)])
    swapped = server.answer(offer, [wanted(1), wanted(2), wanted(4)])
    assert set(swapped.bound) == {1, 2}
    assert (swapped.missing.video, swapped.missing.again) == (0, True)
    settled = server.answer(offer, [wanted(1), wanted(2), wanted(4)])
    assert settled.bound[4].mid == "5"
    assert not settled.missing.again


def test_what_finds_no_section_is_asked_for() -> None:
    server = client_offered()
    tracks = [wanted(number) for number in range(5)] + [wanted(number, OPUS) for number in range(10, 14)]
    answer = server.answer(captured("chromium_single_join"), tracks)
    assert (answer.missing.audio, answer.missing.video, answer.missing.again) == (1, 2, True)
    assert server.missing(tracks) == answer.missing


def test_a_track_in_a_codec_the_client_lacks_is_unsupported_and_not_asked_for() -> None:
    answer = client_offered().answer(captured("aiortc_offer"), [wanted(1, H265), wanted(2, VP8)])
    assert answer.unsupported == (1,)
    assert set(answer.bound) == {2}
    assert answer.missing.again is False


def test_a_publication_is_described_with_its_cid_layers_and_codecs() -> None:
    offer = captured("chromium_publisher_simulcast_vp8")
    sections = by_mid(offer)
    answer = client_offered().answer(offer)
    audio, video = answer.received
    assert video.cid == sections["1"].msids[0].track
    assert video.stream_id == sections["1"].msids[0].stream
    assert (video.mid, video.kind, video.rids, video.active) == ("1", Kind.VIDEO, ("q", "h", "f"), True)
    assert [(codec.mime, codec.rtx_pt) for codec in video.codecs] == [("video/VP8", 97)]
    assert audio.ssrcs[0].ssrc == sections["0"].ssrcs[0].ssrc
    answered = by_mid(answer.sdp)["1"]
    assert answered.direction is Direction.RECVONLY
    assert [(rid.id, rid.direction) for rid in answered.rids] == [("q", "recv"), ("h", "recv"), ("f", "recv")]
    assert answered.simulcast is not None
    assert [stream.rids for stream in answered.simulcast.recv] == [("q",), ("h",), ("f",)]
    offered_ids = {extension.uri: extension.id for extension in sections["1"].extensions}
    assert all(offered_ids[extension.uri] == extension.id for extension in answered.extensions)


def test_an_ended_publication_is_told_once_more_as_inactive_with_its_cid() -> None:
    server = client_offered()
    offer = captured("chromium_publisher_simulcast_vp8")
    before = server.answer(offer).received
    after = server.answer(changed(offer, direction=Direction.INACTIVE, msids=(), ssrcs=())).received
    assert [section.active for section in after] == [False, False]
    assert [section.cid for section in after] == [section.cid for section in before]


def test_of_sections_that_are_over_nothing_is_kept() -> None:
    """S-45"""
    server = client_offered()
    offer = captured("chromium_publisher_simulcast_vp8")
    server.answer(offer)
    kept = set(server.state.cid_of)
    for number in range(3):
        session = sdp.parse(offer)
        mids = {media.mid or "": f"{media.mid}-{number}" for media in session.media}
        media = tuple(msgspec.structs.replace(one, mid=mids[one.mid or ""]) for one in session.media)
        groups = (sdp.Group(semantics="BUNDLE", mids=tuple(mids.values())),)
        server.answer(sdp.write(msgspec.structs.replace(session, media=media, groups=groups)))
        assert set(server.state.cid_of) == {mids[mid] for mid in kept}
    # Nor of one that stays and is silent: each could have had another name, as long as a description may be.
    server.answer(offer)
    ended = changed(offer, direction=Direction.INACTIVE, msids=(), ssrcs=())
    assert len(server.answer(ended).received) == 2
    assert server.answer(ended).received == ()
    assert not server.state.cid_of


def said(cid: str, publishing: Publishing) -> Callable[[Sequence[ReceivedSection]], dict[str, Publishing]]:
    """Of the section that carries that track."""
    return lambda sections: {section.mid: publishing for section in sections if section.cid == cid}


def test_what_the_client_said_about_a_track_shapes_the_answer() -> None:
    offer = captured("chromium_publisher_all_codecs")
    cid = next(media.msids[0].track for media in sdp.parse(offer).media if media.msids)
    assert cid is not None
    server = client_offered()
    (video,) = server.answer(offer, (), said(cid, Publishing(mime="video/AV1"))).received
    assert video.codecs[0].mime == "video/AV1"
    lines = next(
        media for media in sdp.parse(server.answer(offer, (), said(cid, Publishing(mime="video/AV1"))).sdp).media
    )
    assert [line.name for line in lines.codecs[:2]] == ["AV1", "rtx"]
    assert lines.codecs[1].fmtp == f"apt={lines.codecs[0].pt}"


def test_stereo_dtx_and_no_red_are_asked_for_as_said() -> None:
    offer = captured("chromium_publisher_simulcast_vp8")
    cid = by_mid(offer)["0"].msids[0].track
    assert cid is not None
    answer = client_offered().answer(offer, (), said(cid, Publishing(stereo=True, dtx=True, red=False)))
    codecs = by_mid(answer.sdp)["0"].codecs
    assert codecs[0].fmtp == "minptime=10;useinbandfec=1;stereo=1;usedtx=1"
    assert "red" not in [codec.name for codec in codecs]
    assert "audio/red" not in [codec.mime for codec in answer.received[0].codecs]


@pytest.mark.parametrize(
    ("publishing", "first"),
    [
        (Publishing(), "red"),
        (Publishing(mime="audio/red"), "red"),
        (Publishing(mime="audio/opus"), "opus"),
        (Publishing(red=False), "opus"),
        (Publishing(mime="audio/red", red=False), "opus"),
        (Publishing(mime="audio/PCMU"), "PCMU"),
    ],
)
def test_sound_is_asked_for_as_red_unless_another_codec_is_named_or_red_is_not_wanted(
    publishing: Publishing, first: str
) -> None:
    offer = captured("chromium_publisher_simulcast_vp8")
    cid = by_mid(offer)["0"].msids[0].track
    assert cid is not None
    answer = client_offered().answer(offer, (), said(cid, publishing))
    answered = [codec.name for codec in by_mid(answer.sdp)["0"].codecs]
    others = [name for name in ("opus", "red", "PCMU", "PCMA") if name != first and (publishing.red or name != "red")]
    assert answered == [first, *others]
    assert [codec.mime.partition("/")[2] for codec in answer.received[0].codecs] == answered


def test_without_red_sound_keeps_the_clients_order() -> None:
    offer = captured("chromium_publisher_simulcast_vp8")
    section = by_mid(offer)["0"]
    cid = section.msids[0].track
    assert cid is not None
    without = tuple(codec for codec in reversed(section.codecs) if codec.name != "red")
    session = sdp.parse(offer)
    media = (msgspec.structs.replace(session.media[0], codecs=without), *session.media[1:])
    answer = client_offered().answer(
        sdp.write(msgspec.structs.replace(session, media=media)), (), said(cid, Publishing())
    )
    assert [codec.name for codec in by_mid(answer.sdp)["0"].codecs] == ["PCMA", "PCMU", "opus"]


def test_only_allowed_codecs_are_accepted() -> None:
    answer = client_offered(mimes=("video/VP8",)).answer(captured("chromium_publisher_all_codecs"))
    assert {codec.mime for codec in answer.received[0].codecs} == {"video/VP8"}


def test_new_credentials_of_the_client_are_met_with_new_ones_of_ours() -> None:
    server = client_offered()
    offer = captured("chromium_single_join")
    server.answer(offer)
    assert not server.answer(offer).ice_restart
    restarted = server.answer(changed(offer, ice_ufrag="other", ice_pwd="abcdefghijklmnopqrstuv"))
    assert restarted.ice_restart
    assert restarted.remote.ice.ufrag == "other"
    assert restarted.local.ice == server.local.ice == FRESH
    assert {media.ice_ufrag for media in sdp.parse(restarted.sdp).media} == {"fresh"}


@pytest.mark.parametrize(
    ("offered", "ours", "role"),
    [
        (Setup.ACTPASS, Setup.PASSIVE, DtlsRole.SERVER),
        (Setup.ACTIVE, Setup.PASSIVE, DtlsRole.SERVER),
        (Setup.PASSIVE, Setup.ACTIVE, DtlsRole.CLIENT),
    ],
)
def test_we_are_the_dtls_server_unless_the_client_is(offered: Setup, ours: Setup, role: DtlsRole) -> None:
    answer = client_offered().answer(changed(captured("chromium_data_only"), setup=offered))
    assert answer.remote.role is role
    assert sdp.parse(answer.sdp).media[0].setup is ours


def test_sections_outside_the_bundle_and_of_unknown_kinds_are_rejected_in_place() -> None:
    session = sdp.parse(captured("chromium_publisher_simulcast_vp8"))
    strange = sdp.Media(kind="text", protocol="TCP/MSRP", formats=("*",), mid="odd")
    groups = (sdp.Group(semantics="BUNDLE", mids=("1", "odd")),)
    offer = sdp.write(msgspec.structs.replace(session, groups=groups, media=(*session.media, strange)))
    answer = client_offered().answer(offer)
    answered = sdp.parse(answer.sdp)
    assert [media.port for media in answered.media] == [0, 9, 0, 0]
    assert [media.kind for media in answered.media] == ["audio", "video", "application", "text"]
    assert answered.groups[0].mids == ("1",)
    assert [section.mid for section in answer.received] == ["1"]


def test_a_lone_section_without_mid_or_bundle_is_served() -> None:
    session = sdp.parse(captured("jsep_offer_a1"))
    audio = msgspec.structs.replace(session.media[0], mid=None)
    offer = sdp.write(msgspec.structs.replace(session, groups=(), media=(audio,)))
    answer = client_offered().answer(offer)
    answered = sdp.parse(answer.sdp)
    assert answered.groups == ()
    assert answered.media[0].mid is None
    assert answer.received[0].mid == ""


def test_the_bundled_section_without_a_port_of_its_own_is_no_rejection() -> None:
    answer = client_offered().answer(captured("jsep_offer_b1"))
    assert answer.data_channels
    assert sdp.parse(answer.sdp).media[1].port == 9


@pytest.mark.parametrize("missing", [{"ice_ufrag": None}, {"fingerprints": ()}])
def test_an_unusable_offer_changes_nothing(missing: dict[str, object]) -> None:
    server = client_offered()
    offer = captured("chromium_single_join")
    server.answer(offer, [wanted(1)])
    with pytest.raises(sdp.SdpError):
        server.answer(changed(offer, **missing), [])
    assert server.answer(offer, [wanted(1)]).bound[1].mid == "3"


def test_an_unusable_wish_changes_nothing() -> None:
    server = client_offered()
    offer = captured("chromium_single_join")
    server.answer(offer, [wanted(1)])
    with pytest.raises(sdp.SdpError):
        server.answer(offer, [replace(wanted(2), stream_id="a b\r\n")])
    assert server.answer(offer, [wanted(1)]).bound[1].mid == "3"


_WISHES = st.lists(st.sets(st.integers(0, 11), max_size=8), min_size=1, max_size=8)


def _track(number: int) -> Wanted:
    return wanted(number, OPUS if number % 2 else VP8)


@given(_WISHES)
def test_a_track_keeps_its_section_and_no_two_share_one(rounds: list[set[int]]) -> None:
    server = client_offered()
    offer = captured("chromium_single_join")
    before: dict[int, SendParameters] = {}
    for numbers in rounds:
        answer = server.answer(offer, [_track(number) for number in sorted(numbers)])
        assert set(answer.bound) <= numbers
        assert len({sent.mid for sent in answer.bound.values()}) == len(answer.bound)
        for number in answer.bound.keys() & before.keys():
            assert answer.bound[number].mid == before[number].mid
        rested = {sent.mid for sent in before.values()} - {
            before[number].mid for number in answer.bound.keys() & before.keys()
        }
        assert rested.isdisjoint(sent.mid for number, sent in answer.bound.items() if number not in before)
        sending = {
            mid for mid, media in by_mid(answer.sdp).items() if media.kind != "application" and media.direction.sends
        }
        assert sending == {sent.mid for sent in answer.bound.values()} == set(answer.mid_to_track_id)
        assert answer.missing.again == (set(answer.bound) != numbers)
        before = answer.bound


# --- we offer -------------------------------------------------------------------------------------------------------


def client_answer(offer_sdp: str) -> str:
    """Answer as a client would, with the machine for the other direction: it takes all that is sent."""
    offer = sdp.parse(offer_sdp)
    flipped = {Direction.SENDONLY: Direction.RECVONLY, Direction.INACTIVE: Direction.INACTIVE}
    media = tuple(
        msgspec.structs.replace(
            section,
            direction=flipped.get(section.direction, section.direction),
            setup=Setup.ACTIVE,
            ice_ufrag="client",
            ice_pwd="clientclientclientclient",
            candidates=(),
            msids=(),
            ssrcs=(),
            ssrc_groups=(),
        )
        for section in offer.media
    )
    return sdp.write(msgspec.structs.replace(offer, media=media))


def test_the_first_offer_has_only_the_data_section() -> None:
    server = server_offered()
    assert server.needs_offer
    offer = server.offer([])
    assert offer is not None
    (section,) = sdp.parse(offer.sdp).media
    assert (section.kind, section.mid, section.setup) == ("application", "0", Setup.ACTPASS)
    assert not server.needs_offer
    accepted = server.accept(client_answer(offer.sdp), offer.id)
    assert accepted is not None
    assert accepted.data_channels
    assert accepted.remote.role is DtlsRole.SERVER
    assert accepted.remote.ice.ufrag == "client"


def test_tracks_get_sections_and_a_freed_one_is_used_again_after_a_round() -> None:
    server = server_offered()

    def exchange(tracks: list[Wanted]) -> tuple[dict[str, str], dict[int, SendParameters]]:
        offer = server.offer(tracks)
        assert offer is not None
        accepted = server.accept(client_answer(offer.sdp), offer.id)
        assert accepted is not None
        return offer.mid_to_track_id, accepted.bound

    mids, bound = exchange([wanted(1, OPUS), wanted(2)])
    assert mids == {"1": "TR_1", "2": "TR_2"}
    assert bound[2].codecs[0].rtx_pt is not None
    assert exchange([wanted(1, OPUS), wanted(3)])[0] == {"1": "TR_1", "3": "TR_3"}
    assert exchange([wanted(1, OPUS), wanted(3), wanted(4)])[0] == {"1": "TR_1", "2": "TR_4", "3": "TR_3"}


def test_only_one_offer_is_out_and_a_change_waits_for_the_answer() -> None:
    server = server_offered()
    first = server.offer([])
    assert first is not None
    assert server.offer([wanted(1)]) is None
    assert server.needs_offer
    assert server.accept(client_answer(first.sdp), first.id) is not None
    second = server.offer([wanted(1)])
    assert second is not None
    assert second.id == first.id + 1
    assert not server.needs_offer


def test_of_an_offer_that_is_out_only_its_sections_are_remembered() -> None:
    server = server_offered()
    offer = server.offer([wanted(1), wanted(2)])
    assert offer is not None
    assert server.state.outstanding == (offer.id, tuple(by_mid(offer.sdp)))


def test_stale_answers_are_passed_over_and_an_answer_without_id_is_taken() -> None:
    """F-13"""
    server = server_offered()
    offer = server.offer([])
    assert offer is not None
    text = client_answer(offer.sdp)
    assert server.accept(text, offer.id + 5) is None
    assert server.accept(text) is not None
    assert server.accept(text, offer.id) is None


def test_an_answer_for_other_sections_is_refused_and_the_offer_stays_out() -> None:
    server = server_offered()
    offer = server.offer([wanted(1)])
    assert offer is not None
    other = server_offered().offer([])
    assert other is not None
    with pytest.raises(sdp.SdpError) as refusal:
        server.accept(client_answer(other.sdp), offer.id)
    assert refusal.value.code == "answer_mismatch"
    assert server.accept(client_answer(offer.sdp), offer.id) is not None


def test_a_restart_takes_new_credentials_and_gives_up_the_offer_that_is_out() -> None:
    server = server_offered()
    first = server.offer([])
    assert first is not None
    server.restart_ice()
    assert server.needs_offer
    second = server.offer([])
    assert second is not None
    assert second.ice_restart
    assert second.local.ice == FRESH
    assert server.accept(client_answer(first.sdp), first.id) is None
    assert server.accept(client_answer(second.sdp), second.id) is not None


def test_a_rejected_section_makes_its_track_unsupported() -> None:
    server = server_offered()
    offer = server.offer([wanted(1)])
    assert offer is not None
    session = sdp.parse(client_answer(offer.sdp))
    rejected = msgspec.structs.replace(session.media[1], port=0)
    answer = sdp.write(msgspec.structs.replace(session, media=(session.media[0], rejected)))
    accepted = server.accept(answer, offer.id)
    assert accepted is not None
    assert (accepted.bound, accepted.unsupported) == ({}, (1,))
    again = server.offer([wanted(2)])
    assert again is not None
    assert [media.port for media in sdp.parse(again.sdp).media] == [9, 0, 9]
