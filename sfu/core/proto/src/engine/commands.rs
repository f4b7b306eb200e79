//! Commands: what each one checks and does. One that cannot be applied is answered by `Rejected` and changes nothing.

use std::time::{Duration, Instant};

use super::down::Downtrack;
use super::up::Uptrack;
use super::{Engine, work};
use crate::command::{Command, DowntrackSpec, Fault, IceCredentials, Remote, UptrackSpec};
use crate::event::Event;
use crate::fast_map::Keyed;
use crate::ice::{Credentials, IceAgent};
use crate::ids::{DowntrackId, RoomId, Ssrc, TransportId, UptrackId};
use crate::transport::{SentStream, Transport};

/// Why a command was refused: a stable code and a sentence.
pub(super) type Refusal = (&'static str, String);

pub(super) fn refuse<T>(code: &'static str, message: impl Into<String>) -> Result<T, Refusal> {
    Err((code, message.into()))
}

impl Engine {
    pub(super) fn apply_command(&mut self, now: Instant, command: Command) {
        let (name, subject) = name_and_subject(&command);
        if let Err((code, message)) = self.dispatch(now, command) {
            self.counters.commands_rejected += 1;
            self.emit(Event::Rejected { command: name.to_owned(), subject, code: code.to_owned(), message });
        }
    }

    fn dispatch(&mut self, now: Instant, command: Command) -> Result<(), Refusal> {
        match command {
            Command::AddTransport { transport, room, local, remote } => {
                self.add_transport(now, transport, room, local, remote)
            }
            Command::SetRemote { transport, remote } => self.set_remote(now, transport, remote),
            Command::RestartIce { transport, local, remote } => self.restart_ice(transport, local, remote),
            Command::RemoveTransport { transport } => {
                let slot = self.transport_slot(transport)?;
                self.acting = Some(slot);
                self.close_transport(now, slot, "removed");
                Ok(())
            }
            Command::OpenDataChannels { transport, channels } => {
                let slot = self.transport_slot(transport)?;
                self.acting = Some(slot);
                self.transports[slot].open_channels(now, channels, &mut work!(self));
                self.settle(now, slot);
                Ok(())
            }
            Command::SendData { transports, label, payload } => {
                self.send_data(now, &transports, &label, &payload);
                Ok(())
            }
            Command::AddUptrack(spec) => self.add_uptrack(now, spec),
            Command::UpdateUptrack { uptrack, muted, layers } => {
                let slot = self.uptrack_slot(uptrack)?;
                self.update_uptrack(now, slot, muted, layers);
                Ok(())
            }
            Command::RemoveUptrack { uptrack } => {
                let slot = self.uptrack_slot(uptrack)?;
                self.remove_uptrack(now, slot);
                Ok(())
            }
            Command::RequestKeyframe { uptrack } => {
                let slot = self.uptrack_slot(uptrack)?;
                self.request_all_keyframes(now, slot);
                Ok(())
            }
            Command::BoundDownlink { transport, max_bps } => {
                let slot = self.transport_slot(transport)?;
                self.transports[slot].downlink.send_at_most(max_bps);
                self.estimate_changed(now, slot);
                Ok(())
            }
            Command::AddDowntrack(spec) => self.add_downtrack(now, spec),
            Command::SetDowntrack { downtrack, want } => {
                let slot = self.downtrack_slot(downtrack)?;
                self.downtracks[slot].want = want;
                self.retarget(now, slot);
                Ok(())
            }
            Command::SwitchDowntrack { downtrack, uptrack } => self.switch_downtrack(now, downtrack, uptrack),
            Command::RemoveDowntrack { downtrack } => {
                let slot = self.downtrack_slot(downtrack)?;
                self.remove_downtrack(now, slot);
                Ok(())
            }
            Command::AddDataUptrack { data_uptrack, transport, pub_handle } => {
                self.add_data_uptrack(data_uptrack, transport, pub_handle)
            }
            Command::RemoveDataUptrack { data_uptrack } => {
                self.data_uptracks.remove(&data_uptrack);
                Ok(())
            }
            Command::AddDataDowntrack { data_uptrack, transport, handle } => {
                self.add_data_downtrack(data_uptrack, transport, handle)
            }
            Command::RemoveDataDowntrack { data_uptrack, transport } => {
                self.remove_data_downtrack(data_uptrack, transport);
                Ok(())
            }
            Command::Snapshot => {
                let snapshot = self.snapshot();
                self.tell_overload();
                self.emit(Event::Snapshot(snapshot));
                Ok(())
            }
            Command::SetMemoryPressure { level } => {
                self.set_memory_pressure(level);
                Ok(())
            }
            Command::GetRoomStats { request, room } => {
                self.room_stats(now, request, room);
                Ok(())
            }
            Command::StartTrace { trace, transport, seconds } => {
                self.start_trace(now, trace, transport, Duration::try_from_secs_f64(seconds).unwrap_or_default());
                Ok(())
            }
            Command::StopTrace { trace } => {
                self.stop_trace(now, trace);
                Ok(())
            }
            Command::InjectFault { transport, fault } => {
                let slot = self.transport_slot(transport)?;
                if !self.config.fault_injection {
                    return refuse("fault_injection_off", "Fault injection is switched off on this worker.");
                }
                match fault {
                    Fault::Panic => self.transports[slot].panics_on_input = true,
                }
                Ok(())
            }
        }
    }

    fn add_transport(
        &mut self,
        now: Instant,
        id: TransportId,
        room: RoomId,
        local: IceCredentials,
        remote: Option<Remote>,
    ) -> Result<(), Refusal> {
        if self.transport_slots.contains_key(&id) {
            return refuse("duplicate_id", format!("Transport {id} exists already."));
        }
        if self.transports.len() >= self.config.max_transports {
            return refuse("too_many_transports", "This worker carries as many transports as it may.");
        }
        if self.ufrags.contains_key(local.ufrag.as_str()) {
            return refuse("duplicate_ufrag", "Another transport uses this ICE user fragment.");
        }
        let key = Keyed::new(self.entropy.next_u64());
        let mut ice = IceAgent::new(self.config.ice, credentials(&local));
        if let Some(remote) = &remote {
            ice.set_remote(credentials(&remote.ice));
        }
        let rtcp_ssrc = Ssrc(self.entropy.next_u32());
        let mut transport = Transport::new(id, room, now, ice, key, rtcp_ssrc, self.config.bwe);
        transport.remote_since = remote.is_some().then_some(now);
        transport.remote = remote;
        transport.ufrags.push(local.ufrag.as_str().into());
        let slot = self.transports.insert(transport);
        self.transport_slots.insert(id, slot);
        self.ufrags.insert(local.ufrag.into_boxed_str(), slot);
        self.room(room).transports.push(slot);
        self.counters.rooms = self.rooms.len() as u64;
        self.counters.transports.new += 1;
        self.next_tick.get_or_insert(now + super::tick::TICK);
        Ok(())
    }

    fn set_remote(&mut self, now: Instant, id: TransportId, remote: Remote) -> Result<(), Refusal> {
        let slot = self.transport_slot(id)?;
        self.acting = Some(slot);
        let transport = &mut self.transports[slot];
        if let Some(before) = &transport.remote
            && transport.has_dtls()
            && (before.fingerprints != remote.fingerprints || before.role != remote.role)
        {
            return refuse("dtls_changed", "Fingerprints and DTLS role cannot change once DTLS has begun.");
        }
        transport.ice.set_remote(credentials(&remote.ice));
        transport.remote = Some(remote);
        transport.remote_since.get_or_insert(now);
        self.start_dtls(now, slot);
        self.settle(now, slot);
        Ok(())
    }

    fn restart_ice(
        &mut self,
        id: TransportId,
        local: IceCredentials,
        remote: Option<IceCredentials>,
    ) -> Result<(), Refusal> {
        let slot = self.transport_slot(id)?;
        if self.ufrags.get(local.ufrag.as_str()).is_some_and(|s| *s != slot) {
            return refuse("duplicate_ufrag", "Another transport uses this ICE user fragment.");
        }
        let transport = &mut self.transports[slot];
        transport.ice.restart(credentials(&local), remote.as_ref().map(credentials));
        if let (Some(known), Some(ice)) = (&mut transport.remote, remote) {
            known.ice = ice;
        }
        let ufrag = local.ufrag.into_boxed_str();
        if self.ufrags.insert(ufrag.clone(), slot).is_none() {
            transport.ufrags.push(ufrag);
        }
        // Of restarts that the peer has not followed only the last can still be.
        self.forget_old_ufrags(slot);
        Ok(())
    }

    fn add_uptrack(&mut self, now: Instant, spec: UptrackSpec) -> Result<(), Refusal> {
        let slot = self.transport_slot(spec.transport)?;
        if self.uptrack_slots.contains_key(&spec.uptrack) {
            return refuse("duplicate_id", format!("Uptrack {} exists already.", spec.uptrack));
        }
        let transport = &self.transports[slot];
        if transport.uptracks.len() + transport.downtracks.len() >= self.config.max_tracks {
            return refuse("too_many_tracks", "The transport carries as many tracks as it may.");
        }
        let room = transport.room;
        let uptrack = Uptrack::new(spec, slot, room, &self.config)?;
        let id = uptrack.id;
        let index = self.uptracks.insert(uptrack);
        self.uptrack_slots.insert(id, index);
        self.counters.uptracks = self.uptracks.len() as u64;
        self.transports[slot].uptracks.push(index);
        self.limit_history(index);
        self.claim_streams(slot, index);
        self.update_demand(now, index);
        Ok(())
    }

    fn add_downtrack(&mut self, now: Instant, spec: DowntrackSpec) -> Result<(), Refusal> {
        let slot = self.transport_slot(spec.transport)?;
        let uptrack = self.uptrack_slot(spec.uptrack)?;
        if self.downtrack_slots.contains_key(&spec.downtrack) {
            return refuse("duplicate_id", format!("Downtrack {} exists already.", spec.downtrack));
        }
        let transport = &self.transports[slot];
        if transport.room != self.uptracks[uptrack].room {
            return refuse("other_room", "An uptrack can only be subscribed to from its own room.");
        }
        if transport.uptracks.len() + transport.downtracks.len() >= self.config.max_tracks {
            return refuse("too_many_tracks", "The transport carries as many tracks as it may.");
        }
        let taken = |ssrc: Option<Ssrc>| ssrc.is_some_and(|s| transport.sent_streams.contains_key(&s.0));
        if taken(Some(spec.ssrc)) || taken(spec.rtx_ssrc) || spec.rtx_ssrc == Some(spec.ssrc) {
            return refuse("duplicate_ssrc", "The transport sends another stream with this ssrc.");
        }
        let id = spec.downtrack;
        let (ssrc, rtx_ssrc) = (spec.ssrc, spec.rtx_ssrc);
        let downtrack = Downtrack::new(spec, slot, uptrack, &self.uptracks[uptrack], &mut self.entropy);
        let promises_feedback = downtrack.promises_feedback();
        let index = self.downtracks.insert(downtrack);
        self.downtrack_slots.insert(id, index);
        self.counters.downtracks = self.downtracks.len() as u64;
        let transport = &mut self.transports[slot];
        if promises_feedback && self.config.congestion_control {
            transport.downlink.promise_feedback();
        }
        transport.downtracks.push(index);
        transport.sent_streams.insert(ssrc.0, SentStream { downtrack: index, is_rtx: false });
        if let Some(rtx) = rtx_ssrc {
            transport.sent_streams.insert(rtx.0, SentStream { downtrack: index, is_rtx: true });
        }
        self.uptracks[uptrack].downtracks.push(index);
        self.retarget(now, index);
        Ok(())
    }

    fn switch_downtrack(&mut self, now: Instant, id: DowntrackId, to: UptrackId) -> Result<(), Refusal> {
        let slot = self.downtrack_slot(id)?;
        let to = self.uptrack_slot(to)?;
        let from = self.downtracks[slot].uptrack;
        if self.uptracks[to].room != self.transports[self.downtracks[slot].transport].room {
            return refuse("other_room", "An uptrack can only be subscribed to from its own room.");
        }
        if from == to {
            return Ok(());
        }
        if let Some(uptrack) = self.uptracks.get_mut(from) {
            uptrack.downtracks.retain(|s| *s != slot);
        }
        self.uptracks[to].downtracks.push(slot);
        let transport = self.downtracks[slot].transport;
        self.transports[transport].pacer.forget(slot);
        self.downtracks[slot].join(to, &self.uptracks[to]);
        self.update_demand(now, from);
        self.retarget(now, slot);
        Ok(())
    }

    pub(super) fn transport_slot(&self, id: TransportId) -> Result<usize, Refusal> {
        self.transport_slots
            .get(&id)
            .copied()
            .ok_or_else(|| ("unknown_transport", format!("There is no transport {id}.")))
    }

    pub(super) fn uptrack_slot(&self, id: UptrackId) -> Result<usize, Refusal> {
        self.uptrack_slots.get(&id).copied().ok_or_else(|| ("unknown_uptrack", format!("There is no uptrack {id}.")))
    }

    fn downtrack_slot(&self, id: DowntrackId) -> Result<usize, Refusal> {
        self.downtrack_slots
            .get(&id)
            .copied()
            .ok_or_else(|| ("unknown_downtrack", format!("There is no downtrack {id}.")))
    }
}

fn credentials(border: &IceCredentials) -> Credentials {
    Credentials { ufrag: border.ufrag.clone(), pwd: border.pwd.clone() }
}

fn name_and_subject(command: &Command) -> (&'static str, u64) {
    match command {
        Command::AddTransport { transport, .. } => ("add_transport", transport.0),
        Command::SetRemote { transport, .. } => ("set_remote", transport.0),
        Command::RestartIce { transport, .. } => ("restart_ice", transport.0),
        Command::RemoveTransport { transport } => ("remove_transport", transport.0),
        Command::OpenDataChannels { transport, .. } => ("open_data_channels", transport.0),
        Command::SendData { .. } => ("send_data", 0),
        Command::AddUptrack(spec) => ("add_uptrack", spec.uptrack.0),
        Command::UpdateUptrack { uptrack, .. } => ("update_uptrack", uptrack.0),
        Command::RemoveUptrack { uptrack } => ("remove_uptrack", uptrack.0),
        Command::RequestKeyframe { uptrack } => ("request_keyframe", uptrack.0),
        Command::BoundDownlink { transport, .. } => ("bound_downlink", transport.0),
        Command::AddDowntrack(spec) => ("add_downtrack", spec.downtrack.0),
        Command::SetDowntrack { downtrack, .. } => ("set_downtrack", downtrack.0),
        Command::SwitchDowntrack { downtrack, .. } => ("switch_downtrack", downtrack.0),
        Command::RemoveDowntrack { downtrack } => ("remove_downtrack", downtrack.0),
        Command::AddDataUptrack { data_uptrack, .. } => ("add_data_uptrack", data_uptrack.0),
        Command::RemoveDataUptrack { data_uptrack } => ("remove_data_uptrack", data_uptrack.0),
        Command::AddDataDowntrack { data_uptrack, .. } => ("add_data_downtrack", data_uptrack.0),
        Command::RemoveDataDowntrack { data_uptrack, .. } => ("remove_data_downtrack", data_uptrack.0),
        Command::Snapshot => ("snapshot", 0),
        Command::SetMemoryPressure { .. } => ("set_memory_pressure", 0),
        Command::GetRoomStats { room, .. } => ("get_room_stats", room.0),
        Command::StartTrace { transport, .. } => ("start_trace", transport.0),
        Command::StopTrace { trace } => ("stop_trace", *trace),
        Command::InjectFault { transport, .. } => ("inject_fault", transport.0),
    }
}
