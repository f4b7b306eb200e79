//! One subscriber's copy of a track: which packets (`selector`), under which numbers (`munger`), and what to send again
//! (`sent`). Values only; the engine moves the bytes.

pub mod munger;
pub mod renumber;
pub mod selector;
pub mod sent;

pub use munger::{Alignment, Munger, PayloadPatch, Rewrite};
pub use selector::{Layer, Packet, Reason, Selector, Verdict};
pub use sent::{AUDIO_WINDOW, Refused, SentHistory, SentPacket, Use, VIDEO_WINDOW};
