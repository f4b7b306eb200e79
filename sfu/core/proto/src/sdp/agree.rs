//! What an offered section and we have in common: codecs with retransmission and feedback, header extensions, layers.
//!
//! Pure, and blind to roles: the same agreement serves a section we receive on and one we send on (RFC 3264 §6.1).

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::codec::{Format, format, parameter};
use super::types::*;
use crate::command::{CodecSpec, ExtensionSpec, SsrcSpec};
use crate::ids::{Pt, Ssrc as SsrcId};

/// Header extensions we read or write, by URI.
pub(super) const EXTENSIONS_BOTH: [&str; 3] = [
    "urn:ietf:params:rtp-hdrext:sdes:mid",
    "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
];
pub(super) const EXTENSIONS_AUDIO: [&str; 2] =
    ["urn:ietf:params:rtp-hdrext:ssrc-audio-level", "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time"];
pub(super) const EXTENSIONS_VIDEO: [&str; 7] = [
    "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id",
    "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id",
    "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension",
    "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
    "urn:3gpp:video-orientation",
    "http://www.webrtc.org/experiments/rtp-hdrext/video-layers-allocation00",
    "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time",
];

/// 15 is reserved in the one-byte form, and ids above it force the two-byte form on every packet that bears one: for
/// those who offer to mix both forms (RFC 8285 §4.2, §6).
const MAX_ONE_BYTE_ID: u16 = 14;
const RESERVED_ID: u16 = 15;

/// Lowest layer first, where rids have the names LiveKit clients use.
const RIDS_BY_SIZE: [&str; 3] = ["q", "h", "f"];

/// What is agreed, in the offer's order. `lines` and `extension_lines` go into the answer; `codecs` and `extensions`
/// say the same to the worker, with RTX folded into its codec. `rids`, `ssrcs`: what the offerer sends, lowest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Agreed {
    pub lines: Vec<Codec>,
    pub codecs: Vec<CodecSpec>,
    pub extension_lines: Vec<Extension>,
    pub extensions: Vec<ExtensionSpec>,
    pub rids: Vec<String>,
    pub ssrcs: Vec<SsrcSpec>,
}

/// Chooses what we support of an offered section. `mimes`: only these (empty: all); RTX follows its codec, and RED
/// needs Opus.
pub fn agree(offered: &Media, mimes: &[String]) -> Agreed {
    let mut agreed = Agreed::default();
    let allowed = |codec: &Codec| {
        let mime = format!("{}/{}", offered.kind, codec.name);
        mimes.is_empty() || mimes.iter().any(|other| other.eq_ignore_ascii_case(&mime))
    };
    let has_opus = offered.codecs.iter().any(|codec| format_of(&offered.kind, codec) == Some(Format::Opus));
    let rtx = retransmissions(offered);
    for codec in &offered.codecs {
        let usable = match format_of(&offered.kind, codec) {
            None => false,
            Some(Format::Red) => has_opus,
            Some(_) => true,
        };
        if usable && allowed(codec) {
            let line = Codec { feedback: feedback(codec), ..codec.clone() };
            let rtx_line = rtx.get(&codec.pt).copied();
            agreed.codecs.push(CodecSpec {
                pt: Pt(codec.pt),
                mime: format!("{}/{}", offered.kind, codec.name),
                clock_rate: codec.clock_rate,
                fmtp: codec.fmtp.clone(),
                rtx_pt: rtx_line.map(|rtx| Pt(rtx.pt)),
                feedback: line.feedback.clone(),
            });
            agreed.lines.push(line);
            agreed.lines.extend(rtx_line.map(|rtx| Codec { feedback: Vec::new(), ..rtx.clone() }));
        }
    }
    extensions(offered, &mut agreed);
    let rids = sent_rids(offered);
    agreed.ssrcs = sent_ssrcs(offered, &rids);
    agreed.rids = by_size(rids);
    agreed
}

/// Those of `offered` (what a receiver takes) that can carry one of `wanted` (what is published), `wanted`'s order.
pub fn matching(offered: &[CodecSpec], wanted: &[CodecSpec]) -> Vec<CodecSpec> {
    let mut found: Vec<CodecSpec> = Vec::new();
    for want in wanted {
        let Some(stream) = spec_format(want) else { continue };
        // The very profile before one that merely contains it.
        let exact = offered.iter().find(|codec| spec_format(codec) == Some(stream));
        let wider = || offered.iter().find(|codec| spec_format(codec).is_some_and(|format| format.takes(stream)));
        if let Some(codec) = exact.or_else(wider).filter(|codec| found.iter().all(|other| other.pt != codec.pt)) {
            found.push(codec.clone());
        }
    }
    found
}

fn format_of(kind: &str, codec: &Codec) -> Option<Format> {
    format(kind, &codec.name, codec.clock_rate, &codec.fmtp)
}

fn spec_format(codec: &CodecSpec) -> Option<Format> {
    let (kind, name) = codec.mime.split_once('/')?;
    format(&kind.to_ascii_lowercase(), name, codec.clock_rate, &codec.fmtp)
}

/// RTX codecs by the payload type they repair (`apt`, RFC 4588 §8.1); the first of several.
fn retransmissions(offered: &Media) -> HashMap<u8, &Codec> {
    let mut found = HashMap::new();
    for codec in offered.codecs.iter().filter(|codec| codec.name.eq_ignore_ascii_case("rtx")) {
        if let Some(apt) = parameter(&codec.fmtp, "apt").and_then(|apt| apt.parse().ok()) {
            found.entry(apt).or_insert(codec);
        }
    }
    found
}

/// Feedback we understand. With transport-wide feedback on offer, REMB is left out: two estimators would disagree.
fn feedback(codec: &Codec) -> Vec<String> {
    let has_twcc = codec.feedback.iter().any(|feedback| feedback == "transport-cc");
    let wanted = |feedback: &&String| match feedback.as_str() {
        "nack" | "nack pli" | "ccm fir" | "transport-cc" => true,
        "goog-remb" => !has_twcc,
        _ => false,
    };
    codec.feedback.iter().filter(wanted).cloned().collect()
}

fn extensions(offered: &Media, agreed: &mut Agreed) {
    let is_usable = |id: u16| match id {
        1..=MAX_ONE_BYTE_ID => true,
        RESERVED_ID => false,
        _ => offered.extmap_allow_mixed && id <= u16::from(u8::MAX),
    };
    let of_kind: &[&str] = if offered.kind == "audio" { &EXTENSIONS_AUDIO } else { &EXTENSIONS_VIDEO };
    for extension in &offered.extensions {
        let uri = extension.uri.as_str();
        let known = EXTENSIONS_BOTH.contains(&uri) || of_kind.contains(&uri);
        let repeated = agreed.extension_lines.iter().any(|other| other.uri == extension.uri);
        if !known || repeated || !is_usable(extension.id) {
            continue;
        }
        agreed.extension_lines.push(Extension {
            id: extension.id,
            uri: extension.uri.clone(),
            direction: extension.direction.map(Direction::reversed),
            attributes: String::new(),
        });
        // At most 255, as checked above.
        agreed.extensions.push(ExtensionSpec { id: extension.id as u8, uri: extension.uri.clone() });
    }
}

/// The rids the offerer sends, in its order, one per simulcast stream: its first alternative (RFC 8853 §5.2). A rid
/// that no `a=rid` defines is left out. Without `a=simulcast`, the lone rids.
fn sent_rids(offered: &Media) -> Vec<String> {
    let sends = |id: &String| offered.rids.iter().any(|rid| rid.id == *id && rid.direction == RidDirection::Send);
    match &offered.simulcast {
        Some(simulcast) => {
            simulcast.send.iter().filter_map(|stream| stream.rids.iter().find(|id| sends(id))).cloned().collect()
        }
        None => offered.rids.iter().map(|rid| rid.id.clone()).filter(sends).collect(),
    }
}

fn by_size(mut rids: Vec<String>) -> Vec<String> {
    let size = |rid: &String| RIDS_BY_SIZE.iter().position(|name| name == rid);
    if rids.iter().all(|rid| size(rid).is_some()) {
        rids.sort_by_key(size);
    }
    rids
}

/// The sources the offerer names, paired with their RTX by FID groups; a SIM group gives the order of layers. As many
/// sources as `rids` are theirs, each in its place.
fn sent_ssrcs(offered: &Media, rids: &[String]) -> Vec<SsrcSpec> {
    let groups = |semantics: &'static str| offered.ssrc_groups.iter().filter(move |group| group.semantics == semantics);
    let mut rtx_of: HashMap<u32, u32> = HashMap::new();
    for group in groups("FID") {
        if let [primary, repair] = group.ssrcs.as_slice() {
            rtx_of.entry(*primary).or_insert(*repair);
        }
    }
    let repairs: Vec<u32> = rtx_of.values().copied().collect();
    let all = || offered.ssrcs.iter().map(|ssrc| ssrc.ssrc);
    let primaries: Vec<u32> = match groups("SIM").next() {
        Some(group) => group.ssrcs.clone(),
        None => all().filter(|ssrc| !repairs.contains(ssrc)).collect(),
    };
    let rids = if rids.len() == primaries.len() { rids } else { &[] };
    let rids = rids.iter().map(Some).chain(std::iter::repeat(None));
    let spec = |(ssrc, rid): (u32, Option<&String>)| SsrcSpec {
        ssrc: SsrcId(ssrc),
        rtx_ssrc: rtx_of.get(&ssrc).copied().map(SsrcId),
        rid: rid.cloned(),
    };
    primaries.into_iter().zip(rids).map(spec).collect()
}
