//! The pump over real loopback sockets, with a machine that sends every datagram back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use callyard_net::{Machine, PacketThread, Pump, PumpOptions, Shared, TcpOptions, UdpOptions};
use callyard_proto::command::Command;
use callyard_proto::engine::Datagram;
use callyard_proto::event::{Event, Snapshot};
use callyard_proto::overload::Reading;
use callyard_proto::transmit::{Path, TcpId, TransmitArena};

/// Sends each datagram back `copies` times as one run, half of them when it is told to go on; answers a TCP frame unless it ends with `silent`.
struct Echo {
    copies: usize,
    arena: TransmitArena,
    events: Vec<Event>,
    closed: u64,
    /// How long each command takes.
    labour: Duration,
    /// Whether anything stood aside, change by change.
    late: Arc<Mutex<Vec<bool>>>,
}

/// What datagrams begin with that can wait.
const PICTURE: &[u8] = b"picture";

impl Echo {
    fn new(copies: usize) -> Self {
        Self {
            copies,
            arena: TransmitArena::new(64),
            events: Vec::new(),
            closed: 0,
            labour: Duration::ZERO,
            late: Arc::default(),
        }
    }

    fn answer(&mut self, destination: Path, payload: &[u8], copies: usize) {
        for _ in 0..copies {
            self.arena.push(destination, payload);
        }
    }
}

impl Machine for Echo {
    type Counters = u64;

    fn apply(&mut self, _now: Instant, commands: &mut dyn Iterator<Item = Command>) {
        for _ in commands {
            std::thread::sleep(self.labour);
            self.events.push(Event::Snapshot(Snapshot::default()));
        }
    }

    fn receive(&mut self, now: Instant, datagrams: &mut [Datagram<'_>]) -> bool {
        for datagram in datagrams {
            assert!(datagram.received <= now);
            self.answer(Path::Udp(datagram.source), datagram.payload, self.copies - self.copies / 2);
        }
        true
    }

    fn go_on(&mut self, now: Instant, datagrams: &mut [Datagram<'_>]) -> bool {
        assert!(self.arena.is_empty(), "what there was has been sent");
        for datagram in datagrams {
            assert!(datagram.received <= now);
            self.answer(Path::Udp(datagram.source), datagram.payload, self.copies / 2);
        }
        false
    }

    fn can_wait(&self, datagram: &Datagram<'_>) -> bool {
        datagram.payload.starts_with(PICTURE)
    }

    fn late_since(&mut self, oldest: Option<Instant>) {
        let mut changes = self.late.lock().expect("nobody panics with it");
        if changes.last().is_some_and(|late| *late) != oldest.is_some() {
            changes.push(oldest.is_some());
        }
    }

    fn receive_tcp(&mut self, _now: Instant, connection: TcpId, _peer: SocketAddr, frame: &mut [u8]) {
        if !frame.ends_with(b"silent") {
            self.answer(Path::Tcp(connection), frame, self.copies);
        }
    }

    fn tcp_closed(&mut self, _now: Instant, _connection: TcpId) {
        self.closed += 1;
    }

    fn timeout(&mut self, _now: Instant) {}

    fn has_spare_work(&self, _now: Instant) -> bool {
        false
    }

    fn in_spare_time(&mut self, _now: Instant) {}

    fn loaded(&mut self, _now: Instant, reading: Reading) {
        assert!((0.0..=1.0).contains(&reading.busy), "{reading:?}");
    }

    fn while_awake(&mut self, _now: Instant) {}

    fn hurries_reports(&self, _now: Instant) -> bool {
        false
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn transmits(&self) -> &TransmitArena {
        &self.arena
    }

    fn clear_transmits(&mut self) {
        self.arena.clear();
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    fn counters(&self) -> &u64 {
        &self.closed
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

fn start(bind: &str, copies: usize, tick: Duration) -> PacketThread<u64> {
    let bind: SocketAddr = bind.parse().expect("a literal address");
    let options = PumpOptions {
        udp: UdpOptions { bind, receive_buffer_bytes: 1 << 20, send_buffer_bytes: 1 << 20, pin_source: true },
        tcp: Some(TcpOptions {
            bind,
            max_connections: 2,
            unauthenticated_timeout: Duration::from_millis(10),
            max_queue_bytes: 1 << 16,
        }),
        tick,
    };
    let shared = Arc::new(Shared::new(64).expect("two eventfds are to be had"));
    let pump = Pump::bind(options, Arc::clone(&shared), |_, _, _| Echo::new(copies)).expect("the port is free");
    PacketThread::start(pump, shared).expect("a thread is to be had")
}

fn client(server: &str, port: u16) -> UdpSocket {
    let bind = if server.contains(':') { "[::1]:0" } else { "127.0.0.1:0" };
    let socket = UdpSocket::bind(bind).expect("a free port");
    socket.connect((server, port)).expect("a local address");
    socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
    socket
}

#[test]
fn both_families_reach_one_socket_and_are_answered_from_the_address_they_asked() {
    let thread = start("[::]:0", 1, Duration::ZERO);
    // A connected socket drops answers from any other address, so each of these proves the pinned source.
    for server in ["127.0.0.1", "127.0.0.3", "::1"] {
        let socket = client(server, thread.local_address().port());
        socket.send(server.as_bytes()).expect("loopback takes it");
        let mut buffer = [0; 64];
        let len = socket.recv(&mut buffer).expect("an answer from the address asked");
        assert_eq!(&buffer[..len], server.as_bytes());
    }
}

#[test]
fn reports_share_wakes_and_all_are_answered() {
    for tick in [Duration::ZERO, Duration::from_micros(500)] {
        let thread = start("127.0.0.1:0", 1, tick);
        let viewers: Vec<UdpSocket> = (0..20).map(|_| client("127.0.0.1", thread.local_address().port())).collect();
        let before = thread.shared().counters(PATIENCE).0.wakes;
        #[expect(clippy::disallowed_methods, reason = "the pump runs in real time")]
        let began = Instant::now();
        for round in 0..10u8 {
            for (viewer, socket) in viewers.iter().enumerate() {
                socket.send(&[0x8f, 205, round, viewer as u8]).expect("loopback takes it");
                std::thread::sleep(Duration::from_micros(250));
            }
        }
        for (viewer, socket) in viewers.iter().enumerate() {
            for round in 0..10 {
                let mut buffer = [0; 64];
                let len = socket.recv(&mut buffer).expect("an answer to each");
                assert_eq!(&buffer[..len], &[0x8f, 205, round, viewer as u8]);
            }
        }
        let (net, _) = thread.shared().counters(PATIENCE);
        assert_eq!(net.udp_received_datagrams, 200);
        // A few wakes every forty milliseconds, where a wake for each report would make 200 in fifty.
        let most = 4 * (began.elapsed().as_millis() as u64 / 40 + 2);
        assert!(!tick.is_zero() || net.wakes - before <= most, "{} wakes, {most} at most", net.wakes - before);
    }
}

#[test]
fn a_run_arrives_as_its_datagrams_in_order_whatever_its_length() {
    // More segments than one send may have, so that runs are cut too.
    let copies = 100;
    let thread = start("127.0.0.1:0", copies, Duration::ZERO);
    let socket = client("127.0.0.1", thread.local_address().port());
    for len in [1, 100, 1200] {
        let sent: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
        socket.send(&sent).expect("loopback takes it");
        for _ in 0..copies {
            let mut buffer = [0; 2048];
            let received = socket.recv(&mut buffer).expect("a copy");
            assert_eq!(&buffer[..received], &sent[..]);
        }
    }
    let (net, _) = thread.shared().counters(PATIENCE);
    assert_eq!(net.udp_sent_datagrams, 300);
    assert_eq!(net.udp_received_datagrams, 3);
    assert_eq!((net.udp_send_failed, net.udp_send_would_block, net.udp_receive_failed), (0, 0, 0));
}

#[test]
fn under_load_with_ticks_nothing_is_lost_or_reordered() {
    let thread = start("127.0.0.1:0", 1, Duration::from_millis(1));
    let socket = client("127.0.0.1", thread.local_address().port());
    // A window small enough for any socket buffer.
    let (total, window) = (5_000_u32, 50);
    let mut buffer = [0; 64];
    for number in 0..total {
        socket.send(&number.to_be_bytes()).expect("loopback takes it");
        if number >= window {
            let len = socket.recv(&mut buffer).expect("an echo");
            assert_eq!(buffer[..len], (number - window).to_be_bytes());
        }
    }
    for number in total - window..total {
        let len = socket.recv(&mut buffer).expect("an echo");
        assert_eq!(buffer[..len], number.to_be_bytes());
    }
}

#[test]
fn where_it_is_late_sound_overtakes_pictures_which_keep_their_order() {
    let machine = Echo::new(2);
    let late = Arc::clone(&machine.late);
    let (mut pump, _) = plain(machine);
    let socket = client("127.0.0.1", pump.local_address().port());
    let send = |numbers: Range<usize>| {
        for number in numbers {
            socket.send(format!("picture {number}").as_bytes()).expect("loopback takes it");
            socket.send(format!("sound {number}").as_bytes()).expect("loopback takes it");
        }
    };
    send(0..20);
    std::thread::sleep(Duration::from_millis(20));
    let heard = echoes(&mut pump, &socket, 80);
    // The first copies of a batch, and the second ones when the machine is told to go on.
    let once = |what: &str, numbers: Range<usize>| -> Vec<String> {
        numbers.map(|number| format!("{what} {number}")).collect()
    };
    let twice = |what, numbers: Range<usize>| [once(what, numbers.clone()), once(what, numbers)].concat();
    assert_eq!(heard[..40], twice("sound", 0..20));
    assert_eq!(heard[40..56], twice("picture", 0..8), "a few at first");
    // And then as many at a time as take little time.
    let (mut firsts, mut seconds) = (Vec::new(), Vec::new());
    for echo in &heard[56..] {
        if firsts.contains(echo) { seconds.push(echo.clone()) } else { firsts.push(echo.clone()) }
    }
    assert_eq!((firsts, seconds), (once("picture", 8..20), once("picture", 8..20)));
    pump.run_once();
    assert_eq!(*late.lock().expect("nobody panics with it"), [true, false]);

    send(20..22);
    let heard = echoes(&mut pump, &socket, 8);
    assert_eq!(heard[..4], ["picture 20", "sound 20", "picture 21", "sound 21"], "as they came, where nothing is late");
}

fn echoes(pump: &mut Pump<Echo>, socket: &UdpSocket, count: usize) -> Vec<String> {
    socket.set_nonblocking(true).expect("a socket can");
    let mut echoes = Vec::new();
    let mut buffer = [0; 64];
    while echoes.len() < count {
        match socket.recv(&mut buffer) {
            Ok(len) => echoes.push(String::from_utf8_lossy(&buffer[..len]).into_owned()),
            Err(_) => {
                pump.wait();
                pump.run_once();
            }
        }
    }
    echoes
}

#[test]
fn commands_come_back_as_events_with_one_kick() {
    let thread = start("127.0.0.1:0", 1, Duration::ZERO);
    for _ in 0..10 {
        assert!(thread.shared().push_command(Command::Snapshot));
    }
    thread.shared().kick();
    let (net, _) = thread.shared().counters(PATIENCE);
    assert_eq!((net.commands, net.events, net.events_dropped), (10, 10, 0));
    let events: Vec<Event> = std::iter::from_fn(|| thread.shared().pop_event()).collect();
    assert_eq!(events, vec![Event::Snapshot(Snapshot::default()); 10]);
    assert!(!thread.shared().take_lost_events());
}

#[test]
fn packets_have_their_turn_between_commands_that_take_long() {
    let (mut pump, shared) = plain(Echo { labour: Duration::from_millis(1), ..Echo::new(2) });
    let socket = client("127.0.0.1", pump.local_address().port());
    while shared.push_command(Command::Snapshot) {}
    socket.send(b"media").expect("loopback takes it");
    let mut buffer = [0; 16];
    pump.run_once();
    assert_eq!(socket.recv(&mut buffer).expect("an echo"), 5);
    assert!((1..64).contains(&shared.command_capacity_left()), "some are done, the others wait");
    for _ in 0..64 {
        pump.run_once();
    }
    assert_eq!(shared.command_capacity_left(), 64, "none is forgotten");
    assert_eq!(std::iter::from_fn(|| shared.pop_event()).count(), 64);
}

/// F-34
#[test]
fn events_nobody_takes_are_counted_not_piled_up() {
    let thread = start("127.0.0.1:0", 1, Duration::ZERO);
    for _ in 0..3 {
        while thread.shared().push_command(Command::Snapshot) {}
        thread.shared().kick();
        while thread.shared().command_capacity_left() < 64 {
            std::thread::yield_now();
        }
    }
    let (net, _) = thread.shared().counters(PATIENCE);
    assert_eq!(net.events, net.commands);
    assert_eq!(net.events_dropped, net.events - 64, "the queue holds 64");
    assert!(thread.shared().take_lost_events());
    assert!(!thread.shared().take_lost_events(), "told once");
}

#[test]
fn tcp_frames_are_answered_on_the_same_port_and_strangers_are_closed() {
    let thread = start("127.0.0.1:0", 1, Duration::ZERO);
    let connect = || {
        let stream = TcpStream::connect(thread.local_address()).expect("the listener is up");
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        stream
    };
    let mut answered = connect();
    answered.write_all(b"\x00\x06\x00hello").expect("the connection is open");
    let mut frame = [0; 8];
    answered.read_exact(&mut frame).expect("an answer");
    assert_eq!(&frame, b"\x00\x06\x00hello");

    let mut stranger = connect();
    stranger.write_all(b"\x00\x07\x00silent").expect("the connection is open");
    // The limit is two.
    let mut third = connect();
    assert_eq!(third.read(&mut frame).ok().unwrap_or(0), 0);
    assert_eq!(stranger.read(&mut frame).expect("closed in an orderly way"), 0);

    answered.write_all(b"\x00\x02ok").expect("the answered one is still open");
    answered.read_exact(&mut frame[..4]).expect("an answer");
    assert_eq!(&frame[..4], b"\x00\x02ok");
    let (net, closed) = thread.shared().counters(PATIENCE);
    assert_eq!((net.tcp_accepted, net.tcp_refused, net.tcp_idle_closed, net.tcp_connections), (2, 1, 1, 1));
    assert_eq!(closed, 1);

    answered.write_all(&[0xff, 0xff, 0, 0]).expect("the connection is open");
    assert_eq!(answered.read(&mut frame).ok().unwrap_or(0), 0, "an impossible frame ends the connection");
}

#[test]
fn a_reader_that_does_not_read_loses_frames_and_nothing_else() {
    let thread = start("127.0.0.1:0", 1000, Duration::ZERO);
    let mut slow = TcpStream::connect(thread.local_address()).expect("the listener is up");
    let mut frame = vec![0x04, 0x00];
    frame.extend_from_slice(&[0; 0x400]);
    for _ in 0..16 {
        slow.write_all(&frame).expect("it is read");
    }
    let socket = client("127.0.0.1", thread.local_address().port());
    loop {
        // Others are served all the while.
        socket.send(b"x").expect("loopback takes it");
        socket.recv(&mut [0; 16]).expect("an echo");
        let (net, _) = thread.shared().counters(PATIENCE);
        if net.tcp_send_dropped > 0 {
            assert_eq!(net.tcp_connections, 1);
            break;
        }
    }
}

#[test]
fn a_panic_of_the_machine_is_told_not_swallowed() {
    let thread = start("127.0.0.1:0", 1, Duration::ZERO);
    assert_eq!(thread.failure(), None);
    let other = start_panicking();
    let wake = std::os::fd::AsRawFd::as_raw_fd(other.shared().event_wake());
    let mut poll = libc::pollfd { fd: wake, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    assert_eq!(unsafe { libc::poll(&raw mut poll, 1, PATIENCE.as_millis() as i32) }, 1);
    assert_eq!(other.failure().as_deref(), Some("attempt to divide by zero"));
}

/// A pump without a thread, without TCP.
fn plain<M: Machine<Counters = u64>>(machine: M) -> (Pump<M>, Arc<Shared<u64>>) {
    let bind: SocketAddr = "127.0.0.1:0".parse().expect("a literal address");
    let options = PumpOptions {
        udp: UdpOptions { bind, receive_buffer_bytes: 1 << 16, send_buffer_bytes: 1 << 16, pin_source: false },
        tcp: None,
        tick: Duration::ZERO,
    };
    let shared = Arc::new(Shared::new(64).expect("two eventfds are to be had"));
    let pump = Pump::bind(options, Arc::clone(&shared), |_, _, _| machine).expect("the port is free");
    (pump, shared)
}

/// A machine that panics at the first command.
fn start_panicking() -> PacketThread<u64> {
    struct Broken(Echo);
    impl Machine for Broken {
        type Counters = u64;
        fn apply(&mut self, _now: Instant, _commands: &mut dyn Iterator<Item = Command>) {
            let zero = self.0.arena.bytes().len();
            self.0.closed = 1 / zero as u64;
        }
        fn receive(&mut self, _now: Instant, _datagrams: &mut [Datagram<'_>]) -> bool {
            false
        }
        fn go_on(&mut self, _now: Instant, _datagrams: &mut [Datagram<'_>]) -> bool {
            false
        }
        fn can_wait(&self, _datagram: &Datagram<'_>) -> bool {
            false
        }
        fn late_since(&mut self, _oldest: Option<Instant>) {}
        fn receive_tcp(&mut self, _now: Instant, _id: TcpId, _peer: SocketAddr, _frame: &mut [u8]) {}
        fn tcp_closed(&mut self, _now: Instant, _id: TcpId) {}
        fn timeout(&mut self, _now: Instant) {}
        fn has_spare_work(&self, _now: Instant) -> bool {
            false
        }

        fn in_spare_time(&mut self, _now: Instant) {}

        fn loaded(&mut self, _now: Instant, _reading: Reading) {}

        fn while_awake(&mut self, _now: Instant) {}
        fn hurries_reports(&self, _now: Instant) -> bool {
            false
        }
        fn deadline(&self) -> Option<Instant> {
            None
        }
        fn transmits(&self) -> &TransmitArena {
            self.0.transmits()
        }
        fn clear_transmits(&mut self) {}
        fn poll_event(&mut self) -> Option<Event> {
            None
        }
        fn counters(&self) -> &u64 {
            self.0.counters()
        }
    }
    let (pump, shared) = plain(Broken(Echo::new(1)));
    assert!(shared.push_command(Command::Snapshot));
    PacketThread::start(pump, shared).expect("a thread is to be had")
}
