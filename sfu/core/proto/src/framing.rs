//! Frames of two length bytes and a datagram, as ICE-TCP carries them (RFC 4571 §2, RFC 6544 §3).
//!
//! Not here: the connection itself.

use crate::drop_reason::DropReason;

/// Longest frame a decoder takes unless told otherwise: a datagram of ordinary MTU with room for tunnels.
///
/// Default of the setting; raise it only for peers that send larger datagrams over TCP, costs that much per connection.
pub const DEFAULT_MAX_FRAME_LEN: usize = 2048;

/// The two bytes to put in front of a datagram; None if it is empty or too long for the format.
pub fn frame_header(datagram_len: usize) -> Option<[u8; 2]> {
    u16::try_from(datagram_len).ok().filter(|len| *len > 0).map(u16::to_be_bytes)
}

/// Cuts a byte stream back into datagrams. Holds at most one unfinished frame.
#[derive(Debug)]
pub struct FrameDecoder {
    max_len: usize,
    partial: Vec<u8>,
    broken: bool,
}

impl FrameDecoder {
    /// max_len: longest datagram accepted; memory is bounded by this plus two bytes.
    pub fn new(max_len: usize) -> Self {
        Self { max_len: max_len.min(usize::from(u16::MAX)), partial: Vec::new(), broken: false }
    }

    /// Feed bytes as they were read; `each` sees every finished datagram, in order.
    ///
    /// An error is final: the stream has lost its frames, close the connection.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(&mut [u8])) -> Result<(), DropReason> {
        while !self.broken && !bytes.is_empty() {
            if self.partial.len() < 2 {
                self.partial.push(bytes[0]);
                bytes = &bytes[1..];
                continue;
            }
            let len = usize::from(u16::from_be_bytes([self.partial[0], self.partial[1]]));
            if len == 0 || len > self.max_len {
                self.broken = true;
                break;
            }
            let missing = len + 2 - self.partial.len();
            let (now, later) = bytes.split_at(missing.min(bytes.len()));
            self.partial.extend_from_slice(now);
            bytes = later;
            if self.partial.len() == len + 2 {
                each(&mut self.partial[2..]);
                self.partial.clear();
            }
        }
        if self.broken { Err(DropReason::FramingLength) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_cut_gives_the_same_datagrams(
            datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..12),
            cuts in prop::collection::vec(1usize..50, 1..50),
        ) {
            let mut stream = Vec::new();
            for datagram in &datagrams {
                stream.extend(frame_header(datagram.len()).unwrap());
                stream.extend(datagram);
            }
            let (mut decoder, mut got) = (FrameDecoder::new(300), Vec::new());
            let (mut rest, mut cuts) = (&stream[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                decoder.feed(now, |datagram| got.push(datagram.to_vec())).unwrap();
                prop_assert!(decoder.partial.len() <= 302);
                rest = later;
            }
            prop_assert_eq!(got, datagrams);
        }
    }

    #[test]
    fn lost_frames_are_final() {
        for head in [[0, 0], [0xff, 0xff], [1, 1]] {
            let mut decoder = FrameDecoder::new(256);
            assert_eq!(decoder.feed(&[head[0], head[1], 7], |_| panic!("no frame")), Err(DropReason::FramingLength));
            assert_eq!(decoder.feed(&[0, 1, 7], |_| panic!("no frame")), Err(DropReason::FramingLength));
        }
    }

    #[test]
    fn impossible_frames_have_no_header() {
        assert_eq!(frame_header(0), None);
        assert_eq!(frame_header(65_536), None);
        assert_eq!(frame_header(258), Some([1, 2]));
    }
}
