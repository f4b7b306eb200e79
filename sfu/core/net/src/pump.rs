//! One pass of a worker: commands and datagrams in, the engine, datagrams and events out.
//!
//! The pump knows when to look and when to sleep; what the bytes mean it does not know. Nothing is allocated between
//! receive and send once the buffers have grown to their size, but for pictures that stand aside where it is late.

use std::io;
use std::iter;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use callyard_proto::engine::Datagram;
use callyard_proto::transmit::{Path, TcpId};

use crate::behind::{Behind, Held, LATE};
use crate::clock::Clock;
use crate::counters::NetCounters;
use crate::load::Load;
use crate::machine::Machine;
use crate::rest::Rest;
use crate::shared::Shared;
use crate::tcp::{Receiver, Tcp, TcpOptions};
use crate::tick::Tick;
use crate::udp::{Lane, Outgoing, UdpOptions, UdpSocket};

/// How the pump is set up.
#[derive(Clone, Debug)]
pub struct PumpOptions {
    pub udp: UdpOptions,
    /// `None`: no ICE-TCP. The port is that of the UDP socket whatever stands here.
    pub tcp: Option<TcpOptions>,
    /// How long packets may wait for each other under load; zero: every packet wakes the thread.
    pub tick: Duration,
}

pub struct Pump<M: Machine> {
    machine: M,
    udp: UdpSocket,
    tcp: Option<Tcp>,
    shared: Arc<Shared<M::Counters>>,
    clock: Clock,
    tick: Tick,
    load: Load,
    counters: NetCounters,
    /// Kept for its allocation; empty between batches.
    datagrams: Vec<Datagram<'static>>,
    behind: Behind,
    /// As `datagrams`.
    held: Vec<Held>,
    /// The last batch was full: look again before sleeping.
    more: bool,
    /// There may be something: the last wait said so, or did not look.
    ready: Ready,
    reports: Rest,
}

/// Which sockets may have something.
#[derive(Clone, Copy)]
struct Ready {
    prompt: bool,
    reports: bool,
    tcp: bool,
}

const ALL_READY: Ready = Ready { prompt: true, reports: true, tcp: true };

/// Receive batches taken before commands, timers and TCP get their turn again.
const BATCHES_PER_PASS: usize = 8;
/// For so long commands are applied before packets get their turn again: a join storm must not hold up forwarding.
const COMMANDS_TIME: Duration = Duration::from_millis(2);
/// For so long pictures that stood aside are forwarded before everything else gets its turn again.
const BEHIND_TIME: Duration = Duration::from_millis(5);
/// Longest sleep without any deadline.
const IDLE_WAIT: Duration = Duration::from_secs(1);

impl<M: Machine> Pump<M> {
    /// Binds the sockets. `machine` is made afterwards, so that it can be told the port.
    pub fn bind(
        options: PumpOptions,
        shared: Arc<Shared<M::Counters>>,
        machine: impl FnOnce(SocketAddr, Instant, Duration) -> M,
    ) -> io::Result<Self> {
        let clock = Clock;
        let now = clock.now();
        let udp = UdpSocket::bind(&options.udp)?;
        let local = udp.local_address();
        let tcp = options
            .tcp
            .map(|tcp| Tcp::bind(TcpOptions { bind: SocketAddr::new(tcp.bind.ip(), local.port()), ..tcp }, now))
            .transpose()?;
        Ok(Self {
            machine: machine(local, now, clock.wall()),
            udp,
            tcp,
            shared,
            clock,
            tick: Tick::new(options.tick, now),
            load: Load::new(now),
            counters: NetCounters::default(),
            datagrams: Vec::new(),
            // As much again as the kernel keeps.
            behind: Behind::new(options.udp.receive_buffer_bytes),
            held: Vec::new(),
            more: false,
            ready: ALL_READY,
            reports: Rest::default(),
        })
    }

    pub fn local_address(&self) -> SocketAddr {
        self.udp.local_address()
    }

    /// Until the shared state says stop.
    pub fn run(&mut self) {
        while !self.shared.stopping() {
            self.wait();
            self.run_once();
        }
        self.publish();
    }

    /// Sleeps until there is something to do: a datagram, a command, a deadline.
    pub fn wait(&mut self) {
        if self.more || self.shared.has_commands() {
            self.ready = ALL_READY;
            return;
        }
        let now = self.clock.now();
        let deadlines = [self.machine.deadline(), self.tcp.as_ref().and_then(Tcp::deadline), self.reports.deadline()];
        let deadline = deadlines.into_iter().flatten().min();
        let until_deadline = deadline.map_or(IDLE_WAIT, |deadline| deadline.saturating_duration_since(now));
        self.counters.wakes += 1;
        self.load.sleeps(now);
        if let Some(pause) = self.tick.pause(now) {
            // Not even looking at the sockets: what arrives meanwhile shares the next wake.
            self.counters.ticks += 1;
            poll(&mut [], pause.min(until_deadline));
            self.ready = ALL_READY;
            return;
        }
        let reports = self.udp.descriptor(Lane::Reports).filter(|_| self.reports.deadline().is_none());
        let mut descriptors = [
            self.udp.descriptor(Lane::Prompt),
            Some(self.shared.command_wake().as_raw_fd()),
            self.tcp.as_ref().map(AsRawFd::as_raw_fd),
            reports,
        ]
        // A negative descriptor is ignored.
        .map(|fd| libc::pollfd { fd: fd.unwrap_or(-1), events: libc::POLLIN, revents: 0 });
        poll(&mut descriptors, until_deadline.min(IDLE_WAIT));
        if descriptors[1].revents != 0 {
            self.shared.command_wake().clear();
        }
        self.ready.prompt |= descriptors[0].revents != 0;
        self.ready.tcp |= descriptors[2].revents != 0;
        self.ready.reports |= descriptors[3].revents != 0;
    }

    /// Does all that is to be done now, without sleeping.
    pub fn run_once(&mut self) {
        let started = self.clock.now();
        self.load.wakes(started);
        self.apply_commands(started);
        let mut received = 0;
        if std::mem::take(&mut self.ready.prompt) {
            received += self.receive_media(started);
        }
        received += self.receive_reports(started);
        let now = self.clock.now();
        self.service_tcp(now);
        if self.machine.deadline().is_some_and(|deadline| deadline <= now) {
            self.machine.timeout(now);
        }
        if self.machine.has_spare_work(now) {
            let began = self.clock.now();
            self.machine.in_spare_time(now);
            self.load.spare(self.clock.now().saturating_duration_since(began));
        }
        self.machine.while_awake(now);
        self.send(now);
        self.push_events();
        let ended = self.clock.now();
        self.tick.note(ended, received);
        if let Some(reading) = self.load.roll(ended) {
            self.machine.loaded(ended, reading);
        }
        let pass = ended.saturating_duration_since(started).as_micros() as u64;
        self.counters.longest_pass_microseconds = self.counters.longest_pass_microseconds.max(pass);
        if self.shared.take_counters_request() {
            self.publish();
        }
    }

    fn apply_commands(&mut self, now: Instant) {
        if self.shared.command_wake().is_pending() {
            self.shared.command_wake().clear();
        }
        let Self { machine, shared, clock, counters, .. } = self;
        let mut commands = iter::from_fn(|| {
            if clock.now().saturating_duration_since(now) >= COMMANDS_TIME {
                return None;
            }
            let command = shared.next_command()?;
            counters.commands += 1;
            Some(command)
        });
        machine.apply(now, &mut commands);
    }

    /// Number of datagrams taken. What stood aside gets its turn a little at a time, behind what has come meanwhile.
    fn receive_media(&mut self, started: Instant) -> usize {
        let mut received = 0;
        loop {
            if !self.behind.is_full() {
                received += self.receive_datagrams(Lane::Prompt);
            }
            let oldest = self.behind.oldest();
            self.machine.late_since(oldest);
            if oldest.is_none() {
                return received;
            }
            // Once a pass at least, however much cannot wait.
            self.serve_behind();
            if self.clock.now().saturating_duration_since(started) >= BEHIND_TIME {
                self.more = true;
                return received;
            }
        }
    }

    fn serve_behind(&mut self) {
        let now = self.clock.now();
        let mut held = std::mem::take(&mut self.held);
        self.behind.take(&mut held);
        let mut datagrams = emptied(std::mem::take(&mut self.datagrams));
        datagrams.extend(held.iter_mut().map(Held::datagram));
        self.load.received(waited(now, &datagrams));
        self.hand_over(now, &mut datagrams);
        self.datagrams = emptied(datagrams);
        self.held = held;
        self.send(now);
        self.behind.took(self.clock.now().saturating_duration_since(now));
    }

    /// Number of reports taken, behind what is to be forwarded.
    fn receive_reports(&mut self, now: Instant) -> usize {
        if !self.reports.is_due(now, std::mem::take(&mut self.ready.reports)) {
            return 0;
        }
        let more = self.more;
        let received = self.receive_datagrams(Lane::Reports);
        self.reports.looked(now, received, self.machine.hurries_reports(now));
        self.more |= more;
        received
    }

    /// Number of datagrams taken. Each batch is answered before the next is received.
    fn receive_datagrams(&mut self, lane: Lane) -> usize {
        let mut received = 0;
        for _ in 0..BATCHES_PER_PASS {
            let now = self.clock.now();
            self.more = self.udp.receive(lane, &self.clock, now, &mut self.counters);
            let mut datagrams = emptied(std::mem::take(&mut self.datagrams));
            // Taken out of the socket, which sends while they are still borrowed.
            let mut slots = self.udp.take_slots();
            for (arrival, bytes) in self.udp.arrivals(&mut slots) {
                let (source, received) = (arrival.source, arrival.received);
                let payloads = bytes.chunks_mut(arrival.segment_size);
                datagrams.extend(payloads.map(|payload| Datagram { source, payload, received }));
            }
            received += datagrams.len();
            // Reports are left to wait on purpose.
            if lane == Lane::Prompt {
                let mut age = waited(now, &datagrams);
                if age >= LATE || self.behind.oldest().is_some() {
                    self.set_aside(&mut datagrams);
                    age = waited(now, &datagrams);
                }
                if !datagrams.is_empty() {
                    self.load.received(age);
                }
            }
            self.hand_over(now, &mut datagrams);
            self.datagrams = emptied(datagrams);
            self.udp.return_slots(slots);
            if !self.more {
                break;
            }
            self.send(now);
        }
        received
    }

    /// Leaves what cannot wait.
    fn set_aside(&mut self, datagrams: &mut Vec<Datagram<'_>>) {
        let Self { machine, behind, counters, .. } = self;
        datagrams.retain(|datagram| {
            let can_wait = machine.can_wait(datagram);
            if can_wait {
                counters.udp_received_aside += 1;
                behind.push(datagram);
            }
            !can_wait
        });
    }

    fn hand_over(&mut self, now: Instant, datagrams: &mut [Datagram<'_>]) {
        if datagrams.is_empty() {
            return;
        }
        let mut is_more = self.machine.receive(now, datagrams);
        while is_more {
            let now = self.clock.now();
            self.send_queued(now);
            is_more = self.machine.go_on(self.clock.now(), datagrams);
        }
    }

    fn service_tcp(&mut self, now: Instant) {
        let Some(tcp) = &mut self.tcp else { return };
        let mut engine = Framed { machine: &mut self.machine, now };
        if std::mem::take(&mut self.ready.tcp) {
            self.ready.tcp = tcp.service(now, &mut engine, &mut self.counters);
        }
        tcp.sweep(now, &mut engine, &mut self.counters);
    }

    fn send(&mut self, now: Instant) {
        self.send_queued(now);
        if let Some(tcp) = &mut self.tcp {
            tcp.flush(&mut Framed { machine: &mut self.machine, now }, &mut self.counters);
        }
    }

    /// Datagrams leave; what goes over TCP is taken over by its connections, which do not tell of their end yet.
    fn send_queued(&mut self, now: Instant) {
        let counters = &mut self.counters;
        let machine = &mut self.machine;
        let arena = machine.transmits();
        if arena.is_empty() {
            return;
        }
        let runs = arena.transmits().iter().map(|transmit| {
            let bytes = &arena.bytes()[transmit.range.clone()];
            (transmit.destination, bytes, transmit.segment_size.map_or(bytes.len(), usize::from))
        });
        let over_udp = runs.clone().filter_map(|(destination, bytes, segment_size)| match destination {
            Path::Udp(destination) => Some(Outgoing { destination, bytes, segment_size }),
            Path::Tcp(_) => None,
        });
        self.udp.send_all(over_udp, counters);
        if let Some(tcp) = &mut self.tcp {
            for (destination, bytes, segment_size) in runs {
                if let Path::Tcp(connection) = destination {
                    tcp.queue(now, connection, bytes, segment_size, counters);
                }
            }
        }
        machine.clear_transmits();
    }

    fn push_events(&mut self) {
        let mut any = false;
        while let Some(event) = self.machine.poll_event() {
            any = true;
            self.counters.events += 1;
            self.counters.events_dropped += u64::from(!self.shared.push_event(event));
        }
        if any {
            self.shared.event_wake().kick();
        }
    }

    fn publish(&mut self) {
        self.counters.cpu_microseconds = thread_cpu().as_micros() as u64;
        self.shared.publish(self.counters, self.machine.counters().clone());
        self.counters.longest_pass_microseconds = 0;
    }
}

struct Framed<'a, M> {
    machine: &'a mut M,
    now: Instant,
}

impl<M: Machine> Receiver for Framed<'_, M> {
    fn frame(&mut self, connection: TcpId, peer: SocketAddr, frame: &mut [u8]) {
        self.machine.receive_tcp(self.now, connection, peer, frame);
    }

    fn closed(&mut self, connection: TcpId) {
        self.machine.tcp_closed(self.now, connection);
    }

    fn is_full(&self) -> bool {
        self.machine.transmits().is_full()
    }
}

/// For how long the oldest of them has been here, in the kernel or aside.
fn waited(now: Instant, datagrams: &[Datagram<'_>]) -> Duration {
    let oldest = datagrams.iter().map(|datagram| datagram.received).min();
    oldest.map_or(Duration::ZERO, |oldest| now.saturating_duration_since(oldest))
}

/// The same allocation with another lifetime: collecting an emptied vector of equal layout reuses it in place.
fn emptied<'a>(mut datagrams: Vec<Datagram<'_>>) -> Vec<Datagram<'a>> {
    datagrams.clear();
    datagrams.into_iter().map(|_| unreachable!("the vector was cleared")).collect()
}

fn poll(descriptors: &mut [libc::pollfd], timeout: Duration) {
    let timeout =
        libc::timespec { tv_sec: timeout.as_secs() as libc::time_t, tv_nsec: timeout.subsec_nanos() as libc::c_long };
    // SAFETY: a live slice with its length and a live timespec. Every outcome means "look again".
    unsafe {
        libc::ppoll(descriptors.as_mut_ptr(), descriptors.len() as libc::nfds_t, &raw const timeout, std::ptr::null());
    }
}

fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
