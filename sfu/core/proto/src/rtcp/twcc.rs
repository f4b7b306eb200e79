//! Transport-wide congestion-control feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1).
//!
//! Not here: what the arrival times say about the path.

use super::{be16, be32};
use crate::drop_reason::DropReason;
use crate::ids::{SeqNo, Ssrc};

/// Most packets the feedback in one datagram may speak of: 400 ms of 100 Mbit/s.
///
/// Run-length chunks make thousands of statuses of a few bytes; the bound keeps a datagram's cost under 50 µs.
pub const MAX_TWCC_STATUSES: usize = 4096;

/// Received deltas are in quarters of a millisecond.
const TICK_US: i64 = 250;
/// The reference time is in multiples of 64 ms.
const REFERENCE_US: i64 = 64_000;

/// A validated feedback packet.
#[derive(Clone, Copy, Debug)]
pub struct TwccFeedback<'a> {
    pub sender: Ssrc,
    pub media: Ssrc,
    pub base_seq: u16,
    pub status_count: u16,
    /// Signed, in units of 64 ms, wraps at 24 bits.
    pub reference_time: i32,
    /// Counts feedback packets, wrapping; a gap is a lost feedback.
    pub feedback_count: u8,
    chunks: &'a [u8],
    deltas: &'a [u8],
}

impl<'a> TwccFeedback<'a> {
    /// body: the packet without its first word.
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, DropReason> {
        let (head, rest) = body.split_at_checked(16).ok_or(DropReason::RtcpTruncated)?;
        let status_count = be16(head, 10);
        if usize::from(status_count) > MAX_TWCC_STATUSES {
            return Err(DropReason::TwccMalformed);
        }
        let (mut left, mut at, mut delta_len) = (usize::from(status_count), 0, 0);
        while left > 0 {
            let chunk = Chunk::read(rest.get(at..at + 2).ok_or(DropReason::RtcpTruncated)?);
            at += 2;
            let count = chunk.len().min(left);
            left -= count;
            delta_len += chunk.delta_len(count).ok_or(DropReason::TwccMalformed)?;
        }
        let (chunks, deltas) = rest.split_at(at);
        if deltas.len() < delta_len {
            return Err(DropReason::RtcpTruncated);
        }
        Ok(Self {
            sender: Ssrc(be32(head, 0)),
            media: Ssrc(be32(head, 4)),
            base_seq: be16(head, 8),
            status_count,
            // Sign extension of 24 bits.
            reference_time: be32(head, 12) as i32 >> 8,
            feedback_count: head[15],
            chunks,
            deltas,
        })
    }

    /// `(sequence number, delta)` for every status, in order; the delta is None for a packet not received, else the
    /// time since the previous received packet (the first: since the reference time) in units of 250 µs.
    pub fn statuses(&self) -> TwccStatuses<'a> {
        TwccStatuses {
            seq: self.base_seq,
            left: self.status_count,
            chunk: Chunk::Run { symbol: NOT_RECEIVED, len: 0 },
            chunk_at: 0,
            chunks: self.chunks,
            deltas: self.deltas,
        }
    }
}

const NOT_RECEIVED: u8 = 0;
const SMALL: u8 = 1;
const LARGE: u8 = 2;

#[derive(Clone, Copy, Debug)]
enum Chunk {
    Run {
        symbol: u8,
        len: u16,
    },
    /// Fourteen symbols of one bit.
    OneBit(u16),
    /// Seven symbols of two bits.
    TwoBit(u16),
}

impl Chunk {
    fn read(bytes: &[u8]) -> Self {
        let word = be16(bytes, 0);
        match word >> 14 {
            0 | 1 => Chunk::Run { symbol: (word >> 13 & 3) as u8, len: word & 0x1fff },
            2 => Chunk::OneBit(word),
            _ => Chunk::TwoBit(word),
        }
    }

    fn len(self) -> usize {
        match self {
            Chunk::Run { len, .. } => len.into(),
            Chunk::OneBit(_) => 14,
            Chunk::TwoBit(_) => 7,
        }
    }

    fn symbol(self, n: usize) -> u8 {
        match self {
            Chunk::Run { symbol, .. } => symbol,
            Chunk::OneBit(word) => (word >> (13 - n) & 1) as u8,
            Chunk::TwoBit(word) => (word >> (12 - 2 * n) & 3) as u8,
        }
    }

    /// Bytes of delta its first `count` symbols need; None for the reserved symbol.
    fn delta_len(self, count: usize) -> Option<usize> {
        match self {
            Chunk::Run { symbol, .. } => (symbol <= LARGE).then_some(usize::from(symbol) * count),
            _ => (0..count).try_fold(0, |sum, n| {
                let symbol = self.symbol(n);
                (symbol <= LARGE).then_some(sum + usize::from(symbol))
            }),
        }
    }
}

/// Iterator over the statuses of a [`TwccFeedback`].
#[derive(Clone, Debug)]
pub struct TwccStatuses<'a> {
    seq: u16,
    left: u16,
    chunk: Chunk,
    chunk_at: usize,
    chunks: &'a [u8],
    deltas: &'a [u8],
}

impl Iterator for TwccStatuses<'_> {
    type Item = (u16, Option<i16>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        // parse() has seen that the chunks cover all statuses and the deltas all received ones.
        while self.chunk_at >= self.chunk.len() {
            let (bytes, rest) = self.chunks.split_at_checked(2)?;
            (self.chunk, self.chunk_at, self.chunks) = (Chunk::read(bytes), 0, rest);
        }
        let symbol = self.chunk.symbol(self.chunk_at);
        let delta = match symbol {
            NOT_RECEIVED => None,
            SMALL => {
                let (&byte, rest) = self.deltas.split_first()?;
                self.deltas = rest;
                Some(i16::from(byte))
            }
            _ => {
                let (bytes, rest) = self.deltas.split_first_chunk::<2>()?;
                self.deltas = rest;
                Some(i16::from_be_bytes(*bytes))
            }
        };
        let seq = self.seq;
        self.chunk_at += 1;
        self.left -= 1;
        self.seq = seq.wrapping_add(1);
        Some((seq, delta))
    }
}

/// One packet that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its transport-wide sequence number, extended.
    pub seq: SeqNo,
    /// Microseconds since any fixed instant; the reference time on the wire counts from there.
    pub at_us: i64,
}

/// Write the body behind the two SSRCs, with as many arrivals as fit; `(bytes written, arrivals told)`.
///
/// arrivals: not empty, by rising number, none twice. Numbers in between count as not received, and so do those between
/// `after`, the last number that was spoken of, and the first. It stops early at the end of `out`, at a jump in time
/// beyond 8.19 s, or at [`MAX_TWCC_STATUSES`]: call again for the rest. None if not even the first one fits. Whatever
/// is written is a multiple of four bytes long.
pub fn write_twcc(
    out: &mut [u8],
    feedback_count: u8,
    after: Option<SeqNo>,
    arrivals: &[Arrival],
) -> Option<(usize, usize)> {
    let missed = |after: SeqNo| arrivals.first()?.seq.0.checked_sub(after.0)?.checked_sub(1);
    // A jump that large is no loss: the sender has begun anew.
    let lead = after.and_then(missed).filter(|lead| *lead < MAX_LEAD).unwrap_or(0);
    write_from(out, feedback_count, lead, arrivals)
        // Where the loss has no room beside the first arrival, the arrival matters more.
        .or_else(|| (lead > 0).then(|| write_from(out, feedback_count, 0, arrivals)).flatten())
}

/// More than any burst of losses between two feedbacks.
const MAX_LEAD: u64 = 2_000;

fn write_from(out: &mut [u8], feedback_count: u8, lead: u64, arrivals: &[Arrival]) -> Option<(usize, usize)> {
    let first = arrivals.first()?;
    let reference = first.at_us.div_euclid(REFERENCE_US);
    let start_ticks = reference * (REFERENCE_US / TICK_US);

    // First pass: how many arrivals fit, and where their deltas will begin.
    let mut plan = ChunkPlan::default();
    let (mut told, mut ticks) = (0, start_ticks);
    for n in 0..arrivals.len() {
        let Some((gap, delta)) = step(arrivals, n, lead, &mut ticks) else { break };
        if plan.statuses + gap >= MAX_TWCC_STATUSES as u64 {
            break;
        }
        let mut longer = plan;
        for _ in 0..gap {
            longer.push(NOT_RECEIVED);
        }
        longer.push(symbol_of(delta));
        if longer.body_len() > out.len() {
            break;
        }
        plan = longer;
        told += 1;
    }
    if told == 0 {
        return None;
    }
    let len = plan.body_len();

    // Second pass: the same chunks again, now for real.
    out[..len].fill(0);
    out[0..2].copy_from_slice(&(first.seq.0.wrapping_sub(lead) as u16).to_be_bytes());
    out[2..4].copy_from_slice(&(plan.statuses as u16).to_be_bytes());
    out[4..8].copy_from_slice(&((reference as u32) << 8 | u32::from(feedback_count)).to_be_bytes());
    let mut delta_at = HEAD_LEN + plan.chunks() * 2;
    let mut chunk_at = HEAD_LEN;
    let mut chunk = |out: &mut [u8], word: Option<u16>| {
        if let Some(word) = word {
            out[chunk_at..chunk_at + 2].copy_from_slice(&word.to_be_bytes());
            chunk_at += 2;
        }
    };
    let (mut plan, mut ticks) = (ChunkPlan::default(), start_ticks);
    for n in 0..told {
        // The first pass has shown that each of them has one.
        let Some((gap, delta)) = step(arrivals, n, lead, &mut ticks) else { break };
        for _ in 0..gap {
            chunk(out, plan.push(NOT_RECEIVED));
        }
        let symbol = symbol_of(delta);
        chunk(out, plan.push(symbol));
        let bytes = delta.to_be_bytes();
        let bytes = &bytes[2 - usize::from(symbol)..];
        out[delta_at..delta_at + bytes.len()].copy_from_slice(bytes);
        delta_at += bytes.len();
    }
    chunk(out, plan.emit(true));
    Some((len, told))
}

/// Base number, status count, reference time and feedback count.
const HEAD_LEN: usize = 8;

/// How many numbers are missing before arrival `n`, and its delta; None if one packet cannot tell it.
///
/// ticks: the previous arrival's time, rounded. Deltas are taken between rounded times, so errors never add up.
fn step(arrivals: &[Arrival], n: usize, lead: u64, ticks: &mut i64) -> Option<(u64, i16)> {
    let gap = match n.checked_sub(1) {
        Some(previous) => arrivals[n].seq.0.checked_sub(arrivals[previous].seq.0)?.checked_sub(1)?,
        None => lead,
    };
    let now = arrivals[n].at_us.div_euclid(TICK_US);
    let delta = i16::try_from(now - *ticks).ok()?;
    *ticks = now;
    Some((gap, delta))
}

fn symbol_of(delta: i16) -> u8 {
    if (0..=255).contains(&delta) { SMALL } else { LARGE }
}

/// The chunk being filled: a run of equal symbols, or up to 14 without a large one, or up to 7 of any.
#[derive(Clone, Copy, Default)]
struct ChunkPlan {
    statuses: u64,
    done_chunks: usize,
    delta_len: usize,
    symbols: [u8; 14],
    count: u16,
    /// All symbols in this chunk are the first one; only then may there be more than 14.
    run: bool,
}

impl ChunkPlan {
    /// Bytes of the whole body, padded.
    fn body_len(&self) -> usize {
        (HEAD_LEN + self.chunks() * 2 + self.delta_len).next_multiple_of(4)
    }

    fn chunks(&self) -> usize {
        self.done_chunks + usize::from(self.count > 0)
    }

    /// Add a symbol; the word of the chunk that it did not fit into any more.
    fn push(&mut self, symbol: u8) -> Option<u16> {
        let full = if self.fits(symbol) { None } else { self.emit(false) };
        self.run = self.count == 0 || self.run && self.symbols[0] == symbol;
        if let Some(place) = self.symbols.get_mut(usize::from(self.count)) {
            *place = symbol;
        }
        self.count += 1;
        self.statuses += 1;
        self.delta_len += usize::from(symbol);
        full
    }

    fn fits(&self, symbol: u8) -> bool {
        if self.run && symbol == self.symbols[0] {
            return self.count < 0x1fff;
        }
        match self.count {
            0..7 => true,
            7..14 => symbol != LARGE && !self.symbols[..usize::from(self.count)].contains(&LARGE),
            _ => false,
        }
    }

    /// Close a chunk; its word, if there is one. Only the `last` may be filled up with numbers beyond the count: before
    /// that, mixed symbols leave as seven of two bits or as fourteen of one.
    fn emit(&mut self, last: bool) -> Option<u16> {
        if self.count == 0 {
            return None;
        }
        let held = usize::from(self.count).min(14);
        let symbols = &self.symbols[..held];
        let (word, taken) = if self.run {
            (u16::from(symbols[0]) << 13 | self.count, self.count)
        } else if !symbols.contains(&LARGE) && (held == 14 || last) {
            let bits = symbols.iter().enumerate().fold(0, |word, (n, symbol)| word | u16::from(*symbol) << (13 - n));
            (0x8000 | bits, self.count)
        } else {
            let symbols = &symbols[..held.min(7)];
            let bits =
                symbols.iter().enumerate().fold(0, |word, (n, symbol)| word | u16::from(*symbol) << (12 - 2 * n));
            (0xc000 | bits, symbols.len() as u16)
        };
        self.count -= taken;
        if self.count > 0 {
            self.symbols.copy_within(usize::from(taken).., 0);
            self.run = self.symbols[..usize::from(self.count)].iter().all(|symbol| *symbol == self.symbols[0]);
        }
        self.done_chunks += 1;
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::hex;
    use proptest::prelude::*;

    /// What a feedback says: every number with its time in ticks, if it arrived.
    fn told(body: &[u8]) -> Vec<(u16, Option<i64>)> {
        let feedback = TwccFeedback::parse(body).unwrap();
        let mut ticks = i64::from(feedback.reference_time) * (REFERENCE_US / TICK_US);
        feedback
            .statuses()
            .map(|(seq, delta)| {
                (
                    seq,
                    delta.map(|d| {
                        ticks += i64::from(d);
                        ticks
                    }),
                )
            })
            .collect()
    }

    #[test]
    fn each_kind_of_chunk_is_read() {
        // Base 5, 21 statuses, reference 1: a run of 3, 14 of one bit (every other one), 4 of two bits.
        let body = hex("00000001 00000002 0005 0015 000001 07 2003 aaaa d880 010203 0405060708090a 0b ff00 0100");
        let feedback = TwccFeedback::parse(&body).unwrap();
        assert_eq!((feedback.base_seq, feedback.status_count), (5, 21));
        assert_eq!((feedback.reference_time, feedback.feedback_count), (1, 7));
        let (seqs, deltas): (Vec<_>, Vec<_>) = feedback.statuses().unzip();
        assert_eq!(seqs, (5..26).collect::<Vec<_>>());
        assert_eq!(deltas[..3], [Some(1), Some(2), Some(3)]);
        let every_other: Vec<_> = (0..14).map(|n| (n % 2 == 0).then_some(4 + n / 2)).collect();
        assert_eq!(deltas[3..17], every_other);
        assert_eq!(deltas[17..], [Some(11), Some(-256), None, Some(256)]);
    }

    #[test]
    fn negative_reference_times_are_read() {
        let body = hex("00000001 00000002 0005 0001 ffffff 07 2001 01 000000");
        assert_eq!(TwccFeedback::parse(&body).unwrap().reference_time, -1);
    }

    #[test]
    fn what_was_lost_between_two_feedbacks_is_told() {
        let arrivals = [Arrival { seq: SeqNo(70_004), at_us: 0 }];
        let mut buffer = [0; 64];
        let written = write_twcc(&mut buffer[8..], 0, Some(SeqNo(70_000)), &arrivals);
        let got = told(&buffer[..8 + written.map_or(0, |(len, _)| len)]);
        let seq = |n: u64| n as u16;
        assert_eq!(got, [(seq(70_001), None), (seq(70_002), None), (seq(70_003), None), (seq(70_004), Some(0))]);
        let written = write_twcc(&mut buffer[8..], 0, Some(SeqNo(3)), &arrivals);
        assert_eq!(told(&buffer[..8 + written.map_or(0, |(len, _)| len)]), [(seq(70_004), Some(0))], "begun anew");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            start in 0u64..200_000, start_us in 0i64..10_000_000_000,
            steps in prop::collection::vec(
                (prop_oneof![9 => Just(1u64), 2 => 2u64..5, 1 => 20u64..3000],
                 prop_oneof![8 => 0i64..60_000, 2 => -5_000i64..0, 1 => 60_000i64..9_000_000]), 1..200),
            room in 12usize..1200,
        ) {
            let (mut seq, mut at_us) = (start, start_us);
            let mut arrivals = Vec::new();
            for (numbers, micros) in steps {
                arrivals.push(Arrival { seq: SeqNo(seq), at_us });
                seq += numbers;
                at_us += micros;
            }
            let mut rest = &arrivals[..];
            let mut after = None;
            while !rest.is_empty() {
                let mut buffer = vec![0xee; room + 8];
                buffer[..8].fill(0);
                let Some((len, count)) = write_twcc(&mut buffer[8..], 9, after, rest) else {
                    // Head, one chunk and one delta, padded, need 12 bytes: a first arrival always fits.
                    return Err(TestCaseError::fail("nothing fits"));
                };
                prop_assert_eq!(len % 4, 0);
                prop_assert!(buffer[8 + len..].iter().all(|b| *b == 0xee));
                let got = told(&buffer[..8 + len]);
                let mut want = Vec::new();
                // From behind what was told, unless that was too much to tell.
                let first = if got[0].0 == rest[0].seq.0 as u16 { rest[0].seq.0 } else { after.map_or(0, |a| a.0 + 1) };
                for arrival in &rest[..count] {
                    let next = |w: &Vec<(u16, Option<i64>)>| first + w.len() as u64;
                    while next(&want) < arrival.seq.0 {
                        want.push((next(&want) as u16, None));
                    }
                    want.push((arrival.seq.0 as u16, Some(arrival.at_us.div_euclid(TICK_US))));
                }
                prop_assert_eq!(got, want);
                after = Some(rest[count - 1].seq);
                rest = &rest[count..];
            }
        }
    }
}
