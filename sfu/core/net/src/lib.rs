//! Sockets, clock and the packet pump around `callyard-proto`.
//!
//! The only crate of the core that reads a clock or owns a descriptor. It knows no protocol but the framing of ICE-TCP.

#![forbid(unsafe_op_in_unsafe_fn)]

mod address;
mod clock;
mod cmsg;
mod counters;
mod framing;
mod machine;
mod pins;
mod priority;
mod pump;
mod shared;
mod tcp;
mod thread;
mod tick;
mod udp;
mod wake;

pub use clock::Clock;
pub use counters::NetCounters;
pub use machine::{Datagram, Destination, Machine, Transmit};
pub use pump::{Pump, PumpOptions};
pub use shared::Shared;
pub use tcp::{ConnectionId, TcpOptions};
pub use thread::PacketThread;
pub use udp::UdpOptions;
pub use wake::Wake;
