//! One subscriber's copy of one packet: numbered, written, sealed, remembered. What may be sent was decided before.
//!
//! The bytes come from the datagram just received, or from the uptrack's history for what waited or is sent again.

use std::time::{Duration, Instant};

use super::Engine;
use super::down::{Downtrack, SentAs};
use super::ingress::carried;
use super::up::Uptrack;
use crate::codec::dd::Descriptor;
use crate::codec::red;
use crate::command::MediaKind;
use crate::counters::{Counters, Withheld};
use crate::downlink::{Downlink, Flow};
use crate::downtrack::{Alignment, Layer, PayloadPatch, Rewrite, SentPacket};
use crate::event::Event;
use crate::extension_ids::ExtensionIds;
use crate::ids::{Pt, SeqNo, Spatial, Ssrc};
use crate::pacer::Unit;
use crate::rtp::{AbsSendTime, HeaderFields, HeaderWriter, RtpHeader, rtx};
use crate::srtp::{MAX_TRAILER_LEN, OutboundSrtp, Payload};
use crate::transmit::TransmitArena;
use crate::transport::Transport;
use crate::under_way::Left;

/// Room for the largest header written here: fixed part, and extensions of at most 255 + some short ones.
pub(super) const MAX_HEADER_BYTES: usize = 512;
/// The largest start of a payload that is rewritten: a descriptor up to its last counter.
const MAX_PREFIX_BYTES: usize = 16;

/// Padding of a packet that has nothing else: an AES block.
const FILLING: u8 = 16;

/// Header extensions that are carried on to subscribers who negotiated them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Carried {
    pub audio_level: Option<u8>,
    pub video_orientation: Option<u8>,
    pub playout_delay: Option<[u8; 3]>,
    pub capture_time: ([u8; 16], u8),
    /// Offset and length in the datagram.
    pub dependency_descriptor: (u16, u8),
}

/// All that a header needs besides what the transport adds.
pub(super) struct Outgoing<'a> {
    pub fields: HeaderFields,
    pub seq: SeqNo,
    pub mid: Option<&'a [u8]>,
    pub carried: &'a Carried,
    pub descriptor: &'a [u8],
    pub since_start: Duration,
}

/// A kept packet to be written once more, under its own number or wrapped as a retransmission.
pub(super) struct Kept<'a> {
    pub packet: &'a [u8],
    pub marker: bool,
    pub timestamp: u32,
    pub patch: PayloadPatch,
    pub frame_number_offset: u16,
    pub pt: Pt,
    pub ssrc: Ssrc,
    pub seq: SeqNo,
    /// The number that it had before (RFC 4588 §4).
    pub original: Option<u16>,
    pub unwraps_red: bool,
}

/// The parts of the engine that writing works with.
pub(super) struct Desk<'a> {
    pub arena: &'a mut TransmitArena,
    pub counters: &'a mut Counters,
    pub since_start: Duration,
}

/// Gives a packet its place in the subscriber's stream; `None`: a duplicate, or too late.
#[inline]
pub(super) fn number(
    now: Instant,
    downtrack: &mut Downtrack,
    uptrack: &Uptrack,
    unit: &Unit,
    sent_as: SentAs,
    has_switched: &mut bool,
) -> Option<Rewrite> {
    let (has_left, is_same_source) = (leaves_source(downtrack, unit), is_of_source(downtrack, unit));
    let previous = downtrack.source.replace(unit.encoding);
    if has_left {
        downtrack.munger.switch_source();
        downtrack.last_codec = Some(unit.codec);
        downtrack.reason = "forwarding";
        *has_switched = true;
    }
    let (last_sent, offset) = (downtrack.last_sent, downtrack.munger.timestamp_offset());
    let align = || {
        if is_same_source {
            // After a pause: its clock went on.
            return Alignment::Known(unit.timestamp.wrapping_add(offset));
        }
        let translate = |to| uptrack.translate(unit.timestamp, unit.encoding, to, sent_as.clock_rate);
        match previous.and_then(translate) {
            Some(at) => Alignment::Known(at.wrapping_add(offset)),
            None => Alignment::Elapsed(ticks(
                last_sent.map_or(Duration::ZERO, |at| now.saturating_duration_since(at)),
                sent_as.clock_rate,
            )),
        }
    };
    downtrack.munger.forward(unit.seq, unit.timestamp, &unit.meta, unit.frame_number, sent_as.clock_rate, align)
}

fn is_of_source(downtrack: &Downtrack, unit: &Unit) -> bool {
    downtrack.source == Some(unit.encoding) && downtrack.last_codec == Some(unit.codec)
}

/// Whether numbering goes on from another source with this packet, or after a pause.
#[inline]
pub(super) fn leaves_source(downtrack: &Downtrack, unit: &Unit) -> bool {
    unit.switched || !is_of_source(downtrack, unit)
}

/// Before another source takes over: what is still missing of the present one will not be sent any more, so that the
/// numbers kept for it are filled. A subscriber would ask for them until he has the new source's key frame, or for ever.
#[cold]
pub(super) fn fill_holes(now: Instant, desk: &mut Desk<'_>, transport: &mut Transport, downtrack: &mut Downtrack) {
    let sent_as = downtrack.all_sent_as().next();
    let (Some(sent_as), Some(timestamp)) = (sent_as, downtrack.munger.last_timestamp()) else { return };
    // Of sound nothing waits for what is missing.
    if downtrack.kind != MediaKind::Video {
        return;
    }
    let mut place = 0;
    while let Some(seq) = downtrack.munger.hole(&mut place) {
        fill(now, desk, transport, downtrack, (sent_as, timestamp), seq);
    }
}

/// A packet is not sent: its number is closed up. A number that had been kept for it, as it came late, is returned: it must be
/// filled, or the subscriber waits for it.
#[inline]
#[must_use]
pub(super) fn leave_out(downtrack: &mut Downtrack, unit: &Unit) -> Option<SeqNo> {
    if downtrack.source != Some(unit.encoding) || downtrack.selector.current().is_none() {
        return None;
    }
    downtrack.munger.leave_out(unit.seq, &unit.meta)
}

/// Sends bare padding under a number that is left over: a receiver takes it as arrived and looks for nothing there.
#[cold]
pub(super) fn fill(
    now: Instant,
    desk: &mut Desk<'_>,
    transport: &mut Transport,
    downtrack: &mut Downtrack,
    (sent_as, timestamp): (SentAs, u32),
    seq: SeqNo,
) {
    let Some(path) = transport.path else { return };
    let as_sent = (sent_as.pt, downtrack.ssrc, seq);
    let Some(len) = write_filling(desk, transport, downtrack, as_sent, timestamp, &[]) else { return };
    downtrack.keep(sent_as, seq, desk.arena, len);
    desk.arena.commit(path, len);
    desk.counters.down.padding.add(len);
    let codec = downtrack.last_codec.unwrap_or_default() as u8;
    downtrack.sent.push(SentPacket::filling(seq, timestamp, codec), len);
    let probe = transport.pacer.probe();
    transport.pacer.spend(len);
    transport.downlink.sent(now, Flow::Padding, len, downtrack.extensions.transport_seq.is_some(), probe);
    downtrack.packets += 1;
    downtrack.bytes += len as u64;
    transport.packets_down += 1;
    transport.bytes_down += len as u64;
}

/// Bare padding, `prefix` before it, in the arena's next place; it is not committed yet.
pub(super) fn write_filling(
    desk: &mut Desk<'_>,
    transport: &Transport,
    downtrack: &Downtrack,
    (pt, ssrc, seq): (Pt, Ssrc, SeqNo),
    timestamp: u32,
    prefix: &[u8],
) -> Option<usize> {
    let outgoing = Outgoing {
        fields: HeaderFields { marker: false, pt, seq: seq.0 as u16, timestamp, ssrc, padding: true },
        seq,
        mid: (downtrack.mid_left > 0).then_some(downtrack.mid.as_bytes()),
        carried: &Carried::default(),
        descriptor: &[],
        since_start: desk.since_start,
    };
    let payload = Payload { prefix, body: &[], padding_len: FILLING };
    let outbound = &transport.protection.as_ref()?.outbound;
    write_packet(desk.arena, outbound, &transport.downlink, &downtrack.extensions, &outgoing, payload)
}

/// A packet that was to be sent has been dropped while it waited; of its stream nothing above `below` is sent meanwhile.
pub(super) fn withdraw(downtrack: &mut Downtrack, unit: &Unit, below: Layer) {
    downtrack.selector.withdraw(Spatial(unit.encoding as u8), unit.frame_number, below);
}

/// Notes a packet that has been written into the arena.
#[inline]
pub(super) fn remember(
    now: Instant,
    downtrack: &mut Downtrack,
    transport: &mut Transport,
    unit: &Unit,
    rewrite: &Rewrite,
    (len, octets): (usize, usize),
    flow: Flow,
) {
    let probe = transport.pacer.probe();
    transport.pacer.spend(len);
    let is_numbered = downtrack.extensions.transport_seq.is_some();
    transport.downlink.sent(now, flow, len, is_numbered, probe);
    if flow == Flow::Video && is_numbered {
        transport.downlink.left(|| Some(Left { repairs: downtrack.rtx_ssrc?, seq: rewrite.seq.0 as u16, times: 0 }));
    }
    let sent = SentPacket {
        seq: rewrite.seq,
        encoding: Spatial(unit.encoding as u8),
        source: unit.seq,
        timestamp: rewrite.timestamp,
        marker: unit.marker,
        patch: rewrite.patch,
        frame_number_offset: rewrite.frame_number_offset,
        codec: unit.codec as u8,
        spatial: unit.meta.spatial,
        temporal: unit.meta.temporal,
    };
    let is_key = flow == Flow::Video && unit.meta.keyframe;
    if is_key && unit.meta.start_of_frame && unit.meta.spatial == Spatial(0) {
        (downtrack.is_broken, downtrack.whole_since) = (false, rewrite.seq);
        // A descriptor's payload may be encrypted: that it seems to be a key picture is too little to repair nothing
        // before it. Simpler receivers than those that report transport-wide wait for every packet, whatever has come
        // since.
        if unit.frame_number.is_none() && is_numbered {
            downtrack.sent.begin_anew(rewrite.seq, rewrite.timestamp);
        }
    }
    downtrack.sent.push(sent, len);
    downtrack.mid_left = downtrack.mid_left.saturating_sub(1);
    downtrack.packets += 1;
    downtrack.bytes += len as u64;
    downtrack.octets += octets as u64;
    downtrack.last_sent = Some(now);
    transport.packets_down += 1;
    transport.bytes_down += len as u64;
}

/// Writes a packet of the history into the arena's next place; how long the datagram became. It is not committed yet.
pub(super) fn write_kept(
    desk: &mut Desk<'_>,
    transport: &Transport,
    downtrack: &Downtrack,
    uptrack: &Uptrack,
    kept: &Kept<'_>,
) -> Option<usize> {
    let protection = transport.protection.as_ref()?;
    // What is in the history was parsed when it came.
    let header = RtpHeader::parse(kept.packet).ok()?;
    let carried = carried(&header, kept.packet, &uptrack.extensions);
    let mut body = header.payload();
    if kept.unwraps_red {
        body = &body[red::primary(body)?];
    }
    let mut prefix = [0; 2 + MAX_PREFIX_BYTES];
    let mut start = 0;
    if let Some(original) = kept.original {
        prefix[..2].copy_from_slice(&rtx::osn(original));
        start = 2;
    }
    let patched = patched_prefix(&mut prefix[start..], body, &kept.patch);
    let mut room = [0; 256];
    let outgoing = Outgoing {
        fields: HeaderFields {
            marker: kept.marker,
            pt: kept.pt,
            seq: kept.seq.0 as u16,
            timestamp: kept.timestamp,
            ssrc: kept.ssrc,
            padding: false,
        },
        seq: kept.seq,
        mid: (downtrack.mid_left > 0).then_some(downtrack.mid.as_bytes()),
        carried: &carried,
        descriptor: descriptor(&mut room, &carried, kept.packet, kept.frame_number_offset),
        since_start: desk.since_start,
    };
    let payload = Payload { prefix: &prefix[..start + patched], body: &body[patched..], padding_len: 0 };
    let downlink = &transport.downlink;
    let written = write_packet(desk.arena, &protection.outbound, downlink, &downtrack.extensions, &outgoing, payload);
    if written.is_none() {
        desk.counters.withheld[Withheld::Unprotected as usize] += 1;
    }
    written
}

impl Engine {
    /// A downtrack's first packet has left, or the first of another layer.
    pub(super) fn tell_switch(&mut self, slot: usize) {
        let Some(downtrack) = self.downtracks.get_mut(slot) else { return };
        let is_first = !std::mem::replace(&mut downtrack.has_started, true);
        let id = downtrack.id;
        if is_first {
            self.emit(Event::DowntrackStarted { downtrack: id });
        } else {
            self.counters.layer_switches += 1;
        }
    }
}

/// The dependency descriptor as the subscriber is to see it: with a frame number that runs on. `room` holds a changed copy.
pub(super) fn descriptor<'a>(room: &'a mut [u8; 256], carried: &Carried, packet: &'a [u8], offset: u16) -> &'a [u8] {
    let (at, len) = carried.dependency_descriptor;
    let original = packet.get(usize::from(at)..usize::from(at) + usize::from(len)).unwrap_or_default();
    if offset == 0 || original.len() < 3 {
        return original;
    }
    let copy = &mut room[..original.len()];
    copy.copy_from_slice(original);
    let number = u16::from_be_bytes([copy[1], copy[2]]).wrapping_add(offset);
    Descriptor::write_frame_number(copy, number);
    copy
}

/// Copies the start of a payload as far as the patch changes it; how many bytes of the body that replaces.
fn patched_prefix(prefix: &mut [u8], body: &[u8], patch: &PayloadPatch) -> usize {
    let picture_end = patch.picture_id.map_or(0, |(id, _)| usize::from(id.offset) + 2);
    let tl0_end = patch.tl0.map_or(0, |(_, offset)| usize::from(offset) + 1);
    let end = picture_end.max(tl0_end).min(body.len()).min(prefix.len());
    prefix[..end].copy_from_slice(&body[..end]);
    patch.apply(&mut prefix[..end]);
    end
}

fn ticks(time: Duration, clock_rate: u32) -> u32 {
    (time.as_micros() as u64 * u64::from(clock_rate) / 1_000_000) as u32
}

/// Writes header, payload and tag into the arena's next place; how long the datagram became. It is not committed yet.
#[inline]
pub(super) fn write_packet(
    arena: &mut TransmitArena,
    outbound: &OutboundSrtp,
    downlink: &Downlink,
    ids: &ExtensionIds,
    outgoing: &Outgoing<'_>,
    payload: Payload<'_>,
) -> Option<usize> {
    let out = arena.reserve(MAX_HEADER_BYTES + payload.len() + MAX_TRAILER_LEN);
    let (head, _) = out.split_at_mut(MAX_HEADER_BYTES);
    let mut writer = HeaderWriter::new(head, outgoing.fields, &[])?;
    if let Some(id) = ids.transport_seq {
        writer.extension(id, &downlink.next_number().to_be_bytes())?;
    }
    if let Some(id) = ids.abs_send_time {
        writer.extension(id, &AbsSendTime::from_duration(outgoing.since_start).write())?;
    }
    if let (Some(id), Some(mid)) = (ids.mid, outgoing.mid) {
        writer.extension(id, mid)?;
    }
    let carried = outgoing.carried;
    if let (Some(id), Some(level)) = (ids.audio_level, carried.audio_level) {
        writer.extension(id, &[level])?;
    }
    if let (Some(id), Some(orientation)) = (ids.video_orientation, carried.video_orientation) {
        writer.extension(id, &[orientation])?;
    }
    if let (Some(id), Some(delay)) = (ids.playout_delay, carried.playout_delay) {
        writer.extension(id, &delay)?;
    }
    if let (Some(id), (time, len @ 1..)) = (ids.abs_capture_time, &carried.capture_time) {
        writer.extension(id, &time[..usize::from(*len)])?;
    }
    if let (Some(id), [_, ..]) = (ids.dependency_descriptor, outgoing.descriptor) {
        writer.extension(id, outgoing.descriptor)?;
    }
    let header_len = writer.finish();
    let (header, rest) = out.split_at_mut(header_len);
    let sealed = outbound.protect_rtp_into(header, payload, rest, outgoing.fields.ssrc, outgoing.seq).ok()?;
    Some(header_len + sealed)
}
