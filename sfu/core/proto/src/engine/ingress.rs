//! From a datagram to a pending packet: which protocol, which transport, which uptrack, and everything counted once.
//!
//! Nothing but STUN is taken from a path that has not passed an authenticated check.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::audible::Audience;
use super::forward::Pending;
use super::up::{PtUse, Uptrack};
use super::write::Carried;
use super::{Datagram, Engine, work};
use crate::codec::dd::{Descriptor, Structure};
use crate::codec::{PacketMeta, red};
use crate::command::MediaKind;
use crate::demux::{Kind, classify};
use crate::drop_reason::DropReason;
use crate::ids::{SeqNo, Ssrc};
use crate::registers::uptrack::Arrived;
use crate::rtp::{self, AudioLevel, PlayoutDelay, RtpHeader, TransportSeq, read_sdes_text};
use crate::transmit::Path;
use crate::transport::StreamUse;

/// Packets that one of RED makes good at most: senders say again two at most, and each costs every subscriber a copy.
const MAX_REPAIRS: usize = 2;

/// No path carries more unfragmented, and TCP takes no more either.
const MAX_RTP_BYTES: usize = crate::framing::DEFAULT_MAX_FRAME_LEN;

/// Players of WebRTC wait no longer; the format would let a publisher freeze pictures for 40 s.
const LONGEST_PLAYOUT_DELAY: Duration = Duration::from_secs(10);

/// Where a packet belongs, RTX unwrapped.
struct Arrival {
    encoding: usize,
    codec: usize,
    seq: u16,
    is_rtx: bool,
    /// Of the clear packet in its datagram.
    range: Range<usize>,
}

impl Engine {
    /// Whether a worker that is late may take a datagram behind sound, checks and reports: packets of a known video. They
    /// keep their order among themselves, so that nothing looks lost.
    pub fn can_wait(&self, datagram: &Datagram<'_>) -> bool {
        // Fixed by RFC 3550 §5.1, and in clear whatever the profile.
        let Some(ssrc) = datagram.payload.get(8..12) else { return false };
        if classify(datagram.payload) != Kind::Rtp {
            return false;
        }
        let ssrc = u32::from_be_bytes([ssrc[0], ssrc[1], ssrc[2], ssrc[3]]);
        let transport = self.paths.get(&Path::Udp(datagram.source)).and_then(|&slot| self.transports.get(slot));
        match transport.and_then(|transport| transport.streams.get(&ssrc)) {
            Some(&StreamUse::Media { uptrack, .. } | &StreamUse::Rtx { uptrack, .. }) => {
                self.uptracks.get(uptrack).is_some_and(|uptrack| uptrack.kind == MediaKind::Video)
            }
            _ => false,
        }
    }

    /// When the oldest datagram came that still waits, if any does: what is missing among later ones is not lost.
    pub fn late_since(&mut self, oldest: Option<Instant>) {
        self.late_since = oldest;
    }

    pub(super) fn receive_datagram(&mut self, now: Instant, path: Path, index: usize, datagram: &mut Datagram<'_>) {
        match classify(datagram.payload) {
            Kind::Stun => self.receive_stun(now, path, datagram),
            Kind::Drop(reason) => self.counters.dropped.add(reason),
            kind => {
                let Some(&slot) = self.paths.get(&path) else {
                    return self.counters.dropped.add(DropReason::UnvalidatedPath);
                };
                self.acting = Some(slot);
                if self.transports.get(slot).is_some_and(|t| t.panics_on_input) {
                    panic!("injected fault");
                }
                match kind {
                    Kind::Dtls => {
                        self.counters.up.dtls.add(datagram.payload.len());
                        if self.transports[slot].protection.is_none() {
                            if let Err(reason) = self.queue_flight(now, slot, datagram.payload) {
                                self.counters.dropped.add(reason);
                            }
                            return;
                        }
                        self.transports[slot].receive_dtls(now, datagram.payload, &mut work!(self));
                        self.settle(now, slot);
                    }
                    Kind::Rtcp => {
                        self.counters.up.rtcp.add(datagram.payload.len());
                        self.receive_rtcp(now, slot, datagram.payload);
                    }
                    _ => {
                        if let Err(reason) = self.receive_rtp(now, slot, index, datagram) {
                            self.counters.dropped.add(reason);
                        }
                    }
                }
            }
        }
    }

    fn receive_rtp(
        &mut self,
        now: Instant,
        slot: usize,
        index: usize,
        datagram: &mut Datagram<'_>,
    ) -> Result<(), DropReason> {
        if datagram.payload.len() > MAX_RTP_BYTES {
            return Err(DropReason::RtpTooLong);
        }
        let transport = &mut self.transports[slot];
        let Some(protection) = &mut transport.protection else { return Err(DropReason::UnvalidatedPath) };
        let clear = protection.inbound.unprotect_rtp(datagram.payload)?;
        let size = datagram.payload.len();
        let header = RtpHeader::parse(&datagram.payload[..clear.len])?;
        transport.bytes_up += size as u64;
        transport.packets_up += 1;

        let usage = match transport.streams.get(&header.ssrc.0) {
            Some(StreamUse::Unclaimed) | None => self.claim(slot, &header),
            Some(usage) => *usage,
        };
        let (uptrack_slot, encoding, is_rtx) = match usage {
            StreamUse::Media { uptrack, encoding } => (uptrack, encoding, false),
            StreamUse::Rtx { uptrack, encoding } => (uptrack, encoding, true),
            StreamUse::Unclaimed => return Err(DropReason::UnclaimedStream),
        };
        let Some(uptrack) = self.uptracks.get_mut(uptrack_slot) else { return Err(DropReason::UnclaimedStream) };
        if let Some(seq) =
            uptrack.extensions.transport_seq.and_then(|id| header.extension(id)).and_then(TransportSeq::read)
        {
            // The kernel's time, so that ticks do not look like a queue.
            self.transports[slot].twcc.record(datagram.received, seq.0);
        }

        let mut start = 0;
        let mut seq = header.seq;
        let codec_index = match (uptrack.pt(header.pt), is_rtx) {
            (Some(PtUse::Media(codec)), false) => codec,
            (Some(PtUse::Rtx(codec)), true) => {
                self.counters.up.rtx.add(size);
                // Bare probing padding carries no original.
                if header.payload().is_empty() {
                    return Ok(());
                }
                let Some(ssrc) = uptrack.encodings[encoding].ssrc else { return Err(DropReason::UnclaimedStream) };
                let pt = uptrack.codecs[codec].spec.pt;
                start = rtp::rtx::restore(&mut datagram.payload[..clear.len], pt, ssrc)?;
                seq = u16::from_be_bytes([datagram.payload[start + 2], datagram.payload[start + 3]]);
                codec
            }
            _ => return Err(DropReason::UnknownPayloadType),
        };
        if !is_rtx {
            match uptrack.kind {
                MediaKind::Audio => self.counters.up.audio.add(size),
                MediaKind::Video => self.counters.up.video.add(size),
            }
        }
        let arrival = Arrival { encoding, codec: codec_index, seq, is_rtx, range: start..clear.len };
        self.receive_media(now, uptrack_slot, arrival, index, datagram)
    }

    /// One media packet in clear, whichever way it came: counted, kept once, and set down for its subscribers.
    #[inline]
    fn receive_media(
        &mut self,
        now: Instant,
        slot: usize,
        arrival: Arrival,
        index: usize,
        datagram: &mut Datagram<'_>,
    ) -> Result<(), DropReason> {
        let Arrival { encoding: encoding_index, codec: codec_index, seq, is_rtx, range } = arrival;
        let start = range.start;
        let packet = &datagram.payload[range];
        let len = packet.len();
        let header = RtpHeader::parse(packet)?;
        let uptrack = &mut self.uptracks[slot];
        let encoding = &mut uptrack.encodings[encoding_index];
        let seq = encoding.stats.extend(seq);
        let arrived = if is_rtx { encoding.nacks.on_rtx(now, seq) } else { encoding.nacks.on_packet(now, seq) };
        if arrived == Arrived::Useless {
            return Err(DropReason::Duplicate);
        }
        if !is_rtx {
            encoding.stats.on_packet(now, seq, header.timestamp);
        }
        if !encoding.nacks.is_complete() && uptrack.codecs[codec_index].has_nack {
            if !self.incomplete.contains(&(slot, encoding_index)) {
                self.incomplete.push((slot, encoding_index));
            }
            self.next_fine_tick.get_or_insert(now + super::tick::FINE_TICK);
        }
        uptrack.packets += 1;
        uptrack.bytes += len as u64;
        let payload = header.payload();
        let carried = carried(&header, datagram.payload, &uptrack.extensions);
        let structure = uptrack.encodings[encoding_index].structure.as_ref();
        let (meta, descriptor) = describe(uptrack, structure, codec_index, &header)?;
        let encoding = &mut uptrack.encodings[encoding_index];
        if let Some(structure) = descriptor.as_ref().and_then(|d| d.structure.as_ref()) {
            encoding.on_structure(seq, structure);
        }
        if meta.begins_key_frame() && uptrack.kind == MediaKind::Video && !payload.is_empty() {
            uptrack.keyframes_seen += 1;
            encoding.keyframes.on_keyframe(now);
            // What an encrypted payload seems to be says nothing.
            if descriptor.as_ref().is_none_or(|descriptor| descriptor.structure.is_some()) {
                encoding.on_key_start(now, seq, header.timestamp);
            }
        }
        encoding.history.insert(now, seq, packet);
        let is_simulcast = uptrack.encodings.len() > 1;
        let spatial = if is_simulcast { encoding_index } else { usize::from(meta.spatial.0) };
        let was_live = uptrack.layers.is_live(now, spatial);
        // libwebrtc probes its own link with bare padding on the lowest layer's stream, many times that layer's bitrate.
        let is_media = !payload.is_empty();
        // A larger encoding flows and no smaller one: it serves those who asked for them.
        let mut is_for_smaller = false;
        if is_media {
            let bytes = header.header_len + payload.len();
            let layers = &mut uptrack.layers;
            is_for_smaller = layers.on_packet(now, (spatial, meta.temporal), &meta, meta.keyframe, bytes)
                && is_simulcast
                && (0..spatial).all(|smaller| !layers.is_live(now, smaller));
        }
        // The second packet tells what flows. Another codec is told at a tick: a publisher may change it with every packet, and
        // each time everybody is chosen for.
        let is_news = is_media && uptrack.current_codec.is_some() && (!was_live || uptrack.announced.is_none());
        if is_media {
            uptrack.current_codec = Some(codec_index);
        }
        if let Some(level) = carried.audio_level
            && !uptrack.muted
        {
            let (room, id) = (uptrack.room, uptrack.id);
            self.room(room).speakers.observe(now, id, AudioLevel::read(&[level]).map_or(127, |l| l.level_dbov));
        }
        let (timestamp, marker) = (header.timestamp, header.marker);
        let mut payload = start + header.header_len..start + header.header_len + payload.len();
        if is_news {
            self.announce_media(now, slot);
        }
        if is_for_smaller {
            self.retarget_all(now, slot);
        }
        let audience = self.audience(now, slot, seq, carried.audio_level, &mut datagram.payload[payload.clone()]);
        match audience {
            Audience::All | Audience::Favoured => {}
            Audience::Farewell { bytes } => payload.end = payload.start + bytes,
            Audience::Nobody => return Ok(()),
        }
        let newest = self.uptracks[slot].newest_of_red(codec_index, &datagram.payload[payload.clone()]);
        let pending = Pending {
            batch: index,
            next: None,
            encoding: encoding_index,
            codec: codec_index,
            seq,
            timestamp,
            marker,
            payload,
            meta,
            descriptor,
            carried,
            is_for_all: audience != Audience::Favoured,
            is_repair: false,
            newest,
            padding: 0,
            received: datagram.received,
        };
        if newest.is_some() {
            self.repair(slot, &pending, datagram);
        }
        self.push_pending(slot, pending);
        Ok(())
    }

    /// What a packet of RED says again of those before it, where they have not come. Receivers of RED do this themselves.
    fn repair(&mut self, slot: usize, pending: &Pending, datagram: &Datagram<'_>) {
        let blocks = red::older(&datagram.payload[pending.payload.clone()]);
        let count = blocks.clone().count();
        let distances = (1..=count as u64).rev();
        for (block, back) in blocks.zip(distances).skip(count.saturating_sub(MAX_REPAIRS)) {
            let Some(seq) = pending.seq.0.checked_sub(back).map(SeqNo) else { continue };
            let timestamp = pending.timestamp.wrapping_sub(u32::from(block.age));
            let history = &self.uptracks[slot].encodings[pending.encoding].history;
            let has_come = history.get(seq).is_some();
            // Numbers that the publisher's padding has taken say nothing of moments: time must go on.
            let before = seq.0.checked_sub(1).and_then(|before| history.get(SeqNo(before)));
            let before = before.and_then(|(packet, _)| RtpHeader::parse(packet).ok());
            let is_later = before.is_none_or(|before| (timestamp.wrapping_sub(before.timestamp) as i32) > 0);
            if has_come || !is_later || block.range.is_empty() {
                continue;
            }
            let start = pending.payload.start;
            let repair = Pending {
                seq,
                timestamp,
                marker: false,
                payload: start + block.range.start..start + block.range.end,
                is_repair: true,
                ..pending.clone()
            };
            self.push_pending(slot, repair);
        }
    }

    /// A stream that is not known yet: by mid and rid, else by the only section that takes its payload type.
    #[cold]
    fn claim(&mut self, slot: usize, header: &RtpHeader<'_>) -> StreamUse {
        let max_ssrcs = self.config.max_ssrcs;
        let usage = self.find_use(slot, header).unwrap_or(StreamUse::Unclaimed);
        let transport = &mut self.transports[slot];
        if !transport.streams.contains_key(&header.ssrc.0) && transport.streams.len() >= max_ssrcs {
            return StreamUse::Unclaimed;
        }
        transport.streams.insert(header.ssrc.0, usage);
        if usage != StreamUse::Unclaimed
            && let Some(protection) = &mut transport.protection
        {
            protection.inbound.hold(header.ssrc);
        }
        match usage {
            StreamUse::Media { uptrack, encoding } => {
                let clock_rate = self.uptracks[uptrack].codecs[0].spec.clock_rate;
                let downtracks = self.uptracks[uptrack].downtracks.clone();
                let encoding = &mut self.uptracks[uptrack].encodings[encoding];
                if let Some(before) = encoding.ssrc.replace(header.ssrc)
                    && before != header.ssrc
                {
                    // The publisher began anew under another ssrc: registers of the old numbering mean nothing now, nor
                    // does what is still sent again of it.
                    for ssrc in [Some(before), encoding.rtx_ssrc.take()].into_iter().flatten() {
                        transport.streams.insert(ssrc.0, StreamUse::Unclaimed);
                        if let Some(protection) = &mut transport.protection {
                            protection.inbound.release(ssrc);
                        }
                    }
                    encoding.restart(clock_rate);
                    for downtrack in downtracks {
                        self.forget_waiting(downtrack);
                        self.downtracks[downtrack].selector.restart();
                        // The same numbers may soon be of other originals.
                        self.downtracks[downtrack].sent.forget();
                        self.downtracks[downtrack].source = None;
                    }
                }
            }
            StreamUse::Rtx { uptrack, encoding } => {
                self.uptracks[uptrack].encodings[encoding].rtx_ssrc = Some(header.ssrc);
            }
            StreamUse::Unclaimed => {}
        }
        usage
    }

    fn find_use(&self, slot: usize, header: &RtpHeader<'_>) -> Option<StreamUse> {
        let own = || self.transports[slot].uptracks.iter().filter_map(|&s| Some((s, self.uptracks.get(s)?)));
        // Sections of one bundle use one id for one meaning (RFC 9143 §10), so any section's ids will do.
        let text = |id: Option<u8>| id.and_then(|id| header.extension(id)).and_then(read_sdes_text);
        let by_mid = own().find(|(_, u)| text(u.extensions.mid).is_some_and(|mid| mid == u.mid));
        let has_mid = own().any(|(_, u)| text(u.extensions.mid).is_some());
        let by_pt = || {
            let mut takers = own().filter(|(_, u)| u.pt(header.pt).is_some());
            takers.next().filter(|_| takers.next().is_none())
        };
        let (index, uptrack) = match by_mid {
            Some(found) => found,
            // A mid of a section that is not here (yet) must not be guessed away.
            None if has_mid => return None,
            None => by_pt()?,
        };
        match uptrack.pt(header.pt)? {
            PtUse::Media(_) => {
                let encoding = uptrack.encoding_of_rid(text(uptrack.extensions.rid))?;
                Some(StreamUse::Media { uptrack: index, encoding })
            }
            PtUse::Rtx(_) => {
                let repaired = text(uptrack.extensions.repaired_rid).or(text(uptrack.extensions.rid));
                let encoding = uptrack.encoding_of_rid(repaired)?;
                Some(StreamUse::Rtx { uptrack: index, encoding })
            }
        }
    }

    /// Enters the announced ssrcs of a new section, and gives unclaimed streams another chance.
    pub(super) fn claim_streams(&mut self, slot: usize, uptrack_slot: usize) {
        let transport = &mut self.transports[slot];
        transport.streams.retain(|_, usage| *usage != StreamUse::Unclaimed);
        for (index, encoding) in self.uptracks[uptrack_slot].encodings.iter().enumerate() {
            let uses = [
                (encoding.ssrc, StreamUse::Media { uptrack: uptrack_slot, encoding: index }),
                (encoding.rtx_ssrc, StreamUse::Rtx { uptrack: uptrack_slot, encoding: index }),
            ];
            for (ssrc, usage) in uses {
                if let Some(Ssrc(ssrc)) = ssrc
                    && transport.streams.len() < self.config.max_ssrcs
                {
                    transport.streams.insert(ssrc, usage);
                }
            }
        }
        transport.hold_claimed();
    }
}

/// What a packet is part of, by its descriptor and its payload; `structure`: the latest of its stream.
#[inline]
pub(super) fn describe(
    uptrack: &Uptrack,
    structure: Option<&Structure>,
    codec: usize,
    header: &RtpHeader<'_>,
) -> Result<(PacketMeta, Option<Descriptor>), DropReason> {
    let descriptor = uptrack.extensions.dependency_descriptor.and_then(|id| header.extension(id));
    let descriptor = descriptor.and_then(|bytes| Descriptor::parse(bytes, structure));
    let payload = header.payload();
    if payload.is_empty() {
        return Ok((PacketMeta::sound(), descriptor));
    }
    let parsed = uptrack.codecs[codec].codec.parse(payload, header.marker);
    let meta = match &descriptor {
        // The first packet of an AV1 frame may name its layer, the others never do.
        Some(descriptor) => PacketMeta::described(parsed, descriptor),
        None => parsed.ok_or(DropReason::PayloadMalformed)?,
    };
    Ok((meta, descriptor))
}

/// Reads once what subscribers may want to have carried on; `datagram` holds the packet, offsets count from its start.
pub(super) fn carried(header: &RtpHeader<'_>, datagram: &[u8], ids: &crate::extension_ids::ExtensionIds) -> Carried {
    let mut out = Carried::default();
    for (id, data) in header.extensions() {
        let id = Some(id);
        if id == ids.audio_level {
            out.audio_level = data.first().copied();
        } else if id == ids.video_orientation {
            out.video_orientation = data.first().copied();
        } else if id == ids.playout_delay {
            out.playout_delay = PlayoutDelay::read(data).map(|delay| delay.within(LONGEST_PLAYOUT_DELAY).write());
        } else if id == ids.abs_capture_time && (data.len() == 8 || data.len() == 16) {
            out.capture_time.0[..data.len()].copy_from_slice(data);
            out.capture_time.1 = data.len() as u8;
        } else if id == ids.dependency_descriptor && data.len() <= 255 {
            // Both lie in one datagram, which is shorter than 64 KiB.
            let offset = data.as_ptr() as usize - datagram.as_ptr() as usize;
            out.dependency_descriptor = (offset as u16, data.len() as u8);
        }
    }
    out
}
