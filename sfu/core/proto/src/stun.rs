//! STUN as an ICE-lite server needs it (RFC 8489): Binding requests read strictly, responses written; and the pings that
//! libwebrtc answers, a header with four bytes of integrity.
//!
//! Not here: which credentials are valid (ice.rs), TURN, long-term credentials. Reading allocates nothing, so that a
//! flood of bad requests costs nothing but time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use subtle::ConstantTimeEq;

use crate::drop_reason::DropReason;
use crate::srtp::HmacSha1;

/// Twelve random bytes chosen by the asker.
pub type TransactionId = [u8; 12];

const COOKIE: u32 = 0x2112_a442;
const HEADER_LEN: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_INDICATION: u16 = 0x0011;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
const PING_REQUEST: u16 = 0x0200;
const PING_SUCCESS: u16 = 0x0300;

const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const PRIORITY: u16 = 0x0024;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLED: u16 = 0x8029;
const ICE_CONTROLLING: u16 = 0x802a;
/// A list of 16-bit values. The first one: the asker wants to know of pings, or the version of them that is answered.
const GOOG_MISC_INFO: u16 = 0xc059;
/// The first four bytes of what MESSAGE-INTEGRITY would hold.
const GOOG_MESSAGE_INTEGRITY_32: u16 = 0xc060;

const MAC_LEN: usize = 20;
const SHORT_MAC_LEN: usize = 4;
/// Of a ping and its answer.
pub const PING_LEN: usize = HEADER_LEN + 4 + SHORT_MAC_LEN;
/// RFC 8489 §14.7.
const FINGERPRINT_XOR: u32 = 0x5354_554e;
/// RFC 8489 §14.3: USERNAME has fewer than 509 bytes.
const MAX_USERNAME_LEN: usize = 508;
/// How many unknown attributes a 420 response names; keeps the answer no longer than 1.5 requests.
const MAX_UNKNOWN: usize = 4;

/// The asker's role in ICE with its tie-breaker (RFC 8445 §7.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Controlling(u64),
    Controlled(u64),
}

/// A key for MESSAGE-INTEGRITY, prepared once for a password.
pub struct IntegrityKey(HmacSha1);

impl IntegrityKey {
    /// Short-term credentials: the password's bytes (RFC 8489 §9.1.1).
    pub fn new(password: &str) -> Self {
        Self(HmacSha1::new(password.as_bytes()))
    }

    /// The transaction of the `count`th check of ours, which nobody can foretell who has not the password.
    pub fn transaction(&self, count: u64) -> TransactionId {
        let mut id = [0; 12];
        id.copy_from_slice(&self.0.sign(&[b"transaction", &count.to_be_bytes()])[..12]);
        id
    }
}

/// A well-formed message with a right fingerprint; nothing in it is authenticated yet.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub transaction: TransactionId,
    pub username: Option<&'a [u8]>,
    pub priority: Option<u32>,
    pub use_candidate: bool,
    controlling: Option<u64>,
    controlled: Option<u64>,
    message_type: u16,
    datagram: &'a [u8],
    /// Where MESSAGE-INTEGRITY begins.
    integrity_at: Option<usize>,
    mapped: Option<SocketAddr>,
    misc: u16,
    unknown: [u16; MAX_UNKNOWN],
    unknown_len: usize,
}

impl<'a> Message<'a> {
    /// Read any Binding message. FINGERPRINT must be there, be right and be last (RFC 8445 §7.1 asks for it).
    pub fn parse(datagram: &'a [u8]) -> Result<Self, DropReason> {
        let (message, fingerprint_at) = Self::parse_attributes(datagram)?;
        let at = fingerprint_at.ok_or(DropReason::StunFingerprint)?;
        let claimed = be32(datagram, at + 4);
        if crc32(&datagram[..at]) ^ FINGERPRINT_XOR != claimed {
            return Err(DropReason::StunFingerprint);
        }
        Ok(message)
    }

    /// Everything but the fingerprint's value; where that attribute stands.
    fn parse_attributes(datagram: &'a [u8]) -> Result<(Self, Option<usize>), DropReason> {
        const MALFORMED: DropReason = DropReason::StunMalformed;
        if datagram.len() < HEADER_LEN || datagram[0] >> 6 != 0 || be32(datagram, 4) != COOKIE {
            return Err(MALFORMED);
        }
        let len = usize::from(be16(datagram, 2));
        if !len.is_multiple_of(4) || datagram.len() != HEADER_LEN + len {
            return Err(MALFORMED);
        }
        let mut transaction = [0; 12];
        transaction.copy_from_slice(&datagram[8..HEADER_LEN]);
        let mut message = Self {
            transaction,
            username: None,
            priority: None,
            use_candidate: false,
            controlling: None,
            controlled: None,
            message_type: be16(datagram, 0),
            datagram,
            integrity_at: None,
            mapped: None,
            misc: 0,
            unknown: [0; MAX_UNKNOWN],
            unknown_len: 0,
        };
        let (mut at, mut fingerprint_at) = (HEADER_LEN, None);
        while at < datagram.len() {
            // Lengths are multiples of four, so four bytes of attribute header are there; nothing follows FINGERPRINT.
            if fingerprint_at.is_some() {
                return Err(MALFORMED);
            }
            let (kind, len) = (be16(datagram, at), usize::from(be16(datagram, at + 2)));
            let value = datagram.get(at + 4..at + 4 + len).ok_or(MALFORMED)?;
            match kind {
                FINGERPRINT if len == 4 => fingerprint_at = Some(at),
                FINGERPRINT => return Err(MALFORMED),
                // RFC 8489 §14.5: what follows MESSAGE-INTEGRITY is not covered by it and is ignored.
                _ if message.integrity_at.is_some() => {}
                MESSAGE_INTEGRITY if len == MAC_LEN => message.integrity_at = Some(at),
                MESSAGE_INTEGRITY => return Err(MALFORMED),
                _ => message.attribute(kind, value)?,
            }
            at += 4 + len.next_multiple_of(4);
        }
        if at != datagram.len() {
            return Err(MALFORMED);
        }
        Ok((message, fingerprint_at))
    }

    /// One covered attribute. The first of a kind counts (RFC 8489 §5).
    fn attribute(&mut self, kind: u16, value: &'a [u8]) -> Result<(), DropReason> {
        let sized = |len: usize| if value.len() == len { Ok(()) } else { Err(DropReason::StunMalformed) };
        match kind {
            USERNAME => {
                if value.len() > MAX_USERNAME_LEN {
                    return Err(DropReason::StunMalformed);
                }
                self.username.get_or_insert(value);
            }
            PRIORITY => {
                sized(4)?;
                self.priority.get_or_insert(be32(value, 0));
            }
            USE_CANDIDATE => {
                sized(0)?;
                self.use_candidate = true;
            }
            ICE_CONTROLLING | ICE_CONTROLLED => {
                sized(8)?;
                let tie_breaker = u64::from(be32(value, 0)) << 32 | u64::from(be32(value, 4));
                let role = if kind == ICE_CONTROLLING { &mut self.controlling } else { &mut self.controlled };
                role.get_or_insert(tie_breaker);
            }
            XOR_MAPPED_ADDRESS => {
                let address = read_xor_address(value, &self.transaction).ok_or(DropReason::StunMalformed)?;
                self.mapped.get_or_insert(address);
            }
            GOOG_MISC_INFO => self.misc = value.first_chunk().map_or(0, |first| u16::from_be_bytes(*first)),
            // Known to RFC 8489 and without meaning in a check: MAPPED-ADDRESS, ERROR-CODE, UNKNOWN-ATTRIBUTES, REALM,
            // NONCE, MESSAGE-INTEGRITY-SHA256, PASSWORD-ALGORITHM, USERHASH.
            0x0001 | ERROR_CODE | UNKNOWN_ATTRIBUTES | 0x0014 | 0x0015 | MESSAGE_INTEGRITY_SHA256 | 0x001d | 0x001e => {
            }
            0x8000.. => {}
            unknown => {
                if let Some(place) = self.unknown.get_mut(self.unknown_len) {
                    *place = unknown;
                    self.unknown_len += 1;
                }
            }
        }
        Ok(())
    }

    pub fn is_request(&self) -> bool {
        self.message_type == BINDING_REQUEST
    }

    /// The answer to a check of ours.
    pub fn is_success(&self) -> bool {
        self.message_type == BINDING_SUCCESS
    }

    /// Keep-alives (RFC 8445 §11): nothing to answer, nothing to learn.
    pub fn is_indication(&self) -> bool {
        self.message_type == BINDING_INDICATION
    }

    /// The two halves of USERNAME: the receiver's ufrag and the sender's (RFC 8445 §7.2.2).
    pub fn ufrags(&self) -> Result<(&'a [u8], &'a [u8]), DropReason> {
        let username = self.username.ok_or(DropReason::StunUsername)?;
        let colon = username.iter().position(|b| *b == b':').ok_or(DropReason::StunUsername)?;
        Ok((&username[..colon], &username[colon + 1..]))
    }

    /// The asker's role; None if it names neither or both.
    pub fn role(&self) -> Option<Role> {
        match (self.controlling, self.controlled) {
            (Some(tie_breaker), None) => Some(Role::Controlling(tie_breaker)),
            (None, Some(tie_breaker)) => Some(Role::Controlled(tie_breaker)),
            _ => None,
        }
    }

    /// The address in a response.
    pub fn mapped_address(&self) -> Option<SocketAddr> {
        self.mapped
    }

    /// Who has written this response answers pings.
    pub fn takes_pings(&self) -> bool {
        self.misc > 0
    }

    /// Comprehension-required attributes we do not know, at most four of them.
    pub fn unknown_attributes(&self) -> &[u16] {
        &self.unknown[..self.unknown_len]
    }

    /// Check MESSAGE-INTEGRITY, in constant time.
    pub fn verify_integrity(&self, key: &IntegrityKey) -> Result<(), DropReason> {
        let at = self.integrity_at.ok_or(DropReason::StunNoIntegrity)?;
        let mac = integrity(&self.datagram[..at], key, MAC_LEN);
        if bool::from(mac.ct_eq(&self.datagram[at + 4..at + 4 + MAC_LEN])) {
            Ok(())
        } else {
            Err(DropReason::StunBadIntegrity)
        }
    }
}

/// Error codes we answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// RFC 8489 §6.3.1.1.
    UnknownAttribute,
    /// RFC 8445 §7.3.1.1.
    RoleConflict,
}

/// A success response with the address the request came from, signed; replaces what is in `out`.
pub fn write_success(out: &mut Vec<u8>, transaction: &TransactionId, mapped: SocketAddr, key: &IntegrityKey) {
    begin(out, BINDING_SUCCESS, transaction);
    let mut value = [0u8; 20];
    let len = xor_address(mapped, transaction, &mut value);
    attribute(out, XOR_MAPPED_ADDRESS, &value[..len]);
    sign(out, key);
}

/// An error response, signed because browsers ignore unsigned ones; replaces what is in `out`.
///
/// unknown: the attributes to name in a 420.
pub fn write_error(
    out: &mut Vec<u8>,
    transaction: &TransactionId,
    code: ErrorCode,
    unknown: &[u16],
    key: &IntegrityKey,
) {
    begin(out, BINDING_ERROR, transaction);
    match code {
        ErrorCode::UnknownAttribute => {
            attribute(out, ERROR_CODE, b"\0\0\x04\x14Unknown");
            let mut list = [0u8; MAX_UNKNOWN * 2];
            let named = &unknown[..unknown.len().min(MAX_UNKNOWN)];
            for (place, kind) in list.chunks_exact_mut(2).zip(named) {
                place.copy_from_slice(&kind.to_be_bytes());
            }
            attribute(out, UNKNOWN_ATTRIBUTES, &list[..named.len() * 2]);
        }
        ErrorCode::RoleConflict => attribute(out, ERROR_CODE, b"\0\0\x04\x57Role Conflict"),
    }
    sign(out, key);
}

/// What a check carries.
#[derive(Clone, Copy, Debug)]
pub struct Check<'a> {
    pub transaction: TransactionId,
    /// `receiver's ufrag:sender's ufrag`.
    pub username: &'a str,
    pub priority: u32,
    pub use_candidate: bool,
    pub role: Role,
    /// Whether pings are answered as well is to be told with the answer.
    pub asks_for_pings: bool,
}

/// A Binding request signed with the receiver's password; replaces what is in `out`.
pub fn write_request(out: &mut Vec<u8>, check: &Check<'_>, key: &IntegrityKey) {
    begin(out, BINDING_REQUEST, &check.transaction);
    attribute(out, USERNAME, check.username.as_bytes());
    attribute(out, PRIORITY, &check.priority.to_be_bytes());
    let (kind, tie_breaker) = match check.role {
        Role::Controlling(tie_breaker) => (ICE_CONTROLLING, tie_breaker),
        Role::Controlled(tie_breaker) => (ICE_CONTROLLED, tie_breaker),
    };
    attribute(out, kind, &tie_breaker.to_be_bytes());
    if check.use_candidate {
        attribute(out, USE_CANDIDATE, &[]);
    }
    if check.asks_for_pings {
        attribute(out, GOOG_MISC_INFO, &1u16.to_be_bytes());
    }
    sign(out, key);
}

/// A ping signed with the receiver's password; replaces what is in `out`. For those alone who have said that they answer it:
/// it names nobody, and has no fingerprint.
pub fn write_ping(out: &mut Vec<u8>, transaction: &TransactionId, key: &IntegrityKey) {
    write_short(out, PING_REQUEST, transaction, key);
}

fn write_short(out: &mut Vec<u8>, message_type: u16, transaction: &TransactionId, key: &IntegrityKey) {
    begin(out, message_type, transaction);
    let mac = integrity(out, key, SHORT_MAC_LEN);
    attribute(out, GOOG_MESSAGE_INTEGRITY_32, &mac[..SHORT_MAC_LEN]);
}

/// The answer to a ping; nothing in it is authenticated yet.
#[derive(Clone, Copy, Debug)]
pub struct Pong<'a> {
    pub transaction: TransactionId,
    datagram: &'a [u8; PING_LEN],
}

impl<'a> Pong<'a> {
    /// `None`: it is something else.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let datagram: &[u8; PING_LEN] = datagram.try_into().ok()?;
        let is_one = be16(datagram, 0) == PING_SUCCESS
            && usize::from(be16(datagram, 2)) == PING_LEN - HEADER_LEN
            && be32(datagram, 4) == COOKIE
            && be16(datagram, HEADER_LEN) == GOOG_MESSAGE_INTEGRITY_32
            && usize::from(be16(datagram, HEADER_LEN + 2)) == SHORT_MAC_LEN;
        let transaction = *datagram[8..].first_chunk()?;
        is_one.then_some(Self { transaction, datagram })
    }

    /// Check its four bytes of integrity, in constant time.
    pub fn verify_integrity(&self, key: &IntegrityKey) -> Result<(), DropReason> {
        let mac = integrity(&self.datagram[..HEADER_LEN], key, SHORT_MAC_LEN);
        let is_right = mac[..SHORT_MAC_LEN].ct_eq(&self.datagram[HEADER_LEN + 4..]);
        if bool::from(is_right) { Ok(()) } else { Err(DropReason::StunBadIntegrity) }
    }
}

fn begin(out: &mut Vec<u8>, message_type: u16, transaction: &TransactionId) {
    out.clear();
    out.extend_from_slice(&message_type.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&COOKIE.to_be_bytes());
    out.extend_from_slice(transaction);
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
    let len = (out.len() - HEADER_LEN) as u16;
    out[2..4].copy_from_slice(&len.to_be_bytes());
}

fn sign(out: &mut Vec<u8>, key: &IntegrityKey) {
    let mac = integrity(out, key, MAC_LEN);
    attribute(out, MESSAGE_INTEGRITY, &mac);
    // The fingerprint's own attribute counts in the length it covers.
    let len = (out.len() - HEADER_LEN + 8) as u16;
    out[2..4].copy_from_slice(&len.to_be_bytes());
    let fingerprint = crc32(out) ^ FINGERPRINT_XOR;
    attribute(out, FINGERPRINT, &fingerprint.to_be_bytes());
}

/// RFC 8489 §14.5: the MAC of everything before the attribute, with a length that ends after its `len` bytes.
fn integrity(before: &[u8], key: &IntegrityKey, len: usize) -> [u8; MAC_LEN] {
    let len = (before.len() - HEADER_LEN + 4 + len) as u16;
    key.0.sign(&[&before[..2], &len.to_be_bytes(), &before[4..]])
}

fn xor_address(address: SocketAddr, transaction: &TransactionId, out: &mut [u8; 20]) -> usize {
    let port = address.port() ^ (COOKIE >> 16) as u16;
    out[2..4].copy_from_slice(&port.to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => {
            out[1] = 1;
            out[4..8].copy_from_slice(&(u32::from(ip) ^ COOKIE).to_be_bytes());
            8
        }
        IpAddr::V6(ip) => {
            out[1] = 2;
            out[4..20].copy_from_slice(&(u128::from(ip) ^ xor_mask(transaction)).to_be_bytes());
            20
        }
    }
}

fn read_xor_address(value: &[u8], transaction: &TransactionId) -> Option<SocketAddr> {
    let (head, address) = value.split_first_chunk::<4>()?;
    let port = be16(head, 2) ^ (COOKIE >> 16) as u16;
    let ip = match (head[1], address.len()) {
        (1, 4) => Ipv4Addr::from(be32(address, 0) ^ COOKIE).into(),
        (2, 16) => {
            let bytes: [u8; 16] = address.try_into().ok()?;
            Ipv6Addr::from(u128::from_be_bytes(bytes) ^ xor_mask(transaction)).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn xor_mask(transaction: &TransactionId) -> u128 {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(transaction);
    u128::from_be_bytes(mask)
}

/// CRC-32 of ITU V.42 (RFC 8489 §14.7).
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut n = 0;
        while n < 256 {
            let (mut crc, mut bit) = (n as u32, 0);
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
                bit += 1;
            }
            table[n] = crc;
            n += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Messages that no honest agent sends, for the tables of the tests.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    pub(crate) fn signed_message(message_type: u16, attributes: &[(u16, &[u8])], key: &IntegrityKey) -> Vec<u8> {
        signed(message_type, &[9; 12], attributes, key)
    }

    fn signed(
        message_type: u16,
        transaction: &TransactionId,
        attributes: &[(u16, &[u8])],
        key: &IntegrityKey,
    ) -> Vec<u8> {
        let mut out = Vec::new();
        begin(&mut out, message_type, transaction);
        for (kind, value) in attributes {
            attribute(&mut out, *kind, value);
        }
        sign(&mut out, key);
        out
    }

    /// The success response to a check of ours, or to what has its transaction, with more than it must have.
    pub(crate) fn signed_answer(question: &[u8], attributes: &[(u16, &[u8])], key: &IntegrityKey) -> Vec<u8> {
        signed(BINDING_SUCCESS, transaction_of(question), attributes, key)
    }

    fn transaction_of(message: &[u8]) -> &TransactionId {
        message[8..HEADER_LEN].first_chunk().expect("a transaction")
    }

    pub(crate) fn pong(ping: &[u8], key: &IntegrityKey) -> Vec<u8> {
        let mut out = Vec::new();
        write_short(&mut out, PING_SUCCESS, transaction_of(ping), key);
        out
    }

    pub(crate) fn signed_request(attributes: &[(u16, &[u8])], key: &IntegrityKey) -> Vec<u8> {
        signed_message(BINDING_REQUEST, attributes, key)
    }

    pub(crate) fn without_fingerprint(datagram: &[u8]) -> Vec<u8> {
        let mut out = datagram[..datagram.len() - 8].to_vec();
        let len = (out.len() - HEADER_LEN) as u16;
        out[2..4].copy_from_slice(&len.to_be_bytes());
        out
    }

    pub(crate) fn with_attribute_behind(datagram: &[u8]) -> Vec<u8> {
        let mut out = datagram.to_vec();
        attribute(&mut out, 0x8022, b"late");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::hex;
    use proptest::prelude::*;

    const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";
    const TRANSACTION: &str = "2112a442 b7e7a701 bc34d686 fa87dfae";

    #[test]
    fn rfc_5769_2_1_request() {
        let datagram = hex(&format!(
            "00010058 {TRANSACTION} 80220010 5354554e 20746573 7420636c 69656e74 00240004 6e0001ff \
             80290008 932ff9b1 51263b36 00060009 6576746a 3a683676 59202020 \
             00080014 9aeaa70c bfd8cb56 781ef2b5 b2d3f249 c1b571a2 80280004 e57a3bcf"
        ));
        let message = Message::parse(&datagram).unwrap();
        assert!(message.is_request());
        assert_eq!(message.ufrags(), Ok((&b"evtj"[..], &b"h6vY"[..])));
        assert_eq!(message.priority, Some(0x6e00_01ff));
        assert_eq!(message.role(), Some(Role::Controlled(0x932f_f9b1_5126_3b36)));
        assert_eq!(message.verify_integrity(&IntegrityKey::new(PASSWORD)), Ok(()));
        assert_eq!(message.verify_integrity(&IntegrityKey::new("other")), Err(DropReason::StunBadIntegrity));
        for bit in 0..datagram.len() * 8 {
            let mut forged = datagram.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(Message::parse(&forged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn rfc_5769_2_2_and_2_3_responses() {
        let table = [
            (
                "0101003c",
                "8022000b 74657374 20766563 746f7220 00200008 0001a147 e112a643 \
                 00080014 2b91f599 fd9e90c3 8c7489f9 2af9ba53 f06be7d7 80280004 c07d4c96",
                "192.0.2.1:32853",
            ),
            (
                "01010048",
                "8022000b 74657374 20766563 746f7220 00200014 0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9 \
                 00080014 a382954e 4be67bf1 1784c97c 8292c275 bfe3ed41 80280004 c8fb0b4c",
                "[2001:db8:1234:5678:11:2233:4455:6677]:32853",
            ),
        ];
        for (head, attributes, address) in table {
            let datagram = hex(&format!("{head} {TRANSACTION} {attributes}"));
            let message = Message::parse(&datagram).unwrap();
            assert_eq!(message.mapped_address(), Some(address.parse().unwrap()));
            assert_eq!(message.verify_integrity(&IntegrityKey::new(PASSWORD)), Ok(()));
        }
    }

    #[test]
    fn rfc_5769_2_4_request_with_long_term_credentials() {
        let datagram =
            hex("00010060 2112a442 78ad3433 c6ad72c0 29da412e 00060012 e3839ee3 8388e383 aae38383 e382afe3 82b90000 \
             0015001c 662f2f34 39396b39 35346436 4f4c3334 6f4c3946 53547679 36347341 0014000b 6578616d 706c652e \
             6f726700 00080014 f6702465 6dd64a3e 02b8e071 2e85c9a2 8ca89666");
        // The vector has no FINGERPRINT, without which no ICE message is accepted.
        assert_eq!(Message::parse(&datagram).err(), Some(DropReason::StunFingerprint));
        let (message, _) = Message::parse_attributes(&datagram).unwrap();
        assert_eq!(message.username, Some("マトリックス".as_bytes()));
        // MD5 of "マトリックス:example.org:TheMatrIX", the key of RFC 8489 §18.5.1.
        let key = IntegrityKey(HmacSha1::new(&hex("e8ca7ad59d5eb0518e312911d2dab2a9")));
        assert_eq!(message.verify_integrity(&key), Ok(()));
    }

    #[test]
    fn responses_are_read_back() {
        let key = IntegrityKey::new(PASSWORD);
        let mut out = Vec::new();
        for address in ["192.0.2.1:1", "[2001:db8::7]:65535"] {
            let address = address.parse().unwrap();
            write_success(&mut out, &[7; 12], address, &key);
            let message = Message::parse(&out).unwrap();
            assert_eq!((message.mapped_address(), message.transaction), (Some(address), [7; 12]));
            assert_eq!(message.verify_integrity(&key), Ok(()));
            assert!(!message.is_request() && !message.is_indication());
        }
        write_error(&mut out, &[7; 12], ErrorCode::UnknownAttribute, &[0x7001, 0x7002], &key);
        assert_eq!(Message::parse(&out).unwrap().verify_integrity(&key), Ok(()));
        assert!(out.windows(4).any(|w| w == [0x70, 0x01, 0x70, 0x02]));
        write_error(&mut out, &[7; 12], ErrorCode::RoleConflict, &[], &key);
        assert_eq!(Message::parse(&out).unwrap().verify_integrity(&key), Ok(()));
        assert!(out.windows(2).any(|w| w == [4, 87]));
    }

    #[test]
    fn a_ping_is_a_header_and_four_bytes_of_its_signature() {
        let key = IntegrityKey::new(PASSWORD);
        let mut ping = Vec::new();
        write_ping(&mut ping, &[7; 12], &key);
        assert_eq!(ping[..8], hex("02000008 2112a442"));
        assert_eq!((ping[20..24].to_vec(), ping.len()), (hex("c0600004"), PING_LEN));
        // What MESSAGE-INTEGRITY would begin with, as python's hmac says of these twenty bytes.
        assert_eq!(ping[24..], hex("7ca19bc9"));
        assert!(Pong::parse(&ping).is_none(), "no answer");
        assert!(Message::parse(&ping).is_err());
        let pong = testing::pong(&ping, &key);
        let read = Pong::parse(&pong).unwrap();
        assert_eq!((read.transaction, read.verify_integrity(&key)), ([7; 12], Ok(())));
        assert_eq!(read.verify_integrity(&IntegrityKey::new("other")), Err(DropReason::StunBadIntegrity));
        for bit in 0..pong.len() * 8 {
            let mut forged = pong.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(Pong::parse(&forged).is_none_or(|pong| pong.verify_integrity(&key).is_err()), "bit {bit}");
        }
    }

    #[test]
    fn a_check_asks_for_pings_and_its_answer_tells() {
        let key = IntegrityKey::new(PASSWORD);
        let mut out = Vec::new();
        let role = Role::Controlled(0);
        for asks_for_pings in [false, true] {
            let check = Check {
                transaction: [7; 12],
                username: "a:b",
                priority: 1,
                use_candidate: false,
                role,
                asks_for_pings,
            };
            write_request(&mut out, &check, &key);
            assert_eq!(out.windows(8).any(|w| w == hex("c0590002 00010000")), asks_for_pings);
            assert!(Message::parse(&out).unwrap().unknown_attributes().is_empty());
        }
        let told: [(&[u8], bool); 4] = [(&[0, 1], true), (&[0, 0], false), (&[], false), (&[0, 1, 0, 9], true)];
        for (misc, takes) in told {
            let answer = testing::signed_answer(&out, &[(GOOG_MISC_INFO, misc)], &key);
            assert_eq!(Message::parse(&answer).unwrap().takes_pings(), takes, "{misc:?}");
        }
        assert!(!Message::parse(&testing::signed_answer(&out, &[], &key)).unwrap().takes_pings());
    }

    #[test]
    fn crc32_check_value() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    proptest! {
        #[test]
        fn parse_never_panics(mut datagram in prop::collection::vec(any::<u8>(), 0..120), sound_header: bool) {
            if sound_header && datagram.len() >= HEADER_LEN {
                datagram.truncate(datagram.len() / 4 * 4);
                let len = (datagram.len() - HEADER_LEN) as u16;
                datagram[..2].copy_from_slice(&BINDING_REQUEST.to_be_bytes());
                datagram[2..4].copy_from_slice(&len.to_be_bytes());
                datagram[4..8].copy_from_slice(&COOKIE.to_be_bytes());
            }
            let _ = (Message::parse(&datagram), Pong::parse(&datagram));
            if let Ok((message, _)) = Message::parse_attributes(&datagram) {
                let _ = (message.ufrags(), message.verify_integrity(&IntegrityKey::new("x")));
            }
        }
    }
}
