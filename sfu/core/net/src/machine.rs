//! What the pump drives: the engine of `callyard-proto`, or a double in its tests.

use std::net::SocketAddr;
use std::time::Instant;

use callyard_proto::command::Command;
use callyard_proto::event::Event;

use crate::tcp::ConnectionId;

/// A received UDP datagram.
#[derive(Debug)]
pub struct Datagram<'a> {
    pub source: SocketAddr,
    pub payload: &'a mut [u8],
    /// When it reached the kernel.
    pub received: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    Udp(SocketAddr),
    Tcp(ConnectionId),
}

/// A datagram, or a run of datagrams of `segment_size` bytes each of which the last may be shorter.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    pub destination: Destination,
    pub bytes: &'a [u8],
    pub segment_size: usize,
}

/// A sans-IO machine: everything it does happens in these calls, at the time it is told.
pub trait Machine: Send {
    type Counters: Clone + Default + Send;

    fn apply(&mut self, now: Instant, command: Command);
    fn receive(&mut self, now: Instant, datagrams: &mut [Datagram<'_>]);
    fn receive_tcp(&mut self, now: Instant, connection: ConnectionId, peer: SocketAddr, frame: &mut [u8]);
    fn tcp_closed(&mut self, now: Instant, connection: ConnectionId);
    fn timeout(&mut self, now: Instant);
    fn deadline(&self) -> Option<Instant>;
    fn transmits(&self) -> impl Iterator<Item = Transmit<'_>>;
    fn clear_transmits(&mut self);
    fn poll_event(&mut self) -> Option<Event>;
    fn counters(&self) -> &Self::Counters;
}
