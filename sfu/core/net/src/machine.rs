//! What the pump drives: the engine of `callyard-proto`, or a double in its tests.

use std::net::SocketAddr;
use std::time::Instant;

use callyard_proto::command::Command;
use callyard_proto::counters::Counters;
use callyard_proto::engine::{Datagram, Engine};
use callyard_proto::event::Event;
use callyard_proto::overload::Reading;
use callyard_proto::transmit::{TcpId, TransmitArena};

/// A sans-IO machine: everything it does happens in these calls, at the time it is told.
pub trait Machine: Send {
    type Counters: Clone + Default + Send;

    fn apply(&mut self, now: Instant, commands: &mut dyn Iterator<Item = Command>);
    /// True if there is more to send: send, clear, and call [`Self::go_on`] with the same datagrams until it says no.
    fn receive(&mut self, now: Instant, datagrams: &mut [Datagram<'_>]) -> bool;
    fn go_on(&mut self, now: Instant, datagrams: &mut [Datagram<'_>]) -> bool;
    /// Whether a datagram may be handed over later, behind others of its kind, when the thread is late.
    fn can_wait(&self, datagram: &Datagram<'_>) -> bool;
    /// When the oldest of those came that stand aside, if any do.
    fn late_since(&mut self, oldest: Option<Instant>);
    fn receive_tcp(&mut self, now: Instant, connection: TcpId, peer: SocketAddr, frame: &mut [u8]);
    fn tcp_closed(&mut self, now: Instant, connection: TcpId);
    /// All that is due but what can wait behind everything else.
    fn timeout(&mut self, now: Instant);
    /// Whether something is due that can wait; [`Self::in_spare_time`] does a little of it.
    fn has_spare_work(&self, now: Instant) -> bool;
    fn in_spare_time(&mut self, now: Instant);
    /// The thread was so loaded in the interval that ends now.
    fn loaded(&mut self, now: Instant, reading: Reading);
    /// Awake for some other reason: what would soon wake by itself may be done now.
    fn while_awake(&mut self, now: Instant);
    /// Somebody waits for what subscribers report, so that it is to be looked at soon.
    fn hurries_reports(&self, now: Instant) -> bool;
    fn deadline(&self) -> Option<Instant>;
    fn transmits(&self) -> &TransmitArena;
    fn clear_transmits(&mut self);
    fn poll_event(&mut self) -> Option<Event>;
    fn counters(&self) -> &Self::Counters;
}

impl Machine for Engine {
    type Counters = Counters;

    fn apply(&mut self, now: Instant, commands: &mut dyn Iterator<Item = Command>) {
        Engine::apply_all(self, now, commands);
    }

    fn receive(&mut self, now: Instant, datagrams: &mut [Datagram<'_>]) -> bool {
        Engine::receive_some(self, now, datagrams)
    }

    fn go_on(&mut self, now: Instant, datagrams: &mut [Datagram<'_>]) -> bool {
        Engine::go_on(self, now, datagrams)
    }

    fn can_wait(&self, datagram: &Datagram<'_>) -> bool {
        Engine::can_wait(self, datagram)
    }

    fn late_since(&mut self, oldest: Option<Instant>) {
        Engine::late_since(self, oldest);
    }

    fn receive_tcp(&mut self, now: Instant, connection: TcpId, peer: SocketAddr, frame: &mut [u8]) {
        Engine::receive_tcp(self, now, connection, peer, frame);
    }

    fn tcp_closed(&mut self, now: Instant, connection: TcpId) {
        Engine::tcp_closed(self, now, connection);
    }

    fn timeout(&mut self, now: Instant) {
        Engine::timeout_of_media(self, now);
    }

    fn has_spare_work(&self, now: Instant) -> bool {
        Engine::has_spare_work(self, now)
    }

    fn in_spare_time(&mut self, now: Instant) {
        Engine::in_spare_time(self, now);
    }

    fn loaded(&mut self, now: Instant, reading: Reading) {
        Engine::loaded(self, now, reading);
    }

    fn while_awake(&mut self, now: Instant) {
        Engine::while_awake(self, now);
    }

    fn hurries_reports(&self, now: Instant) -> bool {
        Engine::hurries_reports(self, now)
    }

    fn deadline(&self) -> Option<Instant> {
        Engine::deadline(self)
    }

    fn transmits(&self) -> &TransmitArena {
        Engine::transmits(self)
    }

    fn clear_transmits(&mut self) {
        Engine::clear_transmits(self);
    }

    fn poll_event(&mut self) -> Option<Event> {
        Engine::poll_event(self)
    }

    fn counters(&self) -> &Counters {
        Engine::counters(self)
    }
}
