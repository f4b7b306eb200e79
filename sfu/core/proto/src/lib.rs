//! The SFU as a state machine: datagrams, commands and time in; datagrams, events and the next deadline out.
//!
//! Nothing here opens a socket, starts a thread or reads a clock; `Cargo.toml` proves it.

#![forbid(unsafe_op_in_unsafe_fn)]

pub mod allocator;
pub mod breaker;
pub mod bwe;
pub mod codec;
pub mod command;
pub mod config;
pub mod counters;
pub mod demux;
pub mod downlink;
pub mod downtrack;
pub mod drop_reason;
pub mod dtls;
pub mod engine;
pub mod entropy;
pub mod event;
pub mod extension_ids;
pub mod fast_map;
pub mod framing;
pub mod ice;
pub mod ids;
pub mod moment;
pub mod overload;
pub mod pacer;
mod registers;
pub mod remb_sum;
pub mod rtcp;
pub mod rtp;
pub mod rtt;
pub mod sctp;
pub mod sdp;
mod signing;
pub mod srtp;
pub mod stun;
#[cfg(test)]
mod testing;
pub mod trace;
pub mod transmit;
pub mod transport;
mod unanswered;
mod under_way;
