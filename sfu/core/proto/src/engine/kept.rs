//! A packet that is kept for retransmission, read again as if it had just come, for who has not been sent it at all.

use std::time::Instant;

use super::ingress::describe;
use super::up::{PtUse, Uptrack};
use crate::codec::PacketMeta;
use crate::codec::dd::Descriptor;
use crate::command::LayerMode;
use crate::downtrack::{Packet, Selector, Verdict};
use crate::ids::{SeqNo, Spatial};
use crate::pacer::Unit;
use crate::rtp::RtpHeader;

/// One packet that is kept, read again.
pub(super) struct KeptPacket {
    encoding: usize,
    seq: SeqNo,
    pub codec: usize,
    pub timestamp: u32,
    marker: bool,
    pub meta: PacketMeta,
    descriptor: Option<Descriptor>,
    pub payload: usize,
    received: Instant,
}

impl KeptPacket {
    /// `None`: it has not come, or is not kept any more.
    pub fn read(uptrack: &Uptrack, encoding: usize, seq: SeqNo) -> Option<Self> {
        let of = uptrack.encodings.get(encoding)?;
        let (packet, received) = of.history.get(seq)?;
        // What is in the history was parsed when it came.
        let header = RtpHeader::parse(packet).ok()?;
        let PtUse::Media(codec) = uptrack.pt(header.pt)? else { return None };
        let (meta, descriptor) = describe(uptrack, of.structure.as_ref(), codec, &header).ok()?;
        Some(Self {
            encoding,
            seq,
            codec,
            timestamp: header.timestamp,
            marker: header.marker,
            meta,
            descriptor,
            payload: header.payload().len(),
            received,
        })
    }

    fn selected<'a>(&'a self, uptrack: &'a Uptrack) -> Packet<'a> {
        Packet {
            encoding: Spatial(self.encoding as u8),
            meta: &self.meta,
            marker: self.marker,
            descriptor: self.descriptor.as_ref().zip(uptrack.encodings[self.encoding].structure.as_ref()),
        }
    }

    /// What the selector says of it: whether it is the first of another stream, and its marker; `None`: it is left out.
    pub fn choose(&self, selector: &mut Selector, uptrack: &Uptrack) -> Option<(bool, bool)> {
        if self.payload == 0 {
            return None;
        }
        match selector.select(self.selected(uptrack), uptrack.mode == LayerMode::Svc) {
            Verdict::Forward { switched, marker } => Some((switched, marker)),
            Verdict::Drop(_) => None,
        }
    }

    /// As it waits for its turn; `marker`: what the selector said of it.
    pub fn unit(&self, marker: bool) -> Unit {
        Unit {
            encoding: self.encoding,
            codec: self.codec,
            seq: self.seq,
            timestamp: self.timestamp,
            marker,
            meta: self.meta,
            frame_number: self.descriptor.as_ref().map(|descriptor| descriptor.frame_number),
            switched: false,
            received: self.received,
        }
    }
}
