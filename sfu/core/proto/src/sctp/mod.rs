//! Data channels of one transport: SCTP over DTLS (RFC 8261, via `sctp-proto`) with in-band establishment (RFC 8832).
//!
//! Either side may open a channel; ours are found by label. What a receiver cannot take yet waits here under a cap:
//! lossy channels drop their oldest messages, a reliable one that stays over its cap is reset. A peer that sends more than it
//! may is slowed down. Nothing here encrypts.

mod allowance;
pub mod dcep;
mod held;

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sctp_proto::{
    Association, AssociationHandle, ClientConfig, DatagramEvent, Endpoint, EndpointConfig, EndpointEvent,
    Event as AssociationOutput, Payload, PayloadProtocolIdentifier as Ppid, ReliabilityType, ServerConfig, StreamEvent,
    StreamId, TransportConfig,
};

use crate::command::{ChannelSpec, DtlsRole};
use crate::config::Config;
use crate::drop_reason::DropReason;
use allowance::Allowance;
use dcep::Dcep;
use held::{Held, Weighed};

/// Both ends send INIT in most stacks; we wait so long for theirs, because a crossing costs a retransmission time.
const OPEN_PATIENCE: Duration = Duration::from_millis(1_000);
/// SCTP packet that fits one DTLS record within 1 200 bytes of UDP payload.
const SCTP_PAYLOAD_BYTES: u32 = 1_120;
/// Data handed to SCTP ahead of what it has sent: enough to fill its window, little enough to drop the rest here.
const IN_FLIGHT_BYTES: usize = 64 * 1024;
/// A reliable channel's queue may outgrow its cap while the stall clock runs, but never beyond this multiple of it.
const HARD_CAP_FACTOR: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SctpEvent {
    ChannelOpen {
        label: String,
    },
    Message {
        label: String,
        payload: Vec<u8>,
    },
    /// A reliable reader stayed over its cap; the channel is gone.
    Stalled {
        label: String,
    },
    ChannelClosed {
        label: String,
    },
    /// The peer ended the association, as it does with all of its connection.
    Ended,
    /// The association failed, and there will be no other.
    Lost,
}

/// What became of a message given to [`Sctp::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Queued,
    /// Queued, and this many older lossy messages gave way.
    Displaced(usize),
    /// No open channel has this label.
    NoChannel,
    TooLarge,
}

struct Channel {
    label: String,
    is_lossy: bool,
    is_open: bool,
    queue: VecDeque<(Bytes, Ppid)>,
    queued_bytes: usize,
    over_cap_since: Option<Instant>,
}

pub struct Sctp {
    endpoint: Endpoint,
    association: Option<(AssociationHandle, Association)>,
    is_connected: bool,
    is_lost: bool,
    role: DtlsRole,
    client: Arc<TransportConfig>,
    connect_at: Option<Instant>,
    wanted: Vec<ChannelSpec>,
    channels: HashMap<StreamId, Channel>,
    events: VecDeque<SctpEvent>,
    allowance: Allowance,
    held: Held,
    /// DATA chunks that the association took out of the packet being read.
    taken: usize,
    /// The packet being read says that the peer ends the association.
    is_ending: bool,
    max_channels: usize,
    max_message_bytes: usize,
    reliable_cap: usize,
    lossy_cap: usize,
    stall: Duration,
}

/// `sctp-proto` tells associations apart by address; here DTLS does, so any will do.
const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 5_000);

impl Sctp {
    /// `role` is our DTLS role: it decides the parity of our stream ids (RFC 8832 §6).
    pub fn new(config: &Config, role: DtlsRole) -> Self {
        let bytes = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let transport = || {
            TransportConfig::default()
                .with_max_receive_buffer_size(bytes(config.sctp_receive_buffer_bytes))
                .with_max_receive_message_size(bytes(config.max_message_bytes))
                .with_max_send_message_size(bytes(config.max_message_bytes))
                .with_max_num_inbound_streams(held::STREAMS)
                .with_max_num_outbound_streams(held::STREAMS)
                .with_rto_initial_ms(500)
                .with_rto_min_ms(200)
                .with_rto_max_ms(5_000)
                .with_max_init_retransmits(None)
        };
        let mut endpoint = EndpointConfig::new();
        endpoint.max_payload_size(SCTP_PAYLOAD_BYTES);
        let mut server = ServerConfig::new();
        server.transport = Arc::new(transport());
        Self {
            endpoint: Endpoint::new(Arc::new(endpoint), Some(Arc::new(server))),
            association: None,
            is_connected: false,
            is_lost: false,
            role,
            client: Arc::new(transport()),
            connect_at: None,
            wanted: Vec::new(),
            channels: HashMap::new(),
            events: VecDeque::new(),
            allowance: Allowance::new(config.data_messages_per_second, config.data_bytes_per_second),
            held: Held::new(config.sctp_receive_buffer_bytes),
            taken: 0,
            is_ending: false,
            max_channels: config.max_channels,
            max_message_bytes: config.max_message_bytes,
            reliable_cap: config.reliable_buffer_bytes,
            lossy_cap: config.lossy_buffer_bytes,
            stall: config.reliable_stall,
        }
    }

    /// Opens channels of ours as soon as the association is up, and sees to it that it comes up.
    pub fn open(&mut self, now: Instant, specs: impl IntoIterator<Item = ChannelSpec>) {
        self.wanted.extend(specs);
        if self.is_connected {
            self.open_wanted(now);
        } else if self.connect_at.is_none() {
            self.connect_at = Some(now + OPEN_PATIENCE);
        }
    }

    /// Sends INIT at once instead of waiting for the peer's.
    pub fn connect(&mut self, now: Instant) {
        self.connect_at = Some(now);
        self.timeout(now);
    }

    pub fn is_open(&self, label: &str) -> bool {
        self.channels.values().any(|c| c.is_open && c.label == label)
    }

    pub fn open_labels(&self) -> impl Iterator<Item = &str> {
        self.channels.values().filter(|c| c.is_open).map(|c| c.label.as_str())
    }

    /// Takes one SCTP packet out of a DTLS record. Says why, if it was as if lost, or was the last.
    pub fn receive(&mut self, now: Instant, packet: &[u8]) -> Option<DropReason> {
        if self.is_lost {
            return None;
        }
        if held::is_only_errors(packet) {
            return None;
        }
        let load = match self.held.weigh(packet) {
            Weighed::Malformed => return Some(DropReason::DataMalformed),
            Weighed::Ahead => return Some(DropReason::DataOverRate),
            Weighed::Fits(load) => load,
        };
        if !self.allowance.takes(now, packet, load.work) {
            return Some(DropReason::DataOverRate);
        }
        self.taken = 0;
        self.is_ending = held::is_ending(packet);
        let packet = Bytes::copy_from_slice(packet);
        match self.endpoint.handle(now, PEER, None, None, packet) {
            Some((handle, DatagramEvent::NewAssociation(association))) => self.adopt(handle, association),
            Some((handle, DatagramEvent::AssociationEvent(event))) => {
                if let Some((ours, association)) = &mut self.association
                    && *ours == handle
                {
                    association.handle_event(event);
                }
            }
            None => {}
        }
        self.connect_at = self.connect_at.filter(|_| self.association.is_none());
        self.progress(now);
        let is_peers = std::mem::take(&mut self.is_ending);
        if self.is_lost {
            return (!is_peers).then_some(DropReason::DataFatal);
        }
        self.held.took(load, self.taken);
        if !self.held.is_too_much() {
            return None;
        }
        self.lose(SctpEvent::Lost);
        Some(DropReason::DataTooMuch)
    }

    pub fn send(&mut self, now: Instant, label: &str, payload: &[u8]) -> Sent {
        if payload.len() > self.max_message_bytes {
            return Sent::TooLarge;
        }
        let Some((&id, channel)) = self.channels.iter_mut().find(|(_, c)| c.is_open && c.label == label) else {
            return Sent::NoChannel;
        };
        // An empty message cannot be sent as such (RFC 8831 §6.6).
        let (payload, ppid) = if payload.is_empty() {
            (Bytes::from_static(&[0]), Ppid::BinaryEmpty)
        } else {
            (Bytes::copy_from_slice(payload), Ppid::Binary)
        };
        channel.queued_bytes += payload.len();
        channel.queue.push_back((payload, ppid));
        let mut displaced = 0;
        if channel.is_lossy {
            while channel.queued_bytes > self.lossy_cap && channel.queue.len() > 1 {
                if let Some((oldest, _)) = channel.queue.pop_front() {
                    channel.queued_bytes -= oldest.len();
                    displaced += 1;
                }
            }
        }
        self.fill(id);
        self.watch_stall(now, id);
        if displaced > 0 { Sent::Displaced(displaced) } else { Sent::Queued }
    }

    pub fn poll_event(&mut self) -> Option<SctpEvent> {
        self.events.pop_front()
    }

    /// The next SCTP packet to go into a DTLS record.
    pub fn poll_packet(&mut self, now: Instant, out: &mut VecDeque<Bytes>) {
        while let Some(transmit) = self.endpoint.poll_transmit() {
            collect(transmit.payload, out);
        }
        if let Some((_, association)) = &mut self.association {
            let told = out.len();
            while let Some(transmit) = association.poll_transmit(now) {
                collect(transmit.payload, out);
            }
            out.range(told..).for_each(|packet| self.held.tells(packet));
        }
    }

    pub fn timeout(&mut self, now: Instant) {
        if self.is_lost {
            return;
        }
        if self.connect_at.is_some_and(|at| at <= now) && self.association.is_none() {
            self.connect_at = None;
            let mut config = ClientConfig::new();
            config.transport = self.client.clone();
            // Only a full endpoint or port 0 is refused; neither can be.
            if let Ok((handle, association)) = self.endpoint.connect(config, PEER) {
                self.association = Some((handle, association));
            }
        }
        if let Some((_, association)) = &mut self.association
            && association.poll_timeout().is_some_and(|at| at <= now)
        {
            association.handle_timeout(now);
        }
        let over: Vec<StreamId> =
            self.channels.iter().filter(|(_, c)| c.over_cap_since.is_some()).map(|(&id, _)| id).collect();
        for id in over {
            self.watch_stall(now, id);
        }
        self.progress(now);
    }

    pub fn deadline(&self) -> Option<Instant> {
        if self.is_lost {
            return None;
        }
        let association = self.association.as_ref().and_then(|(_, a)| a.poll_timeout());
        let stall = self.channels.values().filter_map(|c| c.over_cap_since).min().map(|at| at + self.stall);
        [association, stall, self.connect_at].into_iter().flatten().min()
    }

    /// An INIT of the peer begins a new association; ours gives way unless it is already up.
    fn adopt(&mut self, handle: AssociationHandle, association: Association) {
        if self.is_connected {
            self.endpoint.handle_event(handle, EndpointEvent::drained());
            return;
        }
        if let Some((old, _)) = self.association.replace((handle, association)) {
            self.endpoint.handle_event(old, EndpointEvent::drained());
        }
        self.held = self.held.of_another();
    }

    fn progress(&mut self, now: Instant) {
        while let Some(event) = self.association.as_mut().and_then(|(_, a)| a.poll()) {
            match event {
                AssociationOutput::Connected => {
                    self.is_connected = true;
                    self.connect_at = None;
                    self.open_wanted(now);
                }
                AssociationOutput::HandshakeFailed { .. } | AssociationOutput::AssociationLost { .. } => {
                    return self.lose(if self.is_ending { SctpEvent::Ended } else { SctpEvent::Lost });
                }
                AssociationOutput::DatagramReceived => self.taken += 1,
                AssociationOutput::Stream(StreamEvent::Readable { id }) => self.read(id),
                AssociationOutput::Stream(StreamEvent::BufferedAmountLow { id }) => self.fill(id),
                AssociationOutput::Stream(StreamEvent::Finished { id } | StreamEvent::Stopped { id, .. }) => {
                    self.forget(id);
                }
                _ => {}
            }
        }
        while self.association.as_mut().and_then(|(_, a)| a.accept_stream().map(|s| s.stream_identifier())).is_some() {}
    }

    /// Nothing is kept of an association that has ended.
    fn lose(&mut self, event: SctpEvent) {
        self.is_lost = true;
        self.association = None;
        self.channels.clear();
        self.events.push_back(event);
    }

    fn open_wanted(&mut self, now: Instant) {
        for spec in std::mem::take(&mut self.wanted) {
            if self.channels.len() >= self.max_channels {
                return;
            }
            let parity = match self.role {
                DtlsRole::Client => 0,
                DtlsRole::Server => 1,
            };
            let Some(id) = (parity..1_024u16).step_by(2).find(|id| !self.channels.contains_key(id)) else { return };
            let Some((_, association)) = &mut self.association else { return };
            let Ok(mut stream) = association.open_stream(id, Ppid::Binary) else { continue };
            // The announcement itself is always reliable and ordered (RFC 8832 §6).
            let announced = stream.write_with_ppi(&dcep::write_open(&spec), Ppid::Dcep);
            if announced.is_err() {
                continue;
            }
            set_reliability(&mut stream, &spec, None);
            self.channels.insert(id, Channel::new(&spec, false, false));
            self.watch_stall(now, id);
        }
    }

    fn read(&mut self, id: StreamId) {
        loop {
            let Some((_, association)) = &mut self.association else { return };
            let Ok(mut stream) = association.stream(id) else { return };
            let Ok(Some(message)) = stream.read_sctp() else { return };
            let mut payload = vec![0; message.len()];
            self.held.gave(message.chunks.len(), payload.len());
            if message.read(&mut payload).is_err() {
                continue;
            }
            match message.ppi {
                Ppid::Dcep => self.establish(id, &payload),
                Ppid::StringEmpty | Ppid::BinaryEmpty => self.deliver(id, Vec::new()),
                _ => self.deliver(id, payload),
            }
        }
    }

    fn establish(&mut self, id: StreamId, message: &[u8]) {
        match dcep::parse(message) {
            Some(Dcep::Ack) => {
                if let Some(channel) = self.channels.get_mut(&id)
                    && !channel.is_open
                {
                    channel.is_open = true;
                    self.events.push_back(SctpEvent::ChannelOpen { label: channel.label.clone() });
                }
            }
            Some(Dcep::Open(open)) if !self.channels.contains_key(&id) => {
                let Some((_, association)) = &mut self.association else { return };
                let Ok(mut stream) = association.stream(id) else { return };
                if self.channels.len() >= self.max_channels {
                    // A refusal to reset means the association is going down anyway.
                    let _ = stream.close();
                    return;
                }
                if stream.write_with_ppi(&dcep::write_ack(), Ppid::Dcep).is_err() {
                    return;
                }
                set_reliability(&mut stream, &open.spec, open.max_lifetime_ms);
                self.channels.insert(id, Channel::new(&open.spec, open.max_lifetime_ms.is_some(), true));
                self.events.push_back(SctpEvent::ChannelOpen { label: open.spec.label });
            }
            Some(Dcep::Open(_)) | None => {}
        }
    }

    /// A message on a stream that nobody announced is dropped: without a label it has no meaning here.
    fn deliver(&mut self, id: StreamId, payload: Vec<u8>) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if !channel.is_open {
            // Data of the peer says as much as its ACK, which may still be on its way (RFC 8832 §6).
            channel.is_open = true;
            self.events.push_back(SctpEvent::ChannelOpen { label: channel.label.clone() });
        }
        self.events.push_back(SctpEvent::Message { label: channel.label.clone(), payload });
    }

    /// Moves queued messages on as far as the channel's flight allows.
    fn fill(&mut self, id: StreamId) {
        let (Some(channel), Some((_, association))) = (self.channels.get_mut(&id), &mut self.association) else {
            return;
        };
        let Ok(mut stream) = association.stream(id) else { return };
        while stream.buffered_amount().is_ok_and(|b| b < IN_FLIGHT_BYTES) {
            let Some((payload, ppid)) = channel.queue.pop_front() else { break };
            channel.queued_bytes -= payload.len();
            if stream.write_sctp(&payload, ppid).is_err() {
                break;
            }
        }
    }

    fn watch_stall(&mut self, now: Instant, id: StreamId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if channel.is_lossy || channel.queued_bytes <= self.reliable_cap {
            channel.over_cap_since = None;
            return;
        }
        let since = *channel.over_cap_since.get_or_insert(now);
        if now.saturating_duration_since(since) < self.stall
            && channel.queued_bytes <= self.reliable_cap * HARD_CAP_FACTOR
        {
            return;
        }
        let label = std::mem::take(&mut channel.label);
        self.channels.remove(&id);
        if let Some((_, association)) = &mut self.association
            && let Ok(mut stream) = association.stream(id)
        {
            // A refusal to reset means the association is going down anyway.
            let _ = stream.close();
        }
        self.events.push_back(SctpEvent::Stalled { label });
    }

    fn forget(&mut self, id: StreamId) {
        if let Some(channel) = self.channels.remove(&id) {
            self.events.push_back(SctpEvent::ChannelClosed { label: channel.label });
        }
    }
}

impl Channel {
    fn new(spec: &ChannelSpec, is_timed: bool, is_open: bool) -> Self {
        Self {
            label: spec.label.clone(),
            is_lossy: is_timed || spec.max_retransmits.is_some(),
            is_open,
            queue: VecDeque::new(),
            queued_bytes: 0,
            over_cap_since: None,
        }
    }
}

fn set_reliability(stream: &mut sctp_proto::Stream<'_>, spec: &ChannelSpec, max_lifetime_ms: Option<u32>) {
    let (kind, value) = match (spec.max_retransmits, max_lifetime_ms) {
        (Some(n), _) => (ReliabilityType::Rexmit, u32::from(n)),
        (None, Some(ms)) => (ReliabilityType::Timed, ms),
        (None, None) => (ReliabilityType::Reliable, 0),
    };
    // The stream was just opened or found; nothing can have closed it in between.
    let _ = stream.set_reliability_params(!spec.ordered, kind, value);
    let _ = stream.set_buffered_amount_low_threshold(IN_FLIGHT_BYTES / 2);
}

fn collect(payload: Payload, out: &mut VecDeque<Bytes>) {
    if let Payload::RawEncode(packets) = payload {
        out.extend(packets);
    }
}

#[cfg(test)]
mod tests;
