//! What the engine keeps about streams: what came and what is missing, what passes and under which numbers, who speaks.
//!
//! Plain state without input or output of its own; the engine feeds it.

pub(crate) mod data_track;
pub(crate) mod history;
pub(crate) mod layers;
pub(crate) mod loudest;
pub(crate) mod speaker;
pub(crate) mod uptrack;
