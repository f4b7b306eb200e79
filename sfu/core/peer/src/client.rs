//! A light WebRTC client: ICE's controlling side, DTLS, SRTP, NACK and RTX both ways, feedback, data channels.
//!
//! It believes what it is told. What it got is in `received`, `rtcp`, `sctp_events`: whoever runs long empties them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use callyard_proto::command::{DtlsRole, Fingerprint, IceCredentials};
use callyard_proto::config::Config;
use callyard_proto::dtls::{Certificate, DimplEngine, DtlsEngine, DtlsOutput, dimpl_config};
use callyard_proto::ids::{Pt, SeqNo, Ssrc};
use callyard_proto::rtp::{HeaderFields, HeaderWriter, RtpHeader};
use callyard_proto::sctp::{Sctp, SctpEvent};
use callyard_proto::srtp::{InboundSrtp, OutboundSrtp};

use crate::gaps::{Gaps, Repair, extend};
use crate::twcc::TwccReporter;
use crate::{rtcp, stun};

/// RTX on the wire: stream and payload type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rtx {
    pub ssrc: u32,
    pub pt: u8,
}

/// A packet as the client got it, retransmissions unwrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub at: Instant,
    pub ssrc: u32,
    pub pt: u8,
    pub seq: u16,
    pub timestamp: u32,
    pub marker: bool,
    pub payload: Vec<u8>,
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub was_rtx: bool,
}

/// A packet as the client sends it.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub ssrc: u32,
    pub pt: u8,
    pub seq: u16,
    pub timestamp: u32,
    pub marker: bool,
    pub payload: Vec<u8>,
    pub extensions: Vec<(u8, Vec<u8>)>,
}

pub struct Client {
    pub address: SocketAddr,
    pub local: IceCredentials,
    pub server: IceCredentials,
    /// Checks are sent while this is set.
    pub is_checking: bool,
    /// The server's checks are answered while this is set.
    pub is_answering: bool,
    /// Pings are answered, as libwebrtc does; how many were.
    pub takes_pings: bool,
    pub pings: u32,
    pub is_nominating: bool,
    pub responses: u32,
    pub is_connected: bool,
    pub is_closed: bool,
    pub dtls_failed: bool,
    pub received: Vec<Received>,
    pub rtcp: Vec<Vec<u8>>,
    pub sctp: Option<Sctp>,
    pub sctp_events: Vec<SctpEvent>,
    /// Ssrcs that a PLI or FIR was about.
    pub keyframes_asked: Vec<u32>,
    pub resent: u64,
    /// Off: the client neither asks again nor resends.
    pub repairs: bool,
    pub repair: Repair,
    /// Feedback on what the server sends; off without it.
    pub feedback: Option<TwccReporter>,
    /// Receiver reports are sent this often; without it never.
    pub report_interval: Option<Duration>,
    /// Clock of a payload type in Hz; 90 000 where it is not said.
    pub clock_rates: HashMap<u8, u32>,
    /// Id of the transport-wide number's extension; every packet then carries one.
    pub twcc_id: Option<u8>,
    pub twcc_next: u16,
    /// Our RTX stream of each sent ssrc, and the media ssrc and pt of each received RTX ssrc.
    pub send_rtx: HashMap<u32, Rtx>,
    pub receive_rtx: HashMap<u32, Rtx>,
    role: DtlsRole,
    dtls: Option<DimplEngine>,
    fingerprints: Vec<Fingerprint>,
    certificate: Certificate,
    srtp: Option<(InboundSrtp, OutboundSrtp)>,
    out: VecDeque<Vec<u8>>,
    next_check: Instant,
    next_report: Option<Instant>,
    dtls_wait: Option<Instant>,
    transactions: u64,
    sent: HashMap<(u32, u16), Outgoing>,
    sent_order: VecDeque<(u32, u16)>,
    sent_seqs: HashMap<u32, SeqNo>,
    rtx_seqs: HashMap<u32, u16>,
    gaps: BTreeMap<u32, Gaps>,
    scratch: Vec<u8>,
    epoch: Instant,
}

/// Sent packets kept to be sent again, all streams together.
const KEPT: usize = 8_192;

impl Client {
    pub fn new(
        now: Instant,
        address: SocketAddr,
        local: IceCredentials,
        server: IceCredentials,
        role: DtlsRole,
        certificate: Certificate,
        fingerprints: Vec<Fingerprint>,
    ) -> Self {
        Self {
            address,
            local,
            server,
            is_checking: true,
            is_answering: true,
            takes_pings: true,
            pings: 0,
            is_nominating: true,
            responses: 0,
            is_connected: false,
            is_closed: false,
            dtls_failed: false,
            received: Vec::new(),
            rtcp: Vec::new(),
            sctp: None,
            sctp_events: Vec::new(),
            keyframes_asked: Vec::new(),
            resent: 0,
            repairs: true,
            repair: Repair::default(),
            feedback: None,
            report_interval: None,
            clock_rates: HashMap::new(),
            twcc_id: None,
            twcc_next: 65_500,
            send_rtx: HashMap::new(),
            receive_rtx: HashMap::new(),
            role,
            dtls: None,
            fingerprints,
            certificate,
            srtp: None,
            out: VecDeque::new(),
            next_check: now,
            next_report: None,
            dtls_wait: None,
            transactions: u64::from(address.port()) << 32,
            sent: HashMap::new(),
            sent_order: VecDeque::new(),
            sent_seqs: HashMap::new(),
            rtx_seqs: HashMap::new(),
            gaps: BTreeMap::new(),
            scratch: Vec::new(),
            epoch: now,
        }
    }

    pub fn poll_datagram(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }

    pub fn deadline(&self) -> Option<Instant> {
        let sctp = self.sctp.as_ref().and_then(|s| s.deadline());
        let check = self.is_checking.then_some(self.next_check);
        let feedback = self.feedback.as_ref().and_then(TwccReporter::deadline);
        let ask = self.gaps.values().filter(|_| self.asks()).filter_map(Gaps::deadline).min();
        [check, self.dtls_wait, sctp, feedback, ask, self.next_report].into_iter().flatten().min()
    }

    /// Receiver reports from now on, or none any more.
    pub fn report_every(&mut self, now: Instant, interval: Option<Duration>) {
        self.report_interval = interval;
        self.next_report = interval.map(|interval| now + interval);
    }

    /// Checks again at once, as a client does whose path or credentials changed.
    pub fn check_now(&mut self, now: Instant) {
        self.next_check = now;
        self.timeout(now);
    }

    pub fn timeout(&mut self, now: Instant) {
        if self.is_checking && self.next_check <= now {
            let interval = if self.is_connected { 2_500 } else { 50 };
            self.next_check = now + Duration::from_millis(interval);
            let check = self.check();
            self.out.push_back(check);
        }
        self.ask_again(now);
        for report in self.feedback.as_mut().filter(|_| self.srtp.is_some()).map(|f| f.poll(now)).unwrap_or_default() {
            self.send_rtcp(&report);
        }
        if self.next_report.is_some_and(|at| at <= now) {
            self.report(now);
        }
        if self.dtls_wait.is_some_and(|at| at <= now)
            && let Some(dtls) = &mut self.dtls
        {
            self.dtls_failed |= dtls.timeout(now).is_err();
        }
        if let Some(sctp) = &mut self.sctp {
            sctp.timeout(now);
        }
        self.progress(now);
    }

    pub fn check(&mut self) -> Vec<u8> {
        self.transactions += 1;
        let mut transaction = [0; 12];
        transaction[4..].copy_from_slice(&self.transactions.to_be_bytes());
        stun::request(&stun::Check {
            username: &format!("{}:{}", self.server.ufrag, self.local.ufrag),
            password: &self.server.pwd,
            transaction,
            use_candidate: self.is_nominating,
        })
    }

    pub fn receive(&mut self, now: Instant, datagram: &[u8]) {
        match datagram.first() {
            Some(0..=3) => {
                if let Some(transaction) = stun::asked(datagram).filter(|_| self.is_answering) {
                    self.out.push_back(stun::response(transaction, &self.local.pwd, self.takes_pings));
                }
                if let Some(transaction) = stun::pinged(datagram, &self.local.pwd).filter(|_| self.takes_pings) {
                    self.pings += 1;
                    self.out.push_back(stun::pong(transaction, &self.local.pwd));
                }
                if stun::success(datagram).is_some() {
                    self.responses += 1;
                    if self.dtls.is_none() {
                        self.start_dtls(now);
                    }
                }
            }
            Some(20..=63) => {
                if let Some(dtls) = &mut self.dtls {
                    self.dtls_failed |= dtls.receive(now, datagram).is_err();
                }
                self.progress(now);
            }
            Some(128..=191) => self.receive_srtp(now, datagram),
            _ => panic!("a datagram of no known kind: {datagram:?}"),
        }
    }

    pub fn send_rtp(&mut self, packet: Outgoing) -> Vec<u8> {
        let wire = self.seal(&packet);
        if self.sent_order.len() == KEPT
            && let Some(oldest) = self.sent_order.pop_front()
        {
            self.sent.remove(&oldest);
        }
        self.sent_order.push_back((packet.ssrc, packet.seq));
        self.sent.insert((packet.ssrc, packet.seq), packet);
        self.out.push_back(wire.clone());
        wire
    }

    /// Seals without sending.
    pub fn seal(&mut self, packet: &Outgoing) -> Vec<u8> {
        let mut buffer = [0; 2_000];
        let fields = HeaderFields {
            marker: packet.marker,
            pt: Pt(packet.pt),
            seq: packet.seq,
            timestamp: packet.timestamp,
            ssrc: Ssrc(packet.ssrc),
            padding: false,
        };
        let mut writer = HeaderWriter::new(&mut buffer, fields, &[]).expect("there is room");
        for (id, data) in &packet.extensions {
            writer.extension(*id, data).expect("there is room");
        }
        if let Some(id) = self.twcc_id {
            writer.extension(id, &self.twcc_next.to_be_bytes()).expect("there is room");
            self.twcc_next = self.twcc_next.wrapping_add(1);
        }
        let len = writer.finish();
        let mut clear = buffer[..len].to_vec();
        clear.extend_from_slice(&packet.payload);
        let last = self.sent_seqs.entry(packet.ssrc).or_insert(SeqNo((1 << 16) | u64::from(packet.seq)));
        let delta = i64::from(packet.seq.wrapping_sub(last.0 as u16) as i16);
        let seq = SeqNo(last.0.saturating_add_signed(delta));
        last.0 = last.0.max(seq.0);
        // The first roll-over count is 0 on the wire; what comes from before it has no valid index at all.
        let seq = SeqNo(seq.0.saturating_sub(1 << 16));
        let (_, outbound) = self.srtp.as_mut().expect("the client is connected");
        outbound.protect_rtp(&clear, seq).expect("the packet is whole")
    }

    pub fn send_rtcp(&mut self, packet: &[u8]) {
        let mut buffer = packet.to_vec();
        buffer.resize(packet.len() + 64, 0);
        let (_, outbound) = self.srtp.as_mut().expect("the client is connected");
        let len = outbound.protect_rtcp(&mut buffer, packet.len()).expect("there is room");
        self.out.push_back(buffer[..len].to_vec());
    }

    pub fn send_raw(&mut self, datagram: Vec<u8>) {
        self.out.push_back(datagram);
    }

    pub fn send_data(&mut self, now: Instant, label: &str, payload: &[u8]) {
        self.sctp.as_mut().expect("the client is connected").send(now, label, payload);
        self.progress(now);
    }

    /// A packet under DTLS that the client's own SCTP knows nothing of.
    pub fn send_sctp(&mut self, now: Instant, packet: &[u8]) {
        self.dtls.as_mut().expect("DTLS has begun").send(packet).expect("the packet fits a record");
        self.progress(now);
    }

    pub fn close(&mut self, now: Instant) {
        self.dtls.as_mut().expect("DTLS has begun").close();
        self.progress(now);
    }

    pub fn of(&self, ssrc: u32) -> impl Iterator<Item = &Received> {
        self.received.iter().filter(move |r| r.ssrc == ssrc)
    }

    /// The stream's packets in sequence, each once.
    pub fn in_order(&self, ssrc: u32) -> Vec<&Received> {
        let mut by_seq = BTreeMap::new();
        let mut last = None;
        for packet in self.of(ssrc) {
            let seq = extend(last, packet.seq);
            last = Some(last.unwrap_or(seq).max(seq));
            by_seq.entry(seq).or_insert(packet);
        }
        by_seq.into_values().collect()
    }

    /// Sequence numbers that never came between the first and the last that did.
    pub fn holes(&self, ssrc: u32) -> usize {
        let packets = self.in_order(ssrc);
        match (packets.first(), packets.last()) {
            (Some(first), Some(last)) => usize::from(last.seq.wrapping_sub(first.seq)) + 1 - packets.len(),
            _ => 0,
        }
    }

    fn start_dtls(&mut self, now: Instant) {
        let config: Arc<_> = dimpl_config(Duration::from_secs(10));
        let mut dtls = DimplEngine::new(config, &self.certificate, self.role, self.fingerprints.clone(), now);
        self.dtls_failed |= dtls.timeout(now).is_err();
        self.dtls = Some(dtls);
        self.progress(now);
    }

    fn progress(&mut self, now: Instant) {
        loop {
            let Some(dtls) = &mut self.dtls else { return };
            if self.dtls_failed {
                return;
            }
            loop {
                match dtls.poll(&mut self.scratch) {
                    Err(_) => {
                        self.dtls_failed = true;
                        return;
                    }
                    Ok(DtlsOutput::Packet(p)) => self.out.push_back(p.to_vec()),
                    Ok(DtlsOutput::Connected(keys)) => {
                        let inbound = InboundSrtp::new(keys.profile, &keys.remote_key, &keys.remote_salt, 64);
                        let outbound = OutboundSrtp::new(keys.profile, &keys.local_key, &keys.local_salt);
                        self.srtp = Some((inbound.expect("keys fit"), outbound.expect("keys fit")));
                        self.sctp = Some(Sctp::new(&Config::default(), self.role));
                        self.is_connected = true;
                        self.next_report = self.report_interval.map(|interval| now + interval);
                    }
                    Ok(DtlsOutput::Data(data)) => {
                        if let Some(sctp) = &mut self.sctp {
                            sctp.receive(now, data);
                        }
                    }
                    Ok(DtlsOutput::Closed) => self.is_closed = true,
                    Ok(DtlsOutput::Wait(at)) => {
                        self.dtls_wait = Some(at);
                        break;
                    }
                }
            }
            let mut packets: VecDeque<Bytes> = VecDeque::new();
            if let Some(sctp) = &mut self.sctp {
                while let Some(event) = sctp.poll_event() {
                    self.sctp_events.push(event);
                }
                sctp.poll_packet(now, &mut packets);
            }
            if packets.is_empty() {
                return;
            }
            for packet in packets {
                if dtls.send(&packet).is_err() {
                    self.dtls_failed = true;
                    return;
                }
            }
        }
    }

    fn receive_srtp(&mut self, now: Instant, datagram: &[u8]) {
        let Some((inbound, _)) = &mut self.srtp else { return };
        let mut packet = datagram.to_vec();
        if (192..=223).contains(&datagram[1]) {
            // Duplicates of the network end here.
            let Ok(len) = inbound.unprotect_rtcp(&mut packet) else { return };
            packet.truncate(len);
            self.receive_rtcp(now, &packet);
            self.rtcp.push(packet);
            return;
        }
        // Duplicates of the network end here.
        let Ok(clear) = inbound.unprotect_rtp(&mut packet) else { return };
        let header = RtpHeader::parse(&packet[..clear.len]).expect("the server's RTP is sound");
        let mut received = Received {
            at: now,
            ssrc: header.ssrc.0,
            pt: header.pt.0,
            seq: header.seq,
            timestamp: header.timestamp,
            marker: header.marker,
            payload: header.payload().to_vec(),
            extensions: header.extensions().map(|(id, data)| (id, data.to_vec())).collect(),
            was_rtx: false,
        };
        if let Some(feedback) = &mut self.feedback
            && let Some((_, data)) = received.extensions.iter().find(|(id, _)| *id == feedback.extension_id)
            && let &[high, low] = data.as_slice()
        {
            feedback.arrived(now, u16::from_be_bytes([high, low]));
        }
        if let Some(rtx) = self.receive_rtx.get(&received.ssrc) {
            if received.payload.len() < 2 {
                return;
            }
            received.seq = u16::from_be_bytes([received.payload[0], received.payload[1]]);
            received.payload.drain(..2);
            received.ssrc = rtx.ssrc;
            received.pt = rtx.pt;
            received.was_rtx = true;
        }
        let gaps = self.gaps.entry(received.ssrc).or_default();
        gaps.arrived(now, received.seq, self.repair);
        if !received.was_rtx {
            let rate = self.clock_rates.get(&received.pt).copied().unwrap_or(90_000);
            gaps.timed(now.saturating_duration_since(self.epoch), received.timestamp, rate);
        }
        self.received.push(received);
    }

    fn receive_rtcp(&mut self, now: Instant, mut compound: &[u8]) {
        while compound.len() >= 12 {
            let len = (usize::from(u16::from_be_bytes([compound[2], compound[3]])) + 1) * 4;
            let (packet, rest) = compound.split_at(len);
            compound = rest;
            let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().expect("four bytes"));
            match (packet[1], packet[0] & 31) {
                (200, _) => {
                    let ntp = u64::from(word(8)) << 32 | u64::from(word(12));
                    self.gaps.entry(word(4)).or_default().sender_report(now, ntp);
                }
                (206, 1) => self.keyframes_asked.push(word(8)),
                (206, 4) => self.keyframes_asked.push(word(12)),
                (205, 1) if self.repairs => {
                    let ssrc = word(8);
                    for at in (12..len).step_by(4) {
                        let (pid, mask) = ((word(at) >> 16) as u16, word(at) as u16);
                        let also = (0..16).filter(|i| mask & (1 << i) != 0).map(|i| pid.wrapping_add(i + 1));
                        for seq in std::iter::once(pid).chain(also) {
                            self.resend(ssrc, seq);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn resend(&mut self, ssrc: u32, seq: u16) {
        let (Some(rtx), Some(original)) = (self.send_rtx.get(&ssrc).copied(), self.sent.get(&(ssrc, seq)).cloned())
        else {
            return;
        };
        let counter = self.rtx_seqs.entry(rtx.ssrc).or_insert(1_000);
        *counter = counter.wrapping_add(1);
        let mut payload = seq.to_be_bytes().to_vec();
        payload.extend_from_slice(&original.payload);
        let again = Outgoing { ssrc: rtx.ssrc, pt: rtx.pt, seq: *counter, payload, ..original };
        let wire = self.seal(&again);
        self.resent += 1;
        self.out.push_back(wire);
    }

    fn asks(&self) -> bool {
        self.repairs && self.srtp.is_some()
    }

    fn ask_again(&mut self, now: Instant) {
        if !self.asks() {
            return;
        }
        let mut packets = Vec::new();
        for (&ssrc, gaps) in &mut self.gaps {
            let due = gaps.due(now, self.repair);
            packets.extend(due.chunks(200).map(|seqs| rtcp::nacks(ssrc, seqs)));
        }
        packets.iter().for_each(|packet| self.send_rtcp(packet));
    }

    fn report(&mut self, now: Instant) {
        self.next_report = self.report_interval.map(|interval| now + interval);
        let blocks: Vec<_> = self.gaps.iter_mut().filter_map(|(ssrc, gaps)| gaps.block(now, *ssrc)).collect();
        for blocks in blocks.chunks(31) {
            self.send_rtcp(&rtcp::receiver_report(1, blocks));
        }
    }
}
