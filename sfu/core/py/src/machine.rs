//! The engine as the pump drives it: conversion of addresses and datagrams, nothing else.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use callyard_net::{ConnectionId, Datagram, Machine, Transmit};
use callyard_proto::command::Command;
use callyard_proto::event::{Event, Snapshot};
use serde::Serialize;

use crate::config::WorkerConfig;

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Counters {
    transports: std::collections::BTreeMap<String, u64>,
}

#[derive(Default)]
pub(crate) struct Engine {
    events: std::collections::VecDeque<Event>,
    counters: Counters,
}

pub(crate) struct Prepared;

impl Engine {
    pub(crate) fn prepare(_config: &WorkerConfig, _certificate: Vec<u8>, _key: Vec<u8>) -> Result<Prepared, String> {
        Ok(Prepared)
    }
}

impl Prepared {
    pub(crate) fn start(self, _now: Instant, _unix: Duration) -> Engine {
        Engine::default()
    }
}

impl Machine for Engine {
    type Counters = Counters;

    fn apply(&mut self, _now: Instant, command: Command) {
        self.events.push_back(match command {
            Command::Snapshot => Event::Snapshot(Snapshot::default()),
            other => Event::Rejected {
                command: format!("{other:?}").split([' ', '(']).next().unwrap_or_default().to_lowercase(),
                subject: 0,
                code: "unavailable".into(),
                message: "this worker forwards nothing".into(),
            },
        });
    }

    fn receive(&mut self, _now: Instant, _datagrams: &mut [Datagram<'_>]) {}
    fn receive_tcp(&mut self, _now: Instant, _connection: ConnectionId, _peer: SocketAddr, _frame: &mut [u8]) {}
    fn tcp_closed(&mut self, _now: Instant, _connection: ConnectionId) {}
    fn timeout(&mut self, _now: Instant) {}

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn transmits(&self) -> impl Iterator<Item = Transmit<'_>> {
        std::iter::empty()
    }

    fn clear_transmits(&mut self) {}

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}
