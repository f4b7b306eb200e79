//! The little of STUN (RFC 8489) that a controlling ICE client needs, written apart from the server's own codec.

use aws_lc_rs::hmac;

const MAGIC: u32 = 0x2112_a442;

pub struct Check<'a> {
    /// `their:ours`, as the server sees it first.
    pub username: &'a str,
    /// The server's password.
    pub password: &'a str,
    pub transaction: [u8; 12],
    pub use_candidate: bool,
}

/// A Binding request with all that RFC 8445 §7.2.2 asks for.
pub fn request(check: &Check<'_>) -> Vec<u8> {
    let mut attributes = Vec::new();
    attribute(&mut attributes, 0x0006, check.username.as_bytes());
    attribute(&mut attributes, 0x0024, &0x6e00_01ffu32.to_be_bytes());
    attribute(&mut attributes, 0x802a, &[7; 8]);
    if check.use_candidate {
        attribute(&mut attributes, 0x0025, &[]);
    }
    signed(0x0001, check.transaction, &attributes, check.password)
}

/// The success response to a Binding request, signed with our password. Without XOR-MAPPED-ADDRESS the server does not
/// learn where it was seen, which it does not ask. `takes_pings`: it says that pings are answered, too.
pub fn response(transaction: [u8; 12], password: &str, takes_pings: bool) -> Vec<u8> {
    let mut attributes = Vec::new();
    if takes_pings {
        attribute(&mut attributes, 0xc059, &1u16.to_be_bytes());
    }
    signed(0x0101, transaction, &attributes, password)
}

/// What libwebrtc answers a ping with: a header, and four bytes of its signature.
pub fn pong(transaction: [u8; 12], password: &str) -> Vec<u8> {
    briefly_signed(0x0300, transaction, password)
}

/// The transaction of a ping that is signed with our password.
pub fn pinged(message: &[u8], password: &str) -> Option<[u8; 12]> {
    let transaction = transaction_of(0x0200, message)?;
    (message == briefly_signed(0x0200, transaction, password)).then_some(transaction)
}

fn briefly_signed(kind: u16, transaction: [u8; 12], password: &str) -> Vec<u8> {
    let mut message = header(kind, 8, transaction);
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes());
    let tag = hmac::sign(&key, &message);
    attribute(&mut message, 0xc060, &tag.as_ref()[..4]);
    message
}

fn signed(kind: u16, transaction: [u8; 12], attributes: &[u8], password: &str) -> Vec<u8> {
    let mut message = header(kind, attributes.len() + 24, transaction);
    message.extend_from_slice(attributes);
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes());
    let tag = hmac::sign(&key, &message);
    attribute(&mut message, 0x0008, tag.as_ref());
    let len = (message.len() - 20 + 8) as u16;
    message[2..4].copy_from_slice(&len.to_be_bytes());
    let crc = crc32(&message) ^ 0x5354_554e;
    attribute(&mut message, 0x8028, &crc.to_be_bytes());
    message
}

/// The transaction of a Binding success response.
pub fn success(message: &[u8]) -> Option<[u8; 12]> {
    transaction_of(0x0101, message)
}

/// The transaction of a Binding request.
pub fn asked(message: &[u8]) -> Option<[u8; 12]> {
    transaction_of(0x0001, message)
}

fn transaction_of(kind: u16, message: &[u8]) -> Option<[u8; 12]> {
    let id = message.get(8..20)?.try_into().ok()?;
    message.starts_with(&kind.to_be_bytes()).then_some(id)
}

fn header(kind: u16, len: usize, transaction: [u8; 12]) -> Vec<u8> {
    let mut out = kind.to_be_bytes().to_vec();
    out.extend_from_slice(&(len as u16).to_be_bytes());
    out.extend_from_slice(&MAGIC.to_be_bytes());
    out.extend_from_slice(&transaction);
    out
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// CRC-32 of ITU V.42, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}
