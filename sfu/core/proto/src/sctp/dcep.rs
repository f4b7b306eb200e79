//! Data Channel Establishment Protocol messages (RFC 8832 §5): bytes to values and back, no state.

use crate::command::ChannelSpec;

const DATA_CHANNEL_ACK: u8 = 0x02;
const DATA_CHANNEL_OPEN: u8 = 0x03;
const RELIABLE: u8 = 0x00;
const PARTIAL_REXMIT: u8 = 0x01;
const PARTIAL_TIMED: u8 = 0x02;
const UNORDERED: u8 = 0x80;

/// Longer labels are refused: ours are a few characters.
const MAX_LABEL_BYTES: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dcep {
    Ack,
    Open(Open),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    pub spec: ChannelSpec,
    /// Messages are given up after this time instead of after a number of retransmissions.
    pub max_lifetime_ms: Option<u32>,
}

/// `None` for anything that is not a whole, known message.
pub fn parse(message: &[u8]) -> Option<Dcep> {
    match *message.first()? {
        DATA_CHANNEL_ACK => Some(Dcep::Ack),
        DATA_CHANNEL_OPEN if message.len() >= 12 => {
            let kind = message[1];
            let parameter = u32::from_be_bytes([message[4], message[5], message[6], message[7]]);
            let label_len = usize::from(u16::from_be_bytes([message[8], message[9]]));
            if label_len > MAX_LABEL_BYTES {
                return None;
            }
            let label = std::str::from_utf8(message.get(12..12 + label_len)?).ok()?;
            let (max_retransmits, max_lifetime_ms) = match kind & !UNORDERED {
                RELIABLE => (None, None),
                PARTIAL_REXMIT => (Some(u16::try_from(parameter).unwrap_or(u16::MAX)), None),
                PARTIAL_TIMED => (None, Some(parameter)),
                _ => return None,
            };
            Some(Dcep::Open(Open {
                spec: ChannelSpec { label: label.to_owned(), ordered: kind & UNORDERED == 0, max_retransmits },
                max_lifetime_ms,
            }))
        }
        _ => None,
    }
}

pub fn write_ack() -> Vec<u8> {
    vec![DATA_CHANNEL_ACK]
}

pub fn write_open(spec: &ChannelSpec) -> Vec<u8> {
    let mut kind = if spec.max_retransmits.is_some() { PARTIAL_REXMIT } else { RELIABLE };
    if !spec.ordered {
        kind |= UNORDERED;
    }
    let label = &spec.label.as_bytes()[..spec.label.len().min(MAX_LABEL_BYTES)];
    let mut out = vec![DATA_CHANNEL_OPEN, kind, 0, 0];
    out.extend_from_slice(&u32::from(spec.max_retransmits.unwrap_or(0)).to_be_bytes());
    // At most MAX_LABEL_BYTES.
    out.extend_from_slice(&(label.len() as u16).to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(label);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(label: &str, ordered: bool, max_retransmits: Option<u16>) -> ChannelSpec {
        ChannelSpec { label: label.to_owned(), ordered, max_retransmits }
    }

    #[test]
    fn open_is_laid_out_as_in_rfc_8832() {
        let bytes = write_open(&spec("_lossy", false, Some(0)));
        assert_eq!(bytes, b"\x03\x81\0\0\0\0\0\0\0\x06\0\0_lossy");
        assert_eq!(
            parse(&bytes),
            Some(Dcep::Open(Open { spec: spec("_lossy", false, Some(0)), max_lifetime_ms: None }))
        );
    }

    #[test]
    fn timed_reliability_and_protocol_are_understood() {
        let bytes = b"\x03\x02\x01\0\0\0\x01\xf4\0\x01\0\x02ap1";
        assert_eq!(parse(bytes), Some(Dcep::Open(Open { spec: spec("a", true, None), max_lifetime_ms: Some(500) })));
    }

    /// S-28
    #[test]
    fn what_is_cut_or_unknown_is_refused() {
        let whole = write_open(&spec("_reliable", true, None));
        for len in 0..whole.len() {
            assert_eq!(parse(&whole[..len]), None, "{len} bytes");
        }
        assert_eq!(parse(b"\x03\x07\0\0\0\0\0\0\0\0\0\0"), None);
        assert_eq!(parse(b"\x01"), None);
        assert_eq!(parse(b"\x03\0\0\0\0\0\0\0\0\x01\0\0\xff"), None, "a label is UTF-8");
    }

    proptest! {
        #[test]
        fn any_channel_survives_the_way(label in "\\PC{0,40}", ordered: bool, max: Option<u16>) {
            let spec = spec(&label, ordered, max);
            prop_assert_eq!(parse(&write_open(&spec)), Some(Dcep::Open(Open { spec, max_lifetime_ms: None })));
        }

        #[test]
        fn any_bytes_are_taken_without_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
