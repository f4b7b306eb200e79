//! Frames on a stream: a 16-bit length before each datagram (RFC 4571 §2), as ICE-TCP uses them (RFC 6544 §3).
//!
//! Reading only; no socket.

/// More than any datagram we take: STUN, DTLS records and SRTP packets keep to the path's MTU.
pub const MAX_FRAME_LEN: usize = 8 * 1024;

/// The stream cannot be read on: its next frame is longer than any we take.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes is longer than the {MAX_FRAME_LEN} allowed")]
pub struct FrameTooLong(usize);

/// Puts frames together from reads of any size; holds at most one unfinished frame.
#[derive(Debug, Default)]
pub struct Deframer {
    partial: Vec<u8>,
}

impl Deframer {
    /// Hands on every frame that `bytes` completes, in order. Empty frames (keep-alives) are skipped.
    pub fn push(&mut self, mut bytes: &mut [u8], mut frame: impl FnMut(&mut [u8])) -> Result<(), FrameTooLong> {
        while !self.partial.is_empty() {
            let wanted = match self.partial.as_slice() {
                [high, low, ..] => 2 + checked(u16::from_be_bytes([*high, *low]))?,
                _ => 2,
            };
            let taken = bytes.len().min(wanted - self.partial.len());
            let (head, rest) = std::mem::take(&mut bytes).split_at_mut(taken);
            bytes = rest;
            self.partial.extend_from_slice(head);
            if self.partial.len() < wanted {
                return Ok(());
            }
            // Two bytes are either a header whose frame now follows, or the whole of an empty frame.
            if wanted > 2 {
                frame(&mut self.partial[2..]);
                self.partial.clear();
            } else if self.partial == [0, 0] {
                self.partial.clear();
            }
        }
        while let [high, low, ..] = *bytes {
            let len = checked(u16::from_be_bytes([high, low]))?;
            if bytes.len() < 2 + len {
                break;
            }
            let (head, rest) = std::mem::take(&mut bytes).split_at_mut(2 + len);
            bytes = rest;
            if len > 0 {
                frame(&mut head[2..]);
            }
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }
}

fn checked(len: u16) -> Result<usize, FrameTooLong> {
    let len = usize::from(len);
    if len > MAX_FRAME_LEN { Err(FrameTooLong(len)) } else { Ok(len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(frames: &[&[u8]]) -> Vec<u8> {
        frames.iter().flat_map(|frame| [&(frame.len() as u16).to_be_bytes()[..], *frame].concat()).collect()
    }

    #[test]
    fn frames_come_out_whole_however_the_stream_is_cut() {
        let long = [7_u8; 1500];
        let frames: [&[u8]; 5] = [b"a", b"", b"bcd", &long, b"e"];
        let expected: Vec<Vec<u8>> = frames.iter().filter(|frame| !frame.is_empty()).map(|f| f.to_vec()).collect();
        for step in [1, 2, 3, 5, 7, 1000, 5000] {
            let mut deframer = Deframer::default();
            let mut seen = Vec::new();
            for chunk in stream(&frames).chunks_mut(step) {
                deframer.push(chunk, |frame| seen.push(frame.to_vec())).expect("all frames are short");
            }
            assert_eq!(seen, expected, "in steps of {step}");
            assert!(deframer.partial.is_empty());
        }
    }

    #[test]
    fn a_frame_that_claims_too_much_ends_the_stream_before_it_is_stored() {
        let mut deframer = Deframer::default();
        let mut bytes = stream(&[b"ok"]);
        bytes.extend_from_slice(&[0xff, 0xff, 1, 2, 3]);
        let mut seen = 0;
        assert_eq!(deframer.push(&mut bytes, |_| seen += 1), Err(FrameTooLong(0xffff)));
        assert_eq!(seen, 1);

        let mut deframer = Deframer::default();
        assert_eq!(deframer.push(&mut [0xff], |_| ()), Ok(()));
        assert_eq!(deframer.push(&mut [0xff], |_| ()), Err(FrameTooLong(0xffff)));
        assert!(deframer.partial.len() <= 2);
    }
}
