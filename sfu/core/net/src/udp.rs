//! One UDP port for all transports of a worker: batches in (`recvmmsg`, UDP_GRO), batches out (`sendmmsg`,
//! UDP_SEGMENT).
//!
//! Not a protocol: bytes, addresses and times of arrival only. What the kernel refuses is counted and never fatal.

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::address::{Family, RawAddress};
use crate::clock::Clock;
use crate::cmsg::{ControlBuffer, Received};
use crate::counters::NetCounters;
use crate::pins::SourcePins;
use crate::steer;

/// Messages a system call carries at most. Larger batches measured no faster, and hold the next receive back longer.
pub(crate) const BATCH: usize = 64;
/// A coalesced run (UDP_GRO) may fill the largest datagram there is.
const SLOT_LEN: usize = 1 << 16;
/// Distance of two slots: not a power of two, or all slots would share a few sets of the first-level cache.
const SLOT_STRIDE: usize = SLOT_LEN + 19 * 64;
/// The kernel's limit (UDP_MAX_SEGMENTS) on the kernels we know of is 64 or 128.
const MAX_SEGMENTS: usize = 64;
/// Payload of one send, all segments together (IPv6 jumbograms aside).
const MAX_SEND_LEN: usize = 65_000;
/// How long a flush waits for room in a full send buffer before it drops.
const SEND_WAIT: Duration = Duration::from_millis(1);

/// How the socket is set up.
#[derive(Clone, Debug)]
pub struct UdpOptions {
    /// An unspecified IPv6 address serves IPv4 too.
    pub bind: SocketAddr,
    pub receive_buffer_bytes: usize,
    pub send_buffer_bytes: usize,
    /// Answer each peer from the address it talks to. For sockets bound to every address of a machine with several.
    pub pin_source: bool,
}

/// A received datagram or run of datagrams, in one of the socket's slots.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    slot: usize,
    len: usize,
    /// Size of each datagram but the last, which may be shorter; never 0.
    pub(crate) segment_size: usize,
    pub(crate) source: SocketAddr,
    pub(crate) received: Instant,
}

/// One outgoing datagram, or a run of datagrams of `segment_size` bytes (the last may be shorter).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) destination: SocketAddr,
    pub(crate) bytes: &'a [u8],
    pub(crate) segment_size: usize,
}

/// Which of the port's two sockets ([`steer`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// What is to be looked at when it comes.
    Prompt,
    /// Transport-wide feedback. Never used where the kernel cannot tell it apart.
    Reports,
}

pub(crate) struct UdpSocket {
    fd: OwnedFd,
    reports: Option<OwnedFd>,
    family: Family,
    local: SocketAddr,
    /// Off once a route has refused segmentation for want of checksum offload (EIO).
    segmentation: bool,
    /// By lane.
    overflows: [u32; 2],
    pins: Option<SourcePins>,
    slots: Box<[u8]>,
    arrivals: Vec<Arrival>,
    receive: Box<ReceiveArrays>,
    send: Box<SendArrays>,
}

struct ReceiveArrays {
    /// How many, from the first on, must be prepared before the next call.
    spent: usize,
    headers: [libc::mmsghdr; BATCH],
    vectors: [libc::iovec; BATCH],
    addresses: [RawAddress; BATCH],
    controls: [ControlBuffer; BATCH],
}

struct SendArrays {
    headers: [libc::mmsghdr; BATCH],
    vectors: [libc::iovec; BATCH],
    addresses: [RawAddress; BATCH],
    controls: [ControlBuffer; BATCH],
    /// What was queued, for the counters and for sending a refused run again.
    queued: [Queued; BATCH],
    used: usize,
}

#[derive(Clone, Copy)]
struct Queued {
    datagrams: usize,
    segment_size: usize,
    local: Option<IpAddr>,
}

// SAFETY: the raw pointers in the arrays point into the same struct or are rewritten before each call; nothing is
// shared with another thread.
unsafe impl Send for UdpSocket {}

impl UdpSocket {
    pub(crate) fn bind(options: &UdpOptions) -> io::Result<Self> {
        let family = match options.bind {
            SocketAddr::V4(_) => Family::V4,
            SocketAddr::V6(_) => Family::Dual,
        };
        let (socket, reports) = steer::bind(options.bind)?;
        let local = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))?;
        let pin_source = options.pin_source && local.ip().is_unspecified();
        for socket in std::iter::once(&socket).chain(&reports) {
            grow_buffer(socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, options.receive_buffer_bytes);
            grow_buffer(socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, options.send_buffer_bytes);
            // Each of these is a refinement that the socket works without (older kernels, other systems).
            _ = set_flag(socket, libc::SOL_UDP, libc::UDP_GRO);
            _ = set_flag(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS);
            _ = set_flag(socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL);
            if pin_source {
                _ = match family {
                    Family::V4 => set_flag(socket, libc::IPPROTO_IP, libc::IP_PKTINFO),
                    Family::Dual => set_flag(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
                };
            }
        }
        Ok(Self {
            fd: socket.into(),
            reports: reports.map(OwnedFd::from),
            family,
            local,
            segmentation: true,
            overflows: [0; 2],
            pins: pin_source.then(SourcePins::default),
            slots: vec![0; BATCH * SLOT_STRIDE].into_boxed_slice(),
            arrivals: Vec::with_capacity(BATCH),
            receive: Box::new(ReceiveArrays {
                spent: BATCH,
                headers: zeroed_headers(),
                vectors: [EMPTY_VECTOR; BATCH],
                addresses: [RawAddress::ZERO; BATCH],
                controls: [ControlBuffer::EMPTY; BATCH],
            }),
            send: Box::new(SendArrays {
                headers: zeroed_headers(),
                vectors: [EMPTY_VECTOR; BATCH],
                addresses: [RawAddress::ZERO; BATCH],
                controls: [ControlBuffer::EMPTY; BATCH],
                queued: [Queued { datagrams: 0, segment_size: 1, local: None }; BATCH],
                used: 0,
            }),
        })
    }

    /// The bound address, with the real port.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// The descriptor to wait on for a lane.
    pub(crate) fn descriptor(&self, lane: Lane) -> Option<RawFd> {
        match lane {
            Lane::Prompt => Some(self.fd.as_raw_fd()),
            Lane::Reports => self.reports.as_ref().map(AsRawFd::as_raw_fd),
        }
    }

    /// Takes one batch from the kernel. True if the batch was full, so that more may be waiting.
    pub(crate) fn receive(&mut self, lane: Lane, clock: &Clock, now: Instant, counters: &mut NetCounters) -> bool {
        self.arrivals.clear();
        let Some(descriptor) = self.descriptor(lane) else { return false };
        // Read right behind `now`: what the kernel stamps later than this has no age.
        let wall = clock.wall();
        let count = self.receive_batch(descriptor, counters);
        for index in 0..count {
            let header = self.receive.headers[index];
            let len = header.msg_len as usize;
            let about = self.receive.controls[index].read(header.msg_hdr.msg_controllen);
            self.note_overflows(lane, &about, counters);
            if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
                counters.udp_received_truncated += 1;
                continue;
            }
            let Some(source) = self.receive.addresses[index].get() else { continue };
            let segment_size = about.segment_size.filter(|size| (1..len.max(1)).contains(size)).unwrap_or(len.max(1));
            if let (Some(pins), Some(local)) = (&mut self.pins, about.local) {
                pins.note(source, local);
            }
            let age = about.arrival.map_or(Duration::ZERO, |arrival| wall.saturating_sub(arrival));
            counters.udp_received_datagrams += len.div_ceil(segment_size).max(1) as u64;
            counters.udp_received_bytes += len as u64;
            self.arrivals.push(Arrival {
                slot: index,
                len,
                segment_size,
                source,
                received: now.checked_sub(age.min(MAX_QUEUE_AGE)).unwrap_or(now),
            });
        }
        count == BATCH
    }

    /// What the batch that [`Self::receive`] took was written to; to be returned before the next.
    pub(crate) fn take_slots(&mut self) -> Box<[u8]> {
        mem::take(&mut self.slots)
    }

    pub(crate) fn return_slots(&mut self, slots: Box<[u8]>) {
        self.slots = slots;
    }

    /// Each arrival of the batch with its bytes.
    pub(crate) fn arrivals<'a>(
        &self,
        slots: &'a mut [u8],
    ) -> impl Iterator<Item = (Arrival, &'a mut [u8])> + use<'_, 'a> {
        let used = self.arrivals.last().map_or(0, |arrival| arrival.slot + 1);
        let mut arrivals = self.arrivals.iter().copied().peekable();
        // Slots ascend in `arrivals`, so both are walked once.
        slots.chunks_exact_mut(SLOT_STRIDE).take(used).enumerate().filter_map(move |(slot, bytes)| {
            let arrival = arrivals.next_if(|arrival| arrival.slot == slot)?;
            Some((arrival, &mut bytes[..arrival.len]))
        })
    }

    /// Queues a message, and sends the batch when it is full. Call [`Self::flush`] after the last one, while all
    /// queued bytes are still borrowed.
    fn queue(&mut self, outgoing: Outgoing<'_>, counters: &mut NetCounters) {
        let Some((address, address_len)) = RawAddress::new(outgoing.destination, self.family) else {
            counters.udp_send_failed += 1;
            return;
        };
        let local = self.pins.as_ref().and_then(|pins| pins.get(outgoing.destination));
        let send = &mut *self.send;
        let index = send.used;
        let run = outgoing.bytes.len() > outgoing.segment_size;
        // A segment never exceeds a datagram's 16-bit length: `send_all` checked it.
        let segment = run.then_some(outgoing.segment_size as u16);
        let control_len = send.controls[index].write_outgoing(segment, local, self.family);
        send.addresses[index] = address;
        send.vectors[index] =
            libc::iovec { iov_base: outgoing.bytes.as_ptr().cast_mut().cast(), iov_len: outgoing.bytes.len() };
        send.queued[index] = Queued {
            datagrams: outgoing.bytes.len().div_ceil(outgoing.segment_size).max(1),
            segment_size: outgoing.segment_size,
            local,
        };
        let header = &mut send.headers[index].msg_hdr;
        header.msg_name = (&raw mut send.addresses[index]).cast();
        header.msg_namelen = address_len;
        header.msg_iov = &raw mut send.vectors[index];
        header.msg_iovlen = 1;
        header.msg_control = if control_len == 0 { std::ptr::null_mut() } else { send.controls[index].as_mut_ptr() };
        header.msg_controllen = control_len as _;
        header.msg_flags = 0;
        send.used += 1;
        if send.used == BATCH {
            self.flush(counters);
        }
    }

    /// Sends all of `messages`. Runs are split where the kernel's limits or a refusal ask for it.
    pub(crate) fn send_all<'a>(&mut self, messages: impl Iterator<Item = Outgoing<'a>>, counters: &mut NetCounters) {
        for message in messages {
            let segment_size = message.segment_size.clamp(1, usize::from(u16::MAX));
            let per_send = if self.segmentation { MAX_SEGMENTS.min(MAX_SEND_LEN / segment_size).max(1) } else { 1 };
            if message.bytes.len() <= segment_size * per_send {
                self.queue(Outgoing { segment_size, ..message }, counters);
            } else {
                for bytes in message.bytes.chunks(segment_size * per_send) {
                    self.queue(Outgoing { bytes, segment_size, ..message }, counters);
                }
            }
        }
        // The queued pointers borrow from `messages`' arena, which outlives this call and no longer.
        self.flush(counters);
    }

    fn flush(&mut self, counters: &mut NetCounters) {
        let used = mem::take(&mut self.send.used);
        let mut first = 0;
        let mut waited = false;
        while first < used {
            // SAFETY: headers `first..used` were filled by `queue` with pointers to live arrays and borrowed bytes.
            let sent = unsafe {
                libc::sendmmsg(
                    self.fd.as_raw_fd(),
                    self.send.headers[first..used].as_mut_ptr(),
                    (used - first) as libc::c_uint,
                    0,
                )
            };
            counters.udp_send_calls += 1;
            if sent > 0 {
                // A partial send reports its error on the next call, for the message that failed.
                let end = first + sent as usize;
                for index in first..end {
                    counters.udp_sent_datagrams += self.send.queued[index].datagrams as u64;
                    counters.udp_sent_bytes += self.send.vectors[index].iov_len as u64;
                    counters.udp_sent_messages += 1;
                }
                first = end;
                continue;
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                // Both are one errno here, and another elsewhere.
                #[allow(unreachable_patterns, reason = "EAGAIN and EWOULDBLOCK are equal on Linux only")]
                Some(libc::EAGAIN | libc::EWOULDBLOCK) => {
                    if waited {
                        counters.udp_send_would_block += (used - first) as u64;
                        return;
                    }
                    waited = true;
                    self.wait_writable();
                }
                Some(libc::EIO | libc::EINVAL) if self.send.queued[first].datagrams > 1 => {
                    counters.udp_segmentation_refused += 1;
                    // EIO: the device has no checksum offload, so no route through it can. EINVAL: this route's MTU.
                    self.segmentation &= error.raw_os_error() != Some(libc::EIO);
                    self.send_split(first, counters);
                    first += 1;
                }
                Some(libc::ENOBUFS) => {
                    counters.udp_send_no_buffers += 1;
                    first += 1;
                }
                // An ICMP error of an earlier datagram is reported by, and cleared with, this call: try again.
                Some(libc::ECONNREFUSED) => counters.udp_send_failed += 1,
                _ => {
                    counters.udp_send_failed += 1;
                    first += 1;
                }
            }
        }
    }

    /// Sends one queued run datagram by datagram.
    fn send_split(&mut self, index: usize, counters: &mut NetCounters) {
        let send = &mut *self.send;
        let run = send.vectors[index];
        let Queued { segment_size, local, .. } = send.queued[index];
        let control_len = send.controls[index].write_outgoing(None, local, self.family);
        let header = &mut send.headers[index].msg_hdr;
        if control_len == 0 {
            header.msg_control = std::ptr::null_mut();
        }
        header.msg_controllen = control_len as _;
        for offset in (0..run.iov_len).step_by(segment_size) {
            let len = segment_size.min(run.iov_len - offset);
            // SAFETY: `offset` is below the run's length, so the pointer stays inside the borrowed bytes.
            send.vectors[index] =
                libc::iovec { iov_base: unsafe { run.iov_base.cast::<u8>().add(offset) }.cast(), iov_len: len };
            // SAFETY: the header points to live arrays, its vector was just set.
            let sent = unsafe { libc::sendmsg(self.fd.as_raw_fd(), &send.headers[index].msg_hdr, 0) };
            counters.udp_send_calls += 1;
            if sent < 0 {
                counters.udp_send_failed += 1;
            } else {
                counters.udp_sent_datagrams += 1;
                counters.udp_sent_messages += 1;
                counters.udp_sent_bytes += len as u64;
            }
        }
    }

    fn wait_writable(&self) {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: one valid pollfd. The outcome does not matter: the next send finds out.
        unsafe { libc::poll(&raw mut poll, 1, SEND_WAIT.as_millis() as libc::c_int) };
    }

    fn receive_batch(&mut self, descriptor: RawFd, counters: &mut NetCounters) -> usize {
        let receive = &mut *self.receive;
        // The kernel writes only into what it filled; the rest stands as it was prepared. A pass that takes one packet
        // must not touch the memory of sixty-four.
        for (index, slot) in self.slots.chunks_exact_mut(SLOT_STRIDE).take(receive.spent).enumerate() {
            receive.vectors[index] = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: SLOT_LEN };
            let header = &mut receive.headers[index].msg_hdr;
            header.msg_name = (&raw mut receive.addresses[index]).cast();
            header.msg_namelen = RawAddress::SIZE;
            header.msg_iov = &raw mut receive.vectors[index];
            header.msg_iovlen = 1;
            header.msg_control = receive.controls[index].as_mut_ptr();
            header.msg_controllen = ControlBuffer::LEN as _;
            header.msg_flags = 0;
        }
        receive.spent = 0;
        // A pending ICMP error (connection refused) makes one call fail; the datagrams behind it are still there.
        for _attempt in 0..4 {
            // SAFETY: all headers point to live arrays of this struct, and each slot is `SLOT_LEN` bytes long.
            let count = unsafe {
                libc::recvmmsg(
                    descriptor,
                    receive.headers.as_mut_ptr(),
                    BATCH as libc::c_uint,
                    libc::MSG_DONTWAIT,
                    std::ptr::null_mut(),
                )
            };
            counters.udp_receive_calls += 1;
            if count >= 0 {
                receive.spent = count as usize;
                return count as usize;
            }
            match io::Error::last_os_error().kind() {
                io::ErrorKind::WouldBlock => return 0,
                io::ErrorKind::Interrupted => {}
                _ => counters.udp_receive_failed += 1,
            }
        }
        0
    }

    fn note_overflows(&mut self, lane: Lane, about: &Received, counters: &mut NetCounters) {
        if let Some(overflows) = about.overflows {
            let before = std::mem::replace(&mut self.overflows[lane as usize], overflows);
            counters.udp_receive_overflows += u64::from(overflows.wrapping_sub(before));
        }
    }
}

/// A kernel time stamp further back than this is a jump of the wall clock, not a queue.
const MAX_QUEUE_AGE: Duration = Duration::from_millis(200);
const EMPTY_VECTOR: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

fn zeroed_headers() -> [libc::mmsghdr; BATCH] {
    // SAFETY: null pointers and zero lengths are valid values of these C structs.
    unsafe { mem::zeroed() }
}

/// The privileged option passes the system's maximum; without the privilege the plain one goes as far as it may.
fn grow_buffer(socket: &Socket, forced: libc::c_int, plain: libc::c_int, bytes: usize) {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    if set_option(socket, libc::SOL_SOCKET, forced, bytes).is_err() {
        _ = set_option(socket, libc::SOL_SOCKET, plain, bytes);
    }
}

fn set_flag(socket: &Socket, level: libc::c_int, name: libc::c_int) -> io::Result<()> {
    set_option(socket, level, name, 1)
}

fn set_option(socket: &Socket, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: a valid descriptor and a live int of the given size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets() -> (UdpSocket, std::net::UdpSocket) {
        let options = UdpOptions {
            bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            receive_buffer_bytes: 1 << 18,
            send_buffer_bytes: 1 << 18,
            pin_source: false,
        };
        let ours = UdpSocket::bind(&options).expect("a free port");
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        peer.set_read_timeout(Some(Duration::from_secs(10))).expect("not zero");
        (ours, peer)
    }

    fn receive(peer: &std::net::UdpSocket) -> Vec<u8> {
        let mut buffer = [0; 4096];
        let len = peer.recv(&mut buffer).expect("a datagram");
        buffer[..len].to_vec()
    }

    #[test]
    fn a_refused_run_is_sent_datagram_by_datagram() {
        let (mut ours, peer) = sockets();
        let mut counters = NetCounters::default();
        let bytes: Vec<u8> = (0..250).map(|byte| byte as u8).collect();
        let destination = peer.local_addr().expect("it is bound");
        ours.queue(Outgoing { destination, bytes: &bytes, segment_size: 100 }, &mut counters);
        ours.send.used = 0;
        ours.send_split(0, &mut counters);
        for expected in bytes.chunks(100) {
            assert_eq!(receive(&peer), expected);
        }
        assert_eq!((counters.udp_sent_datagrams, counters.udp_sent_bytes), (3, 250));
    }

    #[test]
    fn without_segmentation_runs_are_cut_before_they_are_queued() {
        let (mut ours, peer) = sockets();
        ours.segmentation = false;
        let mut counters = NetCounters::default();
        let bytes = [5; 250];
        let destination = peer.local_addr().expect("it is bound");
        ours.send_all([Outgoing { destination, bytes: &bytes, segment_size: 100 }].into_iter(), &mut counters);
        let lengths: Vec<usize> = (0..3).map(|_| receive(&peer).len()).collect();
        assert_eq!(lengths, [100, 100, 50]);
        assert_eq!((counters.udp_sent_messages, counters.udp_segmentation_refused), (3, 0));
    }

    /// F-34
    #[test]
    fn what_cannot_be_sent_costs_itself_only() {
        let (mut ours, peer) = sockets();
        let mut counters = NetCounters::default();
        let destination = peer.local_addr().expect("it is bound");
        let unreachable = "[2001:db8::1]:9".parse().expect("a literal address");
        // A socket bound to loopback cannot send to the world, an IPv4 socket not to IPv6, and port 0 is nobody.
        let refused = ["192.0.2.1:9", "127.0.0.1:0"].map(|text| text.parse().expect("a literal address"));
        let messages = [refused[0], destination, refused[1], unreachable, destination];
        ours.send_all(
            messages.into_iter().map(|destination| Outgoing { destination, bytes: b"x", segment_size: 1 }),
            &mut counters,
        );
        assert_eq!([receive(&peer), receive(&peer)], [b"x", b"x"]);
        assert_eq!((counters.udp_send_failed, counters.udp_sent_datagrams), (3, 2));
    }
}
