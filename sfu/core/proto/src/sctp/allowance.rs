//! How much data one client may send: messages and bytes a second, two seconds' worth of either at once.
//!
//! One signaling process reads the messages of all rooms. What is beyond the allowance is not given to the association, and so
//! not acknowledged: to its sender it was lost on the way. He slows down and sends again what is reliable; what is lossy is
//! lost, as on a narrow link. It weighs packets (RFC 9260 §3) before they are read, and believes none of their lengths.

use std::time::{Duration, Instant};

/// What may come at once.
const BURST: Duration = Duration::from_secs(2);
/// Looks at kept chunks, see `held`: less than a tenth of a core, of which a file at 60 Mbit/s needs a fifth.
const WORK_PER_SECOND: f64 = 4_000_000.0;

pub(super) const COMMON_HEADER_BYTES: usize = 12;
pub(super) const CHUNK_HEADER_BYTES: usize = 4;
pub(super) const DATA: u8 = 0;
pub(super) const SACK: u8 = 3;
/// The E bit: the last fragment of a message.
const ENDING: u8 = 1;
/// A message of nothing. Whoever hides some behind the end of another chunk hides no more than one in so many bytes.
const LEAST_DATA_BYTES: usize = 16;
/// A SACK without blocks, and one block (§3.3.4).
const LEAST_SACK_BYTES: usize = 16;
const SACK_BLOCK_BYTES: usize = 4;

pub(super) struct Allowance {
    messages: Bucket,
    bytes: Bucket,
    work: Bucket,
    filled: Option<Instant>,
}

impl Allowance {
    pub(super) fn new(messages_per_second: u32, bytes_per_second: u32) -> Self {
        let bucket = |per_second: u32| Bucket::new(f64::from(per_second), BURST.as_secs_f64());
        Self {
            messages: bucket(messages_per_second),
            bytes: bucket(bytes_per_second),
            work: Bucket::new(WORK_PER_SECOND, 1.0),
            filled: None,
        }
    }

    /// Whether the association may have that packet. The last one may overdraw: however many it holds, it passes some day.
    pub(super) fn takes(&mut self, now: Instant, packet: &[u8], work: f64) -> bool {
        let Some(messages) = messages(packet) else { return true };
        let elapsed = self.filled.replace(now).map_or(BURST, |at| now.saturating_duration_since(at)).as_secs_f64();
        self.messages.fill(elapsed);
        self.bytes.fill(elapsed);
        self.work.fill(elapsed);
        if self.messages.left <= 0.0 || self.bytes.left <= 0.0 || self.work.left <= 0.0 {
            return false;
        }
        self.messages.left -= messages as f64;
        self.bytes.left -= packet.len() as f64;
        self.work.left -= work;
        true
    }
}

struct Bucket {
    per_second: f64,
    most: f64,
    left: f64,
}

impl Bucket {
    fn new(per_second: f64, burst_seconds: f64) -> Self {
        Self { per_second, most: per_second * burst_seconds, left: 0.0 }
    }

    fn fill(&mut self, seconds: f64) {
        self.left = (self.left + seconds * self.per_second).min(self.most);
    }
}

/// The most messages that the packet may bring to an end; `None`: it only acknowledges.
fn messages(packet: &[u8]) -> Option<usize> {
    let mut rest = packet.get(COMMON_HEADER_BYTES..)?;
    let mut messages = None;
    while let [kind, flags, high, low, ..] = *rest {
        let len = usize::from(u16::from_be_bytes([high, low])).max(CHUNK_HEADER_BYTES);
        let beyond = match kind {
            DATA => 0,
            SACK => len.saturating_sub(sack_bytes(rest)),
            _ => len,
        };
        if kind != SACK || beyond > 0 {
            let ends = usize::from(kind == DATA && flags & ENDING != 0);
            *messages.get_or_insert(0) += ends + beyond / LEAST_DATA_BYTES;
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    messages
}

/// How long a SACK is that has as many blocks as it says.
pub(super) fn sack_bytes(chunk: &[u8]) -> usize {
    match chunk.get(12..16) {
        Some(&[a, b, c, d]) => {
            let blocks = usize::from(u16::from_be_bytes([a, b])) + usize::from(u16::from_be_bytes([c, d]));
            LEAST_SACK_BYTES + SACK_BLOCK_BYTES * blocks
        }
        _ => LEAST_SACK_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::origin;

    fn chunk(kind: u8, flags: u8, value: &[u8]) -> Vec<u8> {
        let len = (value.len() + CHUNK_HEADER_BYTES) as u16;
        let mut chunk = vec![kind, flags];
        chunk.extend_from_slice(&len.to_be_bytes());
        chunk.extend_from_slice(value);
        chunk.resize(chunk.len().next_multiple_of(4), 0);
        chunk
    }

    fn data(flags: u8, bytes: usize) -> Vec<u8> {
        chunk(DATA, flags, &vec![0; 12 + bytes])
    }

    fn sack(blocks: u8) -> Vec<u8> {
        let mut value = vec![0; 12 + SACK_BLOCK_BYTES * usize::from(blocks)];
        (value[9], value[11]) = (blocks / 2, blocks - blocks / 2);
        chunk(SACK, 0, &value)
    }

    fn packet(chunks: &[Vec<u8>]) -> Vec<u8> {
        [vec![0; COMMON_HEADER_BYTES], chunks.concat()].concat()
    }

    #[test]
    fn messages_are_counted_where_they_end() {
        let whole = ENDING | 2;
        for (chunks, expected) in [
            (vec![sack(0)], None),
            (vec![sack(7)], None),
            (vec![data(whole, 1); 57], Some(57)),
            (vec![data(2, 900)], Some(0)),
            (vec![data(ENDING, 900), data(2, 100)], Some(1)),
            (vec![sack(2), data(whole, 5)], Some(1)),
            // A HEARTBEAT and FORWARD-TSN of one stream cost next to nothing.
            (vec![chunk(4, 0, &[0; 24])], Some(1)),
            (vec![chunk(192, 0, &[0; 8])], Some(0)),
        ] {
            assert_eq!(messages(&packet(&chunks)), expected, "{chunks:?}");
        }
        for junk in [&[][..], &[0; 5], &[0xff; 40], &packet(&[vec![0; 40]])] {
            let _ = messages(junk);
        }
    }

    /// Readers go on where the fields of a chunk end, not where its length says.
    #[test]
    fn what_is_hidden_behind_a_chunk_is_counted() {
        let hidden = data(ENDING | 2, 1).repeat(10);
        let mut long_sack = sack(0);
        long_sack.extend_from_slice(&hidden);
        let len = long_sack.len() as u16;
        long_sack[2..4].copy_from_slice(&len.to_be_bytes());
        assert!(messages(&packet(&[long_sack])) >= Some(10));
        assert!(messages(&packet(&[chunk(130, 0, &hidden)])) >= Some(10));
    }

    /// Packets of `chunks` that pass while `per_second` of them come for that time.
    fn passing(chunks: &[Vec<u8>], per_second: u32, seconds: u32) -> u32 {
        let (start, mut allowance) = (origin(), Allowance::new(2_000, 8_000_000));
        let packet = packet(chunks);
        let each = Duration::from_secs(1) / per_second;
        (0..per_second * seconds).map(|index| u32::from(allowance.takes(start + each * index, &packet, 0.0))).sum()
    }

    #[test]
    fn what_clients_send_passes_and_floods_do_not() {
        let whole = |bytes| data(ENDING | 2, bytes);
        assert_eq!(passing(&[whole(40)], 240, 60), 240 * 60, "four cursors");
        assert_eq!(passing(&[data(0, 1_100)], 6_800, 60), 6_800 * 60, "a file at 60 Mbit/s");
        assert_eq!(passing(&[sack(3)], 50_000, 2), 100_000, "acknowledgements");
        let flood = passing(&vec![whole(1); 57], 2_000, 10) * 57;
        assert!((23_900..24_200).contains(&flood), "two seconds' worth and ten: {flood}");
        let bytes = passing(&[data(0, 1_100)], 50_000, 4) * 1_128;
        assert!((47_900_000..48_100_000).contains(&bytes), "{bytes}");
    }
}
