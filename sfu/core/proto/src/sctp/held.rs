//! What an association keeps for its peer, in chunks: its window counts bytes alone, and each chunk costs by all that are kept.
//!
//! `sctp-proto` takes DATA without data, of streams that were never offered, and of any number beyond what is missing; nor
//! does it know where one message must end for the next to begin. Packets are weighed before it reads them, and what it keeps is
//! estimated by what it says it took, what was read, and the windows it announces.

use super::allowance::{CHUNK_HEADER_BYTES, COMMON_HEADER_BYTES, DATA, SACK, sack_bytes};

/// Streams that we offer; browsers number their channels below what is offered.
pub(super) const STREAMS: u16 = 1_024;
/// Numbers beyond the last of which nothing is missing: a second of small messages, or 2 MB of a file, while one is missing.
/// What is further ahead is not taken, and so sent again.
const LEAST_AHEAD: usize = 2_048;
/// Of the window, for each number more.
const BYTES_AHEAD: usize = 512;
/// The weight of a chunk is what it lacks of this: what the window does not bound. Stacks fill packets, so that fragments that
/// are given up before they are read leave no error behind.
const FULL_CHUNK_BYTES: f64 = 1_024.0;
/// Work for a chunk whatever is kept, where the look at one that is kept is 1: about 20 ns.
const CHUNK_WORK: f64 = 50.0;

const LEAST_DATA_BYTES: usize = 16;
const INIT_ACK: u8 = 2;
const HEARTBEAT: u8 = 4;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const ERROR: u8 = 9;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;
const RECONFIG: u8 = 130;
const FORWARD_TSN: u8 = 192;
const I_FORWARD_TSN: u8 = 194;
const OUTGOING_RESET: u16 = 13;
const RECONFIG_RESPONSE: u16 = 16;

/// What [`Held::weigh`] finds in a packet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Weighed {
    /// Nothing that a sound stack sends.
    Malformed,
    /// Further ahead than may be kept.
    Ahead,
    Fits(Load),
}

/// The DATA of one packet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Load {
    chunks: usize,
    weight: f64,
    /// The same if only the heaviest were new.
    most_weight: f64,
    pub(super) work: f64,
}

pub(super) struct Held {
    window_bytes: usize,
    most_ahead: usize,
    /// The last number of which nothing is missing, as we have told the peer.
    cumulative: Option<u32>,
    /// Chunks given since then.
    untold: usize,
    /// Of all that are kept together.
    weight: f64,
    bytes: f64,
    streams: Box<[u64; STREAMS as usize / 64]>,
}

impl Held {
    pub(super) fn new(window_bytes: usize) -> Self {
        Self {
            window_bytes,
            most_ahead: (window_bytes / BYTES_AHEAD).max(LEAST_AHEAD),
            cumulative: None,
            untold: 0,
            weight: 0.0,
            bytes: 0.0,
            streams: Box::new([0; STREAMS as usize / 64]),
        }
    }

    pub(super) fn of_another(&self) -> Self {
        Self::new(self.window_bytes)
    }

    pub(super) fn weigh(&mut self, packet: &[u8]) -> Weighed {
        let mut load = Load::default();
        for chunk in chunks(packet) {
            if !is_sound(chunk) {
                return Weighed::Malformed;
            }
            match chunk[0] {
                DATA => {}
                // Of use once, and alone in its packet; what it hides cannot be seen.
                INIT_ACK if self.untold > 0 || self.cumulative.is_some() => return Weighed::Malformed,
                _ => continue,
            }
            let tsn = u32::from_be_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]);
            let ahead = self.cumulative.map_or(0, |last| tsn.wrapping_sub(last).cast_signed());
            if usize::try_from(ahead).is_ok_and(|ahead| ahead > self.most_ahead) {
                return Weighed::Ahead;
            }
            let stream = usize::from(u16::from_be_bytes([chunk[8], chunk[9]]));
            self.streams[stream / 64] |= 1 << (stream % 64);
            let weight = weight(1, chunk.len() - LEAST_DATA_BYTES);
            load.chunks += 1;
            load.weight += weight;
            load.most_weight += weight.max(0.0);
        }
        if load.chunks > 0 && self.untold > self.most_ahead {
            return Weighed::Ahead;
        }
        let streams: u32 = self.streams.iter().map(|some| some.count_ones()).sum();
        load.work = load.chunks as f64 * (CHUNK_WORK + f64::from(streams) + self.chunks());
        Weighed::Fits(load)
    }

    /// The association took `taken` chunks while it read that packet.
    pub(super) fn took(&mut self, load: Load, taken: usize) {
        self.untold += taken.max(load.chunks);
        self.weight += match taken.checked_sub(load.chunks) {
            Some(more) => load.weight + more as f64,
            None => load.most_weight.min(taken as f64),
        };
    }

    /// A message was read.
    pub(super) fn gave(&mut self, chunks: usize, bytes: usize) {
        self.weight -= weight(chunks, bytes);
    }

    /// Looks through a packet of ours for what we tell the peer: nothing else says how much is kept.
    pub(super) fn tells(&mut self, packet: &[u8]) {
        for chunk in chunks(packet) {
            let [SACK, _, _, _, a, b, c, d, e, f, g, h, ..] = *chunk else { continue };
            self.cumulative = Some(u32::from_be_bytes([a, b, c, d]));
            self.untold = 0;
            let left = u32::from_be_bytes([e, f, g, h]) as usize;
            self.bytes = self.window_bytes.saturating_sub(left) as f64;
            // No chunk is empty, and there are no fewer than none.
            let least = -self.bytes / FULL_CHUNK_BYTES;
            self.weight = self.weight.clamp(least, least + self.bytes);
        }
    }

    /// More than may be ahead together with one message in the smallest pieces that a sound stack makes of it.
    pub(super) fn is_too_much(&self) -> bool {
        self.chunks() > 2.0 * self.most_ahead as f64
    }

    pub(super) fn chunks(&self) -> f64 {
        (self.weight + self.bytes / FULL_CHUNK_BYTES).max(0.0)
    }
}

/// Whether it tells of errors alone. They end nothing by themselves (RFC 9260 §3.3.10), but to `sctp-proto` they do.
pub(super) fn is_only_errors(packet: &[u8]) -> bool {
    let mut chunks = chunks(packet).peekable();
    chunks.peek().is_some() && chunks.all(|chunk| chunk[0] == ERROR)
}

/// Whether its sender ends the association by that packet, or consents to its end.
pub(super) fn is_ending(packet: &[u8]) -> bool {
    chunks(packet).any(|chunk| matches!(chunk[0], ABORT | SHUTDOWN | SHUTDOWN_ACK | SHUTDOWN_COMPLETE))
}

/// Of chunks that have so many bytes together.
fn weight(chunks: usize, bytes: usize) -> f64 {
    chunks as f64 - bytes as f64 / FULL_CHUNK_BYTES
}

fn chunks(packet: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = packet.get(COMMON_HEADER_BYTES..).unwrap_or_default();
    std::iter::from_fn(move || {
        let [_, _, high, low, ..] = *rest else { return None };
        let len = usize::from(u16::from_be_bytes([high, low])).max(CHUNK_HEADER_BYTES);
        // A packet with a chunk that it does not hold is no packet to `sctp-proto` either.
        let chunk = rest.get(..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(chunk)
    })
}

/// Whether the chunk is one that we offered to take, and ends where its fields do: `sctp-proto` reads on from there.
fn is_sound(chunk: &[u8]) -> bool {
    let offered = |at: usize| chunk.get(at..at + 2).is_none_or(|id| u16::from_be_bytes([id[0], id[1]]) < STREAMS);
    match chunk[0] {
        DATA => chunk.len() > LEAST_DATA_BYTES && offered(8),
        SACK => chunk.len() == sack_bytes(chunk),
        COOKIE_ACK | SHUTDOWN_ACK | SHUTDOWN_COMPLETE => chunk.len() == CHUNK_HEADER_BYTES,
        SHUTDOWN => chunk.len() == 8,
        FORWARD_TSN => chunk.len().is_multiple_of(4) && (8..chunk.len()).step_by(4).all(offered),
        I_FORWARD_TSN => chunk.len().is_multiple_of(8) && (8..chunk.len()).step_by(8).all(offered),
        HEARTBEAT => parameter(chunk).is_some_and(|(_, len)| chunk.len() < CHUNK_HEADER_BYTES + len + 4),
        RECONFIG => is_sound_reconfig(chunk),
        // Alone in its packet, or the end of the association, or unknown: then nothing of the packet is read.
        _ => true,
    }
}

/// One parameter or two, of the kinds that browsers send.
fn is_sound_reconfig(chunk: &[u8]) -> bool {
    let mut at = 0;
    for _ in 0..2 {
        match parameter(&chunk[at..]) {
            Some((OUTGOING_RESET, len)) if len >= 16 => at += len.next_multiple_of(4),
            Some((RECONFIG_RESPONSE, 12)) => at += 12,
            _ => return false,
        }
        if chunk.len() <= CHUNK_HEADER_BYTES + at {
            return true;
        }
    }
    false
}

/// Kind and length of the parameter four bytes on.
fn parameter(chunk: &[u8]) -> Option<(u16, usize)> {
    let &[a, b, c, d] = chunk.get(CHUNK_HEADER_BYTES..CHUNK_HEADER_BYTES + 4)? else { return None };
    Some((u16::from_be_bytes([a, b]), usize::from(u16::from_be_bytes([c, d]))))
}
