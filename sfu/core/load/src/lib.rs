//! The load generator's media engine: thousands of light ICE/DTLS/SRTP clients on one thread, told what to do by a stream of
//! commands.
//!
//! Not a WebRTC stack: no SDP, no candidates, no congestion control, no decoder. Whoever drives it (`sfu/load.py`) speaks the
//! server's signaling and tells addresses, credentials and payload types. What it sends is valid down to the payload
//! descriptors, so that any server forwards it; what it receives it counts and throws away.

#![forbid(unsafe_op_in_unsafe_fn)]

mod client;
mod control;
mod histogram;
mod limit;
mod payload;
mod protocol;
mod publish;
mod receive;
mod run;
mod socket;
mod stats;

pub use limit::{LimitResult, LimitSpec, measure as measure_limit};
pub use run::run;
