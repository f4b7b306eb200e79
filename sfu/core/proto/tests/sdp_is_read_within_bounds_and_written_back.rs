//! Descriptions of browsers and of RFC 8829 §7 as oracles, what is refused, and that nothing is lost on the way back.

use callyard_proto::command::SsrcSpec;
use callyard_proto::sdp::{Direction, Media, Msid, RidDirection, Session, Setup, agree, parse, supported, write};
use proptest::prelude::*;

const FIXTURES: [(&str, &str); 11] = [
    ("jsep_offer_a1", include_str!("fixtures/sdp/jsep_offer_a1.sdp")),
    ("jsep_offer_b1", include_str!("fixtures/sdp/jsep_offer_b1.sdp")),
    ("jsep_offer_b2", include_str!("fixtures/sdp/jsep_offer_b2.sdp")),
    ("jsep_answer_c1", include_str!("fixtures/sdp/jsep_answer_c1.sdp")),
    ("aiortc_offer", include_str!("fixtures/sdp/aiortc_offer.sdp")),
    ("chromium_data_only", include_str!("fixtures/sdp/chromium_data_only.sdp")),
    ("chromium_single_join", include_str!("fixtures/sdp/chromium_single_join.sdp")),
    ("chromium_all_codecs", include_str!("fixtures/sdp/chromium_publisher_all_codecs.sdp")),
    ("chromium_simulcast_vp8", include_str!("fixtures/sdp/chromium_publisher_simulcast_vp8.sdp")),
    ("chromium_vp9_svc", include_str!("fixtures/sdp/chromium_publisher_vp9_svc.sdp")),
    ("chromium_av1_svc", include_str!("fixtures/sdp/chromium_publisher_av1_svc.sdp")),
];

fn fixture(name: &str) -> Session {
    let (_, text) = FIXTURES.iter().find(|(other, _)| *other == name).expect("the name stands in the table");
    parse(text.as_bytes()).expect("a real description")
}

fn around(lines: &str) -> String {
    format!("v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n{}", lines.replace('\n', "\r\n"))
}

#[test]
fn the_simple_offer_of_rfc_8829_is_read_to_its_values() {
    let offer = fixture("jsep_offer_a1");
    assert_eq!(offer.origin.session_id, 4_962_303_333_179_871_722);
    assert_eq!(offer.ice_options, ["trickle", "ice2"]);
    assert_eq!(
        (offer.groups[0].semantics.as_str(), &offer.groups[1].mids[..]),
        ("BUNDLE", &["a1".into(), "v1".into()][..])
    );
    let [audio, video] = offer.media.as_slice() else { panic!("two sections") };
    assert_eq!((audio.kind.as_str(), audio.port, audio.mid.as_deref()), ("audio", 10100, Some("a1")));
    assert_eq!(audio.ice_ufrag.as_deref(), Some("ETEn"));
    assert_eq!(audio.ice_pwd.as_deref(), Some("OtSK0WpNtpUjkY4+86js7ZQl"));
    assert_eq!((audio.setup, audio.direction), (Some(Setup::ActPass), Direction::SendRecv));
    assert!(audio.rtcp_mux && audio.rtcp_rsize && audio.end_of_candidates);
    assert_eq!(audio.fingerprints[0].algorithm, "sha-256");
    assert!(audio.fingerprints[0].value.starts_with("19:E2:1C") && audio.fingerprints[0].value.ends_with("70:88:A2"));
    assert_eq!(audio.msids, [Msid { stream: "47017fee-b6c1-4162-929c-a25110252400".into(), track: None }]);
    let names: Vec<_> = audio.codecs.iter().map(|codec| (codec.pt, codec.name.as_str(), codec.channels)).collect();
    assert_eq!(
        names,
        [(96, "opus", 2), (0, "PCMU", 1), (8, "PCMA", 1), (97, "telephone-event", 1), (98, "telephone-event", 1)]
    );
    assert_eq!(audio.candidates[1].component, 2);
    assert_eq!(audio.candidates[1].port, 10101);
    assert_eq!(video.codecs[0].feedback, ["ccm fir", "nack", "nack pli"]);
    assert_eq!(video.codecs[1].fmtp, "packetization-mode=1;profile-level-id=42e01f");
    assert_eq!(video.extensions[1].uri, "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id");
}

#[test]
fn bundle_only_simulcast_and_relay_candidates_of_rfc_8829_are_read() {
    let first = fixture("jsep_offer_b1");
    let data = &first.media[1];
    assert_eq!((data.port, data.bundle_only), (0, true));
    assert_eq!((data.formats.as_slice(), data.sctp_port), (&["webrtc-datachannel".to_owned()][..], Some(5000)));
    assert_eq!(data.max_message_size, Some(65536));

    let second = fixture("jsep_offer_b2");
    let relay = &second.media[0].candidates[2];
    assert_eq!((relay.typ.as_str(), relay.related_port), ("relay", Some(11200)));
    assert_eq!(relay.related_address.as_deref(), Some("198.51.100.200"));
    let simulcast = second.media[2].simulcast.as_ref().expect("three layers");
    let rids: Vec<_> = simulcast.send.iter().map(|stream| stream.rids[0].as_str()).collect();
    assert_eq!(rids, ["1", "2", "3"]);
    assert!(second.media[2].rids.iter().all(|rid| rid.direction == RidDirection::Send));

    assert_eq!(fixture("jsep_answer_c1").media[1].direction, Direction::SendOnly);
}

#[test]
fn every_description_survives_being_written() {
    for (name, text) in FIXTURES {
        let session = parse(text.as_bytes()).expect(name);
        let written = write(&session).expect(name);
        assert_eq!(parse(written.as_bytes()).expect(name), session, "{name}");
    }
}

/// S-45
#[test]
fn what_cannot_be_served_is_refused_with_its_code() {
    let fingerprints = "a=fingerprint:sha-256 AA:BB\n".repeat(1000);
    let sections = "m=audio 9 UDP/TLS/RTP/SAVPF 111\n".repeat(513);
    let table: Vec<(String, &str)> = vec![
        (String::new(), "no_version"),
        ("v=1\r\n".into(), "no_version"),
        ("v=0\r\ns=-\r\n".into(), "no_origin"),
        ("v=0\r\no=- 1 1 IN\r\n".into(), "malformed"),
        (around("hello\n"), "bad_line"),
        (around("a=x\0y\n"), "control_character"),
        (around("a=x\ra=y\n"), "control_character"),
        ("v=0\ro=- 1 1 IN IP4 0.0.0.0\rs=-\r".into(), "control_character"),
        (around(&"a=x\n".repeat(80_000)), "too_many_lines"),
        (around(&format!("a={}\n", "x".repeat(2 * 1024 * 1024))), "too_long"),
        (around(&sections), "too_many_sections"),
        (around(&fingerprints), "too_many"),
        (around(&format!("m=audio 9 RTP/AVP 0\n{fingerprints}")), "too_many"),
        (around("m=audio 9 UDP/TLS/RTP/SAVPF 128\n"), "payload_type"),
        (around("m=audio 9 UDP/TLS/RTP/SAVPF 96\na=rtpmap:300 opus/48000\n"), "payload_type"),
        (around("m=audio 9 UDP/TLS/RTP/SAVPF 96 96\n"), "duplicate"),
        (around("m=audio 70000 RTP/AVP 0\n"), "malformed"),
        (around("m=audio 9\n"), "malformed"),
        (around("m=audio 9 RTP/AVP 0\na=mid:x\nm=audio 9 RTP/AVP 0\na=mid:x\n"), "duplicate"),
        (around("m=video 9 RTP/AVP 96\na=rid:a send\na=rid:a send\n"), "duplicate"),
        (around("m=video 9 RTP/AVP 96\na=rid:a send\na=simulcast:send a,a\n"), "duplicate"),
        (around("m=video 9 RTP/AVP 96\na=simulcast:send\n"), "malformed"),
        (around("m=video 9 RTP/AVP 96\na=extmap:0 urn:x\n"), "malformed"),
        (around("m=video 9 RTP/AVP 96\na=extmap:1 urn:x\na=extmap:1 urn:y\n"), "duplicate"),
        (around("a=ice-ufrag:abc\n"), "malformed"),
        (around("a=ice-pwd:short\n"), "malformed"),
        (around("a=fingerprint:sha-256 zz\n"), "malformed"),
        (around("a=setup:maybe\n"), "malformed"),
        (around("m=video 9 RTP/AVP 96\na=ssrc:4294967296 cname:x\n"), "malformed"),
        (around("m=video 9 RTP/AVP +96\n"), "malformed"),
    ];
    for (text, code) in table {
        let shown: String = text.chars().take(120).collect();
        assert_eq!(parse(text.as_bytes()).map_err(|error| error.code()), Err(code), "{shown}");
    }
    assert_eq!(parse(b"v=0\r\no=\xff\r\n").map_err(|error| error.code()), Err("not_utf8"));
}

/// S-45
#[test]
fn the_largest_allowed_description_is_still_read() {
    let sections: String = (0..512).map(|mid| format!("m=audio 9 UDP/TLS/RTP/SAVPF 111\na=mid:{mid}\n")).collect();
    assert_eq!(parse(around(&sections).as_bytes()).expect("within bounds").media.len(), 512);
    let head = around("");
    let lines = 80_000 - head.lines().count();
    assert!(parse(around(&"a=x\n".repeat(lines)).as_bytes()).is_ok());
    assert_eq!(parse(around(&"a=x\n".repeat(lines + 1)).as_bytes()).map_err(|e| e.code()), Err("too_many_lines"));
    let room = 2 * 1024 * 1024 - head.len() - "a=\r\n".len();
    assert!(parse(around(&format!("a={}\n", "x".repeat(room))).as_bytes()).is_ok());
    assert_eq!(
        parse(around(&format!("a={}\n", "x".repeat(room + 1))).as_bytes()).map_err(|e| e.code()),
        Err("too_long")
    );
}

/// A subscriber of hundreds of tracks is offered more than anybody may send us.
#[test]
fn what_is_written_has_no_limit() {
    let mut session = fixture("chromium_simulcast_vp8");
    let video = session.media[0].clone();
    for number in 0..600 {
        let mid = format!("more-{number}");
        session.groups[0].mids.push(mid.clone());
        session.media.push(Media { mid: Some(mid), ..video.clone() });
    }
    let written = write(&session).expect("all of it can be read back");
    assert!(written.len() > 256 * 1024 && written.lines().count() > 10_000);
    assert_eq!(parse(written.as_bytes()).map_err(|error| error.code()), Err("too_many_sections"));
}

#[test]
fn no_value_can_add_a_line() {
    let mut session = fixture("chromium_simulcast_vp8");
    session.media[0].msids[0].stream = "a\r\na=ice-lite".into();
    assert_eq!(write(&session).map_err(|error| error.code()), Err("unwritable"));
    let mut session = fixture("chromium_simulcast_vp8");
    session.media[1].codecs[0].pt = 200;
    assert_eq!(write(&session).map_err(|error| error.code()), Err("payload_type"));
}

#[test]
fn simulcast_by_rid_is_agreed_with_retransmission_and_without_fec() {
    let offer = fixture("chromium_simulcast_vp8");
    let agreed = agree(&offer.media[1], &[]);
    assert_eq!(agreed.rids, ["q", "h", "f"]);
    let [vp8] = agreed.codecs.as_slice() else { panic!("only VP8 is left: {:?}", agreed.codecs) };
    assert_eq!((vp8.mime.as_str(), vp8.pt.0, vp8.rtx_pt.map(|pt| pt.0)), ("video/VP8", 96, Some(97)));
    assert_eq!(vp8.feedback, ["transport-cc", "ccm fir", "nack", "nack pli"]);
    let names: Vec<_> = agreed.lines.iter().map(|codec| codec.name.as_str()).collect();
    assert_eq!(names, ["VP8", "rtx"]);
    assert!(agreed.extensions.iter().all(|extension| extension.id <= 14));
    assert!(agreed.extensions.iter().any(|extension| extension.uri.ends_with("repaired-rtp-stream-id")));
    assert!(!agreed.extensions.iter().any(|extension| extension.uri.ends_with("toffset")));

    let audio = agree(&offer.media[0], &[]);
    let mimes: Vec<_> = audio.codecs.iter().map(|codec| codec.mime.as_str()).collect();
    assert_eq!(mimes, ["audio/opus", "audio/red", "audio/PCMU", "audio/PCMA"]);
    assert!(audio.ssrcs.len() == 1 && audio.ssrcs[0].rtx_ssrc.is_none());
}

/// livekit-client gives the dependency descriptor the first free id, which is 16 where a browser uses all of the
/// one-byte form.
#[test]
fn ids_of_the_two_byte_form_are_agreed_to_where_both_may_be_mixed() {
    let section = |mixed: &str| {
        format!(
            "m=video 9 UDP/TLS/RTP/SAVPF 96\n{mixed}a=rtpmap:96 VP8/90000\n{}{}{}{}{}",
            "a=extmap:14 urn:ietf:params:rtp-hdrext:sdes:mid\n",
            "a=extmap:15 urn:3gpp:video-orientation\n",
            "a=extmap:16 https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension\n",
            "a=extmap:255 http://www.webrtc.org/experiments/rtp-hdrext/playout-delay\n",
            "a=extmap:256 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time\n",
        )
    };
    let allowed = "a=extmap-allow-mixed\n";
    let table = [
        (section(""), vec![14]),
        (section(allowed), vec![14, 16, 255]),
        (format!("{allowed}{}", section("")), vec![14, 16, 255]),
    ];
    for (text, ids) in table {
        let offer = parse(around(&text).as_bytes()).expect("well formed");
        let agreed = agree(&offer.media[0], &[]);
        assert_eq!(agreed.extensions.iter().map(|extension| extension.id).collect::<Vec<_>>(), ids, "{text}");
        assert_eq!(agreed.extension_lines.len(), ids.len());
    }
    // What is said for the session need not be said again to be written.
    let mut session = fixture("chromium_simulcast_vp8");
    session.media.iter_mut().for_each(|media| media.extmap_allow_mixed = false);
    let read = parse(write(&session).expect("it reads back").as_bytes()).expect("well formed");
    assert!(read.extmap_allow_mixed && read.media[1].extmap_allow_mixed);
}

#[test]
fn rids_with_the_usual_names_are_ordered_by_size_and_undefined_ones_left_out() {
    let text = around(
        "m=video 9 UDP/TLS/RTP/SAVPF 96\na=rtpmap:96 VP8/90000\na=rid:f send\na=rid:q send\na=rid:h send\na=simulcast:send f;h;q;x\n",
    );
    let offer = parse(text.as_bytes()).expect("well formed");
    assert_eq!(agree(&offer.media[0], &[]).rids, ["q", "h", "f"]);
}

/// Firefox names both; what is sorted by size is sorted with its sources.
#[test]
fn sources_beside_rids_are_theirs_in_the_order_of_the_offer() {
    let section = |sources: &str| {
        let text = around(&format!(
            "m=video 9 UDP/TLS/RTP/SAVPF 96\na=rtpmap:96 VP8/90000\n{}{sources}",
            "a=rid:f send\na=rid:h send\na=rid:q send\na=simulcast:send f;h;q\n",
        ));
        let agreed = agree(&parse(text.as_bytes()).expect("well formed").media[0], &[]);
        assert_eq!(agreed.rids, ["q", "h", "f"]);
        let spec = |spec: &SsrcSpec| (spec.ssrc.0, spec.rtx_ssrc.map(|rtx| rtx.0), spec.rid.clone());
        agreed.ssrcs.iter().map(spec).collect::<Vec<_>>()
    };
    let group = |ssrc: u32| {
        let rtx = ssrc + 1;
        format!("a=ssrc-group:FID {ssrc} {rtx}\na=ssrc:{ssrc} cname:x\na=ssrc:{rtx} cname:x\n")
    };
    let named = |ssrc: u32, rid: Option<&str>| (ssrc, Some(ssrc + 1), rid.map(str::to_owned));
    assert_eq!(
        section(&[10, 20, 30].map(group).concat()),
        [named(10, Some("f")), named(20, Some("h")), named(30, Some("q"))]
    );
    assert_eq!(
        section(&[10, 20].map(group).concat()),
        [named(10, None), named(20, None)],
        "whose they are is not known"
    );
    assert!(section("").is_empty());
}

#[test]
fn layers_by_ssrc_groups_come_in_the_order_of_the_group_with_their_retransmissions() {
    let text = around(concat!(
        "m=video 9 UDP/TLS/RTP/SAVPF 96\na=rtpmap:96 VP8/90000\n",
        "a=ssrc-group:SIM 10 20\na=ssrc-group:FID 20 21\na=ssrc-group:FID 10 11\n",
        "a=ssrc:20 cname:x\na=ssrc:21 cname:x\na=ssrc:10 cname:x\na=ssrc:11 cname:x\n",
    ));
    let offer = parse(text.as_bytes()).expect("well formed");
    let pairs: Vec<_> =
        agree(&offer.media[0], &[]).ssrcs.iter().map(|spec| (spec.ssrc.0, spec.rtx_ssrc.map(|rtx| rtx.0))).collect();
    assert_eq!(pairs, [(10, Some(11)), (20, Some(21))]);
}

#[test]
fn a_list_of_allowed_codecs_keeps_their_retransmission() {
    let offer = fixture("chromium_all_codecs");
    let agreed = agree(&offer.media[0], &["video/vp9".into()]);
    assert!(!agreed.codecs.is_empty());
    assert!(agreed.codecs.iter().all(|codec| codec.mime == "video/VP9" && codec.rtx_pt.is_some()));
    assert!(agreed.lines.iter().all(|codec| ["VP9", "rtx"].contains(&codec.name.as_str())));
}

#[test]
fn what_we_offer_we_agree_to_in_full() {
    for kind in ["audio", "video"] {
        let offered = supported(kind);
        let agreed = agree(&offered, &[]);
        assert_eq!(agreed.lines.len(), offered.codecs.len(), "{kind}");
        assert_eq!(agreed.extension_lines.len(), offered.extensions.len(), "{kind}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = parse(&bytes);
    }

    /// Cuts, swaps and repeats lines and bytes of real descriptions: what is still read is written back unchanged.
    #[test]
    fn what_is_read_is_written_back_unchanged(
        which in 0..FIXTURES.len(),
        lines in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..6),
        bytes in proptest::collection::vec((any::<prop::sample::Index>(), 0x09_u8..0x7f), 0..6),
    ) {
        let mut text: Vec<&str> = FIXTURES[which].1.split("\r\n").collect();
        for (from, to) in &lines {
            let moved = text[from.index(text.len())];
            let to = to.index(text.len());
            text.insert(to, moved);
        }
        let mut raw = text.join("\r\n").into_bytes();
        for (at, byte) in &bytes {
            let at = at.index(raw.len());
            raw[at] = *byte;
        }
        if let Ok(session) = parse(&raw) {
            let mut expected = session.clone();
            for media in expected.media.iter_mut().filter(|media| media.is_rtp() && media.codecs.is_empty()) {
                media.codecs = parse(around("m=audio 9 RTP/AVP 0\n").as_bytes()).expect("PCMU").media[0].codecs.clone();
            }
            let written = write(&session).expect("what was read can be written");
            prop_assert_eq!(parse(written.as_bytes()).expect("what was written can be read"), expected);
            for media in &session.media {
                let _ = agree(media, &[]);
            }
        }
    }
}
