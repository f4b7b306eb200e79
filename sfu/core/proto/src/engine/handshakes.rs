//! Handshakes behind media: one costs what forwarding hundreds of packets does, and nobody in a call may wait for it.
//!
//! They are read a few at a time, mostly those under way before new ones: where more come than one core can take, the first to
//! come are done while the last still wait, instead of all of them being half done.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Engine, work};
use crate::command::DtlsRole;
use crate::drop_reason::DropReason;
use crate::event::TransportState;

/// Read before media gets its turn again: less than a millisecond.
const PER_PASS: usize = 3;
/// A client's longest flight is some five datagrams, and may come again in another shape.
const MAX_WAITING: usize = 16;
/// How often it is looked whether there is room for another one.
const NO_ROOM: Duration = Duration::from_millis(5);
/// Of a record, up to its content: a flight that is sent again differs in nothing else (RFC 6347 §4.1).
const RECORD_HEADER: usize = 13;

/// Slots of transports with unread datagrams.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    under_way: VecDeque<usize>,
    fresh: VecDeque<usize>,
    /// When the next is to be read.
    pub due: Option<Instant>,
    /// Begun and not finished.
    begun: usize,
}

impl Engine {
    /// Begins DTLS as soon as there is a path and the client's description is known. A server begins when it is spoken to.
    pub(super) fn start_dtls(&mut self, now: Instant, slot: usize) {
        let Some(transport) = self.transports.get(slot) else { return };
        let (false, Some(remote), Some(_)) = (transport.has_dtls(), &transport.remote, transport.path) else { return };
        if matches!(transport.state, TransportState::Failed | TransportState::Closed) {
            return;
        }
        match remote.role {
            DtlsRole::Server if transport.flights.is_empty() => {}
            DtlsRole::Server => self.queue_handshake(now, slot),
            DtlsRole::Client if self.has_room() => self.begin_dtls(now, slot),
            // The next tick tries again.
            DtlsRole::Client => self.counters.dtls_refused += 1,
        }
    }

    /// Keeps a handshake's datagram until it is its turn.
    pub(super) fn queue_flight(&mut self, now: Instant, slot: usize, datagram: &[u8]) -> Result<(), DropReason> {
        let transport = &mut self.transports[slot];
        if transport.flights.iter().any(|waiting| waiting.get(RECORD_HEADER..) == datagram.get(RECORD_HEADER..)) {
            return Err(DropReason::DtlsRepeated);
        }
        if transport.flights.len() >= MAX_WAITING {
            return Err(DropReason::DtlsTooMany);
        }
        transport.flights.push_back(datagram.into());
        self.queue_handshake(now, slot);
        Ok(())
    }

    fn queue_handshake(&mut self, now: Instant, slot: usize) {
        let transport = &mut self.transports[slot];
        if std::mem::replace(&mut transport.is_queued, true) {
            return;
        }
        if transport.has_dtls() {
            self.handshakes.under_way.push_back(slot);
        } else {
            self.handshakes.fresh.push_back(slot);
            let before = self.handshakes.begun + self.handshakes.fresh.len() - 1;
            self.counters.dtls_refused += u64::from(before >= self.config.max_dtls_handshakes);
        }
        self.handshakes.due = Some(now);
    }

    /// Reads some of what waits.
    pub(super) fn shake_hands(&mut self, now: Instant) {
        for turn in 1..=PER_PASS {
            // One turn is for who is new, so that nobody keeps others out by going on and on.
            let is_for_new = turn == PER_PASS || self.handshakes.under_way.is_empty();
            let new = if is_for_new && self.has_room() { self.handshakes.fresh.pop_front() } else { None };
            let Some(slot) = new.or_else(|| self.handshakes.under_way.pop_front()) else { break };
            self.guarded(now, |engine| engine.read_flights(now, slot));
        }
        let handshakes = &mut self.handshakes;
        handshakes.due = match (handshakes.under_way.is_empty(), handshakes.fresh.is_empty()) {
            (true, true) => None,
            (true, false) if handshakes.begun >= self.config.max_dtls_handshakes => Some(now + NO_ROOM),
            _ => Some(now),
        };
    }

    fn read_flights(&mut self, now: Instant, slot: usize) {
        self.acting = Some(slot);
        let transport = &mut self.transports[slot];
        transport.is_queued = false;
        if transport.remote.is_none() || transport.path.is_none() {
            // They are read when both are known.
            return;
        }
        let flights = std::mem::take(&mut transport.flights);
        if matches!(transport.state, TransportState::Failed | TransportState::Closed) {
            return;
        }
        if !transport.has_dtls() {
            self.begin_dtls(now, slot);
        }
        for flight in flights {
            self.transports[slot].receive_dtls(now, &flight, &mut work!(self));
        }
        self.settle(now, slot);
    }

    fn begin_dtls(&mut self, now: Instant, slot: usize) {
        let (dimpl, certificate) = (self.dimpl.clone(), self.certificate.clone());
        self.transports[slot].start_dtls(now, &dimpl, &certificate, &mut work!(self));
        self.count_handshake(slot);
    }

    fn has_room(&self) -> bool {
        self.handshakes.begun < self.config.max_dtls_handshakes
    }

    pub(super) fn count_handshake(&mut self, slot: usize) {
        let Some(transport) = self.transports.get_mut(slot) else { return };
        match (transport.is_shaking_hands(), transport.is_counted) {
            (true, false) => self.handshakes.begun += 1,
            (false, true) => self.handshakes.begun -= 1,
            _ => {}
        }
        transport.is_counted = transport.is_shaking_hands();
    }

    /// Before a transport is removed.
    pub(super) fn forget_handshake(&mut self, slot: usize) {
        let transport = &mut self.transports[slot];
        if std::mem::take(&mut transport.is_queued) {
            self.handshakes.under_way.retain(|other| *other != slot);
            self.handshakes.fresh.retain(|other| *other != slot);
        }
        if std::mem::take(&mut transport.is_counted) {
            self.handshakes.begun -= 1;
        }
    }
}
