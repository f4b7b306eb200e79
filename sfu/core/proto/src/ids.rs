//! Numbers and short names with a meaning of their own, so that a swapped argument does not compile.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A room on this worker; chosen by signaling, unique for the worker's life.
    RoomId(u64)
}
number! {
    /// One ICE + DTLS association; chosen by signaling, unique for the worker's life.
    TransportId(u64)
}
number! {
    /// The receive side of a published track (one codec, all its layers); chosen by signaling.
    UptrackId(u64)
}
number! {
    /// One subscriber's copy of an uptrack; chosen by signaling.
    DowntrackId(u64)
}
number! {
    /// A published data track (`_data_track` packets of one handle); chosen by signaling.
    DataUptrackId(u64)
}
number! {
    /// RTP synchronisation source (RFC 3550 §3).
    Ssrc(u32)
}
number! {
    /// RTP payload type, 0..=127 (RFC 3550 §5.1).
    Pt(u8)
}
number! {
    /// RTP sequence number with its roll-over count in the upper bits: never wraps in practice.
    SeqNo(u64)
}
number! {
    /// Spatial layer or simulcast encoding, 0 = smallest.
    Spatial(u8)
}
number! {
    /// Temporal layer, 0 = lowest frame rate.
    Temporal(u8)
}
