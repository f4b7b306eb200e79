//! What is to be sent: one byte buffer and a list of runs over it, written once and read once by whoever owns the socket.
//!
//! Neighbouring datagrams of one size to one address become one run, which leaves as one segmented send (UDP GSO).
//! Nothing here knows RTP; padding a packet so that it fits a run is the writer's business.

use std::net::SocketAddr;
use std::ops::Range;

/// Linux' `UDP_MAX_SEGMENTS`.
pub const MAX_SEGMENTS: usize = 64;
/// Largest UDP payload over IPv4, and so of a whole run.
pub const MAX_RUN_BYTES: usize = 65_507;

/// A TCP connection, numbered by whoever accepted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TcpId(pub u64);

/// Where a datagram goes to or comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Path {
    Udp(SocketAddr),
    /// Each datagram is one RFC 4571 frame; its length prefix is added by whoever owns the connection.
    Tcp(TcpId),
}

/// One send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    pub destination: Path,
    /// Where its bytes lie in [`TransmitArena::bytes`].
    pub range: Range<usize>,
    /// Set if the range holds several datagrams: all of this size, only the last may be shorter.
    pub segment_size: Option<u16>,
}

/// As many as one system call takes; the bytes of some of them fit a second-level cache.
const FULL_SENDS: usize = 64;
const FULL_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub struct TransmitArena {
    bytes: Vec<u8>,
    /// Bytes of `bytes` in use; the vector itself only grows, so that writing needs no clearing.
    used: usize,
    transmits: Vec<Transmit>,
    /// Datagrams of the last send, and whether more may join it: all are of one size so far.
    segments: usize,
    is_open: bool,
    max_segments: usize,
}

impl TransmitArena {
    pub fn new(max_segments: usize) -> Self {
        Self {
            bytes: vec![0; 1 << 20],
            used: 0,
            transmits: Vec::with_capacity(1024),
            segments: 0,
            is_open: false,
            max_segments: max_segments.clamp(1, MAX_SEGMENTS),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    pub fn transmits(&self) -> &[Transmit] {
        &self.transmits
    }

    pub fn is_empty(&self) -> bool {
        self.transmits.is_empty()
    }

    /// Enough lies here to be sent before more is written: what waits grows old, and leaves the processor's cache.
    pub fn is_full(&self) -> bool {
        self.transmits.len() >= FULL_SENDS || self.used >= FULL_BYTES
    }

    /// The datagrams one by one, runs taken apart.
    pub fn datagrams(&self) -> impl Iterator<Item = (Path, &[u8])> {
        self.transmits.iter().flat_map(|t| {
            let size = t.segment_size.map_or(t.range.len().max(1), usize::from);
            self.bytes[t.range.clone()].chunks(size).map(move |d| (t.destination, d))
        })
    }

    pub fn clear(&mut self) {
        self.used = 0;
        self.transmits.clear();
    }

    /// Room for one datagram of at most `len` bytes, to be given back to [`Self::commit`]. Contents are stale bytes.
    pub fn reserve(&mut self, len: usize) -> &mut [u8] {
        let end = self.used + len;
        if end > self.bytes.len() {
            self.bytes.resize(end.next_power_of_two(), 0);
        }
        &mut self.bytes[self.used..end]
    }

    /// The first `len` bytes of the last [`Self::reserve`] are a datagram to `destination`.
    pub fn commit(&mut self, destination: Path, len: usize) {
        debug_assert!(self.used + len <= self.bytes.len());
        let range = self.used..self.used + len;
        self.used = range.end;
        if let Some(last) = self.transmits.last_mut()
            && last.destination == destination
            && last.range.end == range.start
            && matches!(destination, Path::Udp(_))
        {
            let segment = last.segment_size.map_or(last.range.len(), usize::from);
            if self.is_open
                && len > 0
                && len <= segment
                && self.segments < self.max_segments
                && range.end - last.range.start <= MAX_RUN_BYTES
            {
                // A run's size is at most MAX_RUN_BYTES, so its segments fit 16 bits.
                last.segment_size = Some(segment as u16);
                last.range.end = range.end;
                self.segments += 1;
                self.is_open = len == segment;
                return;
            }
        }
        (self.segments, self.is_open) = (1, true);
        self.transmits.push(Transmit { destination, range, segment_size: None });
    }

    /// Writes a whole datagram.
    pub fn push(&mut self, destination: Path, datagram: &[u8]) {
        self.reserve(datagram.len()).copy_from_slice(datagram);
        self.commit(destination, datagram.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(port: u16) -> Path {
        Path::Udp(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn shape(arena: &TransmitArena) -> Vec<(usize, Option<u16>)> {
        arena.transmits().iter().map(|t| (t.range.len(), t.segment_size)).collect()
    }

    #[test]
    fn equal_neighbours_form_one_run_and_a_short_one_ends_it() {
        let mut arena = TransmitArena::new(64);
        for len in [100, 100, 60, 100] {
            arena.push(to(1), &vec![7; len]);
        }
        assert_eq!(shape(&arena), [(260, Some(100)), (100, None)]);
        let lengths: Vec<usize> = arena.datagrams().map(|(_, d)| d.len()).collect();
        assert_eq!(lengths, [100, 100, 60, 100]);
    }

    #[test]
    fn a_longer_one_another_address_and_tcp_start_anew() {
        let mut arena = TransmitArena::new(64);
        arena.push(to(1), &[1; 50]);
        arena.push(to(1), &[1; 51]);
        arena.push(to(2), &[1; 51]);
        arena.push(Path::Tcp(TcpId(1)), &[1; 51]);
        arena.push(Path::Tcp(TcpId(1)), &[1; 51]);
        assert_eq!(shape(&arena), [(50, None), (51, None), (51, None), (51, None), (51, None)]);
    }

    #[test]
    fn a_run_keeps_the_kernels_limits() {
        let mut arena = TransmitArena::new(64);
        for _ in 0..65 {
            arena.push(to(1), &[1; 10]);
        }
        assert_eq!(shape(&arena), [(640, Some(10)), (10, None)]);
        arena.clear();
        for _ in 0..60 {
            arena.push(to(1), &[1; 1_200]);
        }
        assert_eq!(shape(&arena), [(54 * 1_200, Some(1_200)), (6 * 1_200, Some(1_200))]);
    }

    #[test]
    fn bytes_survive_growth() {
        let mut arena = TransmitArena::new(1);
        for i in 0..2_000u32 {
            arena.push(to(1), &[i as u8; 1_000]);
        }
        assert!(arena.datagrams().enumerate().all(|(i, (_, d))| d == [i as u8; 1_000]));
    }
}
