//! ICE-TCP (RFC 6544): a passive listener and its connections, frames of RFC 4571 in and out.
//!
//! Nothing here trusts a peer: connections are counted and limited, one that does not pass a check in time is closed,
//! frames and queues are bounded. Who the peer is, the engine says by answering it.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use callyard_proto::demux::{Kind, classify};
use callyard_proto::framing::{DEFAULT_MAX_FRAME_LEN, FrameDecoder, frame_header};
use callyard_proto::transmit::TcpId;
use socket2::{Domain, Protocol, Socket, Type};

use crate::counters::NetCounters;

/// How the listener is set up.
#[derive(Clone, Debug)]
pub struct TcpOptions {
    pub bind: SocketAddr,
    pub max_connections: usize,
    /// A connection on which no check was answered for this long after it opened is closed.
    pub unauthenticated_timeout: Duration,
    /// Bytes waiting for a slow reader, at most; frames beyond are dropped, as a full UDP path would.
    pub max_queue_bytes: usize,
}

/// What the engine must hear about connections.
pub(crate) trait Receiver {
    fn frame(&mut self, connection: TcpId, peer: SocketAddr, frame: &mut [u8]);
    fn closed(&mut self, connection: TcpId);
    /// What is to be sent should leave before more is read.
    fn is_full(&self) -> bool;
}

/// The listener with all its connections, behind one pollable descriptor.
pub(crate) struct Tcp {
    epoll: OwnedFd,
    listener: TcpListener,
    options: TcpOptions,
    connections: HashMap<u64, Connection>,
    next_id: u64,
    /// Connections with something new to write.
    unflushed: Vec<u64>,
    scratch: Box<[u8]>,
    /// No accepting before this moment: the process had no descriptor left.
    paused_until: Option<Instant>,
    next_sweep: Instant,
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    decoder: FrameDecoder,
    out: Vec<u8>,
    /// Of `out`, already written.
    written: usize,
    opened: Instant,
    /// When the engine last sent something here; it answers nobody who has not passed a check.
    answered: Option<Instant>,
    wants_write: bool,
    /// Whether the first frame was a check, once it is here.
    is_known: Option<bool>,
}

const LISTENER: u64 = 0;
const BACKLOG: libc::c_int = 256;
/// Accepted in one pass, so that a flood of connections cannot hold up the packets.
const ACCEPTS_PER_PASS: usize = 32;
const EVENTS_PER_PASS: usize = 64;
/// Read in one pass, give or take one read, so that the packets of UDP wait no longer than for as many of their own.
const BYTES_PER_PASS: u64 = 256 * 1024;
const FRAMES_PER_PASS: u64 = 2_048;
/// After a loss as much comes at once, and each frame may be sent to a thousand before the next is read.
const READ_LEN: usize = 1 << 13;
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// ICE consent checks come every 5 s (RFC 7675 §5.1) and are answered; six missed in a row and the peer is gone.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

impl Tcp {
    pub(crate) fn bind(options: TcpOptions, now: Instant) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(options.bind), Type::STREAM, Some(Protocol::TCP))?;
        if options.bind.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // A worker that takes the place of a dead one must not wait for its old connections to time out.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&options.bind.into())?;
        socket.listen(BACKLOG)?;
        // SAFETY: no pointers; the result is checked before it is owned.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(io::Error::last_os_error());
        }
        let tcp = Self {
            // SAFETY: a fresh descriptor that nobody else owns.
            epoll: unsafe { OwnedFd::from_raw_fd(epoll) },
            listener: socket.into(),
            options,
            connections: HashMap::new(),
            next_id: LISTENER + 1,
            unflushed: Vec::new(),
            scratch: vec![0; READ_LEN].into_boxed_slice(),
            paused_until: None,
            next_sweep: now + SWEEP_INTERVAL,
        };
        tcp.watch(libc::EPOLL_CTL_ADD, tcp.listener.as_raw_fd(), LISTENER, libc::EPOLLIN)?;
        Ok(tcp)
    }

    /// When [`Self::sweep`] has work to do; `None` without connections.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (!self.connections.is_empty() || self.paused_until.is_some()).then_some(self.next_sweep)
    }

    /// Accepts, reads and writes what is ready. Level-triggered: what is left over is ready again next time.
    ///
    /// True if there may be more than was taken.
    pub(crate) fn service(&mut self, now: Instant, receiver: &mut impl Receiver, counters: &mut NetCounters) -> bool {
        let (bytes, frames) = (counters.tcp_received_bytes, counters.tcp_received_frames);
        for _ in 0..EVENTS_PER_PASS {
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            // One at a time: it goes to the end of the line, and all others have their turn before it has its next.
            // SAFETY: a live event, and room for one is what is said.
            if unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), &raw mut event, 1, 0) } != 1 {
                return false;
            }
            let (id, flags) = (event.u64, event.events as libc::c_int);
            if id == LISTENER {
                self.accept(now, counters);
                continue;
            }
            if flags & libc::EPOLLOUT != 0 {
                self.flush_one(id, receiver, counters);
            }
            if flags & (libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLERR | libc::EPOLLRDHUP) != 0 {
                self.read(id, receiver, counters);
            }
            if counters.tcp_received_bytes - bytes >= BYTES_PER_PASS
                || counters.tcp_received_frames - frames >= FRAMES_PER_PASS
                || receiver.is_full()
            {
                break;
            }
        }
        true
    }

    /// Closes what has been silent for too long, and takes up accepting again.
    pub(crate) fn sweep(&mut self, now: Instant, receiver: &mut impl Receiver, counters: &mut NetCounters) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP_INTERVAL;
        if self.paused_until.is_some_and(|until| until <= now)
            && self.watch(libc::EPOLL_CTL_ADD, self.listener.as_raw_fd(), LISTENER, libc::EPOLLIN).is_ok()
        {
            self.paused_until = None;
        }
        let limit = self.options.unauthenticated_timeout;
        let silent: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| match connection.answered {
                None => now.saturating_duration_since(connection.opened) >= limit,
                Some(answered) => now.saturating_duration_since(answered) >= SILENCE_LIMIT,
            })
            .map(|(&id, _)| id)
            .collect();
        for id in silent {
            counters.tcp_idle_closed += 1;
            self.close(id, receiver, counters);
        }
    }

    /// Queues datagrams for a connection: `bytes` is one, or a run of `segment_size` each. Goes out with
    /// [`Self::flush`].
    pub(crate) fn queue(
        &mut self,
        now: Instant,
        connection: TcpId,
        bytes: &[u8],
        segment_size: usize,
        counters: &mut NetCounters,
    ) {
        let Some(entry) = self.connections.get_mut(&connection.0) else {
            counters.tcp_send_dropped += bytes.len().div_ceil(segment_size.max(1)) as u64;
            return;
        };
        if entry.answered.is_none_or(|last| last < now) {
            entry.answered = Some(now);
        }
        if entry.out.len() == entry.written {
            self.unflushed.push(connection.0);
        }
        for frame in bytes.chunks(segment_size.max(1)) {
            let waiting = entry.out.len() - entry.written;
            let Some(header) = frame_header(frame.len()) else { continue };
            if waiting + header.len() + frame.len() > self.options.max_queue_bytes {
                counters.tcp_send_dropped += 1;
                continue;
            }
            entry.out.extend_from_slice(&header);
            entry.out.extend_from_slice(frame);
            counters.tcp_sent_frames += 1;
            counters.tcp_sent_bytes += frame.len() as u64;
        }
    }

    pub(crate) fn flush(&mut self, receiver: &mut impl Receiver, counters: &mut NetCounters) {
        while let Some(id) = self.unflushed.pop() {
            self.flush_one(id, receiver, counters);
        }
    }

    fn accept(&mut self, now: Instant, counters: &mut NetCounters) {
        for _ in 0..ACCEPTS_PER_PASS {
            let (stream, peer) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                    // The pending connection keeps the listener readable: stop looking, or this becomes a busy loop.
                    _ = self.watch(libc::EPOLL_CTL_DEL, self.listener.as_raw_fd(), LISTENER, 0);
                    self.paused_until = Some(now + ACCEPT_PAUSE);
                    self.next_sweep = self.next_sweep.max(now + ACCEPT_PAUSE);
                    return;
                }
                // The peer left again before we looked.
                Err(_) => continue,
            };
            if self.connections.len() >= self.options.max_connections {
                counters.tcp_refused += 1;
                continue;
            }
            let id = self.next_id;
            // Media must not wait for a full segment; without the option it is late, not broken.
            _ = stream.set_nodelay(true);
            if stream.set_nonblocking(true).is_err()
                || self.watch(libc::EPOLL_CTL_ADD, stream.as_raw_fd(), id, READ_INTEREST).is_err()
            {
                counters.tcp_refused += 1;
                continue;
            }
            if self.connections.is_empty() {
                self.next_sweep = now + SWEEP_INTERVAL;
            }
            self.next_id += 1;
            counters.tcp_accepted += 1;
            counters.tcp_connections += 1;
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            self.connections.insert(
                id,
                Connection {
                    stream,
                    peer,
                    decoder: FrameDecoder::new(DEFAULT_MAX_FRAME_LEN),
                    out: Vec::new(),
                    written: 0,
                    opened: now,
                    answered: None,
                    wants_write: false,
                    is_known: None,
                },
            );
        }
    }

    fn read(&mut self, id: u64, receiver: &mut impl Receiver, counters: &mut NetCounters) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let len = match connection.stream.read(&mut self.scratch) {
            Ok(0) => return self.close(id, receiver, counters),
            Ok(len) => len,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            Err(_) => return self.close(id, receiver, counters),
        };
        counters.tcp_received_bytes += len as u64;
        let peer = connection.peer;
        let is_known = &mut connection.is_known;
        let intact = connection.decoder.feed(&self.scratch[..len], |frame| {
            counters.tcp_received_frames += 1;
            // The first frame is a check (RFC 6544 §7); who begins otherwise has nothing more to say.
            *is_known = Some(is_known.unwrap_or_else(|| classify(frame) == Kind::Stun));
            if *is_known == Some(true) {
                receiver.frame(TcpId(id), peer, frame);
            }
        });
        if intact.is_err() || connection.is_known == Some(false) {
            counters.tcp_malformed += 1;
            self.close(id, receiver, counters);
        }
    }

    fn flush_one(&mut self, id: u64, receiver: &mut impl Receiver, counters: &mut NetCounters) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        while connection.written < connection.out.len() {
            match connection.stream.write(&connection.out[connection.written..]) {
                Ok(0) => return self.close(id, receiver, counters),
                Ok(len) => connection.written += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return self.close(id, receiver, counters),
            }
        }
        connection.out.drain(..connection.written);
        connection.written = 0;
        let wants_write = !connection.out.is_empty();
        if wants_write != connection.wants_write {
            connection.wants_write = wants_write;
            let interest = if wants_write { READ_INTEREST | libc::EPOLLOUT } else { READ_INTEREST };
            let fd = connection.stream.as_raw_fd();
            if self.watch(libc::EPOLL_CTL_MOD, fd, id, interest).is_err() {
                self.close(id, receiver, counters);
            }
        }
    }

    fn close(&mut self, id: u64, receiver: &mut impl Receiver, counters: &mut NetCounters) {
        // Closing the descriptor takes it out of the epoll set.
        if self.connections.remove(&id).is_some() {
            counters.tcp_connections -= 1;
            receiver.closed(TcpId(id));
        }
    }

    fn watch(&self, operation: libc::c_int, fd: RawFd, id: u64, interest: libc::c_int) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest as u32, u64: id };
        // SAFETY: two open descriptors and a live event.
        let result = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &raw mut event) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsRawFd for Tcp {
    /// Readable when [`Tcp::service`] has something to do.
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

const READ_INTEREST: libc::c_int = libc::EPOLLIN | libc::EPOLLRDHUP;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard {
        frames: HashMap<TcpId, usize>,
        closed: usize,
        is_full: bool,
    }

    impl Receiver for Heard {
        fn frame(&mut self, connection: TcpId, _peer: SocketAddr, _frame: &mut [u8]) {
            *self.frames.entry(connection).or_default() += 1;
        }

        fn closed(&mut self, _connection: TcpId) {
            self.closed += 1;
        }

        fn is_full(&self) -> bool {
            self.is_full
        }
    }

    #[expect(clippy::disallowed_methods, reason = "sockets know no virtual time")]
    fn listener(clients: usize) -> (Tcp, Instant, Vec<TcpStream>) {
        let now = Instant::now();
        let options = TcpOptions {
            bind: "127.0.0.1:0".parse().expect("a literal address"),
            max_connections: clients,
            unauthenticated_timeout: Duration::from_secs(10),
            max_queue_bytes: 1 << 16,
        };
        let tcp = Tcp::bind(options, now).expect("a free port");
        let address = tcp.listener.local_addr().expect("it is bound");
        let clients = (0..clients).map(|_| TcpStream::connect(address).expect("the listener is up")).collect();
        (tcp, now, clients)
    }

    #[test]
    fn a_pass_takes_so_many_frames_and_everybody_has_his_turn() {
        let (mut tcp, now, mut clients) = listener(6);
        let (mut heard, mut counters) = (Heard::default(), NetCounters::default());
        while counters.tcp_accepted < 6 {
            tcp.service(now, &mut heard, &mut counters);
        }
        let frames = 20_000;
        let small = [0, 1, 0].repeat(frames);
        for client in &mut clients {
            client.write_all(&small).expect("there is room for as much on the way");
        }
        let (mut passes, mut most) = (0, 0);
        while counters.tcp_received_frames < 6 * frames as u64 {
            let before = counters.tcp_received_frames;
            let is_more = tcp.service(now, &mut heard, &mut counters);
            let taken = counters.tcp_received_frames - before;
            assert!(is_more || taken < 2_048, "{taken}");
            most = most.max(taken);
            passes += 1;
            if passes == 6 {
                assert_eq!(heard.frames.len(), 6, "one after the other");
            }
        }
        assert!((2_048..5_000).contains(&most), "{most}");
        assert_eq!((heard.closed, counters.tcp_malformed), (0, 0));
    }

    #[test]
    fn what_is_to_be_sent_leaves_before_more_is_read() {
        let (mut tcp, now, mut clients) = listener(2);
        let (mut heard, mut counters) = (Heard { is_full: true, ..Heard::default() }, NetCounters::default());
        let long = [&[2, 0][..], &[0; 512]].concat().repeat(100);
        for client in &mut clients {
            client.write_all(&long).expect("there is room for as much on the way");
        }
        while counters.tcp_received_frames < 200 {
            let before = counters.tcp_received_frames;
            let is_more = tcp.service(now, &mut heard, &mut counters);
            let taken = counters.tcp_received_frames - before;
            assert!(taken <= 16 && (is_more || taken == 0), "{taken}");
        }
    }

    #[test]
    fn who_does_not_begin_with_a_check_is_closed_at_once() {
        let (mut tcp, now, mut clients) = listener(2);
        let (mut heard, mut counters) = (Heard::default(), NetCounters::default());
        clients[0].write_all(&[0, 1, 0x16].repeat(1_000)).expect("the connection is open");
        // What follows a check is whatever it is.
        clients[1].write_all(&[0, 1, 0, 0, 1, 0x16]).expect("the connection is open");
        while heard.closed == 0 || heard.frames.is_empty() {
            tcp.service(now, &mut heard, &mut counters);
        }
        assert_eq!(heard.frames.into_values().collect::<Vec<_>>(), [2]);
        assert_eq!((heard.closed, counters.tcp_malformed, counters.tcp_connections), (1, 1, 1));
    }
}
