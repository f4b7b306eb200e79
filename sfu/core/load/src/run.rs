//! The generator's loop: commands, pictures by the clock, and a look at the sockets every tick.
//!
//! It never waits for a socket: on one machine a server would be charged for waking it, which no real client costs. When a
//! packet came is told by the kernel's time stamp, so that ticks do not show in latencies.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use callyard_net::Clock;
use callyard_proto::config::Config;
use callyard_proto::dtls::{Certificate, dimpl_config};
use slab::Slab;

use crate::client::{Client, Context, Loss, Outbox, keys_of};
use crate::control::{Control, ControlError};
use crate::protocol::{Command, Open, Publish, Report, Setup};
use crate::publish::Publisher;
use crate::socket::{ClientSocket, Receiver};
use crate::stats::Stats;

/// Without anything to do the generator looks this often.
const IDLE: Duration = Duration::from_millis(20);
const EVENTS: usize = 512;
/// A handshake under load may take long.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// Tags of epoll events: sinks are told from clients by this bit.
const SINK: u64 = 1 << 63;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Client(usize),
    Publisher(usize),
}

struct Entry {
    client: Client,
    socket: ClientSocket,
}

struct Generator {
    clock: Clock,
    control: Control,
    epoll: OwnedFd,
    setup: Option<Setup>,
    context: Option<Context>,
    receiver: Receiver,
    clients: Slab<Entry>,
    by_id: HashMap<u64, usize>,
    publishers: Slab<Publisher>,
    publishers_by_id: HashMap<u64, usize>,
    sinks: Vec<ClientSocket>,
    timers: BinaryHeap<Reverse<(Instant, Timer)>>,
    reports: Vec<Report>,
}

/// Obeys the commands from `input` until it ends. Reports go to `output`.
pub fn run(input: RawFd, output: RawFd) -> io::Result<()> {
    callyard_net::prefer_low_latency();
    // SAFETY: no pointers; the result is checked before it is owned.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if epoll < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut generator = Generator {
        clock: Clock,
        control: Control::new(input, output)?,
        // SAFETY: a fresh descriptor that nobody else owns.
        epoll: unsafe { OwnedFd::from_raw_fd(epoll) },
        setup: None,
        context: None,
        receiver: Receiver::new(false),
        clients: Slab::new(),
        by_id: HashMap::new(),
        publishers: Slab::new(),
        publishers_by_id: HashMap::new(),
        sinks: Vec::new(),
        timers: BinaryHeap::new(),
        reports: Vec::new(),
    };
    generator.run().map_err(io::Error::other)
}

impl Generator {
    fn run(&mut self) -> Result<(), ControlError> {
        loop {
            let Some(commands) = self.control.read()? else { return Ok(()) };
            for command in commands {
                self.obey(command);
            }
            self.fire();
            let received = self.receive();
            if let Some(context) = &mut self.context {
                self.reports.append(&mut context.reports);
            }
            if !self.reports.is_empty() {
                self.control.write(&self.reports)?;
                self.reports.clear();
            }
            self.sleep(received);
        }
    }

    fn sleep(&self, received: bool) {
        let tick = self.setup.as_ref().map_or(IDLE, |setup| Duration::from_micros(setup.tick_us.clamp(50, 20_000)));
        let is_idle = self.clients.is_empty() && self.sinks.is_empty() && !received;
        let limit = if is_idle { IDLE } else { tick };
        let now = self.clock.now();
        let due = self.timers.peek().map_or(limit, |Reverse((at, _))| at.saturating_duration_since(now));
        let pause = due.min(limit);
        if pause.is_zero() {
            return;
        }
        let mut control = libc::pollfd { fd: self.control.input(), events: libc::POLLIN, revents: 0 };
        let timeout = libc::timespec { tv_sec: pause.as_secs() as _, tv_nsec: pause.subsec_nanos() as _ };
        // SAFETY: one live pollfd and a live timespec. Every outcome means "look again".
        unsafe { libc::ppoll(&raw mut control, 1, &raw const timeout, std::ptr::null()) };
    }

    /// Everything whose time has come.
    fn fire(&mut self) {
        let Some(context) = &mut self.context else { return };
        let mut now = self.clock.now();
        while let Some(&Reverse((at, timer))) = self.timers.peek()
            && at <= now
        {
            self.timers.pop();
            let slot = match timer {
                Timer::Client(slot) => {
                    let Some(entry) = self.clients.get_mut(slot) else { continue };
                    if entry.client.scheduled != Some(at) {
                        continue;
                    }
                    entry.client.scheduled = None;
                    entry.client.timeout(now, wall_ns(self.clock), context, &self.publishers);
                    slot
                }
                Timer::Publisher(slot) => {
                    let Some(publisher) = self.publishers.get_mut(slot) else { continue };
                    if publisher.next != at {
                        continue;
                    }
                    context.stats.send_lateness.record(now.saturating_duration_since(at));
                    let client = publisher.transport;
                    let Some(entry) = self.clients.get_mut(client) else { continue };
                    entry.client.send_picture(now, wall_ns(self.clock), context, publisher);
                    self.timers.push(Reverse((publisher.next, timer)));
                    client
                }
            };
            settle(&mut self.clients[slot], slot, context, &mut self.timers);
            now = self.clock.now();
        }
    }

    /// One look at every socket that has something. True if any had.
    fn receive(&mut self) -> bool {
        let Some(context) = &mut self.context else { return false };
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        // SAFETY: a live array with its length; no waiting.
        let count = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), EVENTS as _, 0) };
        let count = usize::try_from(count).unwrap_or(0);
        for event in &events[..count] {
            let tag = event.u64;
            if tag & SINK != 0 {
                let Some(socket) = self.sinks.get_mut((tag & !SINK) as usize) else { continue };
                let stats = &mut context.stats;
                let taken = self.receiver.take(socket, |_, _| stats.sink_datagrams += 1);
                stats.socket_overflows += taken.overflows;
                continue;
            }
            let Some(Entry { client, socket }) = self.clients.get_mut(tag as usize) else { continue };
            let publishers = &mut self.publishers;
            let clock = self.clock;
            // What a batch leaves is taken the next time round: epoll tells again.
            let taken = self.receiver.take(socket, |arrival, datagram| {
                client.receive(clock.now(), arrival, datagram, context, publishers);
            });
            context.stats.socket_overflows += taken.overflows;
            settle(&mut self.clients[tag as usize], tag as usize, context, &mut self.timers);
        }
        count > 0
    }

    fn obey(&mut self, command: Command) {
        let (name, subject, result) = match command {
            Command::Setup(setup) => ("setup", 0, self.set_up(setup)),
            Command::Open(open) => ("open", open.transport, self.open(open)),
            Command::Publish(publish) => ("publish", publish.stream, self.publish(publish)),
            Command::SendDtls { transport, datagram } => (
                "send_dtls",
                transport,
                self.with(transport, |_, client, context| client.send_dtls(&datagram, context)),
            ),
            Command::SetKeys(keys) => {
                let transport = keys.transport;
                let keys = keys_of(keys).ok_or_else(|| "no profile known here".to_owned());
                let result = keys
                    .and_then(|keys| self.with(transport, |now, client, context| client.set_keys(now, &keys, context)));
                ("set_keys", transport, result)
            }
            Command::Receive(receive) => {
                let transport = receive.transport;
                ("receive", transport, self.with(transport, |_, client, _| client.set_receive(receive)))
            }
            Command::SetEncodings { stream, active } => {
                let publisher = self.publishers_by_id.get(&stream).and_then(|&slot| self.publishers.get_mut(slot));
                let found = publisher.map(|publisher| publisher.set_encodings(&active));
                ("set_encodings", stream, found.ok_or_else(|| "there is no such stream".to_owned()))
            }
            Command::Close { transport, abrupt } => ("close", transport, self.close(transport, abrupt)),
            Command::GetStats { request, reset } => ("get_stats", request, self.report(request, reset)),
            Command::OpenSinks { request, count } => ("open_sinks", request, self.open_sinks(request, count)),
        };
        if let Err(message) = result {
            self.reports.push(Report::Refused { command: name.to_owned(), subject, message });
        }
    }

    fn set_up(&mut self, setup: Setup) -> Result<(), String> {
        if self.context.is_some() {
            return Err("the generator is set up once".to_owned());
        }
        if !(0.0..1.0).contains(&setup.loss) {
            return Err("loss is a share of 0 to less than 1".to_owned());
        }
        self.receiver = Receiver::new(setup.gro);
        self.context = Some(Context {
            certificate: Certificate {
                certificate_der: setup.certificate_der.to_vec(),
                private_key_der: setup.key_der.to_vec(),
            },
            dimpl: dimpl_config(HANDSHAKE),
            config: Config::default(),
            feedback_interval: Duration::from_millis(setup.feedback_ms.clamp(10, 10_000)),
            base_wall_ns: wall_ns(self.clock),
            out: Outbox::default(),
            reports: Vec::new(),
            stats: Stats::new(self.clock.now()),
            loss: Loss::new(setup.loss),
            scratch: Vec::new(),
            seqs: Vec::new(),
            packets: VecDeque::new(),
        });
        self.setup = Some(setup);
        Ok(())
    }

    fn open(&mut self, open: Open) -> Result<(), String> {
        let (Some(setup), Some(context)) = (&self.setup, &mut self.context) else { return Err(NOT_SET_UP.to_owned()) };
        if self.by_id.contains_key(&open.transport) {
            return Err("this transport is open".to_owned());
        }
        let address: SocketAddr = open.address.parse().map_err(|_| format!("no address: {}", open.address))?;
        let socket =
            ClientSocket::connect(address, setup.receive_buffer_bytes, setup.gro).map_err(|error| error.to_string())?;
        let now = self.clock.now();
        let entry = self.clients.vacant_entry();
        let slot = entry.key();
        watch(&self.epoll, &socket, slot as u64).map_err(|error| error.to_string())?;
        self.by_id.insert(open.transport, slot);
        let entry = entry.insert(Entry { client: Client::new(now, address, open), socket });
        settle(entry, slot, context, &mut self.timers);
        Ok(())
    }

    fn publish(&mut self, publish: Publish) -> Result<(), String> {
        let Some(&client) = self.by_id.get(&publish.transport) else { return Err(NO_TRANSPORT.to_owned()) };
        if self.publishers_by_id.contains_key(&publish.stream) {
            return Err("this stream is published".to_owned());
        }
        let publisher = Publisher::new(self.clock.now(), client, publish)?;
        let (id, next) = (publisher.id, publisher.next);
        let slot = self.publishers.insert(publisher);
        self.publishers_by_id.insert(id, slot);
        self.clients[client].client.publishers.push(slot);
        self.timers.push(Reverse((next, Timer::Publisher(slot))));
        Ok(())
    }

    fn close(&mut self, transport: u64, abrupt: bool) -> Result<(), String> {
        if !abrupt {
            self.with(transport, |now, client, context| client.close(now, context))?;
        }
        let slot = self.by_id.remove(&transport).ok_or_else(|| NO_TRANSPORT.to_owned())?;
        // Its socket leaves the epoll set by being closed.
        let client = self.clients.remove(slot).client;
        if let Some(context) = &mut self.context {
            client.streams.iter().for_each(|stream| context.stats.end_stream(stream));
        }
        for publisher in client.publishers {
            let publisher = self.publishers.remove(publisher);
            self.publishers_by_id.remove(&publisher.id);
        }
        Ok(())
    }

    fn report(&mut self, request: u64, reset: bool) -> Result<(), String> {
        let Some(context) = &mut self.context else { return Err(NOT_SET_UP.to_owned()) };
        let now = self.clock.now();
        let streams = self.clients.iter().flat_map(|(_, entry)| &entry.client.streams);
        let mut report = context.stats.report(now, request, streams);
        report.transports = self.clients.len() as u64;
        report.connected = self.clients.iter().filter(|(_, entry)| entry.client.is_connected).count() as u64;
        self.reports.push(Report::Stats(Box::new(report)));
        if reset {
            context.stats = Stats::new(now);
            for (_, entry) in &mut self.clients {
                for stream in &mut entry.client.streams {
                    stream.begin_window();
                }
            }
        }
        Ok(())
    }

    fn open_sinks(&mut self, request: u64, count: usize) -> Result<(), String> {
        let Some(setup) = &self.setup else { return Err(NOT_SET_UP.to_owned()) };
        let mut addresses = Vec::new();
        self.sinks.clear();
        for index in 0..count {
            let open = || -> io::Result<(ClientSocket, SocketAddr)> {
                let socket = ClientSocket::sink(setup.receive_buffer_bytes, setup.gro)?;
                let address = socket.local_address()?;
                watch(&self.epoll, &socket, SINK | index as u64)?;
                Ok((socket, address))
            };
            let (socket, address) = open().map_err(|error| error.to_string())?;
            self.sinks.push(socket);
            addresses.push(address.to_string());
        }
        self.reports.push(Report::Sinks { request, addresses });
        Ok(())
    }

    fn with(&mut self, transport: u64, work: impl FnOnce(Instant, &mut Client, &mut Context)) -> Result<(), String> {
        let Some(context) = &mut self.context else { return Err(NOT_SET_UP.to_owned()) };
        let Some(&slot) = self.by_id.get(&transport) else { return Err(NO_TRANSPORT.to_owned()) };
        let entry = &mut self.clients[slot];
        work(self.clock.now(), &mut entry.client, context);
        settle(entry, slot, context, &mut self.timers);
        Ok(())
    }
}

const NOT_SET_UP: &str = "the first command must be setup";
const NO_TRANSPORT: &str = "there is no such transport";

/// Sends what a client has written, and notes when to look at it again.
fn settle(entry: &mut Entry, slot: usize, context: &mut Context, timers: &mut BinaryHeap<Reverse<(Instant, Timer)>>) {
    if !context.out.ends.is_empty() {
        context.stats.send_failed += entry.socket.send(&mut context.out);
    }
    let deadline = entry.client.deadline();
    if let Some(at) = deadline
        && entry.client.scheduled.is_none_or(|scheduled| at < scheduled)
    {
        entry.client.scheduled = Some(at);
        timers.push(Reverse((at, Timer::Client(slot))));
    }
}

fn watch(epoll: &OwnedFd, socket: &ClientSocket, tag: u64) -> io::Result<()> {
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: tag };
    // SAFETY: two live descriptors and a live event.
    let result = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &raw mut event) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn wall_ns(clock: Clock) -> u64 {
    clock.wall().as_nanos() as u64
}
