//! Typed header-extension elements: `read` from an element's bytes, `write` to the bytes of a new one.
//!
//! Lengths are checked, meanings are clamped where a liar could do harm. The dependency descriptor and the video
//! layers allocation stay raw bytes here: their readers live with the layers.

use std::time::Duration;

/// Client-to-mixer audio level (RFC 6464 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AudioLevel {
    pub voice: bool,
    /// Minus dBov: 0 is the loudest, 127 is silence.
    pub level_dbov: u8,
}

impl AudioLevel {
    /// One byte; the two-byte form may carry more, which is ignored.
    pub fn read(data: &[u8]) -> Option<Self> {
        let byte = data.first()?;
        Some(Self { voice: byte & 0x80 != 0, level_dbov: byte & 0x7f })
    }

    pub fn write(self) -> [u8; 1] {
        [u8::from(self.voice) << 7 | self.level_dbov & 0x7f]
    }
}

/// Transport-wide sequence number (draft-holmer-rmcat-transport-wide-cc-extensions-01 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportSeq(pub u16);

impl TransportSeq {
    /// Two bytes; version 2's four are read for their first two.
    pub fn read(data: &[u8]) -> Option<Self> {
        let bytes = data.first_chunk::<2>()?;
        Some(Self(u16::from_be_bytes(*bytes)))
    }

    pub fn write(self) -> [u8; 2] {
        self.0.to_be_bytes()
    }
}

/// abs-send-time: seconds in 6.18 fixed point, wrapping every 64 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbsSendTime(pub u32);

impl AbsSendTime {
    /// From the time since any fixed instant.
    pub fn from_duration(since: Duration) -> Self {
        Self((((since.as_micros() << 18) / 1_000_000) & 0x00ff_ffff) as u32)
    }

    pub fn read(data: &[u8]) -> Option<Self> {
        let b = data.first_chunk::<3>()?;
        Some(Self(u32::from_be_bytes([0, b[0], b[1], b[2]])))
    }

    pub fn write(self) -> [u8; 3] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [a, b, c]
    }
}

/// Playout delay limits in steps of 10 ms, 12 bits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlayoutDelay {
    pub min: Duration,
    pub max: Duration,
}

impl PlayoutDelay {
    /// The longest the format can say is 40.95 s; a minimum beyond the maximum is refused.
    pub fn read(data: &[u8]) -> Option<Self> {
        let b = data.first_chunk::<3>()?;
        let both = u32::from_be_bytes([0, b[0], b[1], b[2]]);
        let step = |n: u32| Duration::from_millis(u64::from(n) * 10);
        let (min, max) = (step(both >> 12), step(both & 0xfff));
        (min <= max).then_some(Self { min, max })
    }

    /// At most `limit`: what a publisher says holds back what its subscribers see and, in step with it, hear.
    pub fn within(self, limit: Duration) -> Self {
        Self { min: self.min.min(limit), max: self.max.min(limit) }
    }

    /// Values beyond the format's 40.95 s are written as that.
    pub fn write(self) -> [u8; 3] {
        let steps = |d: Duration| (d.as_millis() / 10).min(0xfff) as u32;
        let [_, a, b, c] = (steps(self.min) << 12 | steps(self.max)).to_be_bytes();
        [a, b, c]
    }
}

/// Absolute capture time: NTP timestamp and, if known, the capturer's clock offset, both in 32.32 fixed point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbsCaptureTime {
    pub ntp: u64,
    pub clock_offset: Option<i64>,
}

impl AbsCaptureTime {
    pub fn read(data: &[u8]) -> Option<Self> {
        let (ntp, rest) = data.split_first_chunk::<8>()?;
        let clock_offset = match rest.len() {
            0 => None,
            8 => rest.first_chunk::<8>().map(|b| i64::from_be_bytes(*b)),
            _ => return None,
        };
        Some(Self { ntp: u64::from_be_bytes(*ntp), clock_offset })
    }

    /// The bytes and how many of them count.
    pub fn write(self) -> ([u8; 16], usize) {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.ntp.to_be_bytes());
        match self.clock_offset {
            Some(offset) => {
                out[8..].copy_from_slice(&offset.to_be_bytes());
                (out, 16)
            }
            None => (out, 8),
        }
    }
}

/// Coordination of video orientation (3GPP TS 26.114 §7.4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VideoOrientation {
    pub back_camera: bool,
    pub flip: bool,
    /// Clockwise quarter turns, 0..=3.
    pub quarter_turns: u8,
}

impl VideoOrientation {
    pub fn read(data: &[u8]) -> Option<Self> {
        let b = data.first()?;
        Some(Self { back_camera: b & 8 != 0, flip: b & 4 != 0, quarter_turns: b & 3 })
    }

    pub fn write(self) -> [u8; 1] {
        [u8::from(self.back_camera) << 3 | u8::from(self.flip) << 2 | self.quarter_turns & 3]
    }
}

/// Text of mid (RFC 9143 §15), rid or repaired-rid (RFC 8852 §3).
///
/// Some senders pad with zero bytes; anything but visible ASCII, or nothing, is refused.
pub fn read_sdes_text(data: &[u8]) -> Option<&str> {
    let end = data.iter().rposition(|&b| b != 0)? + 1;
    let text = &data[..end];
    if !text.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    std::str::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_round_trip() {
        for byte in 0..=255u8 {
            assert_eq!(AudioLevel::read(&[byte]).unwrap().write(), [byte]);
            assert_eq!(VideoOrientation::read(&[byte & 15]).unwrap().write(), [byte & 15]);
        }
        assert_eq!(TransportSeq::read(&[0x12, 0x34]), Some(TransportSeq(0x1234)));
        assert_eq!(AbsSendTime::read(&AbsSendTime(0x00ab_cdef).write()), Some(AbsSendTime(0x00ab_cdef)));
        let delay = PlayoutDelay { min: Duration::from_millis(100), max: Duration::from_millis(40_950) };
        assert_eq!(PlayoutDelay::read(&delay.write()), Some(delay));
        for clock_offset in [None, Some(-1), Some(i64::MAX)] {
            let time = AbsCaptureTime { ntp: 0x0123_4567_89ab_cdef, clock_offset };
            let (bytes, len) = time.write();
            assert_eq!(AbsCaptureTime::read(&bytes[..len]), Some(time));
        }
    }

    #[test]
    fn abs_send_time_wraps_every_64_seconds() {
        assert_eq!(AbsSendTime::from_duration(Duration::from_secs(1)), AbsSendTime(1 << 18));
        assert_eq!(AbsSendTime::from_duration(Duration::from_secs(64)), AbsSendTime(0));
        assert_eq!(AbsSendTime::from_duration(Duration::from_millis(500)), AbsSendTime(1 << 17));
    }

    /// S-26
    #[test]
    fn short_and_contradicting_elements_are_refused() {
        assert_eq!(AudioLevel::read(&[]), None);
        assert_eq!(TransportSeq::read(&[1]), None);
        assert_eq!(AbsSendTime::read(&[1, 2]), None);
        assert_eq!(PlayoutDelay::read(&[0x00, 0x50, 0x01]), None);
        assert_eq!(AbsCaptureTime::read(&[0; 12]), None);
        assert_eq!(read_sdes_text(b"0\0\0"), Some("0"));
        assert_eq!(read_sdes_text(b"\0"), None);
        assert_eq!(read_sdes_text(b"a b"), None);
        assert_eq!(read_sdes_text(&[0xff]), None);
    }
}
