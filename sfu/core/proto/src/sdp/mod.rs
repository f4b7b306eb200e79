//! Session descriptions as typed values: parse, write, and choose codecs and header extensions.
//!
//! Pure functions over text and values; who offers and which track goes where is decided in signaling.
//! RFC 8866 (SDP), 8829 (JSEP), 8839 (ICE), 8842 and 8122 (DTLS), 8851 and 8853 (simulcast), 8830 (msid), 5576
//! (ssrc), 8285 (header extensions), 8841 (SCTP), 9143 (BUNDLE). Attributes that an SFU has no use for are skipped.

mod agree;
mod codec;
mod error;
mod parse;
mod supported;
mod types;
mod write;

pub use agree::{Agreed, agree, matching};
pub use error::SdpError;
pub use parse::{Limits, parse, parse_within};
pub use supported::supported;
pub use types::*;
pub use write::write;
