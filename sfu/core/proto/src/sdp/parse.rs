//! Text to values. Linear in the size of the text; every count is bounded; no input panics.
//!
//! A known attribute that is malformed refuses the description; an unknown one is skipped (RFC 8866 §5.13), and so is
//! a candidate of a kind we do not know (RFC 8839 §5.1).

use std::collections::{HashMap, HashSet};
use std::str::{FromStr, SplitAsciiWhitespace};

use super::codec::static_codec;
use super::error::SdpError;
use super::types::*;
use crate::command::Fingerprint;

/// How large a description may be; each is a setting.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A section on which Chromium receives video has 5 kB, one for sound 1 kB; one offer has all that it receives on.
    pub bytes: usize,
    pub lines: usize,
    pub sections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 2 * 1024 * 1024, lines: 80_000, sections: 512 }
    }
}

const MAX_FINGERPRINTS: usize = 16;
const MAX_CANDIDATES: usize = 256;
const MAX_RIDS: usize = 16;
const MAX_EXTENSIONS: usize = 64;
const MAX_SSRCS: usize = 64;
const MAX_GROUPS: usize = 16;
const MAX_FEEDBACK: usize = 32;
const MAX_OPTIONS: usize = 16;
const MAX_MSIDS: usize = 16;

/// Reads one description of the usual size, whoever sent it.
pub fn parse(bytes: &[u8]) -> Result<Session, SdpError> {
    parse_within(bytes, &Limits::default())
}

/// The same of any size.
pub fn parse_within(bytes: &[u8], limits: &Limits) -> Result<Session, SdpError> {
    if bytes.len() > limits.bytes {
        return Err(SdpError::TooLong { max: limits.bytes });
    }
    let text = str::from_utf8(bytes).map_err(|_| SdpError::NotUtf8)?;
    let mut reader = Reader { max_sections: limits.sections, ..Reader::default() };
    for (index, raw) in text.split('\n').enumerate() {
        let line = index + 1;
        if line > limits.lines + 1 {
            return Err(SdpError::TooManyLines { max: limits.lines });
        }
        let content = raw.strip_suffix('\r').unwrap_or(raw);
        if content.bytes().any(|byte| byte == 0 || byte == b'\r') {
            return Err(SdpError::ControlCharacter { line });
        }
        // Blank lines are no SDP, but some clients end with one.
        if content.is_empty() {
            continue;
        }
        let Some((key, value)) = content.split_once('=').filter(|(key, _)| key.len() == 1) else {
            return Err(SdpError::BadLine { line });
        };
        reader.line(line, key, value)?;
    }
    reader.finish()
}

#[derive(Default)]
struct Reader {
    max_sections: usize,
    session: Session,
    has_version: bool,
    has_origin: bool,
    mids: HashSet<String>,
    direction: Direction,
    section: Option<Section>,
}

/// What is needed to place a section's attributes in constant time each.
struct Section {
    /// Position in `media.codecs` by payload type.
    by_pt: [Option<u8>; 128],
    by_ssrc: HashMap<u32, usize>,
    /// `rtcp-fb:*`, spread over all codecs at the end.
    feedback_for_all: Vec<String>,
    media: Media,
}

impl Reader {
    fn line(&mut self, line: usize, key: &str, value: &str) -> Result<(), SdpError> {
        if !self.has_version {
            self.has_version = key == "v" && value.trim() == "0";
            return if self.has_version { Ok(()) } else { Err(SdpError::NoVersion) };
        }
        match key {
            "o" if self.section.is_none() => {
                self.session.origin = origin(value).ok_or(SdpError::Malformed { line, what: "o= line" })?;
                self.has_origin = true;
            }
            "s" if self.section.is_none() => self.session.name = value.to_owned(),
            "m" => {
                self.close_section();
                if self.session.media.len() == self.max_sections {
                    return Err(SdpError::TooManySections { max: self.max_sections });
                }
                let mut section = Section::open(line, value, self.direction)?;
                section.media.extmap_allow_mixed = self.session.extmap_allow_mixed && section.media.is_rtp();
                self.section = Some(section);
            }
            "a" => {
                let (name, value) = value.split_once(':').unwrap_or((value, ""));
                match &mut self.section {
                    None => self.session_attribute(line, name, value)?,
                    Some(section) => {
                        section.attribute(line, name, value)?;
                        if name == "mid" && !self.mids.insert(value.trim().to_owned()) {
                            return Err(SdpError::Duplicate { line, what: "mid" });
                        }
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn session_attribute(&mut self, line: usize, name: &str, value: &str) -> Result<(), SdpError> {
        let session = &mut self.session;
        match name {
            "group" => {
                let mut words = value.split_ascii_whitespace();
                let semantics = words.next().ok_or(SdpError::Malformed { line, what: "group" })?.to_owned();
                let mids: Vec<String> = words.map(str::to_owned).collect();
                if mids.len() > self.max_sections {
                    return Err(SdpError::TooManySections { max: self.max_sections });
                }
                push(&mut session.groups, Group { semantics, mids }, MAX_GROUPS, line, "groups")?;
            }
            "ice-lite" => session.ice_lite = true,
            "ice-ufrag" => session.ice_ufrag = Some(ufrag(line, value)?),
            "ice-pwd" => session.ice_pwd = Some(pwd(line, value)?),
            "ice-options" => session.ice_options = ice_options(line, value)?,
            "setup" => session.setup = Some(setup(line, value)?),
            "fingerprint" => {
                push(&mut session.fingerprints, fingerprint(line, value)?, MAX_FINGERPRINTS, line, "fingerprints")?;
            }
            "extmap-allow-mixed" => session.extmap_allow_mixed = true,
            "msid-semantic" => session.msid_semantic = Some(value.trim().to_owned()),
            _ => {
                if let Some(direction) = direction(name) {
                    self.direction = direction;
                }
            }
        }
        Ok(())
    }

    fn close_section(&mut self) {
        if let Some(section) = self.section.take() {
            self.session.media.push(section.close());
        }
    }

    fn finish(mut self) -> Result<Session, SdpError> {
        self.close_section();
        if !self.has_version {
            return Err(SdpError::NoVersion);
        }
        if !self.has_origin {
            return Err(SdpError::NoOrigin);
        }
        Ok(self.session)
    }
}

impl Section {
    /// `m=<kind> <port>[/<count>] <protocol> <format> …` (RFC 8866 §5.14).
    fn open(line: usize, value: &str, direction: Direction) -> Result<Self, SdpError> {
        let malformed = SdpError::Malformed { line, what: "m= line" };
        let mut words = value.split_ascii_whitespace();
        let (Some(kind), Some(port), Some(protocol)) = (words.next(), words.next(), words.next()) else {
            return Err(malformed);
        };
        let port = port.split_once('/').map_or(port, |(port, _)| port).parse().map_err(|_| malformed)?;
        let mut section = Self {
            by_pt: [None; 128],
            by_ssrc: HashMap::new(),
            feedback_for_all: Vec::new(),
            media: Media { kind: kind.into(), port, protocol: protocol.into(), direction, ..Media::default() },
        };
        if section.media.is_rtp() {
            section.payload_types(line, words)?;
        } else {
            section.media.formats = words.take(MAX_OPTIONS).map(str::to_owned).collect();
        }
        Ok(section)
    }

    fn payload_types(&mut self, line: usize, words: SplitAsciiWhitespace<'_>) -> Result<(), SdpError> {
        for word in words {
            let pt = payload_type(line, word)?;
            let slot = &mut self.by_pt[usize::from(pt)];
            if slot.is_some() {
                return Err(SdpError::Duplicate { line, what: "payload type" });
            }
            // At most 128 distinct payload types, so the index fits.
            *slot = Some(self.media.codecs.len() as u8);
            self.media.codecs.push(static_codec(pt));
        }
        Ok(())
    }

    fn codec(&mut self, pt: u8) -> Option<&mut Codec> {
        let index = *self.by_pt.get(usize::from(pt))?;
        self.media.codecs.get_mut(usize::from(index?))
    }

    fn attribute(&mut self, line: usize, name: &str, value: &str) -> Result<(), SdpError> {
        let media = &mut self.media;
        match name {
            "mid" => media.mid = Some(token(line, value, "mid")?),
            "ice-ufrag" => media.ice_ufrag = Some(ufrag(line, value)?),
            "ice-pwd" => media.ice_pwd = Some(pwd(line, value)?),
            "ice-options" => media.ice_options = ice_options(line, value)?,
            "candidate" => {
                if let Some(candidate) = candidate(value) {
                    push(&mut media.candidates, candidate, MAX_CANDIDATES, line, "candidates")?;
                }
            }
            "end-of-candidates" => media.end_of_candidates = true,
            "setup" => media.setup = Some(setup(line, value)?),
            "fingerprint" => {
                push(&mut media.fingerprints, fingerprint(line, value)?, MAX_FINGERPRINTS, line, "fingerprints")?;
            }
            "bundle-only" => media.bundle_only = true,
            "rtcp-mux" => media.rtcp_mux = true,
            "rtcp-rsize" => media.rtcp_rsize = true,
            "extmap-allow-mixed" => media.extmap_allow_mixed = true,
            "rtpmap" => self.rtpmap(line, value)?,
            "fmtp" => self.fmtp(line, value)?,
            "rtcp-fb" => self.feedback(line, value)?,
            "extmap" => self.extmap(line, value)?,
            "rid" => self.rid(line, value)?,
            "simulcast" => media.simulcast = Some(simulcast(line, value)?),
            "msid" => push(&mut media.msids, msid(line, value)?, MAX_MSIDS, line, "msids")?,
            "ssrc" => self.ssrc(line, value)?,
            "ssrc-group" => self.ssrc_group(line, value)?,
            "sctp-port" => media.sctp_port = Some(number(line, value.trim(), "sctp-port")?),
            // The form before RFC 8841: `sctpmap:5000 webrtc-datachannel 1024`.
            "sctpmap" => {
                let port = value.split_ascii_whitespace().next().unwrap_or_default();
                media.sctp_port = Some(number(line, port, "sctpmap")?);
            }
            "max-message-size" => media.max_message_size = Some(number(line, value.trim(), "max-message-size")?),
            _ => {
                if let Some(direction) = direction(name) {
                    media.direction = direction;
                }
            }
        }
        Ok(())
    }

    /// `<pt> <name>/<clock rate>[/<channels>]` (RFC 8866 §6.6). One for a payload type not on the m-line is ignored.
    fn rtpmap(&mut self, line: usize, value: &str) -> Result<(), SdpError> {
        let malformed = || SdpError::Malformed { line, what: "rtpmap" };
        let (pt, encoding) = value.trim().split_once(' ').ok_or_else(malformed)?;
        let pt = payload_type(line, pt)?;
        let mut parts = encoding.trim().splitn(3, '/');
        let name = parts.next().filter(|name| is_token(name)).ok_or_else(malformed)?;
        let clock_rate = number(line, parts.next().unwrap_or_default(), "rtpmap")?;
        let channels = parts.next().map_or(Ok(1), |channels| number(line, channels, "rtpmap"))?;
        if let Some(codec) = self.codec(pt) {
            codec.name = name.to_owned();
            codec.clock_rate = clock_rate;
            codec.channels = channels;
        }
        Ok(())
    }

    fn fmtp(&mut self, line: usize, value: &str) -> Result<(), SdpError> {
        let (pt, parameters) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
        let pt = payload_type(line, pt)?;
        let parameters = parameters.trim();
        if let Some(codec) = self.codec(pt).filter(|_| !parameters.is_empty()) {
            if !codec.fmtp.is_empty() {
                codec.fmtp.push(';');
            }
            codec.fmtp.push_str(parameters);
        }
        Ok(())
    }

    /// `<pt>|* <type> [<subtype>]` (RFC 4585 §4.2).
    fn feedback(&mut self, line: usize, value: &str) -> Result<(), SdpError> {
        let Some((pt, feedback)) = value.trim().split_once(' ') else {
            return Err(SdpError::Malformed { line, what: "rtcp-fb" });
        };
        let feedback = words_joined(feedback);
        if feedback.is_empty() {
            return Err(SdpError::Malformed { line, what: "rtcp-fb" });
        }
        if pt == "*" {
            return push(&mut self.feedback_for_all, feedback, MAX_FEEDBACK, line, "rtcp-fb");
        }
        let pt = payload_type(line, pt)?;
        match self.codec(pt) {
            Some(codec) if !codec.feedback.contains(&feedback) => {
                push(&mut codec.feedback, feedback, MAX_FEEDBACK, line, "rtcp-fb")
            }
            _ => Ok(()),
        }
    }

    /// `<id>[/<direction>] <uri> [<attributes>]` (RFC 8285 §5); 4096 and up stand for "id to be chosen" there.
    fn extmap(&mut self, line: usize, value: &str) -> Result<(), SdpError> {
        let malformed = || SdpError::Malformed { line, what: "extmap" };
        let mut words = value.trim().splitn(3, ' ');
        let id = words.next().ok_or_else(malformed)?;
        let uri = words.next().filter(|uri| !uri.is_empty()).ok_or_else(malformed)?.to_owned();
        let attributes = words.next().unwrap_or_default().trim().to_owned();
        let (id, way) = id.split_once('/').map_or((id, None), |(id, way)| (id, Some(way)));
        let way = way.map(|way| direction(way).ok_or_else(malformed)).transpose()?;
        let id: u16 = number(line, id, "extmap")?;
        if id == 0 || id > 4351 {
            return Err(malformed());
        }
        if self.media.extensions.iter().any(|other| other.id == id) {
            return Err(SdpError::Duplicate { line, what: "extmap id" });
        }
        let extension = Extension { id, uri, direction: way, attributes };
        push(&mut self.media.extensions, extension, MAX_EXTENSIONS, line, "extmaps")
    }

    /// `<rid> send|recv [<restrictions>]` (RFC 8851 §10).
    fn rid(&mut self, line: usize, value: &str) -> Result<(), SdpError> {
        let malformed = || SdpError::Malformed { line, what: "rid" };
        let mut words = value.trim().splitn(3, ' ');
        let id = words.next().filter(|id| is_rid(id)).ok_or_else(malformed)?.to_owned();
        let direction = match words.next() {
            Some("send") => RidDirection::Send,
            Some("recv") => RidDirection::Recv,
            _ => return Err(malformed()),
        };
        let restrictions = words.next().unwrap_or_default().trim().to_owned();
        if self.media.rids.iter().any(|other| other.id == id) {
            return Err(SdpError::Duplicate { line, what: "rid" });
        }
        push(&mut self.media.rids, Rid { id, direction, restrictions }, MAX_RIDS, line, "rids")
    }

    /// `<ssrc> <attribute>[:<value>]` (RFC 5576 §4.1): `cname` and `msid` are kept.
    fn ssrc(&mut self, line: usize, value: &str) -> Result<(), SdpError> {
        let (id, attribute) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
        let ssrc: u32 = number(line, id, "ssrc")?;
        let index = match self.by_ssrc.get(&ssrc) {
            Some(index) => *index,
            None => {
                let new = Ssrc { ssrc, cname: None, msid: None };
                push(&mut self.media.ssrcs, new, MAX_SSRCS, line, "ssrcs")?;
                self.by_ssrc.insert(ssrc, self.media.ssrcs.len() - 1);
                self.media.ssrcs.len() - 1
            }
        };
        let Some(entry) = self.media.ssrcs.get_mut(index) else { return Ok(()) };
        match attribute.trim().split_once(':') {
            Some(("cname", cname)) if !cname.trim().is_empty() => entry.cname = Some(cname.trim().to_owned()),
            Some(("msid", value)) => entry.msid = Some(msid(line, value)?),
            _ => {}
        }
        Ok(())
    }

    fn ssrc_group(&mut self, line: usize, value: &str) -> Result<(), SdpError> {
        let mut words = value.split_ascii_whitespace();
        let semantics = words.next().ok_or(SdpError::Malformed { line, what: "ssrc-group" })?.to_owned();
        let mut ssrcs = Vec::new();
        for word in words {
            push(&mut ssrcs, number(line, word, "ssrc-group")?, MAX_SSRCS, line, "ssrcs")?;
        }
        push(&mut self.media.ssrc_groups, SsrcGroup { semantics, ssrcs }, MAX_SSRCS, line, "ssrc-groups")
    }

    fn close(mut self) -> Media {
        for codec in &mut self.media.codecs {
            for feedback in &self.feedback_for_all {
                if !codec.feedback.contains(feedback) {
                    codec.feedback.push(feedback.clone());
                }
            }
        }
        // A dynamic payload type without an rtpmap means nothing.
        self.media.codecs.retain(|codec| !codec.name.is_empty());
        self.media
    }
}

fn origin(value: &str) -> Option<Origin> {
    let words: Vec<&str> = value.split_ascii_whitespace().take(7).collect();
    let [username, id, version, _net, _family, address] = words.as_slice() else { return None };
    Some(Origin {
        username: (*username).to_owned(),
        session_id: id.parse().ok()?,
        session_version: version.parse().ok()?,
        address: (*address).to_owned(),
    })
}

/// RFC 8839 §5.1. `None`: not a candidate we could use.
fn candidate(value: &str) -> Option<Candidate> {
    let mut words = value.split_ascii_whitespace();
    let foundation = words.next()?.to_owned();
    let component = words.next()?.parse().ok()?;
    let protocol = words.next()?.to_ascii_lowercase();
    let priority = words.next()?.parse().ok()?;
    let address = words.next()?.to_owned();
    let port = words.next()?.parse().ok()?;
    let typ = words.next().filter(|word| *word == "typ").and_then(|_| words.next())?.to_owned();
    let mut candidate = Candidate {
        foundation,
        component,
        protocol,
        priority,
        address,
        port,
        typ,
        related_address: None,
        related_port: None,
        tcp_type: None,
    };
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        match key {
            "raddr" => candidate.related_address = Some(value.to_owned()),
            "rport" => candidate.related_port = Some(value.parse().ok()?),
            "tcptype" => candidate.tcp_type = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(candidate)
}

/// 4–256 ice-chars (RFC 8839 §5.4).
fn ufrag(line: usize, value: &str) -> Result<String, SdpError> {
    ice_chars(value.trim(), 4).ok_or(SdpError::Malformed { line, what: "ice-ufrag" })
}

/// 22–256 ice-chars (RFC 8839 §5.4).
fn pwd(line: usize, value: &str) -> Result<String, SdpError> {
    ice_chars(value.trim(), 22).ok_or(SdpError::Malformed { line, what: "ice-pwd" })
}

/// `-`, `_` and `=` are outside the grammar, but some clients use them and they do no harm.
fn ice_chars(value: &str, least: usize) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+/-_=".contains(&byte);
    ((least..=256).contains(&value.len()) && value.bytes().all(allowed)).then(|| value.to_owned())
}

fn ice_options(line: usize, value: &str) -> Result<Vec<String>, SdpError> {
    let mut options = Vec::new();
    for option in value.split_ascii_whitespace() {
        push(&mut options, option.to_owned(), MAX_OPTIONS, line, "ice-options")?;
    }
    Ok(options)
}

fn setup(line: usize, value: &str) -> Result<Setup, SdpError> {
    let word = value.trim();
    let found = Setup::ALL.iter().find(|(name, _)| *name == word);
    found.map(|(_, setup)| *setup).ok_or(SdpError::Malformed { line, what: "setup" })
}

/// `<hash> <hex>:<hex>…` (RFC 8122 §5); the hash is folded to lower case, the bytes to upper case.
fn fingerprint(line: usize, value: &str) -> Result<Fingerprint, SdpError> {
    let malformed = SdpError::Malformed { line, what: "fingerprint" };
    let Some((algorithm, digest)) = value.trim().split_once(' ') else { return Err(malformed) };
    let digest = digest.trim();
    let is_byte = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_token(algorithm) || digest.len() > 64 * 3 || !digest.split(':').all(is_byte) {
        return Err(malformed);
    }
    Ok(Fingerprint { algorithm: algorithm.to_ascii_lowercase(), value: digest.to_ascii_uppercase() })
}

/// `send q;h;~f recv …` (RFC 8853 §5.1). A rid stands once at most; more than one list for a direction is malformed.
fn simulcast(line: usize, value: &str) -> Result<Simulcast, SdpError> {
    let malformed = || SdpError::Malformed { line, what: "simulcast" };
    let mut simulcast = Simulcast::default();
    let mut seen = HashSet::new();
    let mut words = value.split_ascii_whitespace();
    while let Some(direction) = words.next() {
        let list = match direction {
            "send" => &mut simulcast.send,
            "recv" => &mut simulcast.recv,
            _ => return Err(malformed()),
        };
        if !list.is_empty() {
            return Err(malformed());
        }
        for alternatives in words.next().ok_or_else(malformed)?.split(';') {
            let paused = alternatives.split(',').all(|rid| rid.starts_with('~'));
            let mut rids = Vec::new();
            for rid in alternatives.split(',') {
                let rid = rid.strip_prefix('~').unwrap_or(rid);
                if !is_rid(rid) {
                    return Err(malformed());
                }
                if !seen.insert((direction, rid)) {
                    return Err(SdpError::Duplicate { line, what: "rid in simulcast" });
                }
                push(&mut rids, rid.to_owned(), MAX_RIDS, line, "rids")?;
            }
            push(list, SimulcastStream { rids, paused }, MAX_RIDS, line, "simulcast streams")?;
        }
    }
    if simulcast.send.is_empty() && simulcast.recv.is_empty() { Err(malformed()) } else { Ok(simulcast) }
}

fn msid(line: usize, value: &str) -> Result<Msid, SdpError> {
    let mut words = value.split_ascii_whitespace();
    let stream = words.next().ok_or(SdpError::Malformed { line, what: "msid" })?.to_owned();
    Ok(Msid { stream, track: words.next().map(str::to_owned) })
}

fn direction(word: &str) -> Option<Direction> {
    Direction::ALL.iter().find(|(name, _)| *name == word).map(|(_, direction)| *direction)
}

fn payload_type(line: usize, word: &str) -> Result<u8, SdpError> {
    let pt: u32 = number(line, word, "payload type")?;
    u8::try_from(pt).ok().filter(|pt| *pt <= 127).ok_or(SdpError::PayloadType { line, pt })
}

fn number<T: FromStr>(line: usize, word: &str, what: &'static str) -> Result<T, SdpError> {
    // `parse` takes a leading plus sign, SDP does not.
    let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    word.parse().ok().filter(|_| digits).ok_or(SdpError::Malformed { line, what })
}

fn token(line: usize, value: &str, what: &'static str) -> Result<String, SdpError> {
    let value = value.trim();
    if is_token(value) { Ok(value.to_owned()) } else { Err(SdpError::Malformed { line, what }) }
}

/// RFC 8866 §9 `token`, at most 255 bytes.
pub(super) fn is_token(word: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`{|}~".contains(&byte);
    (1..=255).contains(&word.len()) && word.bytes().all(allowed)
}

/// RFC 8851 §10 allows `-` and `_` (RFC 8852 does not, but clients use them).
fn is_rid(word: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=255).contains(&word.len()) && word.bytes().all(allowed)
}

fn words_joined(value: &str) -> String {
    value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

fn push<T>(list: &mut Vec<T>, item: T, most: usize, line: usize, what: &'static str) -> Result<(), SdpError> {
    if list.len() >= most {
        return Err(SdpError::TooMany { line, what });
    }
    list.push(item);
    Ok(())
}
