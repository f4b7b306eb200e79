//! Data: messages go up to signaling and come down from it; data tracks alone are forwarded here, by handle.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_bytes::ByteBuf;

use super::commands::{Refusal, refuse};
use super::{Engine, work};
use crate::event::Event;
use crate::ids::{DataUptrackId, TransportId};
use crate::registers::data_track;
use crate::sctp::Sent;

/// The label whose messages are data-track packets.
const DATA_TRACK_LABEL: &str = "_data_track";

pub(super) struct DataUptrack {
    pub transport: usize,
    pub pub_handle: u16,
    /// Subscribing transports and the handle each one knows the track by.
    pub downtracks: BTreeMap<usize, u16>,
}

impl Engine {
    pub(super) fn send_data(&mut self, now: Instant, transports: &[TransportId], label: &str, payload: &[u8]) {
        for id in transports {
            match self.transport_slots.get(id) {
                Some(&slot) => self.send_data_to(now, slot, label, payload),
                None => self.counters.data_messages_dropped += 1,
            }
        }
    }

    fn send_data_to(&mut self, now: Instant, slot: usize, label: &str, payload: &[u8]) {
        let Some(transport) = self.transports.get_mut(slot) else { return };
        self.acting = Some(slot);
        let sent = if transport.may_send() { transport.send_data(now, label, payload, &mut work!(self)) } else { None };
        match sent {
            Some(Sent::Queued) => self.counters.data_messages_out.add(payload.len()),
            Some(Sent::Displaced(n)) => {
                self.counters.data_messages_out.add(payload.len());
                self.counters.data_messages_dropped += n as u64;
            }
            Some(Sent::NoChannel | Sent::TooLarge) | None => self.counters.data_messages_dropped += 1,
        }
        self.settle(now, slot);
    }

    pub(super) fn data_received(&mut self, now: Instant, slot: usize, label: String, payload: Vec<u8>) {
        self.counters.data_messages_in.add(payload.len());
        if label == DATA_TRACK_LABEL {
            return self.forward_data(now, slot, payload);
        }
        let Some(transport) = self.transports.get(slot) else { return };
        let event = Event::DataMessage { transport: transport.id, label, payload: ByteBuf::from(payload) };
        self.emit(event);
    }

    fn forward_data(&mut self, now: Instant, from: usize, mut packet: Vec<u8>) {
        let track = data_track::handle(&packet)
            .and_then(|h| self.data_uptracks.values().find(|t| t.transport == from && t.pub_handle == h));
        let Some(track) = track else {
            self.counters.data_messages_dropped += 1;
            return;
        };
        let subscribers: Vec<(usize, u16)> = track.downtracks.iter().map(|(&slot, &handle)| (slot, handle)).collect();
        for (slot, handle) in subscribers {
            data_track::set_handle(&mut packet, handle);
            self.send_data_to(now, slot, DATA_TRACK_LABEL, &packet);
        }
    }

    pub(super) fn add_data_uptrack(
        &mut self,
        id: DataUptrackId,
        transport: TransportId,
        pub_handle: u16,
    ) -> Result<(), Refusal> {
        let transport = self.transport_slot(transport)?;
        if self.data_uptracks.contains_key(&id) {
            return refuse("duplicate_id", format!("Data uptrack {id} exists already."));
        }
        if self.data_uptracks.values().any(|t| t.transport == transport && t.pub_handle == pub_handle) {
            return refuse("duplicate_handle", "The transport publishes another data track under this handle.");
        }
        self.data_uptracks.insert(id, DataUptrack { transport, pub_handle, downtracks: BTreeMap::new() });
        Ok(())
    }

    pub(super) fn add_data_downtrack(
        &mut self,
        id: DataUptrackId,
        transport: TransportId,
        handle: u16,
    ) -> Result<(), Refusal> {
        let slot = self.transport_slot(transport)?;
        let Some(track) = self.data_uptracks.get_mut(&id) else {
            return refuse("unknown_data_uptrack", format!("There is no data uptrack {id}."));
        };
        let publisher_room = self.transports.get(track.transport).map(|t| t.room);
        if publisher_room != self.transports.get(slot).map(|t| t.room) {
            return refuse("other_room", "A data track can only be subscribed to from its own room.");
        }
        track.downtracks.insert(slot, handle);
        Ok(())
    }

    pub(super) fn remove_data_downtrack(&mut self, id: DataUptrackId, transport: TransportId) {
        if let (Some(track), Some(slot)) = (self.data_uptracks.get_mut(&id), self.transport_slots.get(&transport)) {
            track.downtracks.remove(slot);
        }
    }

    pub(super) fn forget_data_tracks_of(&mut self, slot: usize) {
        self.data_uptracks.retain(|_, track| track.transport != slot);
        for track in self.data_uptracks.values_mut() {
            track.downtracks.remove(&slot);
        }
    }
}
