//! One ICE + DTLS association: its path, its keys, its data channels, and the tables that find its streams by ssrc.
//!
//! It decides nothing about tracks; what happened on it is said in [`Note`]s. RFC 8445, 5764, 8261.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::allocator::redundancy::Redundancy;
use crate::bwe::BweConfig;
use crate::command::{ChannelSpec, Remote};
use crate::config::Config;
use crate::counters::Counters;
use crate::downlink::Downlink;
use crate::dtls::{Certificate, DimplEngine, DtlsEngine, DtlsError, DtlsOutput, SrtpKeys};
use crate::engine::allot::Allotment;
use crate::event::TransportState;
use crate::fast_map::{FastMap, Keyed};
use crate::ice::{self, IceAgent};
use crate::ids::{RoomId, Ssrc, TransportId};
use crate::pacer::Pacer;
use crate::registers::uptrack::TwccRecorder;
use crate::remb_sum::RembSum;
use crate::rtt::Rtt;
use crate::sctp::{Sctp, SctpEvent};
use crate::srtp::{InboundSrtp, OutboundSrtp, Profile};
use crate::transmit::{Path, TransmitArena};
use crate::unanswered;

/// What happened inside a transport and concerns the engine.
#[derive(Debug, PartialEq, Eq)]
pub enum Note {
    /// Keys are there: media may flow.
    Secured,
    DtlsFailed(DtlsError),
    /// The peer ended DTLS.
    PeerClosed,
    Sctp(SctpEvent),
}

/// What a packet of a known ssrc is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamUse {
    /// Encoding `encoding` of the uptrack in slot `uptrack`.
    Media { uptrack: usize, encoding: usize },
    /// Its retransmissions (RFC 4588).
    Rtx { uptrack: usize, encoding: usize },
    /// Belongs to no section (yet); looked at again when sections change.
    Unclaimed,
}

/// What feedback about a sent ssrc concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentStream {
    pub downtrack: usize,
    pub is_rtx: bool,
}

pub struct Protection {
    pub inbound: InboundSrtp,
    pub outbound: OutboundSrtp,
    pub profile: Profile,
}

/// What the fan-out touches of it for each packet comes first: see `Downtrack`.
#[repr(C)]
pub struct Transport {
    /// Where everything but STUN answers is sent.
    pub path: Option<Path>,
    pub protection: Option<Box<Protection>>,
    pub state: TransportState,
    pub packets_down: u64,
    pub bytes_down: u64,
    pub pacer: Pacer,
    pub downlink: Downlink,
    pub id: TransportId,
    pub room: RoomId,
    pub created: Instant,
    pub ice: IceAgent,
    pub remote: Option<Remote>,
    /// When the description came: from then on the client has limited time to connect.
    pub remote_since: Option<Instant>,
    pub streams: FastMap<u32, StreamUse>,
    pub sent_streams: FastMap<u32, SentStream>,
    pub uptracks: Vec<usize>,
    pub downtracks: Vec<usize>,
    /// Timer entry that stands for this transport, if any.
    pub scheduled: Option<Instant>,
    pub panics_on_input: bool,
    pub next_report: Option<Instant>,
    pub next_twcc: Option<Instant>,
    /// Our ufrags that are routed here, and the paths that are.
    pub ufrags: Vec<Box<str>>,
    pub known_paths: Vec<ice::Path>,
    /// Sender of our RTCP towards this peer.
    pub rtcp_ssrc: Ssrc,
    pub allotment: Allotment,
    /// Whether there is no room for what RED says again.
    pub redundancy: Redundancy,
    /// Arrivals for transport-wide feedback to the peer.
    pub twcc: TwccRecorder,
    pub rtt: Rtt,
    /// Our clock minus the peer's, NTP units, from its least delayed sender report.
    pub ntp_offset: Option<i64>,
    pub bytes_up: u64,
    pub packets_up: u64,
    /// RTCP, and checks of the path in use: with `packets_up`, all that was heard.
    pub reports_up: u64,
    pub checks_up: u64,
    pub rembs: RembSum,
    pub unanswered: unanswered::Watch,
    /// The byte counts at the last quality report.
    pub reported_up: u64,
    pub reported_down: u64,
    /// Datagrams of the handshake that are not read yet, and whether the engine has it on its list.
    pub flights: VecDeque<Box<[u8]>>,
    pub is_queued: bool,
    /// It counts as a handshake under way.
    pub is_counted: bool,
    dtls: Option<Box<dyn DtlsEngine>>,
    dtls_started: Option<Instant>,
    dtls_wait: Option<Instant>,
    sctp: Option<Box<Sctp>>,
    channels: Vec<ChannelSpec>,
}

/// What a transport borrows from the engine while it works.
pub struct Work<'a> {
    pub config: &'a Config,
    pub arena: &'a mut TransmitArena,
    pub counters: &'a mut Counters,
    pub scratch: &'a mut Vec<u8>,
    pub packets: &'a mut VecDeque<Bytes>,
    pub notes: &'a mut Vec<Note>,
}

impl Transport {
    pub fn new(
        id: TransportId,
        room: RoomId,
        now: Instant,
        ice: IceAgent,
        key: Keyed,
        rtcp_ssrc: Ssrc,
        bwe: BweConfig,
    ) -> Self {
        Self {
            id,
            room,
            created: now,
            state: TransportState::New,
            ice,
            remote: None,
            remote_since: None,
            path: None,
            protection: None,
            streams: FastMap::with_hasher(key),
            sent_streams: FastMap::with_hasher(key),
            uptracks: Vec::new(),
            downtracks: Vec::new(),
            scheduled: None,
            panics_on_input: false,
            next_report: None,
            next_twcc: None,
            ufrags: Vec::new(),
            known_paths: Vec::new(),
            rtcp_ssrc,
            downlink: Downlink::new(bwe),
            pacer: Pacer::default(),
            allotment: Allotment::default(),
            redundancy: Redundancy::default(),
            twcc: TwccRecorder::new(),
            rtt: Rtt::default(),
            ntp_offset: None,
            bytes_up: 0,
            bytes_down: 0,
            packets_up: 0,
            packets_down: 0,
            reports_up: 0,
            checks_up: 0,
            rembs: RembSum::default(),
            unanswered: unanswered::Watch::default(),
            reported_up: 0,
            reported_down: 0,
            flights: VecDeque::new(),
            is_queued: false,
            is_counted: false,
            dtls: None,
            dtls_started: None,
            dtls_wait: None,
            sctp: None,
            channels: Vec::new(),
        }
    }

    /// Keys are there and consent is fresh enough to send.
    #[inline]
    pub fn may_send(&self) -> bool {
        matches!(self.state, TransportState::Connected | TransportState::Disconnected)
    }

    /// The peer sends media and gets none, on which he would report: only checks tell how long his round trip is.
    pub fn is_asked_for_time(&self) -> bool {
        !self.uptracks.is_empty() && self.sent_streams.is_empty()
    }

    /// Pings would be of use, and it is not known whether they are answered.
    pub fn is_asked_for_pings(&self) -> bool {
        self.downlink.pings().is_on() && self.ice.takes_pings().is_none()
    }

    /// What pings have told, or have not, holds back.
    pub fn heed_pings(&mut self) {
        self.pacer.set_ping_hold(self.downlink.ping_hold());
    }

    /// A handshake that has begun and not ended.
    pub fn is_shaking_hands(&self) -> bool {
        self.dtls.is_some() && self.protection.is_none()
    }

    pub fn has_dtls(&self) -> bool {
        self.dtls.is_some()
    }

    /// Begins DTLS as soon as there is a path and the client's description is known.
    pub fn start_dtls(
        &mut self,
        now: Instant,
        dimpl: &Arc<dimpl::Config>,
        certificate: &Certificate,
        work: &mut Work<'_>,
    ) {
        let (None, Some(remote), Some(_)) = (&self.dtls, &self.remote, self.path) else { return };
        let engine = DimplEngine::new(dimpl.clone(), certificate, remote.role, remote.fingerprints.clone(), now);
        self.dtls = Some(Box::new(engine));
        self.dtls_started = Some(now);
        // A client's first flight is written by its first timeout.
        self.timeout(now, work);
    }

    pub fn receive_dtls(&mut self, now: Instant, datagram: &[u8], work: &mut Work<'_>) {
        let Some(dtls) = &mut self.dtls else { return };
        match dtls.receive(now, datagram) {
            Ok(()) => self.progress(now, work),
            Err(error) => self.fail(error, work),
        }
    }

    pub fn timeout(&mut self, now: Instant, work: &mut Work<'_>) {
        let Some(dtls) = &mut self.dtls else { return };
        if self.protection.is_none()
            && self.dtls_started.is_some_and(|at| now >= at + work.config.dtls_handshake_timeout)
        {
            return self.fail(DtlsError::Handshake, work);
        }
        // Nothing is sent again while the answer to it is there and only waits for its turn.
        if self.flights.is_empty()
            && self.dtls_wait.is_none_or(|at| at <= now)
            && let Err(error) = dtls.timeout(now)
        {
            return self.fail(error, work);
        }
        if let Some(sctp) = &mut self.sctp {
            sctp.timeout(now);
        }
        self.progress(now, work);
    }

    pub fn deadline(&self, handshake: Duration) -> Option<Instant> {
        self.dtls.as_ref()?;
        let life = self.dtls_started.filter(|_| self.protection.is_none()).map(|at| at + handshake);
        let sctp = self.sctp.as_ref().and_then(|s| s.deadline());
        let wait = self.dtls_wait.filter(|_| self.flights.is_empty());
        [wait, life, sctp].into_iter().flatten().min()
    }

    pub fn open_channels(&mut self, now: Instant, specs: Vec<ChannelSpec>, work: &mut Work<'_>) {
        match &mut self.sctp {
            Some(sctp) => sctp.open(now, specs),
            None => self.channels.extend(specs),
        }
        self.progress(now, work);
    }

    /// `None`: there is no association yet.
    pub fn send_data(
        &mut self,
        now: Instant,
        label: &str,
        payload: &[u8],
        work: &mut Work<'_>,
    ) -> Option<crate::sctp::Sent> {
        let sent = self.sctp.as_mut()?.send(now, label, payload);
        self.progress(now, work);
        Some(sent)
    }

    pub fn open_labels(&self) -> Vec<String> {
        self.sctp.as_ref().map(|s| s.open_labels().map(str::to_owned).collect()).unwrap_or_default()
    }

    /// Says close_notify if there are keys, and forgets them.
    pub fn close(&mut self, now: Instant, work: &mut Work<'_>) {
        if let Some(dtls) = &mut self.dtls {
            dtls.close();
        }
        if self.may_send() {
            self.progress(now, work);
        }
        self.dtls = None;
        self.sctp = None;
        self.protection = None;
    }

    /// Moves bytes between the layers until none has anything left to say.
    fn progress(&mut self, now: Instant, work: &mut Work<'_>) {
        loop {
            if let Err(error) = self.drain_dtls(now, work) {
                return self.fail(error, work);
            }
            let Some(sctp) = &mut self.sctp else { return };
            while let Some(event) = sctp.poll_event() {
                work.notes.push(Note::Sctp(event));
            }
            sctp.poll_packet(now, work.packets);
            if work.packets.is_empty() {
                return;
            }
            while let Some(packet) = work.packets.pop_front() {
                let Some(dtls) = &mut self.dtls else {
                    work.packets.clear();
                    return;
                };
                let sent = dtls.send(&packet);
                if let Err(error) = sent.and_then(|()| self.drain_dtls(now, work)) {
                    work.packets.clear();
                    return self.fail(error, work);
                }
            }
        }
    }

    fn drain_dtls(&mut self, now: Instant, work: &mut Work<'_>) -> Result<(), DtlsError> {
        loop {
            let Some(dtls) = &mut self.dtls else { return Ok(()) };
            match dtls.poll(work.scratch)? {
                DtlsOutput::Packet(packet) => {
                    if let Some(path) = self.path {
                        work.counters.down.dtls.add(packet.len());
                        work.arena.push(path, packet);
                    }
                }
                DtlsOutput::Connected(keys) => {
                    self.protection = Some(Box::new(protect(&keys, work.config.max_ssrcs)?));
                    self.hold_claimed();
                    let role = self.remote.as_ref().map(|r| r.role);
                    if let Some(role) = role {
                        let mut sctp = Sctp::new(work.config, role);
                        if !self.channels.is_empty() {
                            sctp.open(now, std::mem::take(&mut self.channels));
                        }
                        self.sctp = Some(Box::new(sctp));
                    }
                    work.notes.push(Note::Secured);
                }
                DtlsOutput::Data(data) => {
                    if let Some(reason) = self.sctp.as_mut().and_then(|sctp| sctp.receive(now, data)) {
                        work.counters.dropped.add(reason);
                    }
                }
                DtlsOutput::Closed => work.notes.push(Note::PeerClosed),
                DtlsOutput::Wait(at) => {
                    self.dtls_wait = Some(at);
                    return Ok(());
                }
            }
        }
    }

    /// Lets no other ssrc take the place of one that belongs to an uptrack.
    pub fn hold_claimed(&mut self) {
        let Some(protection) = &mut self.protection else { return };
        for (&ssrc, _) in self.streams.iter().filter(|(_, usage)| **usage != StreamUse::Unclaimed) {
            protection.inbound.hold(Ssrc(ssrc));
        }
    }

    fn fail(&mut self, error: DtlsError, work: &mut Work<'_>) {
        self.dtls = None;
        self.sctp = None;
        self.protection = None;
        work.notes.push(Note::DtlsFailed(error));
    }
}

fn protect(keys: &SrtpKeys, max_ssrcs: usize) -> Result<Protection, DtlsError> {
    let inbound = InboundSrtp::new(keys.profile, &keys.remote_key, &keys.remote_salt, max_ssrcs);
    let outbound = OutboundSrtp::new(keys.profile, &keys.local_key, &keys.local_salt);
    match (inbound, outbound) {
        (Ok(inbound), Ok(outbound)) => Ok(Protection { inbound, outbound, profile: keys.profile }),
        _ => Err(DtlsError::NoSrtpProfile),
    }
}
