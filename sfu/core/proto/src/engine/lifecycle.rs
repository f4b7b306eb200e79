//! Who begins, who ends, and who is told: transports' states, rooms, and the closing of everything that hangs on something.
//!
//! A transport closes its uptracks, its downtracks and its data tracks; an uptrack closes its downtracks;
//! a room ends with its last transport.

use std::cmp::Reverse;
use std::time::Instant;

use super::{Engine, work};
use crate::command::MediaKind;
use crate::event::{Event, PathProtocol, TransportState};
use crate::ids::RoomId;
use crate::registers::loudest::Loudest;
use crate::registers::speaker::Speakers;
use crate::sctp::SctpEvent;
use crate::srtp::Profile;
use crate::trace::End;
use crate::transmit::Path;
use crate::transport::{Note, StreamUse};

pub(super) struct Room {
    pub transports: Vec<usize>,
    pub speakers: Speakers,
    pub loudest: Loudest,
}

impl Engine {
    pub(super) fn set_state(&mut self, slot: usize, state: TransportState, reason: &str) {
        let Some(transport) = self.transports.get_mut(slot) else { return };
        if transport.state == state {
            return;
        }
        let before = std::mem::replace(&mut transport.state, state);
        let id = transport.id;
        if let Some(gauge) = self.gauge(before) {
            *gauge -= 1;
        }
        if let Some(gauge) = self.gauge(state) {
            *gauge += 1;
        }
        self.emit(Event::TransportState { transport: id, state, reason: reason.to_owned() });
    }

    pub(super) fn gauge(&mut self, state: TransportState) -> Option<&mut u64> {
        let gauges = &mut self.counters.transports;
        match state {
            TransportState::New => Some(&mut gauges.new),
            TransportState::Connecting => Some(&mut gauges.connecting),
            TransportState::Connected => Some(&mut gauges.connected),
            TransportState::Disconnected => Some(&mut gauges.disconnected),
            TransportState::Failed => Some(&mut gauges.failed),
            TransportState::Closed => None,
        }
    }

    /// Tells what a transport noted while it worked, and sees to its next timer.
    pub(super) fn settle(&mut self, now: Instant, slot: usize) {
        let mut notes = std::mem::take(&mut self.notes);
        for note in notes.drain(..) {
            let Some(id) = self.transports.get(slot).map(|t| t.id) else { break };
            match note {
                Note::Secured => self.secured(now, slot),
                Note::DtlsFailed(error) => {
                    self.counters.dtls_failed += 1;
                    self.set_state(slot, TransportState::Failed, error.code());
                }
                Note::PeerClosed => self.close_transport(now, slot, "closed_by_peer"),
                Note::Sctp(SctpEvent::ChannelOpen { label }) => {
                    self.emit(Event::DataChannelOpen { transport: id, label });
                }
                Note::Sctp(SctpEvent::Message { label, payload }) => self.data_received(now, slot, label, payload),
                Note::Sctp(SctpEvent::Stalled { label }) => {
                    self.counters.data_channels_stalled += 1;
                    self.emit(Event::DataChannelStalled { transport: id, label });
                }
                Note::Sctp(SctpEvent::Ended) => self.close_transport(now, slot, "closed_by_peer"),
                // There is no second association on one connection: only a new one has data again.
                Note::Sctp(SctpEvent::Lost) => self.close_transport(now, slot, "data_lost"),
                Note::Sctp(SctpEvent::ChannelClosed { .. }) => {}
            }
        }
        if self.notes.is_empty() {
            self.notes = notes;
        }
        self.count_handshake(slot);
        self.reschedule(slot);
    }

    fn secured(&mut self, now: Instant, slot: usize) {
        let Some(transport) = self.transports.get(slot) else { return };
        if let Some(protection) = &transport.protection {
            let ciphers = &mut self.counters.ciphers;
            *match protection.profile {
                Profile::AeadAes128Gcm => &mut ciphers.aead_aes_128_gcm,
                Profile::AeadAes256Gcm => &mut ciphers.aead_aes_256_gcm,
                Profile::Aes128CmSha1_80 => &mut ciphers.aes128_cm_sha1_80,
            } += 1;
        }
        self.counters.dtls_handshakes += 1;
        self.learning_until = Some(now + super::LEARNING);
        self.set_state(slot, TransportState::Connected, "");
        self.emit_path(slot);
        self.after_connect(now, slot);
    }

    /// A subscriber that has just come up needs a key frame of everything it watches.
    pub(super) fn after_connect(&mut self, now: Instant, slot: usize) {
        let Some(transport) = self.transports.get(slot) else { return };
        for downtrack in transport.downtracks.clone() {
            self.retarget(now, downtrack);
        }
    }

    pub(super) fn emit_path(&mut self, slot: usize) {
        let Some(transport) = self.transports.get(slot) else { return };
        let (Some(path), Some(protection)) = (transport.path, &transport.protection) else { return };
        let event = Event::TransportPath {
            transport: transport.id,
            protocol: match path {
                Path::Udp(_) => PathProtocol::Udp,
                Path::Tcp(_) => PathProtocol::Tcp,
            },
            cipher: protection.profile.as_str().to_owned(),
            dtls_version: "1.2".to_owned(),
        };
        self.emit(event);
    }

    pub(super) fn reschedule(&mut self, slot: usize) {
        let handshake = self.config.dtls_handshake_timeout;
        let Some(transport) = self.transports.get_mut(slot) else { return };
        let Some(deadline) = transport.deadline(handshake) else { return };
        if transport.scheduled.is_none_or(|at| deadline < at) {
            transport.scheduled = Some(deadline);
            self.timers.push(Reverse((deadline, slot)));
        }
    }

    pub(super) fn transport_timeout(&mut self, now: Instant, at: Instant, slot: usize) {
        let Some(transport) = self.transports.get_mut(slot) else { return };
        if transport.scheduled != Some(at) {
            return;
        }
        transport.scheduled = None;
        self.acting = Some(slot);
        transport.timeout(now, &mut work!(self));
        self.settle(now, slot);
    }

    /// Ends a transport and all that hangs on it. `reason` is the event's.
    pub(super) fn close_transport(&mut self, now: Instant, slot: usize, reason: &str) {
        if !self.transports.contains(slot) {
            return;
        }
        self.end_trace(now, slot, End::Closed);
        for uptrack in self.transports[slot].uptracks.clone() {
            self.remove_uptrack(now, uptrack);
        }
        for downtrack in self.transports[slot].downtracks.clone() {
            self.remove_downtrack(now, downtrack);
        }
        self.forget_data_tracks_of(slot);
        if reason != "panic" {
            self.transports[slot].close(now, &mut work!(self));
            self.notes.clear();
        }
        self.set_state(slot, TransportState::Closed, reason);
        self.forget_handshake(slot);
        let transport = self.transports.remove(slot);
        self.transport_slots.remove(&transport.id);
        for path in &transport.known_paths {
            let path = super::paths::from_ice(*path);
            if self.paths.get(&path) == Some(&slot) {
                self.paths.remove(&path);
            }
        }
        for ufrag in &transport.ufrags {
            self.ufrags.remove(ufrag);
        }
        if let Some(room) = self.rooms.get_mut(&transport.room) {
            room.transports.retain(|s| *s != slot);
            if room.transports.is_empty() {
                self.rooms.remove(&transport.room);
                self.counters.rooms = self.rooms.len() as u64;
            }
        }
        if self.transports.is_empty() {
            self.next_tick = None;
            self.next_fine_tick = None;
            self.next_keyframe = None;
            self.next_beat = None;
        }
    }

    pub(super) fn remove_uptrack(&mut self, now: Instant, slot: usize) {
        if !self.uptracks.contains(slot) {
            return;
        }
        for downtrack in self.uptracks[slot].downtracks.clone() {
            self.remove_downtrack(now, downtrack);
        }
        self.leave_loudest(slot);
        // The next uptrack may be given this place, and have fewer encodings.
        self.incomplete.retain(|(uptrack, _)| *uptrack != slot);
        self.first_pictures.retain(|(uptrack, _)| *uptrack != slot);
        let uptrack = self.uptracks.remove(slot);
        self.uptrack_slots.remove(&uptrack.id);
        self.counters.uptracks = self.uptracks.len() as u64;
        if let Some(transport) = self.transports.get_mut(uptrack.transport) {
            transport.uptracks.retain(|s| *s != slot);
            let mut ended = Vec::new();
            transport.streams.retain(|ssrc, usage| {
                let is_ended = matches!(usage, StreamUse::Media { uptrack, .. } | StreamUse::Rtx { uptrack, .. } if *uptrack == slot);
                if is_ended {
                    ended.push(*ssrc);
                }
                !is_ended
            });
            if let Some(protection) = &mut transport.protection {
                for ssrc in ended {
                    protection.inbound.release(crate::ids::Ssrc(ssrc));
                }
            }
        }
        if uptrack.kind == MediaKind::Audio {
            self.forget_speaker(uptrack.room, uptrack.id);
        }
    }

    pub(super) fn remove_downtrack(&mut self, now: Instant, slot: usize) {
        if !self.downtracks.contains(slot) {
            return;
        }
        let downtrack = self.downtracks.remove(slot);
        self.downtrack_slots.remove(&downtrack.id);
        self.counters.downtracks = self.downtracks.len() as u64;
        if let Some(transport) = self.transports.get_mut(downtrack.transport) {
            transport.downtracks.retain(|s| *s != slot);
            transport.pacer.forget(slot);
            transport.sent_streams.retain(|_, sent| sent.downtrack != slot);
        }
        if let Some(uptrack) = self.uptracks.get_mut(downtrack.uptrack) {
            uptrack.downtracks.retain(|s| *s != slot);
        }
        self.update_demand(now, downtrack.uptrack);
    }

    pub(super) fn room(&mut self, id: RoomId) -> &mut Room {
        let loudest = || Loudest::new(self.config.loudest_microphones);
        self.rooms.entry(id).or_insert_with(|| Room {
            transports: Vec::new(),
            speakers: Speakers::default(),
            loudest: loudest(),
        })
    }
}
