//! A light WebRTC client as a state machine, seeded links, and whole calls in virtual time.
//!
//! Tests, simulator and load generator stand on it; the server never does. What the server has to understand (STUN, RTCP,
//! transport-wide feedback) is written here apart from the server's own codecs, so that neither proves itself.

pub mod client;
pub mod gaps;
pub mod media;
pub mod netem;
pub mod rtcp;
pub mod stun;
pub mod twcc;
pub mod world;

pub use world::{ROOM, World, base, certificate};
