//! One light client: either side of ICE, DTLS, SRTP, and the feedback that a browser would give. No I/O, no clock.
//!
//! It checks one address, trusts its server's fingerprint, and keeps nothing of what it receives but counts.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use callyard_proto::config::Config;
use callyard_proto::drop_reason::DropReason;
use callyard_proto::dtls::{Certificate, DimplEngine, DtlsEngine, DtlsOutput, SrtpKeys};
use callyard_proto::ids::{SeqNo, Ssrc};
use callyard_proto::rtcp::{Arrival, CompoundWriter, Packet, SenderInfo, compound};
use callyard_proto::rtp::{RtpHeader, TransportSeq};
use callyard_proto::sctp::Sctp;
use callyard_proto::srtp::{InboundSrtp, MAX_TRAILER_LEN, OutboundSrtp, Payload, Profile};
use callyard_proto::stun::{Check, IntegrityKey, Message, Role, write_request, write_success};
use serde_bytes::ByteBuf;
use slab::Slab;

use crate::payload;
use crate::protocol::{ExtensionIds, Open, Receive, ReceiveCodec, Report, State};
use crate::publish::{Clear, Publisher};
use crate::receive::{ReceiveStream, Seen};
use crate::stats::Stats;

/// Between checks until one is answered (RFC 8445 §14.2: not under 50 ms).
const FIRST_CHECKS: Duration = Duration::from_millis(50);
/// Between consent checks (RFC 7675 §5.1: 4 to 6 s; browsers check every 2.5 s or so).
const CONSENT_CHECKS: Duration = Duration::from_millis(2_500);
const REPORTS: Duration = Duration::from_secs(1);
/// Streams one client may be sent.
const MAX_STREAMS: usize = 4_096;
/// Arrivals kept between two feedback packets; beyond, the oldest are not told of.
const MAX_ARRIVALS: usize = 4_096;
const RTCP_LEN: usize = 1_200;
const CNAME: &str = "callyard-load";
/// Seconds from 1900 to 1970 (RFC 5905 §6).
const NTP_OFFSET: u64 = 2_208_988_800;

/// Datagrams to be sent by one client, back to back.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub bytes: Vec<u8>,
    pub ends: Vec<usize>,
}

impl Outbox {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    fn push(&mut self, datagram: &[u8]) {
        self.bytes.extend_from_slice(datagram);
        self.ends.push(self.bytes.len());
    }

    fn push_rtp(&mut self, srtp: &OutboundSrtp, clear: &Clear<'_>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(clear.header);
        let body = self.bytes.len();
        self.bytes.resize(body + clear.payload.len() + MAX_TRAILER_LEN, 0);
        let out = &mut self.bytes[body..];
        // Only a key that is used up refuses; what is not sealed is not sent.
        match srtp.protect_rtp_into(clear.header, Payload::from(clear.payload), out, Ssrc(clear.ssrc), clear.seq) {
            Ok(len) => {
                self.bytes.truncate(body + len);
                self.ends.push(self.bytes.len());
            }
            Err(_) => self.bytes.truncate(start),
        }
    }
}

/// What all clients share.
pub(crate) struct Context {
    pub certificate: Certificate,
    pub dimpl: Arc<dimpl::Config>,
    /// For its bounds of data channels.
    pub config: Config,
    pub feedback_interval: Duration,
    /// The wall clock minus this is what feedback packets count in.
    pub base_wall_ns: u64,
    pub out: Outbox,
    pub reports: Vec<Report>,
    pub stats: Stats,
    pub loss: Loss,
    pub scratch: Vec<u8>,
    pub seqs: Vec<u16>,
    pub packets: VecDeque<Bytes>,
}

/// Packets that get lost by chance, the same ones in every run.
#[derive(Debug)]
pub(crate) struct Loss {
    /// Of 2^32.
    share: u64,
    state: u64,
}

impl Loss {
    pub(crate) fn new(share: f64) -> Self {
        Self { share: (share * 4_294_967_296.0) as u64, state: 0x9e37_79b9_7f4a_7c15 }
    }

    /// Whether the next packet is lost.
    pub(crate) fn next(&mut self) -> bool {
        // Xorshift64* (Marsaglia; Vigna 2016).
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.share > 0 && self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32 < self.share
    }
}

enum Dtls {
    Waiting,
    Native(Box<DimplEngine>),
    External,
}

pub(crate) struct Client {
    pub id: u64,
    pub is_connected: bool,
    pub is_over: bool,
    pub streams: Vec<ReceiveStream>,
    /// Slots of what it publishes.
    pub publishers: Vec<usize>,
    pub twcc_next: u16,
    /// When the loop will look at it again.
    pub scheduled: Option<Instant>,
    open: Open,
    address: SocketAddr,
    remote_key: IntegrityKey,
    local_key: IntegrityKey,
    username: String,
    transactions: u64,
    opened: Instant,
    ice_us: Option<u64>,
    has_media: [bool; 2],
    dtls: Dtls,
    srtp: Option<(InboundSrtp, OutboundSrtp)>,
    /// There once the server speaks it: channels that it opens are open, what comes on them is left.
    sctp: Option<Box<Sctp>>,
    next_check: Instant,
    next_dtls: Option<Instant>,
    next_feedback: Option<Instant>,
    next_report: Option<Instant>,
    next_nack: Option<Instant>,
    codecs: Vec<ReceiveCodec>,
    repairs: Vec<(u32, u32)>,
    extensions: ExtensionIds,
    nack: bool,
    arrivals: Vec<Arrival>,
    arrival_highest: Option<u64>,
    feedback_count: u8,
}

impl Client {
    pub(crate) fn new(now: Instant, address: SocketAddr, open: Open) -> Self {
        Self {
            id: open.transport,
            is_connected: false,
            is_over: false,
            streams: Vec::new(),
            publishers: Vec::new(),
            twcc_next: 0,
            scheduled: None,
            address,
            remote_key: IntegrityKey::new(&open.remote.pwd),
            local_key: IntegrityKey::new(&open.local.pwd),
            username: format!("{}:{}", open.remote.ufrag, open.local.ufrag),
            transactions: 0,
            opened: now,
            ice_us: None,
            has_media: [false; 2],
            dtls: Dtls::Waiting,
            srtp: None,
            sctp: None,
            next_check: now,
            next_dtls: None,
            next_feedback: None,
            next_report: None,
            next_nack: None,
            codecs: Vec::new(),
            repairs: Vec::new(),
            extensions: ExtensionIds::default(),
            nack: false,
            arrivals: Vec::new(),
            arrival_highest: None,
            feedback_count: 0,
            open,
        }
    }

    pub(crate) fn set_receive(&mut self, receive: Receive) {
        self.codecs = receive.codecs;
        self.repairs = receive.repairs.iter().map(|r| (r.rtx_ssrc, r.ssrc)).collect();
        self.extensions = receive.extensions;
        self.nack = receive.nack;
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.is_over {
            return None;
        }
        let sctp = self.sctp.as_ref().and_then(|sctp| sctp.deadline());
        [Some(self.next_check), self.next_dtls, sctp, self.next_feedback, self.next_report, self.next_nack]
            .into_iter()
            .flatten()
            .min()
    }

    pub(crate) fn timeout(&mut self, now: Instant, wall_ns: u64, context: &mut Context, publishers: &Slab<Publisher>) {
        if self.is_over {
            return;
        }
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.next_check <= now {
            self.next_check = now + if self.ice_us.is_some() { CONSENT_CHECKS } else { FIRST_CHECKS };
            self.send_check(context);
        }
        if is_due(self.next_dtls) {
            self.next_dtls = None;
            if let Dtls::Native(dtls) = &mut self.dtls {
                let result = dtls.timeout(now);
                self.after_dtls(now, result.is_ok(), context);
            }
        }
        if let Some(sctp) = self.sctp.as_mut().filter(|sctp| is_due(sctp.deadline())) {
            sctp.timeout(now);
            self.after_dtls(now, true, context);
        }
        if is_due(self.next_nack) {
            self.send_nacks(now, context);
        }
        if is_due(self.next_feedback) {
            self.next_feedback = None;
            self.send_feedback(context);
        }
        if is_due(self.next_report) {
            self.next_report = Some(now + REPORTS);
            self.send_reports(now, wall_ns, context, publishers);
        }
    }

    /// `wall_ns`: when the kernel got it.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        wall_ns: u64,
        datagram: &mut [u8],
        context: &mut Context,
        publishers: &mut Slab<Publisher>,
    ) {
        if self.is_over {
            return;
        }
        match datagram.first() {
            Some(0..=3) => self.receive_stun(now, datagram, context),
            Some(20..=63) => match &mut self.dtls {
                Dtls::Native(dtls) => {
                    let result = dtls.receive(now, datagram);
                    self.after_dtls(now, result.is_ok(), context);
                }
                Dtls::External => context
                    .reports
                    .push(Report::DtlsDatagram { transport: self.id, datagram: ByteBuf::from(datagram.to_vec()) }),
                Dtls::Waiting => {}
            },
            Some(128..=191) => {
                if datagram.get(1).is_some_and(|kind| (192..=223).contains(kind)) {
                    self.receive_rtcp(now, wall_ns, datagram, context, publishers);
                } else if !context.loss.next() {
                    self.receive_rtp(now, wall_ns, datagram, context);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn send_picture(
        &mut self,
        now: Instant,
        wall_ns: u64,
        context: &mut Context,
        publisher: &mut Publisher,
    ) {
        let Some((_, srtp)) = &self.srtp else {
            // The clock of a stream that cannot be sent yet runs on.
            publisher.send_picture(now, wall_ns, &mut 0, |_| {});
            return;
        };
        let Context { out, stats, loss, .. } = context;
        let sent = publisher.send_picture(now, wall_ns, &mut self.twcc_next, |clear| {
            if !loss.next() {
                out.push_rtp(srtp, &clear);
            }
        });
        let media = stats.media(publisher.is_video);
        media.sent_packets += sent.packets;
        media.sent_bytes += sent.bytes;
    }

    pub(crate) fn send_dtls(&self, datagram: &[u8], context: &mut Context) {
        context.out.push(datagram);
    }

    pub(crate) fn set_keys(&mut self, now: Instant, keys: &SrtpKeys, context: &mut Context) {
        let inbound = InboundSrtp::new(keys.profile, &keys.remote_key, &keys.remote_salt, MAX_STREAMS);
        let outbound = OutboundSrtp::new(keys.profile, &keys.local_key, &keys.local_salt);
        let (Ok(inbound), Ok(outbound)) = (inbound, outbound) else {
            return self.end(State::Failed, "bad_keys", context);
        };
        self.srtp = Some((inbound, outbound));
        self.is_connected = true;
        // Spread, so that clients do not report in step.
        self.next_report = Some(now + REPORTS.mul_f64((self.id * 37 % 100) as f64 / 100.0));
        let dtls_us = micros(now.saturating_duration_since(self.opened));
        context.stats.dtls_time.record(now.saturating_duration_since(self.opened));
        context.reports.push(Report::TransportState {
            transport: self.id,
            state: State::Connected,
            reason: String::new(),
            cipher: keys.profile.as_str().to_owned(),
            ice_us: self.ice_us.unwrap_or(0),
            dtls_us,
        });
    }

    /// Says goodbye to the server.
    pub(crate) fn close(&mut self, now: Instant, context: &mut Context) {
        if let Dtls::Native(dtls) = &mut self.dtls {
            dtls.close();
            self.after_dtls(now, true, context);
        }
    }

    fn end(&mut self, state: State, reason: &str, context: &mut Context) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        self.is_connected = false;
        context.reports.push(Report::TransportState {
            transport: self.id,
            state,
            reason: reason.to_owned(),
            cipher: String::new(),
            ice_us: self.ice_us.unwrap_or(0),
            dtls_us: 0,
        });
    }

    fn send_check(&mut self, context: &mut Context) {
        self.transactions += 1;
        let mut transaction = [0; 12];
        transaction[..4].copy_from_slice(&(self.id as u32).to_be_bytes());
        transaction[4..].copy_from_slice(&self.transactions.to_be_bytes());
        let check = Check {
            transaction,
            username: &self.username,
            // A host candidate's, component 1 (RFC 8445 §5.1.2.1).
            priority: 0x6e00_01ff | 0x1000_0000,
            use_candidate: self.open.controlling,
            role: if self.open.controlling { Role::Controlling(self.id) } else { Role::Controlled(self.id) },
            asks_for_pings: false,
        };
        write_request(&mut context.scratch, &check, &self.remote_key);
        let Context { out, scratch, .. } = context;
        out.push(scratch);
    }

    fn receive_stun(&mut self, now: Instant, datagram: &[u8], context: &mut Context) {
        let Ok(message) = Message::parse(datagram) else { return };
        if message.is_request() {
            // A full agent checks us too.
            if message.verify_integrity(&self.local_key).is_ok() {
                write_success(&mut context.scratch, &message.transaction, self.address, &self.local_key);
                let Context { out, scratch, .. } = context;
                out.push(scratch);
            }
            return;
        }
        let is_answer = message.mapped_address().is_some() && message.verify_integrity(&self.remote_key).is_ok();
        if !is_answer || self.ice_us.is_some() {
            return;
        }
        let took = now.saturating_duration_since(self.opened);
        self.ice_us = Some(micros(took));
        context.stats.ice_time.record(took);
        self.next_check = now + CONSENT_CHECKS.mul_f64(0.5 + (self.id * 61 % 100) as f64 / 200.0);
        if self.open.external_dtls {
            self.dtls = Dtls::External;
            context.reports.push(Report::TransportState {
                transport: self.id,
                state: State::Checked,
                reason: String::new(),
                cipher: String::new(),
                ice_us: micros(took),
                dtls_us: 0,
            });
            return;
        }
        let (config, fingerprints) = (Arc::clone(&context.dimpl), self.open.fingerprints.clone());
        let mut dtls = DimplEngine::new(config, &context.certificate, self.open.role, fingerprints, now);
        let result = dtls.timeout(now);
        self.dtls = Dtls::Native(Box::new(dtls));
        self.after_dtls(now, result.is_ok(), context);
    }

    fn after_dtls(&mut self, now: Instant, is_well: bool, context: &mut Context) {
        if !is_well {
            return self.end(State::Failed, "dtls", context);
        }
        loop {
            self.drain_dtls(now, context);
            let Some(sctp) = &mut self.sctp else { return };
            while sctp.poll_event().is_some() {}
            sctp.poll_packet(now, &mut context.packets);
            if context.packets.is_empty() {
                return;
            }
            while let Some(packet) = context.packets.pop_front() {
                let Dtls::Native(dtls) = &mut self.dtls else { return };
                if dtls.send(&packet).is_err() {
                    context.packets.clear();
                    return self.end(State::Failed, "dtls", context);
                }
                self.drain_dtls(now, context);
            }
        }
    }

    fn drain_dtls(&mut self, now: Instant, context: &mut Context) {
        loop {
            let Dtls::Native(dtls) = &mut self.dtls else { return };
            match dtls.poll(&mut context.scratch) {
                Err(error) => return self.end(State::Failed, error.code(), context),
                Ok(DtlsOutput::Packet(packet)) => context.out.push(packet),
                Ok(DtlsOutput::Connected(keys)) => self.set_keys(now, &keys, context),
                Ok(DtlsOutput::Data(data)) => {
                    let sctp = self.sctp.get_or_insert_with(|| Box::new(Sctp::new(&context.config, self.open.role)));
                    sctp.receive(now, data);
                }
                Ok(DtlsOutput::Closed) => return self.end(State::Closed, "close_notify", context),
                Ok(DtlsOutput::Wait(at)) => {
                    self.next_dtls = (!self.is_connected || at <= now + Duration::from_secs(60)).then_some(at);
                    return;
                }
            }
        }
    }

    fn receive_rtp(&mut self, now: Instant, wall_ns: u64, datagram: &mut [u8], context: &mut Context) {
        let Some((inbound, _)) = &mut self.srtp else { return };
        let len = datagram.len();
        let clear = match inbound.unprotect_rtp(datagram) {
            Ok(clear) => clear,
            Err(DropReason::SrtpReplay) => return self.note_duplicate(datagram),
            Err(_) => return context.stats.srtp_refused += 1,
        };
        let Ok(header) = RtpHeader::parse(&datagram[..clear.len]) else { return context.stats.srtp_refused += 1 };
        if let Some(number) =
            self.extensions.transport_seq.and_then(|id| header.extension(id)).and_then(TransportSeq::read)
        {
            self.note_arrival(now, number.0, wall_ns, context);
        }
        let pt = header.pt.0;
        let Some(codec) = self.codecs.iter().find(|c| c.pt == pt || c.rtx_pt == Some(pt)).copied() else { return };
        let mut payload = header.payload();
        let (mut ssrc, mut seq, was_rtx) = (header.ssrc.0, header.seq, codec.rtx_pt == Some(pt));
        if was_rtx {
            // Bare padding is a probe.
            let [high, low, rest @ ..] = payload else { return };
            let Some((_, repaired)) = self.repairs.iter().find(|(rtx, _)| *rtx == ssrc) else {
                return context.stats.rtx_unknown += 1;
            };
            (ssrc, seq, payload) = (*repaired, u16::from_be_bytes([*high, *low]), rest);
        }
        let is_video = codec.codec.is_video();
        let index = match self.streams.iter().position(|s| s.ssrc == ssrc) {
            Some(index) => index,
            None if was_rtx || self.streams.len() >= MAX_STREAMS => return,
            None => {
                self.streams.push(ReceiveStream::new(now, ssrc, is_video, codec.codec.clock_rate(), seq));
                self.streams.len() - 1
            }
        };
        let stream = &mut self.streams[index];
        if stream.on_packet(now, seq, header.timestamp, len, was_rtx) == Seen::Duplicate {
            return;
        }
        if self.nack && is_video {
            self.next_nack = [self.next_nack, stream.next_nack()].into_iter().flatten().min();
        }
        let shows = header.marker || !is_video;
        if shows && !std::mem::replace(&mut self.has_media[usize::from(is_video)], true) {
            let took = now.saturating_duration_since(self.opened);
            context.stats.first_media_time.record(took);
            let after_us = micros(took);
            context.reports.push(Report::FirstMedia { transport: self.id, video: is_video, after_us });
        }
        // What had to be sent again says nothing about forwarding.
        if let (Some(sent_ns), false) = (payload::sent_ns(payload), was_rtx) {
            let latency = Duration::from_nanos(wall_ns.saturating_sub(sent_ns));
            context.stats.media(is_video).latency.record(latency);
        }
    }

    /// A datagram that came twice: its header is still in clear.
    fn note_duplicate(&mut self, datagram: &[u8]) {
        let ssrc = u32::from_be_bytes([datagram[8], datagram[9], datagram[10], datagram[11]]);
        if let Some(stream) = self.streams.iter_mut().find(|s| s.ssrc == ssrc) {
            stream.window.duplicates += 1;
        }
    }

    fn note_arrival(&mut self, now: Instant, number: u16, wall_ns: u64, context: &Context) {
        let highest = self.arrival_highest.unwrap_or((1 << 16) | u64::from(number));
        let seq = highest.saturating_add_signed(i64::from(number.wrapping_sub(highest as u16) as i16));
        self.arrival_highest = Some(highest.max(seq));
        if self.arrivals.len() < MAX_ARRIVALS {
            let at_us = (wall_ns.saturating_sub(context.base_wall_ns) / 1_000) as i64;
            self.arrivals.push(Arrival { seq: SeqNo(seq), at_us });
        }
        if self.next_feedback.is_none() {
            // On a beat of its own: clients that a picture reaches at one time must not answer at one time.
            let interval = context.feedback_interval.as_nanos() as u64;
            let phase = interval / 1_000 * (self.id * 618 % 1_000);
            let since = now.saturating_duration_since(self.opened).as_nanos() as u64 + phase;
            self.next_feedback = Some(now + Duration::from_nanos(interval - since % interval));
        }
    }

    fn receive_rtcp(
        &mut self,
        now: Instant,
        wall_ns: u64,
        datagram: &mut [u8],
        context: &mut Context,
        publishers: &mut Slab<Publisher>,
    ) {
        let Some((inbound, outbound)) = &mut self.srtp else { return };
        let Ok(len) = inbound.unprotect_rtcp(datagram) else { return context.stats.srtp_refused += 1 };
        let Ok(packets) = compound(&datagram[..len]) else { return };
        for packet in packets.flatten() {
            match packet {
                Packet::SenderReport { sender, info, .. } => {
                    if let Some(stream) = self.streams.iter_mut().find(|s| s.ssrc == sender.0) {
                        stream.on_sender_report(now, info.ntp);
                    }
                }
                Packet::Nack(nack) => {
                    for seq in nack.seqs() {
                        context.stats.nacked_received += 1;
                        for &slot in &self.publishers {
                            let Context { out, loss, .. } = &mut *context;
                            let was_sent =
                                publishers[slot].resend(nack.media.0, seq, wall_ns, &mut self.twcc_next, |clear| {
                                    if !loss.next() {
                                        out.push_rtp(outbound, &clear);
                                    }
                                });
                            context.stats.resent += u64::from(was_sent);
                        }
                    }
                }
                Packet::Pli { media, .. } => ask_keyframe(&self.publishers, media.0, context, publishers),
                Packet::Fir { entries, .. } => {
                    for (media, _) in entries {
                        ask_keyframe(&self.publishers, media.0, context, publishers);
                    }
                }
                Packet::Twcc(_) => context.stats.twcc_received += 1,
                _ => {}
            }
        }
    }

    fn send_rtcp(&mut self, buffer: &mut [u8], len: usize, context: &mut Context) {
        let (Some((_, outbound)), 1..) = (&mut self.srtp, len) else { return };
        if let Ok(len) = outbound.protect_rtcp(buffer, len) {
            context.out.push(&buffer[..len]);
        }
    }

    fn send_nacks(&mut self, now: Instant, context: &mut Context) {
        let mut buffer = [0; RTCP_LEN + 2 * MAX_TRAILER_LEN];
        let mut writer = CompoundWriter::new(&mut buffer[..RTCP_LEN]);
        for stream in self.streams.iter_mut().filter(|s| s.is_video) {
            context.seqs.clear();
            stream.take_nacks(now, &mut context.seqs);
            // What does not fit is asked for the next time.
            let fits = writer.nack(Ssrc(1), Ssrc(stream.ssrc), context.seqs.iter().copied()).is_some();
            context.stats.nacks_sent += if fits { context.seqs.len() as u64 } else { 0 };
        }
        let len = writer.len();
        // Of audio nothing is asked for again: what is missing there must not wake anybody.
        self.next_nack = self.streams.iter().filter(|s| s.is_video).filter_map(ReceiveStream::next_nack).min();
        self.send_rtcp(&mut buffer, len, context);
    }

    fn send_feedback(&mut self, context: &mut Context) {
        let mut arrivals = std::mem::take(&mut self.arrivals);
        arrivals.sort_by_key(|a| a.seq.0);
        arrivals.dedup_by_key(|a| a.seq.0);
        let media = Ssrc(self.streams.first().map_or(0, |s| s.ssrc));
        let mut left = &arrivals[..];
        while !left.is_empty() {
            let mut buffer = [0; RTCP_LEN + 2 * MAX_TRAILER_LEN];
            let mut writer = CompoundWriter::new(&mut buffer[..RTCP_LEN]);
            let Some(told) = writer.twcc(Ssrc(1), media, self.feedback_count, None, left) else { break };
            let len = writer.len();
            left = &left[told..];
            self.feedback_count = self.feedback_count.wrapping_add(1);
            context.stats.twcc_sent += 1;
            self.send_rtcp(&mut buffer, len, context);
        }
        arrivals.clear();
        self.arrivals = arrivals;
    }

    fn send_reports(&mut self, now: Instant, wall_ns: u64, context: &mut Context, publishers: &Slab<Publisher>) {
        let mut buffer = [0; RTCP_LEN + 2 * MAX_TRAILER_LEN];
        let ntp = ntp(wall_ns);
        let sending = self.publishers.iter().flat_map(|&slot| publishers[slot].reports()).collect::<Vec<_>>();
        for (ssrc, rtp_timestamp, packets, octets) in sending {
            let mut writer = CompoundWriter::new(&mut buffer[..RTCP_LEN]);
            let info = SenderInfo { ntp, rtp_timestamp, packets, octets };
            _ = writer.sender_report(Ssrc(ssrc), info, &[]).and_then(|()| writer.sdes_cname(Ssrc(ssrc), CNAME));
            let len = writer.len();
            self.send_rtcp(&mut buffer, len, context);
        }
        let blocks: Vec<_> = self.streams.iter_mut().map(|stream| stream.report(now)).collect();
        for blocks in blocks.chunks(31) {
            let mut writer = CompoundWriter::new(&mut buffer[..RTCP_LEN]);
            _ = writer.receiver_report(Ssrc(1), blocks).and_then(|()| writer.sdes_cname(Ssrc(1), CNAME));
            let len = writer.len();
            self.send_rtcp(&mut buffer, len, context);
        }
    }
}

fn ask_keyframe(own: &[usize], ssrc: u32, context: &mut Context, publishers: &mut Slab<Publisher>) {
    let is_ours = own.iter().any(|&slot| publishers[slot].ask_keyframe(ssrc));
    context.stats.keyframes_asked += u64::from(is_ours);
}

pub(crate) fn keys_of(keys: crate::protocol::Keys) -> Option<SrtpKeys> {
    Some(SrtpKeys {
        profile: Profile::from_id(keys.profile)?,
        local_key: keys.local_key.into_vec(),
        local_salt: keys.local_salt.into_vec(),
        remote_key: keys.remote_key.into_vec(),
        remote_salt: keys.remote_salt.into_vec(),
    })
}

fn ntp(wall_ns: u64) -> u64 {
    let (seconds, nanos) = (wall_ns / 1_000_000_000, wall_ns % 1_000_000_000);
    ((seconds + NTP_OFFSET) << 32) | ((nanos << 32) / 1_000_000_000)
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_has_its_share_and_none_loses_nothing() {
        for share in [0.0, 0.01, 0.05] {
            let mut loss = Loss::new(share);
            let lost = (0..100_000).filter(|_| loss.next()).count() as f64 / 100_000.0;
            assert!((lost - share).abs() <= share / 10.0, "{lost} of {share}");
        }
    }
}
