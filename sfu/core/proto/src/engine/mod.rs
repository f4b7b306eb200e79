//! The whole worker as one state machine: every transport, room, track and timer, and the calls that drive them.
//!
//! The flow of a packet: [`Engine::receive`] → `ingress` (which transport, which uptrack) → `forward` (every subscriber's copy
//! into the arena). Commands come in through `commands`, RTCP through `feedback`, reports leave through `report`.
//! A panic in one transport's input closes that transport and nothing else.

pub mod allot;
mod audible;
mod begin;
mod choose;
mod climb;
mod commands;
mod data;
mod down;
mod feedback;
mod forward;
mod give;
mod handshakes;
mod ingress;
mod kept;
mod ladder;
mod lifecycle;
mod pace;
mod paths;
mod relief;
mod report;
mod tick;
mod traces;
mod up;
mod write;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use slab::Slab;

use crate::command::Command;
use crate::config::Config;
use crate::counters::Counters;
use crate::dtls::{Certificate, dimpl_config};
use crate::entropy::Entropy;
use crate::event::Event;
use crate::fast_map::{FastMap, Keyed};
use crate::ids::{DataUptrackId, DowntrackId, RoomId, TransportId, UptrackId};
use crate::overload::Overload;
use crate::transmit::{Path, TcpId, TransmitArena};
use crate::transport::{Note, Transport};

use data::DataUptrack;
use down::Downtrack;
use forward::{Pending, Progress};
use handshakes::Handshakes;
use lifecycle::Room;
use up::Uptrack;

/// One received UDP datagram; it is decrypted where it lies.
#[derive(Debug)]
pub struct Datagram<'a> {
    pub source: SocketAddr,
    pub payload: &'a mut [u8],
    /// When it reached the kernel.
    pub received: Instant,
}

pub struct Engine {
    config: Config,
    certificate: Certificate,
    dimpl: Arc<dimpl::Config>,
    entropy: Entropy,
    start: Instant,
    start_unix: Duration,

    transports: Slab<Transport>,
    transport_slots: HashMap<TransportId, usize>,
    ufrags: FastMap<Box<str>, usize>,
    /// Validated paths only: this is the gate of everything but STUN.
    paths: FastMap<Path, usize>,
    rooms: FastMap<RoomId, Room>,
    uptracks: Slab<Uptrack>,
    uptrack_slots: HashMap<UptrackId, usize>,
    downtracks: Slab<Downtrack>,
    downtrack_slots: HashMap<DowntrackId, usize>,
    data_uptracks: BTreeMap<DataUptrackId, DataUptrack>,

    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    next_tick: Option<Instant>,
    next_fine_tick: Option<Instant>,
    /// Streams, by uptrack and encoding, whose key frame a first picture waits for; and when to ask the next of them.
    first_pictures: Vec<(usize, usize)>,
    /// Downtracks that need a key frame, seen to once what has come in is passed on.
    beginners: Vec<usize>,
    /// Downtracks for which a larger size's key frame is kept.
    climbers: Vec<usize>,
    /// While a batch of commands is applied: transports whose layers are chosen anew once all of it is known.
    wishers: Option<BTreeSet<usize>>,
    next_keyframe: Option<Instant>,
    next_beat: Option<Instant>,
    handshakes: Handshakes,
    /// Until then somebody's first pictures wait for what he says of the packets before them.
    learning_until: Option<Instant>,
    /// Transports whose pacer holds something.
    paced: Vec<usize>,
    next_quality: Instant,
    overload: Overload,
    /// What came before is taken; of what came later, pictures may still wait.
    late_since: Option<Instant>,
    /// As the process says; see [`Command::SetMemoryPressure`].
    memory_pressure: u8,

    arena: TransmitArena,
    events: VecDeque<Event>,
    counters: Counters,

    pending: Vec<Pending>,
    /// Uptracks with pending packets, in order of arrival.
    touched: Vec<usize>,
    progress: Progress,
    /// The transport on whose behalf code runs now: it pays for a panic.
    acting: Option<usize>,
    /// Streams (uptrack slot, encoding) with packets missing.
    incomplete: Vec<(usize, usize)>,
    seqs: Vec<u16>,
    scratch: Vec<u8>,
    packets: VecDeque<Bytes>,
    notes: Vec<Note>,
}

/// A link is known well enough, or not to be known, so long after a subscriber has come or asked for more.
const LEARNING: Duration = Duration::from_secs(2);

impl Engine {
    /// `start` and `start_unix` are one moment on both clocks; sender reports carry the latter on.
    pub fn new(
        config: Config,
        certificate: Certificate,
        entropy: [u8; 32],
        start: Instant,
        start_unix: Duration,
    ) -> Self {
        let mut entropy = Entropy::new(entropy);
        let key = Keyed::new(entropy.next_u64());
        Self {
            dimpl: dimpl_config(config.dtls_handshake_timeout),
            arena: TransmitArena::new(config.max_segments),
            next_quality: start + config.quality_interval,
            overload: Overload::new(config.overload),
            late_since: None,
            memory_pressure: 0,
            config,
            certificate,
            entropy,
            start,
            start_unix,
            transports: Slab::new(),
            transport_slots: HashMap::new(),
            ufrags: FastMap::with_hasher(key),
            paths: FastMap::with_hasher(key),
            rooms: FastMap::with_hasher(key),
            uptracks: Slab::new(),
            uptrack_slots: HashMap::new(),
            downtracks: Slab::new(),
            downtrack_slots: HashMap::new(),
            data_uptracks: BTreeMap::new(),
            timers: BinaryHeap::new(),
            next_tick: None,
            next_fine_tick: None,
            first_pictures: Vec::new(),
            beginners: Vec::new(),
            climbers: Vec::new(),
            wishers: None,
            next_keyframe: None,
            next_beat: None,
            handshakes: Handshakes::default(),
            learning_until: None,
            paced: Vec::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            pending: Vec::with_capacity(256),
            touched: Vec::with_capacity(64),
            progress: Progress::default(),
            acting: None,
            incomplete: Vec::new(),
            seqs: Vec::new(),
            scratch: Vec::new(),
            packets: VecDeque::new(),
            notes: Vec::new(),
        }
    }

    pub fn apply(&mut self, now: Instant, command: Command) {
        self.counters.commands += 1;
        self.guarded(now, |engine| engine.apply_command(now, command));
    }

    /// As [`Self::apply`] of each, but layers are chosen once for all of them: who comes into a room of a hundred is
    /// given a hundred tracks.
    pub fn apply_all(&mut self, now: Instant, commands: impl Iterator<Item = Command>) {
        self.wishers = Some(BTreeSet::new());
        for command in commands {
            self.apply(now, command);
        }
        for slot in self.wishers.take().unwrap_or_default() {
            self.guarded(now, |engine| {
                engine.acting = Some(slot);
                engine.grant(now, slot);
            });
        }
    }

    /// Takes a whole batch at once, so that a frame's packets to one subscriber end up side by side.
    pub fn receive(&mut self, now: Instant, batch: &mut [Datagram<'_>]) {
        self.take_in(now, batch);
        self.forward(now, batch, false);
    }

    /// As [`Self::receive`], but what many subscribers get comes in pieces. True if there is more: send what lies in
    /// the arena, clear it, and call [`Self::go_on`] with the same batch before anything else.
    ///
    /// Each piece bears its own time: a large picture takes tens of milliseconds to reach thousands, which would look
    /// like a queue on the way to the last of them.
    pub fn receive_some(&mut self, now: Instant, batch: &mut [Datagram<'_>]) -> bool {
        self.take_in(now, batch);
        self.forward(now, batch, true)
    }

    /// The next piece. True if there is more.
    pub fn go_on(&mut self, now: Instant, batch: &mut [Datagram<'_>]) -> bool {
        self.forward(now, batch, true)
    }

    fn take_in(&mut self, now: Instant, batch: &mut [Datagram<'_>]) {
        for (index, datagram) in batch.iter_mut().enumerate() {
            let path = Path::Udp(datagram.source);
            self.guarded(now, |engine| engine.receive_datagram(now, path, index, datagram));
        }
    }

    /// Takes one RFC 4571 frame, without its length.
    pub fn receive_tcp(&mut self, now: Instant, connection: TcpId, peer: SocketAddr, frame: &mut [u8]) {
        let mut batch = [Datagram { source: peer, payload: frame, received: now }];
        self.guarded(now, |engine| engine.receive_datagram(now, Path::Tcp(connection), 0, &mut batch[0]));
        self.forward(now, &mut batch, false);
    }

    pub fn tcp_closed(&mut self, now: Instant, connection: TcpId) {
        self.guarded(now, |engine| engine.path_closed(now, Path::Tcp(connection)));
    }

    pub fn timeout(&mut self, now: Instant) {
        self.timeout_of_media(now);
        self.in_spare_time(now);
    }

    /// All that is due but what waits behind media.
    pub fn timeout_of_media(&mut self, now: Instant) {
        while let Some(&Reverse((at, slot))) = self.timers.peek()
            && at <= now
        {
            self.timers.pop();
            self.guarded(now, |engine| engine.transport_timeout(now, at, slot));
        }
        if self.next_beat.is_some_and(|at| at <= now) {
            self.next_beat = None;
            self.guarded(now, |engine| engine.pace(now));
        }
        if self.next_fine_tick.is_some_and(|at| at <= now) {
            self.next_fine_tick = None;
            self.guarded(now, |engine| engine.fine_tick(now));
        }
        if self.next_keyframe.is_some_and(|at| at <= now) {
            self.next_keyframe = None;
            self.guarded(now, |engine| engine.keyframe_tick(now));
        }
        self.tick_if_due(now, Duration::ZERO);
    }

    /// What waits behind media is due.
    pub fn has_spare_work(&self, now: Instant) -> bool {
        self.handshakes.due.is_some_and(|at| at <= now)
    }

    /// Does a little of what waits behind media.
    pub fn in_spare_time(&mut self, now: Instant) {
        if self.has_spare_work(now) {
            self.shake_hands(now);
        }
    }

    /// Something else has woken the worker: what would soon wake it by itself is done in passing. Nobody needs to call it.
    pub fn while_awake(&mut self, now: Instant) {
        self.tick_if_due(now, tick::EARLY);
    }

    /// Some subscriber is new: what he reports decides when his first picture is whole.
    pub fn hurries_reports(&self, now: Instant) -> bool {
        self.learning_until.is_some_and(|until| now < until)
    }

    fn tick_if_due(&mut self, now: Instant, early: Duration) {
        let Some(due) = self.next_tick.filter(|at| *at <= now + early) else { return };
        // By the clock's own beat, so that early ones do not make them more; what was missed is not made up for.
        self.next_tick = Some((due + tick::TICK).max(now + tick::TICK - tick::EARLY));
        self.guarded(now, |engine| engine.tick(now));
    }

    pub fn deadline(&self) -> Option<Instant> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let ticks = [self.next_tick, self.next_fine_tick, self.next_keyframe, self.next_beat];
        ticks.into_iter().chain([timer, self.handshakes.due]).flatten().min()
    }

    pub fn transmits(&self) -> &TransmitArena {
        &self.arena
    }

    pub fn clear_transmits(&mut self) {
        self.arena.clear();
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn emit(&mut self, event: Event) {
        self.counters.events += 1;
        self.events.push_back(event);
    }

    /// Runs one transport's input; a panic closes that transport alone.
    #[inline]
    fn guarded(&mut self, now: Instant, work: impl FnOnce(&mut Self)) {
        self.acting = None;
        // Every structure that the work may leave half-done belongs to the transport that is closed for it;
        // shared ones (arena, queues, maps) are only changed by calls that cannot unwind midway.
        if catch_unwind(AssertUnwindSafe(|| work(self))).is_err() {
            self.after_panic(now);
        }
        if !self.beginners.is_empty() && self.pending.is_empty() {
            self.begin_pictures(now);
        }
    }

    #[cold]
    fn after_panic(&mut self, now: Instant) {
        self.counters.panics += 1;
        self.notes.clear();
        self.packets.clear();
        if let Some(slot) = self.acting.take() {
            // If even closing panics, the transport is forgotten by the next command about it.
            let _ = catch_unwind(AssertUnwindSafe(|| self.close_transport(now, slot, "panic")));
        }
    }
}

/// The parts of the engine that a transport works with, borrowed apart from the transports themselves.
macro_rules! work {
    ($engine:expr) => {
        crate::transport::Work {
            config: &$engine.config,
            arena: &mut $engine.arena,
            counters: &mut $engine.counters,
            scratch: &mut $engine.scratch,
            packets: &mut $engine.packets,
            notes: &mut $engine.notes,
        }
    };
}
use work;
