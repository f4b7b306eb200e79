//! What the unit tests of several modules share.

use std::time::Instant;

/// Bytes from hexadecimal digits; anything else in between is skipped.
pub fn hex(digits: &str) -> Vec<u8> {
    let nibbles: Vec<u8> = digits.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    assert_eq!(nibbles.len() % 2, 0, "odd number of digits");
    nibbles.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Where a test's virtual time begins.
#[expect(clippy::disallowed_methods, reason = "any instant will do as the origin of virtual time")]
pub fn origin() -> Instant {
    Instant::now()
}
