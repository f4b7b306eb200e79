//! Sockets, clock and the packet pump around `callyard-proto`.
//!
//! The only crate of the core that reads a clock or owns a descriptor. It knows no protocol.

#![forbid(unsafe_op_in_unsafe_fn)]

mod address;
mod behind;
mod clock;
mod cmsg;
mod counters;
mod load;
mod machine;
mod pins;
mod priority;
mod pump;
mod rest;
mod shared;
mod steer;
mod tcp;
mod thread;
mod tick;
mod udp;
mod wake;

pub use clock::Clock;
pub use cmsg::{ControlBuffer, Received};
pub use counters::NetCounters;
pub use machine::Machine;
pub use priority::prefer_low_latency;
pub use pump::{Pump, PumpOptions};
pub use shared::Shared;
pub use tcp::TcpOptions;
pub use thread::PacketThread;
pub use udp::UdpOptions;
pub use wake::Wake;
