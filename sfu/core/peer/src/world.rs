//! A whole call in virtual time: one engine, any number of light clients, an emulated link each way for each of them.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use callyard_proto::command::{Command, DtlsRole, Fingerprint, IceCredentials, Remote};
use callyard_proto::config::Config;
use callyard_proto::dtls::Certificate;
use callyard_proto::engine::{Datagram, Engine};
use callyard_proto::event::{Event, TransportState};
use callyard_proto::ids::{RoomId, TransportId};
use callyard_proto::transmit::{Path, TcpId};

use crate::client::Client;
use crate::media::TWCC_ID;
use crate::netem::{Link, LinkConfig};
use crate::twcc::TwccReporter;

pub const ROOM: RoomId = RoomId(1);

/// The base of virtual time.
pub fn base() -> Instant {
    static BASE: OnceLock<Instant> = OnceLock::new();
    *BASE.get_or_init(|| {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        Instant::now()
    })
}

pub fn certificate() -> Certificate {
    let made = dimpl::certificate::generate_self_signed_certificate().expect("a certificate can be made");
    Certificate { certificate_der: made.certificate, private_key_der: made.private_key }
}

pub struct World {
    pub now: Instant,
    pub engine: Engine,
    pub server_fingerprint: Fingerprint,
    pub clients: Vec<Client>,
    pub up: Vec<Link<(SocketAddr, Vec<u8>)>>,
    pub down: Vec<Link<Vec<u8>>>,
    pub events: Vec<Event>,
    /// Every send as its destination and the number of its segments.
    pub sends: Vec<(Path, usize)>,
    /// Bytes sent to addresses of no client.
    pub strays: usize,
    /// All that left the engine, where somebody keeps it: to which client, and the datagram.
    pub wire: Option<Vec<(usize, Vec<u8>)>>,
    /// Clients whose datagrams are frames on a TCP connection.
    pub tcp: HashMap<usize, TcpId>,
    /// For so long what can wait stands aside, as where a pump is late.
    pub lag: Duration,
    aside: VecDeque<(SocketAddr, Instant, Vec<u8>)>,
    seed: u64,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self::with_config(seed, Config::default())
    }

    pub fn with_config(seed: u64, config: Config) -> Self {
        let certificate = certificate();
        let server_fingerprint = certificate.fingerprint();
        let unix = Duration::from_secs(1_700_000_000);
        let engine = Engine::new(config, certificate, [seed as u8; 32], base(), unix);
        Self {
            now: base(),
            engine,
            server_fingerprint,
            clients: Vec::new(),
            up: Vec::new(),
            down: Vec::new(),
            events: Vec::new(),
            sends: Vec::new(),
            strays: 0,
            wire: None,
            tcp: HashMap::new(),
            lag: Duration::ZERO,
            aside: VecDeque::new(),
            seed,
        }
    }

    pub fn transport(client: usize) -> TransportId {
        TransportId(client as u64 + 1)
    }

    /// Adds a client and its transport in [`ROOM`]; `role` is the server's DTLS role.
    pub fn add_client(&mut self, role: DtlsRole, link: LinkConfig) -> usize {
        self.add_client_in(ROOM, role, link)
    }

    pub fn add_client_in(&mut self, room: RoomId, role: DtlsRole, link: LinkConfig) -> usize {
        let (index, local, remote) = self.make_client(role, link);
        self.apply(Command::AddTransport { transport: Self::transport(index), room, local, remote: Some(remote) });
        index
    }

    /// As [`Self::add_client`], but the client's description comes later: by the command that is returned.
    pub fn add_undescribed_client(&mut self, role: DtlsRole, link: LinkConfig) -> (usize, Command) {
        let (index, local, remote) = self.make_client(role, link);
        let transport = Self::transport(index);
        self.apply(Command::AddTransport { transport, room: ROOM, local, remote: None });
        (index, Command::SetRemote { transport, remote })
    }

    /// Its number, the server's credentials towards it, and its description.
    fn make_client(&mut self, role: DtlsRole, link: LinkConfig) -> (usize, IceCredentials, Remote) {
        let index = self.clients.len();
        let certificate = certificate();
        let client_role = match role {
            DtlsRole::Server => DtlsRole::Client,
            DtlsRole::Client => DtlsRole::Server,
        };
        let local = IceCredentials { ufrag: format!("client{index}"), pwd: format!("client-password-{index:08}") };
        let server = IceCredentials { ufrag: format!("server{index}"), pwd: format!("server-password-{index:08}") };
        let address = SocketAddr::from((Ipv4Addr::new(198, 51, 100, 1), 10_000 + index as u16));
        let fingerprints = vec![certificate.fingerprint()];
        self.clients.push(Client::new(
            self.now,
            address,
            local.clone(),
            server.clone(),
            client_role,
            certificate,
            vec![self.server_fingerprint.clone()],
        ));
        // As every browser does; a test of those that do not switches it off.
        self.clients[index].feedback = Some(TwccReporter::new(self.now, TWCC_ID));
        self.up.push(Link::new(link.clone(), self.seed * 1_000 + index as u64 * 2));
        self.down.push(Link::new(link, self.seed * 1_000 + index as u64 * 2 + 1));
        (index, server, Remote { ice: local, fingerprints, role })
    }

    pub fn apply(&mut self, command: Command) {
        self.engine.apply(self.now, command);
        self.collect();
    }

    /// Lets all clients connect over lossless links; panics if one does not.
    pub fn connect(&mut self) {
        self.run(Duration::from_secs(3));
        for (index, client) in self.clients.iter().enumerate() {
            assert!(client.is_connected, "client {index} did not connect: {:?}", self.events);
        }
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step(end);
        }
    }

    pub fn set_loss(&mut self, loss: f64) {
        self.up.iter_mut().for_each(|link| link.config.loss = loss);
        self.down.iter_mut().for_each(|link| link.config.loss = loss);
    }

    pub fn states(&self, client: usize) -> Vec<TransportState> {
        let id = Self::transport(client);
        self.events
            .iter()
            .filter_map(|e| match e {
                Event::TransportState { transport, state, .. } if *transport == id => Some(*state),
                _ => None,
            })
            .collect()
    }

    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Gives the engine one datagram at once, past the links; what it sends back is in `strays` or the clients' links.
    pub fn inject(&mut self, source: SocketAddr, datagram: &[u8]) {
        let mut payload = datagram.to_vec();
        let mut batch = [Datagram { source, payload: &mut payload, received: self.now }];
        self.engine.receive(self.now, &mut batch);
        self.collect();
    }

    fn step(&mut self, end: Instant) {
        self.now = self.next_time(end);
        let mut arrived = Vec::new();
        for (index, link) in self.up.iter_mut().enumerate() {
            while let Some((source, mut datagram)) = link.receive(self.now) {
                match self.tcp.get(&index) {
                    Some(connection) => self.engine.receive_tcp(self.now, *connection, source, &mut datagram),
                    None => arrived.push((source, self.now, datagram)),
                }
            }
        }
        self.stand_aside(&mut arrived);
        let mut batch: Vec<Datagram<'_>> = arrived
            .iter_mut()
            .map(|(source, received, payload)| Datagram { source: *source, payload, received: *received })
            .collect();
        let mut is_more = self.engine.receive_some(self.now, &mut batch);
        while is_more {
            self.collect();
            is_more = self.engine.go_on(self.now, &mut batch);
        }
        if self.engine.deadline().is_some_and(|at| at <= self.now) {
            self.engine.timeout(self.now);
        }
        self.collect();
        for (client, link) in self.clients.iter_mut().zip(&mut self.down) {
            while let Some(datagram) = link.receive(self.now) {
                client.receive(self.now, &datagram);
            }
            if client.deadline().is_some_and(|at| at <= self.now) {
                client.timeout(self.now);
            }
        }
        self.flush();
    }

    /// Takes out what came in and can wait, and puts in what has waited.
    fn stand_aside(&mut self, arrived: &mut Vec<(SocketAddr, Instant, Vec<u8>)>) {
        if !self.lag.is_zero() || !self.aside.is_empty() {
            for (source, received, mut payload) in std::mem::take(arrived) {
                let can_wait = self.engine.can_wait(&Datagram { source, payload: &mut payload, received });
                let datagram = (source, received, payload);
                if can_wait { self.aside.push_back(datagram) } else { arrived.push(datagram) }
            }
        }
        while self.aside.front().is_some_and(|(_, received, _)| self.now >= *received + self.lag) {
            arrived.extend(self.aside.pop_front());
        }
        self.engine.late_since(self.aside.front().map(|(_, received, _)| *received));
    }

    /// Puts what the clients want to send on their links.
    pub fn flush(&mut self) {
        for (client, link) in self.clients.iter_mut().zip(&mut self.up) {
            while let Some(datagram) = client.poll_datagram() {
                link.send(self.now, datagram.len(), (client.address, datagram));
            }
        }
    }

    /// At least a millisecond on, at most `end`.
    fn next_time(&self, end: Instant) -> Instant {
        let links =
            self.up.iter().filter_map(Link::next_arrival).chain(self.down.iter().filter_map(Link::next_arrival));
        let next = links
            .chain(self.clients.iter().filter_map(Client::deadline))
            .chain(self.engine.deadline())
            .chain(self.aside.front().map(|(_, received, _)| *received + self.lag))
            .min()
            .unwrap_or(end);
        next.max(self.now + Duration::from_millis(1)).min(end)
    }

    fn collect(&mut self) {
        for transmit in self.engine.transmits().transmits() {
            let segments = transmit.segment_size.map_or(1, |s| transmit.range.len().div_ceil(usize::from(s)));
            self.sends.push((transmit.destination, segments));
        }
        for (destination, datagram) in self.engine.transmits().datagrams() {
            let client = match destination {
                Path::Udp(address) => self.clients.iter().position(|c| c.address == address),
                Path::Tcp(id) => self.tcp.iter().find(|(_, connection)| **connection == id).map(|(index, _)| *index),
            };
            if let (Some(wire), Some(index)) = (&mut self.wire, client) {
                wire.push((index, datagram.to_vec()));
            }
            match client {
                Some(index) => self.down[index].send(self.now, datagram.len(), datagram.to_vec()),
                None => self.strays += datagram.len(),
            }
        }
        self.engine.clear_transmits();
        while let Some(event) = self.engine.poll_event() {
            self.events.push(event);
        }
    }
}
