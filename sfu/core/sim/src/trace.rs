//! A call written down line by line: what went into the core, what it decided and why. One JSON object a line.
//!
//! `command` and `rtp` lines are enough to play the call again ([`Trace::inputs`]); the others are there to be compared
//! and looked at. Contents of packets are kept only as far as a core reads them.

use callyard_peer::client::Outgoing;
use callyard_proto::command::Command;
use callyard_proto::event::Event;
use serde::{Deserialize, Serialize};

use crate::scenario::Scenario;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    /// The first line: links and seed of the call.
    Call { scenario: Scenario, seed: u64 },
    /// Given to the core.
    Command { t: f64, command: Command },
    /// Sent by a publisher, before encryption.
    Rtp { t: f64, peer: usize, packet: Rtp },
    /// Told by the core: every decision with its reason, and every second a room's figures.
    Event { t: f64, event: Event },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rtp {
    pub ssrc: u32,
    pub pt: u8,
    pub seq: u16,
    pub timestamp: u32,
    pub marker: bool,
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub bytes: usize,
    /// The first bytes of the payload; the rest means nothing to a core.
    pub head: Vec<u8>,
}

/// Enough for every codec's descriptor and the simulator's own mark.
const HEAD: usize = 24;

impl From<&Outgoing> for Rtp {
    fn from(packet: &Outgoing) -> Self {
        let Outgoing { ssrc, pt, seq, timestamp, marker, ref extensions, ref payload } = *packet;
        let head = payload[..payload.len().min(HEAD)].to_vec();
        Self { ssrc, pt, seq, timestamp, marker, extensions: extensions.clone(), bytes: payload.len(), head }
    }
}

impl From<Rtp> for Outgoing {
    fn from(rtp: Rtp) -> Self {
        let Rtp { ssrc, pt, seq, timestamp, marker, extensions, bytes, head: mut payload } = rtp;
        payload.resize(bytes, 0xaa);
        Self { ssrc, pt, seq, timestamp, marker, payload, extensions }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    pub lines: Vec<Line>,
}

/// What a trace does to a core: seconds since the call's start, and the deed.
#[derive(Clone, Debug)]
pub enum Input {
    Command(Command),
    Rtp(usize, Outgoing),
}

impl Trace {
    pub fn read(text: &str) -> Result<Self, serde_json::Error> {
        let lines = text.lines().filter(|line| !line.is_empty()).map(serde_json::from_str);
        Ok(Self { lines: lines.collect::<Result<_, _>>()? })
    }

    pub fn write(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
        for line in &self.lines {
            serde_json::to_writer(&mut *out, line)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    }

    pub fn call(&self) -> Option<(&Scenario, u64)> {
        self.lines.iter().find_map(|line| match line {
            Line::Call { scenario, seed } => Some((scenario, *seed)),
            _ => None,
        })
    }

    pub fn inputs(&self) -> Vec<(f64, Input)> {
        let input = |line: &Line| match line {
            Line::Command { t, command } => Some((*t, Input::Command(command.clone()))),
            Line::Rtp { t, peer, packet } => Some((*t, Input::Rtp(*peer, packet.clone().into()))),
            Line::Call { .. } | Line::Event { .. } => None,
        };
        self.lines.iter().filter_map(input).collect()
    }

    pub fn events(&self) -> Vec<(f64, &Event)> {
        let event = |line| match line {
            &Line::Event { t, ref event } => Some((t, event)),
            _ => None,
        };
        self.lines.iter().filter_map(event).collect()
    }
}
