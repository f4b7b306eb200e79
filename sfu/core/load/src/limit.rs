//! What the machine gives: a fan-out without protocol, and a bare `sendto`, measured beside a server under the same load.
//!
//! The fan-out opens a packet once, and for each destination rewrites the header, seals and sends a picture's packets as one
//! segmented message, many destinations in one system call. It sleeps between pictures as a server does.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use callyard_net::Clock;
use callyard_proto::ids::{SeqNo, Ssrc};
use callyard_proto::rtp::{HeaderFields, HeaderWriter, RtpHeader};
use callyard_proto::srtp::{InboundSrtp, MAX_TRAILER_LEN, OutboundSrtp, Payload, Profile, SrtpError};
use callyard_proto::{ids::Pt, rtp::TransportSeq};
use serde::{Deserialize, Serialize};

const BATCH: usize = 64;

/// What to measure.
#[derive(Clone, Debug, Deserialize)]
pub struct LimitSpec {
    /// `ip:port` each.
    pub destinations: Vec<String>,
    /// Pictures a second, evenly spaced.
    pub bursts_per_second: f64,
    /// Packets a second; a picture has as many as that makes.
    pub packets_per_second: f64,
    pub payload_bytes: usize,
    /// Number of the SRTP profile (RFC 5764 §4.1.2).
    pub profile: u16,
    /// Packets of one segmented message at most; 1: none is segmented.
    pub max_segments: usize,
    /// Only `sendto`, of bytes that lie ready.
    pub bare: bool,
    pub seconds: f64,
}

/// CPU time of the measuring thread; nanoseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LimitResult {
    pub packets: u64,
    pub cpu_ns: u64,
    pub failed: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    #[error("the specification makes no sense: {0}")]
    Spec(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Srtp(#[from] SrtpError),
}

/// Runs in the calling thread.
pub fn measure(spec: &LimitSpec) -> Result<LimitResult, LimitError> {
    let profile = Profile::from_id(spec.profile).ok_or(LimitError::Spec("profile"))?;
    let parse = |text: &String| text.parse().map_err(|_| LimitError::Spec("destination"));
    let destinations: Vec<SocketAddr> = spec.destinations.iter().map(parse).collect::<Result<_, _>>()?;
    let is_rate = |rate: f64| (0.1..=1e6).contains(&rate);
    if !is_rate(spec.bursts_per_second) || !is_rate(spec.packets_per_second) || !(0.1..=600.0).contains(&spec.seconds) {
        return Err(LimitError::Spec("rate"));
    }
    if !(1..=1_400).contains(&spec.payload_bytes) || !(1..=54).contains(&spec.max_segments) {
        return Err(LimitError::Spec("size"));
    }
    callyard_net::prefer_low_latency();
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_nonblocking(true)?;
    let mut fanout = Fanout::new(profile, destinations, spec.payload_bytes, spec.max_segments)?;
    let clock = Clock;
    let start = clock.now();
    let interval = Duration::from_secs_f64(1.0 / spec.bursts_per_second);
    let bursts = (spec.seconds * spec.bursts_per_second) as u32;
    let (mut result, mut credit) = (LimitResult::default(), 0.0);
    let before = thread_cpu();
    for burst in 1..=bursts {
        let wait = (start + interval * burst).saturating_duration_since(clock.now());
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
        credit += spec.packets_per_second / spec.bursts_per_second;
        let count = credit as usize;
        credit -= count as f64;
        let sent = if spec.bare { fanout.send_bare(&socket, count) } else { fanout.forward(&socket, count)? };
        result.packets += sent.0;
        result.failed += sent.1;
    }
    result.cpu_ns = (thread_cpu() - before).as_nanos() as u64;
    Ok(result)
}

struct Subscriber {
    address: libc::sockaddr_in,
    srtp: OutboundSrtp,
    twcc: u16,
    seq: u64,
    /// What was sent as what, as every server must remember for retransmissions.
    history: Box<[(u32, u32)]>,
}

struct Fanout {
    publisher: OutboundSrtp,
    ingress: InboundSrtp,
    subscribers: Vec<Subscriber>,
    payload: Vec<u8>,
    arrived: Vec<Vec<u8>>,
    out: Vec<u8>,
    runs: Vec<Run>,
    max_segments: usize,
    seq: u64,
}

struct Run {
    subscriber: usize,
    start: usize,
    end: usize,
    segment: u16,
}

const KEPT: usize = 512;
const HEADER_LEN: usize = 64;

impl Fanout {
    fn new(
        profile: Profile,
        destinations: Vec<SocketAddr>,
        payload_bytes: usize,
        max_segments: usize,
    ) -> Result<Self, LimitError> {
        let (key, salt) = (vec![7; profile.key_len()], vec![9; profile.salt_len()]);
        let subscribers = destinations.iter().zip(1u8..).map(|(address, index)| {
            let SocketAddr::V4(address) = address else { return Err(LimitError::Spec("destination")) };
            Ok(Subscriber {
                address: libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                    sin_zero: [0; 8],
                },
                srtp: OutboundSrtp::new(profile, &vec![index; profile.key_len()], &salt)?,
                twcc: 0,
                seq: 1_000,
                history: vec![(0, 0); KEPT].into_boxed_slice(),
            })
        });
        Ok(Self {
            publisher: OutboundSrtp::new(profile, &key, &salt)?,
            ingress: InboundSrtp::new(profile, &key, &salt, 4)?,
            subscribers: subscribers.collect::<Result<_, _>>()?,
            payload: vec![0xa5; payload_bytes],
            arrived: Vec::new(),
            out: Vec::new(),
            runs: Vec::new(),
            max_segments,
            seq: 100,
        })
    }

    /// Packets sent and failed.
    fn forward(&mut self, socket: &UdpSocket, count: usize) -> Result<(u64, u64), LimitError> {
        self.arrive(count)?;
        for packet in &mut self.arrived {
            let clear = self.ingress.unprotect_rtp(packet).map_err(|_| LimitError::Spec("packet"))?;
            packet.truncate(clear.len);
        }
        self.runs.clear();
        let room = HEADER_LEN + self.payload.len() + MAX_TRAILER_LEN;
        self.out.resize(self.subscribers.len() * count * room, 0);
        let mut at = 0;
        for (index, subscriber) in self.subscribers.iter_mut().enumerate() {
            let mut run: Option<Run> = None;
            for packet in &self.arrived {
                let header = RtpHeader::parse(packet).map_err(|_| LimitError::Spec("packet"))?;
                subscriber.seq += 1;
                let fields =
                    HeaderFields { seq: subscriber.seq as u16, ssrc: Ssrc(index as u32 + 1), ..(&header).into() };
                let out = &mut self.out[at..at + room];
                let mut writer = HeaderWriter::new(out, fields, &[]).ok_or(LimitError::Spec("size"))?;
                _ = writer.extension(3, &TransportSeq(subscriber.twcc).write());
                _ = writer.extension(2, &[1, 2, 3]);
                subscriber.twcc = subscriber.twcc.wrapping_add(1);
                let header_len = writer.finish();
                let (head, body) = out.split_at_mut(header_len);
                let seq = SeqNo(subscriber.seq);
                let sealed =
                    subscriber.srtp.protect_rtp_into(head, Payload::from(header.payload()), body, fields.ssrc, seq)?;
                subscriber.history[subscriber.seq as usize % KEPT] = (u32::from(header.seq), header.timestamp);
                let (start, end) = (at, at + header_len + sealed);
                at = end;
                match &mut run {
                    Some(open)
                        if end - start == usize::from(open.segment)
                            && (end - open.start) / usize::from(open.segment) <= self.max_segments =>
                    {
                        open.end = end;
                    }
                    _ => self.runs.extend(run.replace(Run {
                        subscriber: index,
                        start,
                        end,
                        segment: (end - start) as u16,
                    })),
                }
            }
            self.runs.extend(run);
        }
        let failed = self.send_runs(socket);
        Ok(((self.subscribers.len() * count) as u64, failed))
    }

    /// The publisher's packets, as they would lie in the receive buffer.
    fn arrive(&mut self, count: usize) -> Result<(), LimitError> {
        self.arrived.clear();
        for part in 0..count {
            self.seq += 1;
            let fields = HeaderFields {
                marker: part + 1 == count,
                pt: Pt(96),
                seq: self.seq as u16,
                timestamp: self.seq as u32,
                ssrc: Ssrc(77),
                padding: false,
            };
            let mut clear = vec![0; 12];
            HeaderWriter::new(&mut clear, fields, &[]);
            clear.extend_from_slice(&self.payload);
            self.arrived.push(self.publisher.protect_rtp(&clear, SeqNo(self.seq))?);
        }
        Ok(())
    }

    fn send_runs(&mut self, socket: &UdpSocket) -> u64 {
        #[repr(C, align(8))]
        #[derive(Clone, Copy)]
        struct SegmentMessage {
            header: libc::cmsghdr,
            size: u16,
        }
        // SAFETY: zeroed is valid for these C structs.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut vectors: [libc::iovec; BATCH] = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut controls: [SegmentMessage; BATCH] = unsafe { std::mem::zeroed() };
        let mut failed = 0;
        for runs in self.runs.chunks(BATCH) {
            for (index, run) in runs.iter().enumerate() {
                let bytes = &mut self.out[run.start..run.end];
                vectors[index] = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
                let header = &mut headers[index].msg_hdr;
                header.msg_name = (&raw mut self.subscribers[run.subscriber].address).cast();
                header.msg_namelen = size_of::<libc::sockaddr_in>() as _;
                header.msg_iov = &raw mut vectors[index];
                header.msg_iovlen = 1;
                let control = &mut controls[index];
                control.header.cmsg_len = (size_of::<libc::cmsghdr>() + 2) as _;
                control.header.cmsg_level = libc::SOL_UDP;
                control.header.cmsg_type = libc::UDP_SEGMENT;
                control.size = run.segment;
                let is_run = run.end - run.start > usize::from(run.segment);
                header.msg_control = if is_run { (&raw mut *control).cast() } else { std::ptr::null_mut() };
                header.msg_controllen = if is_run { size_of::<SegmentMessage>() as _ } else { 0 };
            }
            let mut first = 0;
            while first < runs.len() {
                let rest = &mut headers[first..runs.len()];
                // SAFETY: all pointers were set above to what outlives this call.
                let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as _, 0) };
                if sent > 0 {
                    first += sent as usize;
                } else {
                    failed += 1;
                    first += 1;
                }
            }
        }
        failed
    }

    fn send_bare(&self, socket: &UdpSocket, count: usize) -> (u64, u64) {
        let mut failed = 0;
        for subscriber in &self.subscribers {
            for _ in 0..count {
                // SAFETY: a live buffer and a live address with their lengths.
                let sent = unsafe {
                    libc::sendto(
                        socket.as_raw_fd(),
                        self.payload.as_ptr().cast(),
                        self.payload.len(),
                        0,
                        (&raw const subscriber.address).cast(),
                        size_of::<libc::sockaddr_in>() as _,
                    )
                };
                failed += u64::from(sent < 0);
            }
        }
        ((self.subscribers.len() * count) as u64, failed)
    }
}

fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
