//! ICE-lite agent of one transport, always controlled (RFC 8445 §2.5, §7.3, §7.3.2, §9; consent after RFC 7675).
//!
//! A lite agent looks for no path: it answers the peer's checks, remembers which paths they came from, sends on the one
//! that the peer nominated, and takes the peer's checks as its consent. Peers there are that check only while no media
//! flows (Pion before ICE v4, libnice unless it is told otherwise): one who is silent for half the time that is allowed is
//! asked, and his answer is consent as well. Not here: sockets, candidates in SDP, DTLS.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq;

use crate::drop_reason::DropReason;
use crate::stun::{self, Check, ErrorCode, IntegrityKey, Message, Pong, Role, TransactionId};

/// How datagrams travel on a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Udp,
    /// An accepted ICE-TCP connection, by its number in net/.
    Tcp(u64),
}

/// A 5-tuple, seen from one local port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    pub remote: SocketAddr,
    pub protocol: Protocol,
}

/// One side's user fragment and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub ufrag: String,
    pub pwd: String,
}

impl std::fmt::Debug for Credentials {
    /// Without the password: debug output ends in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("ufrag", &self.ufrag).finish_non_exhaustive()
    }
}

/// Limits and times; each is a setting.
#[derive(Clone, Copy, Debug)]
pub struct IceConfig {
    /// Silence on the selected path until `Disconnected`. Default 10 s, sensible from 3 s (Chromium checks every 2.5 s).
    /// After half of it the peer is asked. Raise it for networks with long gaps; costs that much longer until a dead peer
    /// is noticed.
    pub disconnected_after: Duration,
    /// Further silence until `Failed`, when sending must stop. Default 5 s; both together must not exceed 30 s
    /// (RFC 7675 §5.1).
    pub failed_after: Duration,
    /// Most validated paths kept. Default 16; raise it for peers with very many interfaces, costs 100 B a path.
    pub max_paths: usize,
    /// Least time between two changes of the selected path. Default 1 s.
    pub switch_interval: Duration,
    /// A path without checks for this long is forgotten. Default 30 s, at least 3 s so that packets in flight on an
    /// earlier path still count.
    pub path_lifetime: Duration,
}

impl Default for IceConfig {
    fn default() -> Self {
        Self {
            disconnected_after: Duration::from_secs(10),
            failed_after: Duration::from_secs(5),
            max_paths: 16,
            switch_interval: Duration::from_secs(1),
            path_lifetime: Duration::from_secs(30),
        }
    }
}

/// Where the transport stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IceState {
    /// No path is nominated yet.
    New,
    Connected,
    /// The peer has been silent; keep what there is, it may come back.
    Disconnected,
    /// Consent is gone: nothing may be sent until the peer checks again.
    Failed,
}

/// What the owner has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IceEvent {
    State(IceState),
    /// Send here from now on.
    Selected {
        path: Path,
        previous: Option<Path>,
    },
    /// The first check with the new credentials arrived: the old ufrag is no longer routed here.
    Restarted,
}

/// How many transaction ids are remembered to tell a replay from another address.
const REMEMBERED_TRANSACTIONS: usize = 128;

/// While a silent peer is asked, so many times in `disconnected_after`.
const QUESTIONS: u32 = 10;

/// Questions whose answer still counts: those of the last seconds.
const OPEN_QUESTIONS: usize = 4;

/// Pings whose answer still counts.
const OPEN_PINGS: usize = 32;

/// Whose round trip nothing else tells is asked so often, about as often as clients check by themselves.
const ROUND_TRIP_INTERVAL: Duration = Duration::from_secs(3);

/// The priority in a check of ours: a peer-reflexive candidate's (RFC 8445 §5.1.2, §7.1.1). It decides nothing, as the
/// peer has the path already.
const QUESTION_PRIORITY: u32 = (110 << 24) | (65_535 << 8) | 255;

/// A check of ours that was not answered yet.
struct Question {
    transaction: TransactionId,
    path: Path,
    asked: Instant,
}

/// The oldest makes room.
fn keep(questions: &mut VecDeque<Question>, most: usize, question: Question) {
    if questions.len() >= most {
        questions.pop_front();
    }
    questions.push_back(question);
}

/// Which of them it was that an answer on `path` is to.
fn asked(questions: &VecDeque<Question>, transaction: TransactionId, path: Path) -> Option<usize> {
    questions.iter().position(|asked| asked.transaction == transaction && asked.path == path)
}

struct Local {
    credentials: Credentials,
    key: IntegrityKey,
    remote: Option<Credentials>,
}

#[derive(Clone, Copy)]
struct KnownPath {
    path: Path,
    /// Or the last answer to one of ours.
    last_check: Instant,
    priority: u32,
    /// When it last carried USE-CANDIDATE, if its latest check did.
    nominated_at: Option<Instant>,
}

/// See the module's head.
pub struct IceAgent {
    config: IceConfig,
    current: Local,
    /// Valid until the first check with the current ones (RFC 8445 §9).
    previous: Option<Local>,
    paths: Vec<KnownPath>,
    selected: Option<Path>,
    /// A nomination that came too soon after the last switch, and when it may be followed.
    pending: Option<(Path, Instant)>,
    last_switch: Option<Instant>,
    /// The peer has begun a new generation and nominated nothing in it yet.
    restarted: bool,
    state: IceState,
    transactions: VecDeque<(TransactionId, Path)>,
    /// The latest last.
    questions: VecDeque<Question>,
    last_question: Option<Instant>,
    wants_answer: bool,
    asked: u64,
    /// Whether the peer answers pings, once he was asked.
    takes_pings: Option<bool>,
    /// Those that were not answered yet, the latest last.
    pings: VecDeque<Question>,
    events: VecDeque<IceEvent>,
}

impl IceAgent {
    pub fn new(config: IceConfig, local: Credentials) -> Self {
        Self {
            config,
            current: Local::new(local, None),
            previous: None,
            paths: Vec::new(),
            selected: None,
            pending: None,
            last_switch: None,
            restarted: false,
            state: IceState::New,
            transactions: VecDeque::new(),
            questions: VecDeque::new(),
            last_question: None,
            wants_answer: false,
            asked: 0,
            takes_pings: None,
            pings: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The peer's credentials, once its description is known. Until then only our half of a USERNAME is checked.
    pub fn set_remote(&mut self, remote: Credentials) {
        self.current.remote = Some(remote);
    }

    /// New credentials on our side, and on the peer's if known. The old ones stay valid until the first check with the
    /// new; media flows on meanwhile.
    pub fn restart(&mut self, local: Credentials, remote: Option<Credentials>) {
        let old = std::mem::replace(&mut self.current, Local::new(local, remote));
        // Restarting again before the peer followed: what it still uses is the oldest pair.
        self.previous.get_or_insert(old);
    }

    /// Our ufrags that are to be routed to this agent, the current one first.
    pub fn local_ufrags(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.current).chain(&self.previous).map(|local| local.credentials.ufrag.as_str())
    }

    /// Our current credentials, for the description.
    pub fn local_credentials(&self) -> &Credentials {
        &self.current.credentials
    }

    pub fn state(&self) -> IceState {
        self.state
    }

    /// Where to send; None before a nomination and after consent was lost.
    pub fn selected(&self) -> Option<Path> {
        if self.state == IceState::Failed { None } else { self.selected }
    }

    /// May DTLS, SRTP and SRTCP come from here? True for paths that passed an authenticated check.
    pub fn accepts(&self, path: &Path) -> bool {
        self.paths.iter().any(|known| known.path == *path)
    }

    /// Number of validated paths.
    pub fn path_count(&self) -> usize {
        self.paths.len()
    }

    /// The next event, oldest first.
    pub fn poll_event(&mut self) -> Option<IceEvent> {
        self.events.pop_front()
    }

    /// A Binding message for one of our ufrags came in on `path`.
    ///
    /// `out` is replaced by the response to send back there, or left empty: nobody without our password gets one. An
    /// error may come with a response (420, 487).
    pub fn handle_check(
        &mut self,
        now: Instant,
        path: Path,
        message: &Message<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), DropReason> {
        out.clear();
        let (is_current, priority) = self.authenticate(message, out)?;
        let transaction = &message.transaction;
        if self.transactions.iter().any(|(id, from)| id == transaction && *from != path) {
            return Err(DropReason::IceReplay);
        }
        self.admit(now, path, priority)?;
        self.remember(*transaction, path);
        let local = if is_current { Some(&self.current) } else { self.previous.as_ref() };
        if let Some(local) = local {
            stun::write_success(out, transaction, path.remote, &local.key);
        }

        if is_current && self.previous.take().is_some() {
            self.events.push_back(IceEvent::Restarted);
            // Nominations of the old generation count no more (RFC 8445 §9).
            for known in &mut self.paths {
                known.nominated_at = None;
            }
            self.pending = None;
            self.restarted = true;
        }
        self.note_check(now, path, priority, message.use_candidate);
        if message.use_candidate {
            self.nominate(now, path);
        }
        self.revive(path);
        Ok(())
    }

    /// Whether answers are wanted for the time that they take, or for what they say of pings, from a peer that is not silent as
    /// well.
    pub fn want_answer(&mut self, is_wanted: bool) {
        self.wants_answer = is_wanted;
    }

    /// Asks a peer that has been silent on the selected path whether it still wants what is sent there (RFC 7675 §5.1), and
    /// one whose round trip is wanted: `out` is replaced by a check to send on the returned path. None, and `out` empty, if
    /// nobody is to be asked now.
    ///
    /// Call it after [`handle_timeout`](Self::handle_timeout).
    pub fn ask(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Path> {
        out.clear();
        let at = self.question_due()?;
        let (path, remote) = (self.selected?, self.current.remote.as_ref()?);
        if now < at {
            return None;
        }
        self.asked += 1;
        let transaction = self.current.key.transaction(self.asked);
        let check = Check {
            transaction,
            username: &format!("{}:{}", remote.ufrag, self.current.credentials.ufrag),
            priority: QUESTION_PRIORITY,
            use_candidate: false,
            // With the least tie-breaker: a peer that is in doubt shall control.
            role: Role::Controlled(0),
            asks_for_pings: true,
        };
        stun::write_request(out, &check, &IntegrityKey::new(&remote.pwd));
        keep(&mut self.questions, OPEN_QUESTIONS, Question { transaction, path, asked: now });
        self.last_question = Some(now);
        Some(path)
    }

    /// A success response came in on `path`: consent, if it answers a check of ours that was sent there. How long it took.
    pub fn handle_answer(&mut self, now: Instant, path: Path, message: &Message<'_>) -> Result<Duration, DropReason> {
        let question = asked(&self.questions, message.transaction, path);
        let (Some(question), Some(remote)) = (question, &self.current.remote) else {
            return Err(DropReason::StunUnexpected);
        };
        message.verify_integrity(&IntegrityKey::new(&remote.pwd))?;
        let asked = self.questions.remove(question).map_or(now, |question| question.asked);
        self.takes_pings = Some(message.takes_pings());
        let known = self.paths.iter_mut().find(|known| known.path == path).ok_or(DropReason::UnvalidatedPath)?;
        known.last_check = now;
        self.revive(path);
        Ok(now.saturating_duration_since(asked))
    }

    /// Whether the peer answers pings; None: not known, as nothing was asked yet.
    pub fn takes_pings(&self) -> Option<bool> {
        self.takes_pings
    }

    /// Where pings are answered. In a stream they would stand behind what is lost.
    pub fn pingable(&self) -> Option<Path> {
        self.selected().filter(|path| path.protocol == Protocol::Udp && self.takes_pings == Some(true))
    }

    /// Writes a ping to send on the returned path; `out` is replaced by it. None if the peer would not answer it.
    pub fn ping(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Path> {
        out.clear();
        let (path, remote) = (self.pingable()?, self.current.remote.as_ref()?);
        self.asked += 1;
        let transaction = self.current.key.transaction(self.asked);
        stun::write_ping(out, &transaction, &IntegrityKey::new(&remote.pwd));
        keep(&mut self.pings, OPEN_PINGS, Question { transaction, path, asked: now });
        Some(path)
    }

    /// The answer to a ping came in on `path`: when that left. It is no consent; nobody lives by pings alone.
    pub fn handle_pong(&mut self, path: Path, pong: &Pong<'_>) -> Result<Instant, DropReason> {
        let ping = asked(&self.pings, pong.transaction, path);
        let (Some(ping), Some(remote)) = (ping, &self.current.remote) else {
            return Err(DropReason::StunUnexpected);
        };
        pong.verify_integrity(&IntegrityKey::new(&remote.pwd))?;
        self.pings.remove(ping).map(|ping| ping.asked).ok_or(DropReason::StunUnexpected)
    }

    /// When the peer is to be asked next, if it stays silent or its round trip is wanted.
    fn question_due(&self) -> Option<Instant> {
        self.current.remote.as_ref()?;
        if matches!(self.state, IceState::New | IceState::Failed) {
            return None;
        }
        let is_silent_at = self.last_heard()? + self.config.disconnected_after / 2;
        let not_before = self.last_question.map(|at| at + self.config.disconnected_after / QUESTIONS);
        let asked_of_silent = not_before.map_or(is_silent_at, |at| at.max(is_silent_at));
        let asked_for_time = match self.last_question {
            _ if !self.wants_answer => None,
            Some(at) => Some(at + ROUND_TRIP_INTERVAL),
            None => self.last_switch,
        };
        Some(asked_for_time.map_or(asked_of_silent, |at| at.min(asked_of_silent)))
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called, and [`ask`](Self::ask) after it.
    pub fn deadline(&self) -> Option<Instant> {
        let consent = match self.state {
            IceState::Connected => self.last_heard().map(|at| at + self.config.disconnected_after),
            IceState::Disconnected => self.last_heard().map(|at| at + self.silence_limit()),
            IceState::New | IceState::Failed => None,
        };
        let oldest = self.paths.iter().map(|known| known.last_check + self.config.path_lifetime).min();
        [consent, oldest, self.question_due(), self.pending.map(|(_, at)| at)].into_iter().flatten().min()
    }

    /// Time has come to `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some((path, at)) = self.pending
            && now >= at
        {
            self.pending = None;
            if self.find(path).is_some_and(|known| known.nominated_at.is_some()) {
                self.nominate(now, path);
            }
        }
        if let Some(heard) = self.last_heard() {
            let silence = now.saturating_duration_since(heard);
            if self.state == IceState::Connected && silence >= self.config.disconnected_after {
                self.enter(IceState::Disconnected);
            }
            if self.state == IceState::Disconnected && silence >= self.silence_limit() {
                self.enter(IceState::Failed);
            }
        }
        let lifetime = self.config.path_lifetime;
        self.paths.retain(|known| now.saturating_duration_since(known.last_check) < lifetime);
    }

    /// A path's connection is gone (ICE-TCP): forget it.
    pub fn path_closed(&mut self, path: &Path) {
        self.paths.retain(|known| known.path != *path);
    }

    /// Is it a sound check by our peer? Whether it used the current credentials, and its priority.
    fn authenticate(&self, message: &Message<'_>, out: &mut Vec<u8>) -> Result<(bool, u32), DropReason> {
        if !message.is_request() {
            return Err(DropReason::StunUnexpected);
        }
        let (local_ufrag, remote_ufrag) = message.ufrags()?;
        let is_current = self.current.is_for(local_ufrag);
        let local = if is_current {
            &self.current
        } else {
            self.previous.as_ref().filter(|old| old.is_for(local_ufrag)).ok_or(DropReason::StunUsername)?
        };
        if remote_ufrag.is_empty() || !local.allows_remote(remote_ufrag) {
            return Err(DropReason::StunUsername);
        }
        message.verify_integrity(&local.key)?;

        let (transaction, unknown) = (&message.transaction, message.unknown_attributes());
        if !unknown.is_empty() {
            stun::write_error(out, transaction, ErrorCode::UnknownAttribute, unknown, &local.key);
            return Err(DropReason::StunUnknownAttribute);
        }
        let (Some(priority), Some(role)) = (message.priority, message.role()) else {
            return Err(DropReason::StunIncomplete);
        };
        if let Role::Controlled(_) = role {
            // A lite agent never takes the controlling role, whatever the tie-breakers say (RFC 8445 §6.1.1).
            stun::write_error(out, transaction, ErrorCode::RoleConflict, &[], &local.key);
            return Err(DropReason::IceRoleConflict);
        }
        Ok((is_current, priority))
    }

    fn silence_limit(&self) -> Duration {
        self.config.disconnected_after + self.config.failed_after
    }

    fn find(&self, path: Path) -> Option<&KnownPath> {
        self.paths.iter().find(|known| known.path == path)
    }

    /// The last authenticated check or answer on the selected path; the last on any, if that path has been forgotten.
    fn last_heard(&self) -> Option<Instant> {
        let selected = self.selected?;
        match self.find(selected) {
            Some(known) => Some(known.last_check),
            None => self.paths.iter().map(|known| known.last_check).max().or(self.last_switch),
        }
    }

    /// Make sure that `path` is among the known ones, within the bound.
    fn admit(&mut self, now: Instant, path: Path, priority: u32) -> Result<(), DropReason> {
        if self.find(path).is_some() {
            return Ok(());
        }
        if self.paths.len() >= self.config.max_paths {
            // The longest silent one gives way, unless packets may still be in flight on it.
            let selected = self.selected;
            let oldest = self
                .paths
                .iter()
                .enumerate()
                .filter(|(_, known)| Some(known.path) != selected)
                .min_by_key(|(_, known)| known.last_check)
                .filter(|(_, known)| now.saturating_duration_since(known.last_check) >= Duration::from_secs(3))
                .map(|(i, _)| i);
            self.paths.swap_remove(oldest.ok_or(DropReason::IceTooManyPaths)?);
        }
        self.paths.push(KnownPath { path, last_check: now, priority, nominated_at: None });
        Ok(())
    }

    fn remember(&mut self, transaction: TransactionId, path: Path) {
        // A retransmission on the same path is no news.
        if self.transactions.iter().any(|(id, _)| *id == transaction) {
            return;
        }
        if self.transactions.len() >= REMEMBERED_TRANSACTIONS {
            self.transactions.pop_front();
        }
        self.transactions.push_back((transaction, path));
    }

    fn note_check(&mut self, now: Instant, path: Path, priority: u32, use_candidate: bool) {
        if let Some(known) = self.paths.iter_mut().find(|known| known.path == path) {
            known.last_check = now;
            known.priority = priority;
            known.nominated_at = use_candidate.then_some(now);
        }
    }

    /// The peer wants `path`. Follow at once, unless it switched just now or nominates aggressively: then the highest
    /// priority wins for as long as its nomination is fresh (RFC 5245 §8.1.1.2). The first nomination after a restart is
    /// no flapping: its sockets of the former generation may be closed already.
    fn nominate(&mut self, now: Instant, path: Path) {
        let restarted = std::mem::take(&mut self.restarted);
        if self.selected == Some(path) {
            self.pending = None;
            return;
        }
        let interval = self.config.switch_interval;
        let earliest = self.last_switch.filter(|_| !restarted).map_or(now, |at| at + interval);
        let rival = self.selected.and_then(|selected| self.find(selected));
        let priority = self.find(path).map_or(0, |known| known.priority);
        let yields = rival.and_then(|rival| rival.nominated_at.filter(|_| rival.priority > priority));
        let at = yields.map_or(earliest, |nominated| earliest.max(nominated + interval));
        if now < at {
            self.pending = Some((path, at));
            return;
        }
        self.pending = None;
        let previous = self.selected.replace(path);
        self.last_switch = Some(now);
        self.events.push_back(IceEvent::Selected { path, previous });
    }

    /// A check on the selected path is the peer's consent.
    fn revive(&mut self, path: Path) {
        if self.selected == Some(path) && self.state != IceState::Connected {
            self.enter(IceState::Connected);
        }
    }

    fn enter(&mut self, state: IceState) {
        self.state = state;
        self.events.push_back(IceEvent::State(state));
    }
}

impl Local {
    fn new(credentials: Credentials, remote: Option<Credentials>) -> Self {
        let key = IntegrityKey::new(&credentials.pwd);
        Self { credentials, key, remote }
    }

    fn is_for(&self, ufrag: &[u8]) -> bool {
        self.credentials.ufrag.as_bytes().ct_eq(ufrag).into()
    }

    fn allows_remote(&self, ufrag: &[u8]) -> bool {
        self.remote.as_ref().is_none_or(|remote| remote.ufrag.as_bytes() == ufrag)
    }
}

#[cfg(test)]
mod tests;
