//! The real core in modelled calls: publishers and receivers as models, links from seeds, time as a number.
//!
//! `callyard_proto::engine::Engine` is driven through its public face, over real ICE, DTLS and SRTP; nothing of its logic
//! is repeated here. The same scenario and seed give the same call.

pub mod call;
pub mod dependency;
pub mod dump;
pub mod format;
pub mod link;
pub mod metrics;
pub mod optimum;
pub mod peers;
pub mod profile;
pub mod publisher;
pub mod random;
pub mod receiver;
pub mod replay;
pub mod scenario;
