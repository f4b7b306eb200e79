//! Redundant sound (RFC 2198): the encoding of a moment, and before it those of earlier ones again.
//!
//! Bounded, no allocation. Which encodings the blocks have is said in SDP; here they are bytes. All have the same: sound that
//! says so of several is encrypted end to end, or none of ours, and is not read.

use std::ops::Range;

/// One encoding within a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// How long before the packet's time stamp, in its clock.
    pub age: u16,
    pub range: Range<usize>,
}

/// The newest encoding, which the packet is about. `None`: lengths that the payload does not have, or several payload types.
pub fn primary(payload: &[u8]) -> Option<Range<usize>> {
    let (header_len, older) = lengths(payload)?;
    Some(header_len + older..payload.len())
}

/// Earlier encodings, the oldest first; none where the payload cannot be read.
pub fn older(payload: &[u8]) -> impl Iterator<Item = Block> + Clone + use<'_> {
    let header_len = lengths(payload).map_or(1, |(header_len, _)| header_len);
    (0..header_len / 4).scan(header_len, |start, index| {
        let age = u16::from_be_bytes([payload[4 * index + 1], payload[4 * index + 2]]) >> 2;
        let range = *start..*start + len_at(payload, index);
        *start = range.end;
        Some(Block { age, range })
    })
}

/// Of all headers, and of all encodings but the newest.
fn lengths(payload: &[u8]) -> Option<(usize, usize)> {
    let (mut at, mut older) = (0, 0);
    loop {
        let header = *payload.get(at)?;
        if (header ^ payload[0]) & 0x7f != 0 {
            return None;
        }
        if header & 0x80 == 0 {
            break;
        }
        payload.get(at + 3)?;
        older += len_at(payload, at / 4);
        at += 4;
    }
    (at + 1 + older <= payload.len()).then_some((at + 1, older))
}

/// Of the encoding whose header of four bytes is the one with this index, and is there.
fn len_at(payload: &[u8], index: usize) -> usize {
    usize::from(payload[4 * index + 2] & 0x03) << 8 | usize::from(payload[4 * index + 3])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn blocks_are_found_with_their_ages() {
        // 1 920 and 960 earlier, of 2 and 3 bytes.
        let payload = [0x80 | 111, 0x1e, 0x00, 2, 0x80 | 111, 0x0f, 0x00, 3, 111, 1, 1, 2, 2, 2, 9, 9];
        let found: Vec<Block> = older(&payload).collect();
        assert_eq!(found, [Block { age: 1_920, range: 9..11 }, Block { age: 960, range: 11..14 }]);
        assert_eq!(primary(&payload), Some(14..16));
        assert_eq!((primary(&[111, 7]), older(&[111, 7]).count()), (Some(1..2), 0));
        let mixed = [0x80 | 111, 0x0f, 0x00, 1, 96, 1, 2];
        for bad in [&[][..], &[0x80], &[0x80, 0, 0], &[0x80, 0, 0, 9], &[0x80 | 111, 0, 0, 9, 111, 1], &mixed] {
            assert_eq!((primary(bad), older(bad).count()), (None, 0), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_lies_side_by_side_within_the_payload(
            payload in prop::collection::vec(prop_oneof![Just(0x80u8), Just(0), any::<u8>()], 0..64),
        ) {
            let Some(primary) = primary(&payload) else { return Ok(()) };
            let mut at = None;
            for block in older(&payload) {
                prop_assert_eq!(at.unwrap_or(block.range.start), block.range.start);
                prop_assert!(block.age < 1 << 14);
                at = Some(block.range.end);
            }
            prop_assert_eq!(at.unwrap_or(primary.start), primary.start);
            prop_assert_eq!(primary.end, payload.len());
        }
    }
}
