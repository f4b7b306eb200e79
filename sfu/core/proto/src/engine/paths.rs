//! ICE in the engine: which transport a check is for, the table of validated paths, and what a change of path brings.

use std::net::SocketAddr;
use std::time::Instant;

use super::{Datagram, Engine};
use crate::command::MediaKind;
use crate::drop_reason::DropReason;
use crate::event::TransportState;
use crate::ice::{self, IceEvent, IceState, Protocol};
use crate::stun::{Message, Pong};
use crate::transmit::{Path, TcpId};

impl Engine {
    /// An unknown ufrag gets no answer and costs a look-up: floods are cheap to ignore.
    pub(super) fn receive_stun(&mut self, now: Instant, path: Path, datagram: &Datagram<'_>) {
        self.counters.up.stun.add(datagram.payload.len());
        if let Err(reason) = self.check(now, path, datagram) {
            self.counters.dropped.add(reason);
        }
    }

    fn check(&mut self, now: Instant, path: Path, datagram: &Datagram<'_>) -> Result<(), DropReason> {
        if let Some(pong) = Pong::parse(datagram.payload) {
            return self.ponged(now, path, datagram.source, &pong);
        }
        let message = Message::parse(datagram.payload)?;
        if message.is_success() {
            return self.answered(now, path, datagram.source, &message);
        }
        let (ours, _) = message.ufrags()?;
        let ours = std::str::from_utf8(ours).map_err(|_| DropReason::StunUsername)?;
        let Some(&slot) = self.ufrags.get(ours) else { return Err(DropReason::StunUsername) };
        self.acting = Some(slot);
        let transport = &mut self.transports[slot];
        let mut answer = std::mem::take(&mut self.scratch);
        let outcome = transport.ice.handle_check(now, to_ice(path, datagram.source), &message, &mut answer);
        if !answer.is_empty() {
            self.counters.down.stun.add(answer.len());
            self.arena.push(path, &answer);
        }
        self.scratch = answer;
        outcome?;
        let transport = &mut self.transports[slot];
        transport.checks_up += u64::from(transport.path == Some(path));
        // A path belongs to one transport, and a live one keeps it: else any client could divert another's by spoofing.
        let owner = self.paths.get(&path).copied().filter(|s| *s != slot);
        if owner.and_then(|s| self.transports.get(s)).is_some_and(|t| t.state == TransportState::Connected) {
            return Err(DropReason::UnvalidatedPath);
        }
        if self.paths.insert(path, slot) != Some(slot) {
            self.transports[slot].known_paths.push(to_ice(path, datagram.source));
        }
        if self.transports[slot].state == TransportState::New {
            self.set_state(slot, TransportState::Connecting, "");
        }
        self.after_ice(now, slot);
        Ok(())
    }

    /// The path tells whose answer it is: who may answer has passed a check on it.
    fn answered(
        &mut self,
        now: Instant,
        path: Path,
        source: SocketAddr,
        message: &Message<'_>,
    ) -> Result<(), DropReason> {
        let Some(&slot) = self.paths.get(&path) else { return Err(DropReason::StunUnexpected) };
        self.acting = Some(slot);
        let transport = &mut self.transports[slot];
        let took = transport.ice.handle_answer(now, to_ice(path, source), message)?;
        if transport.is_asked_for_time() {
            transport.rtt.observe(took);
        }
        self.after_ice(now, slot);
        Ok(())
    }

    /// Likewise for a ping.
    fn ponged(&mut self, now: Instant, path: Path, source: SocketAddr, pong: &Pong<'_>) -> Result<(), DropReason> {
        let Some(&slot) = self.paths.get(&path) else { return Err(DropReason::StunUnexpected) };
        self.acting = Some(slot);
        let transport = &mut self.transports[slot];
        let left = transport.ice.handle_pong(to_ice(path, source), pong)?;
        self.counters.pongs += 1;
        transport.downlink.pings_mut().answered(now, left);
        transport.heed_pings();
        Ok(())
    }

    /// Acts on what the agent has to say.
    pub(super) fn after_ice(&mut self, now: Instant, slot: usize) {
        while let Some(event) = self.transports.get_mut(slot).and_then(|t| t.ice.poll_event()) {
            match event {
                IceEvent::Selected { path, previous } => {
                    let path = from_ice(path);
                    let transport = &mut self.transports[slot];
                    transport.path = Some(path);
                    if let Some(previous) = previous {
                        self.counters.path_switches += 1;
                        transport.downlink.begin_anew(true);
                        let before = from_ice(previous);
                        if std::mem::discriminant(&before) != std::mem::discriminant(&path) {
                            self.emit_path(slot);
                        }
                    } else if transport.protection.is_none() {
                        self.foresee_pictures(now, slot);
                    }
                    self.start_dtls(now, slot);
                    self.settle(now, slot);
                }
                IceEvent::State(IceState::Connected) => self.path_is_live(now, slot),
                IceEvent::State(IceState::Disconnected) => {
                    if self.transports[slot].may_send() {
                        self.set_state(slot, TransportState::Disconnected, "no_checks");
                    }
                }
                IceEvent::State(IceState::Failed) => {
                    self.transports[slot].path = None;
                    self.set_state(slot, TransportState::Failed, "consent_lost");
                }
                IceEvent::State(IceState::New) => {}
                IceEvent::Restarted => self.forget_old_ufrags(slot),
            }
        }
    }

    /// What was sent meanwhile never left: nothing that refers to it can be decoded.
    fn begin_pictures_anew(&mut self, slot: usize) {
        for index in self.transports[slot].downtracks.clone() {
            self.forget_waiting(index);
            if let Some(downtrack) = self.downtracks.get_mut(index).filter(|one| one.kind == MediaKind::Video) {
                downtrack.selector.restart();
            }
        }
    }

    fn path_is_live(&mut self, now: Instant, slot: usize) {
        let transport = &mut self.transports[slot];
        transport.path = transport.ice.selected().map(from_ice);
        let is_secured = transport.protection.is_some();
        match transport.state {
            TransportState::Disconnected | TransportState::Failed if is_secured => {
                let was_failed = transport.state == TransportState::Failed;
                self.set_state(slot, TransportState::Connected, "");
                if was_failed {
                    self.transports[slot].downlink.begin_anew(false);
                    self.begin_pictures_anew(slot);
                    self.after_connect(now, slot);
                }
            }
            _ => {
                self.start_dtls(now, slot);
                self.settle(now, slot);
            }
        }
    }

    pub(super) fn forget_old_ufrags(&mut self, slot: usize) {
        let transport = &mut self.transports[slot];
        let live: Vec<Box<str>> = transport.ice.local_ufrags().map(Box::from).collect();
        for old in transport.ufrags.extract_if(.., |u| !live.contains(u)) {
            self.ufrags.remove(&old);
        }
    }

    pub(super) fn path_closed(&mut self, now: Instant, path: Path) {
        let Some(slot) = self.paths.remove(&path) else { return };
        self.acting = Some(slot);
        let Some(transport) = self.transports.get_mut(slot) else { return };
        for closed in transport.known_paths.extract_if(.., |p| from_ice(*p) == path) {
            transport.ice.path_closed(&closed);
        }
        if transport.path == Some(path) {
            transport.path = None;
        }
        self.after_ice(now, slot);
    }

    /// Consent, path lifetimes and postponed nominations, for every transport.
    pub(super) fn tick_ice(&mut self, now: Instant) {
        for slot in self.occupied() {
            let transport = &mut self.transports[slot];
            transport.ice.want_answer(transport.is_asked_for_time() || transport.is_asked_for_pings());
            if transport.ice.deadline().is_none_or(|at| at > now) {
                continue;
            }
            self.acting = Some(slot);
            transport.ice.handle_timeout(now);
            if let Some(path) = transport.ice.ask(now, &mut self.scratch) {
                self.counters.down.stun.add(self.scratch.len());
                self.arena.push(from_ice(path), &self.scratch);
            }
            let agent = &transport.ice;
            let paths = &mut self.paths;
            transport.known_paths.retain(|path| {
                let is_known = agent.accepts(path);
                if !is_known && paths.get(&from_ice(*path)) == Some(&slot) {
                    paths.remove(&from_ice(*path));
                }
                is_known
            });
            self.after_ice(now, slot);
        }
    }
}

pub(super) fn to_ice(path: Path, source: SocketAddr) -> ice::Path {
    let protocol = match path {
        Path::Udp(_) => Protocol::Udp,
        Path::Tcp(TcpId(id)) => Protocol::Tcp(id),
    };
    ice::Path { remote: source, protocol }
}

pub(super) fn from_ice(path: ice::Path) -> Path {
    match path.protocol {
        Protocol::Udp => Path::Udp(path.remote),
        Protocol::Tcp(id) => Path::Tcp(TcpId(id)),
    }
}
