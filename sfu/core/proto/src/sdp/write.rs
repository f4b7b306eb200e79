//! Values to text, in the order browsers use. What is written reads back as the same values, or is refused.

use std::fmt::Write as _;

use super::codec::static_codec;
use super::error::SdpError;
use super::parse::{Limits, parse_within};
use super::types::*;
use crate::command::Fingerprint;

/// Writes a description. A value that would not read back (a line break in a name, a payload type of 200) is refused:
/// so no user's string can add a line.
pub fn write(session: &Session) -> Result<String, SdpError> {
    let text = session_lines(session);
    let mut expected = session.clone();
    for media in &mut expected.media {
        if media.is_rtp() && media.codecs.is_empty() {
            media.codecs.push(static_codec(0));
        }
        media.extmap_allow_mixed |= session.extmap_allow_mixed && media.is_rtp();
    }
    // However much it is: limits are for what strangers send, and we may have hundreds of tracks for somebody.
    let own = Limits { bytes: text.len(), lines: text.len(), sections: text.len() };
    let read_back = parse_within(text.as_bytes(), &own)?;
    if read_back == expected { Ok(text) } else { Err(SdpError::Unwritable { what: difference(&read_back, &expected) }) }
}

/// Names the first part that changed, for the sentence of the error.
fn difference(read_back: &Session, expected: &Session) -> &'static str {
    if read_back.media.len() != expected.media.len() {
        return "a media section";
    }
    let pairs = || read_back.media.iter().zip(&expected.media);
    if pairs().any(|(a, b)| a.codecs != b.codecs) {
        "a codec"
    } else if pairs().any(|(a, b)| a.msids != b.msids || a.ssrcs != b.ssrcs || a.ssrc_groups != b.ssrc_groups) {
        "an msid or ssrc"
    } else if pairs().any(|(a, b)| a != b) {
        "a value of a media section"
    } else {
        "a value of the session"
    }
}

// Writing to a String cannot fail; `line!` keeps that in one place.
macro_rules! line {
    ($out:expr, $($format:tt)*) => {{
        let _ = write!($out, $($format)*);
        $out.push_str("\r\n");
    }};
}

fn session_lines(session: &Session) -> String {
    let mut out = String::with_capacity(512 + 2048 * session.media.len());
    let origin = &session.origin;
    let family = if origin.address.contains(':') { "IP6" } else { "IP4" };
    line!(out, "v=0");
    line!(out, "o={} {} {} IN {family} {}", origin.username, origin.session_id, origin.session_version, origin.address);
    line!(out, "s={}", session.name);
    line!(out, "t=0 0");
    for group in &session.groups {
        out.push_str("a=group:");
        out.push_str(&group.semantics);
        for mid in &group.mids {
            out.push(' ');
            out.push_str(mid);
        }
        out.push_str("\r\n");
    }
    if session.ice_lite {
        line!(out, "a=ice-lite");
    }
    if session.extmap_allow_mixed {
        line!(out, "a=extmap-allow-mixed");
    }
    if let Some(semantic) = &session.msid_semantic {
        line!(out, "a=msid-semantic:{semantic}");
    }
    ice_and_dtls(
        &mut out,
        session.ice_ufrag.as_deref(),
        session.ice_pwd.as_deref(),
        &session.ice_options,
        &session.fingerprints,
        session.setup,
    );
    for media in &session.media {
        media_lines(&mut out, media);
    }
    out
}

fn ice_and_dtls(
    out: &mut String,
    ufrag: Option<&str>,
    pwd: Option<&str>,
    options: &[String],
    fingerprints: &[Fingerprint],
    setup: Option<Setup>,
) {
    if let Some(ufrag) = ufrag {
        line!(out, "a=ice-ufrag:{ufrag}");
    }
    if let Some(pwd) = pwd {
        line!(out, "a=ice-pwd:{pwd}");
    }
    if !options.is_empty() {
        line!(out, "a=ice-options:{}", options.join(" "));
    }
    for fingerprint in fingerprints {
        line!(out, "a=fingerprint:{} {}", fingerprint.algorithm, fingerprint.value);
    }
    if let Some(setup) = setup {
        let name = Setup::ALL.iter().find(|(_, other)| *other == setup).map_or("", |(name, _)| *name);
        line!(out, "a=setup:{name}");
    }
}

fn media_lines(out: &mut String, media: &Media) {
    let _ = write!(out, "m={} {} {}", media.kind, media.port, media.protocol);
    if media.is_rtp() {
        for codec in &media.codecs {
            let _ = write!(out, " {}", codec.pt);
        }
        if media.codecs.is_empty() {
            // The grammar wants a format; a rejected section's means nothing (RFC 8829 §5.3.1).
            out.push_str(" 0");
        }
    } else {
        for format in &media.formats {
            let _ = write!(out, " {format}");
        }
    }
    out.push_str("\r\n");
    line!(out, "c=IN IP4 0.0.0.0");
    if media.is_rtp() && media.port != 0 {
        line!(out, "a=rtcp:9 IN IP4 0.0.0.0");
    }
    for candidate in &media.candidates {
        candidate_line(out, candidate);
    }
    if media.end_of_candidates {
        line!(out, "a=end-of-candidates");
    }
    ice_and_dtls(
        out,
        media.ice_ufrag.as_deref(),
        media.ice_pwd.as_deref(),
        &media.ice_options,
        &media.fingerprints,
        media.setup,
    );
    if let Some(mid) = &media.mid {
        line!(out, "a=mid:{mid}");
    }
    if media.bundle_only {
        line!(out, "a=bundle-only");
    }
    if media.extmap_allow_mixed {
        line!(out, "a=extmap-allow-mixed");
    }
    for extension in &media.extensions {
        extension_line(out, extension);
    }
    // Data sections have no direction; absent means sendrecv.
    if media.is_rtp() || media.direction != Direction::SendRecv {
        line!(out, "a={}", name_of(media.direction));
    }
    for msid in &media.msids {
        line!(out, "a=msid:{}", msid_text(msid));
    }
    if media.rtcp_mux {
        line!(out, "a=rtcp-mux");
    }
    if media.rtcp_rsize {
        line!(out, "a=rtcp-rsize");
    }
    for codec in &media.codecs {
        codec_lines(out, codec);
    }
    for rid in &media.rids {
        let direction = match rid.direction {
            RidDirection::Send => "send",
            RidDirection::Recv => "recv",
        };
        let space = if rid.restrictions.is_empty() { "" } else { " " };
        line!(out, "a=rid:{} {direction}{space}{}", rid.id, rid.restrictions);
    }
    if let Some(simulcast) = &media.simulcast {
        simulcast_line(out, simulcast);
    }
    for group in &media.ssrc_groups {
        let _ = write!(out, "a=ssrc-group:{}", group.semantics);
        for ssrc in &group.ssrcs {
            let _ = write!(out, " {ssrc}");
        }
        out.push_str("\r\n");
    }
    for ssrc in &media.ssrcs {
        ssrc_lines(out, ssrc);
    }
    if let Some(port) = media.sctp_port {
        line!(out, "a=sctp-port:{port}");
    }
    if let Some(size) = media.max_message_size {
        line!(out, "a=max-message-size:{size}");
    }
}

fn candidate_line(out: &mut String, candidate: &Candidate) {
    let Candidate { foundation, component, protocol, priority, address, port, typ, .. } = candidate;
    let _ = write!(out, "a=candidate:{foundation} {component} {protocol} {priority} {address} {port} typ {typ}");
    if let Some(address) = &candidate.related_address {
        let _ = write!(out, " raddr {address}");
    }
    if let Some(port) = candidate.related_port {
        let _ = write!(out, " rport {port}");
    }
    if let Some(tcp_type) = &candidate.tcp_type {
        let _ = write!(out, " tcptype {tcp_type}");
    }
    out.push_str("\r\n");
}

fn extension_line(out: &mut String, extension: &Extension) {
    let _ = write!(out, "a=extmap:{}", extension.id);
    if let Some(direction) = extension.direction {
        let _ = write!(out, "/{}", name_of(direction));
    }
    let _ = write!(out, " {}", extension.uri);
    if !extension.attributes.is_empty() {
        let _ = write!(out, " {}", extension.attributes);
    }
    out.push_str("\r\n");
}

fn codec_lines(out: &mut String, codec: &Codec) {
    let _ = write!(out, "a=rtpmap:{} {}/{}", codec.pt, codec.name, codec.clock_rate);
    if codec.channels != 1 {
        let _ = write!(out, "/{}", codec.channels);
    }
    out.push_str("\r\n");
    for feedback in &codec.feedback {
        line!(out, "a=rtcp-fb:{} {feedback}", codec.pt);
    }
    if !codec.fmtp.is_empty() {
        line!(out, "a=fmtp:{} {}", codec.pt, codec.fmtp);
    }
}

fn simulcast_line(out: &mut String, simulcast: &Simulcast) {
    out.push_str("a=simulcast:");
    let mut gap = "";
    for (direction, streams) in [("send", &simulcast.send), ("recv", &simulcast.recv)] {
        if streams.is_empty() {
            continue;
        }
        let list: Vec<String> = streams
            .iter()
            .map(|stream| {
                let mark = if stream.paused { "~" } else { "" };
                let rids: Vec<String> = stream.rids.iter().map(|rid| format!("{mark}{rid}")).collect();
                rids.join(",")
            })
            .collect();
        let _ = write!(out, "{gap}{direction} {}", list.join(";"));
        gap = " ";
    }
    out.push_str("\r\n");
}

fn ssrc_lines(out: &mut String, ssrc: &Ssrc) {
    let id = ssrc.ssrc;
    if let Some(cname) = &ssrc.cname {
        line!(out, "a=ssrc:{id} cname:{cname}");
    }
    if let Some(msid) = &ssrc.msid {
        line!(out, "a=ssrc:{id} msid:{}", msid_text(msid));
    }
    if ssrc.cname.is_none() && ssrc.msid.is_none() {
        line!(out, "a=ssrc:{id}");
    }
}

fn msid_text(msid: &Msid) -> String {
    match &msid.track {
        Some(track) => format!("{} {track}", msid.stream),
        None => msid.stream.clone(),
    }
}

fn name_of(direction: Direction) -> &'static str {
    Direction::ALL.iter().find(|(_, other)| *other == direction).map_or("sendrecv", |(name, _)| *name)
}
