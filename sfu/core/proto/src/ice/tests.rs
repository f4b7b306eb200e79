//! The agent against peers that nominate, switch, restart, fall silent and lie.

use super::*;
use crate::stun::{Check, write_request};
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn credentials(name: &str) -> Credentials {
    Credentials { ufrag: format!("{name}ufrag"), pwd: format!("{name}-password-of-22-chars") }
}

fn path(n: u16) -> Path {
    Path { remote: SocketAddr::from(([192, 0, 2, 1], 1000 + n)), protocol: Protocol::Udp }
}

#[expect(clippy::disallowed_methods, reason = "one base instant; the tests add to it")]
fn start() -> Instant {
    Instant::now()
}

struct Peer {
    agent: IceAgent,
    local: Credentials,
    remote: Credentials,
    now: Instant,
    transactions: u64,
    out: Vec<u8>,
    /// The agent's own checks: when, where, what.
    asked: Vec<(Instant, Path, Vec<u8>)>,
}

impl Peer {
    fn new() -> Self {
        let (local, remote) = (credentials("ours"), credentials("theirs"));
        let mut agent = IceAgent::new(IceConfig::default(), local.clone());
        agent.set_remote(remote.clone());
        Self { agent, local, remote, now: start(), transactions: 0, out: Vec::new(), asked: Vec::new() }
    }

    fn request(&mut self, priority: u32, use_candidate: bool) -> Vec<u8> {
        self.transactions += 1;
        let mut transaction = [0; 12];
        transaction[..8].copy_from_slice(&self.transactions.to_be_bytes());
        let mut datagram = Vec::new();
        let username = format!("{}:{}", self.local.ufrag, self.remote.ufrag);
        let role = Role::Controlling(7);
        let check = Check { transaction, username: &username, priority, use_candidate, role, asks_for_pings: false };
        write_request(&mut datagram, &check, &IntegrityKey::new(&self.local.pwd));
        datagram
    }

    fn deliver(&mut self, from: Path, datagram: &[u8]) -> Result<(), DropReason> {
        self.out.clear();
        let message = Message::parse(datagram)?;
        self.agent.handle_check(self.now, from, &message, &mut self.out)
    }

    fn check(&mut self, from: Path, priority: u32, use_candidate: bool) -> Result<(), DropReason> {
        let datagram = self.request(priority, use_candidate);
        self.deliver(from, &datagram)
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.agent.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.time_passes();
        }
        self.now = end;
    }

    fn time_passes(&mut self) {
        self.agent.handle_timeout(self.now);
        let mut question = Vec::new();
        if let Some(path) = self.agent.ask(self.now, &mut question) {
            self.asked.push((self.now, path, question));
        }
    }

    /// The answer to a check of the agent's, signed with `password`.
    fn answer(&mut self, from: Path, question: &[u8], password: &str) -> Result<Duration, DropReason> {
        let question = Message::parse(question)?;
        let mut datagram = Vec::new();
        let key = IntegrityKey::new(password);
        stun::write_success(&mut datagram, &question.transaction, from.remote, &key);
        self.agent.handle_answer(self.now, from, &Message::parse(&datagram)?)
    }

    fn events(&mut self) -> Vec<IceEvent> {
        std::iter::from_fn(|| self.agent.poll_event()).collect()
    }

    fn answered_with_success(&self) -> bool {
        Message::parse(&self.out).is_ok_and(|m| m.mapped_address().is_some())
    }
}

#[test]
fn a_check_validates_and_a_nomination_selects() {
    let mut peer = Peer::new();
    peer.check(path(1), 100, false).unwrap();
    let response = Message::parse(&peer.out).unwrap();
    assert_eq!(response.mapped_address(), Some(path(1).remote));
    assert_eq!(response.verify_integrity(&IntegrityKey::new(&peer.local.pwd)), Ok(()));
    assert!(peer.agent.accepts(&path(1)) && !peer.agent.accepts(&path(2)));
    assert_eq!((peer.agent.selected(), peer.agent.state(), peer.events()), (None, IceState::New, vec![]));

    peer.check(path(1), 100, true).unwrap();
    assert_eq!(peer.agent.selected(), Some(path(1)));
    assert_eq!(
        peer.events(),
        [IceEvent::Selected { path: path(1), previous: None }, IceEvent::State(IceState::Connected)]
    );
}

#[test]
fn the_remote_half_counts_once_it_is_known() {
    let mut peer = Peer::new();
    peer.agent = IceAgent::new(IceConfig::default(), peer.local.clone());
    peer.check(path(1), 1, true).unwrap();
    peer.agent.set_remote(credentials("another"));
    assert_eq!(peer.check(path(1), 1, true), Err(DropReason::StunUsername));
    peer.agent.set_remote(peer.remote.clone());
    peer.check(path(1), 1, true).unwrap();
}

#[test]
fn a_new_nomination_moves_media_and_the_old_path_is_still_heard() {
    let mut peer = Peer::new();
    peer.check(path(1), 100, true).unwrap();
    peer.wait(2 * SECOND);
    peer.check(path(2), 50, true).unwrap();
    assert_eq!(peer.agent.selected(), Some(path(2)));
    peer.wait(3 * SECOND);
    assert!(peer.agent.accepts(&path(1)));
    // Forgotten after its lifetime; the selected one is kept alive by checks.
    for _ in 0..28 {
        peer.wait(SECOND);
        peer.check(path(2), 50, true).unwrap();
    }
    assert!(!peer.agent.accepts(&path(1)) && peer.agent.accepts(&path(2)));
}

/// S-07
#[test]
fn at_most_one_switch_a_second_and_the_last_nomination_is_not_lost() {
    let mut peer = Peer::new();
    peer.check(path(1), 100, true).unwrap();
    peer.check(path(2), 200, true).unwrap();
    assert_eq!(peer.agent.selected(), Some(path(1)));
    peer.wait(SECOND);
    assert_eq!(peer.agent.selected(), Some(path(2)), "followed by the timer, without a further check");
    let mut switches = 0;
    peer.events();
    for n in 0..100 {
        peer.check(path(n % 3), 300 + u32::from(n), true).unwrap();
        peer.wait(Duration::from_millis(100));
        switches += peer.events().iter().filter(|e| matches!(e, IceEvent::Selected { .. })).count();
    }
    assert!((5..=10).contains(&switches), "{switches} switches in 10 s");
}

#[test]
fn the_first_nomination_after_a_restart_is_followed_at_once_and_the_next_is_not() {
    let mut peer = Peer::new();
    peer.check(path(1), 100, true).unwrap();
    peer.wait(Duration::from_millis(100));
    peer.local = credentials("new-ours");
    peer.remote = credentials("new-theirs");
    peer.agent.restart(peer.local.clone(), Some(peer.remote.clone()));
    peer.check(path(2), 50, false).unwrap();
    assert_eq!(peer.agent.selected(), Some(path(1)), "nothing is nominated yet");
    peer.check(path(2), 50, true).unwrap();
    assert_eq!(peer.agent.selected(), Some(path(2)));
    peer.check(path(3), 100, true).unwrap();
    assert_eq!(peer.agent.selected(), Some(path(2)));
    peer.wait(SECOND);
    assert_eq!(peer.agent.selected(), Some(path(3)));
}

#[test]
fn aggressive_nomination_settles_on_the_highest_priority() {
    let mut peer = Peer::new();
    for _ in 0..20 {
        peer.check(path(1), 100, true).unwrap();
        peer.check(path(2), 200, true).unwrap();
        peer.wait(Duration::from_millis(500));
    }
    assert_eq!(peer.agent.selected(), Some(path(2)));
    assert_eq!(peer.events().iter().filter(|e| matches!(e, IceEvent::Selected { .. })).count(), 2);
}

#[test]
fn a_regular_peer_that_stops_nominating_a_path_leaves_it_at_once() {
    let mut peer = Peer::new();
    peer.check(path(1), 200, true).unwrap();
    peer.wait(5 * SECOND);
    // The old path is still checked, but no longer nominated.
    peer.check(path(1), 200, false).unwrap();
    peer.check(path(2), 100, true).unwrap();
    assert_eq!(peer.agent.selected(), Some(path(2)));
}

/// S-07
#[test]
fn a_replay_from_elsewhere_moves_nothing() {
    let mut peer = Peer::new();
    peer.check(path(1), 100, true).unwrap();
    peer.wait(2 * SECOND);
    let captured = peer.request(100, true);
    peer.deliver(path(1), &captured).unwrap();
    peer.wait(2 * SECOND);
    assert_eq!(peer.deliver(path(66), &captured), Err(DropReason::IceReplay));
    assert!(peer.out.is_empty() && !peer.agent.accepts(&path(66)));
    assert_eq!(peer.agent.selected(), Some(path(1)));
    // The same from the same path is a retransmission, and answered.
    peer.deliver(path(1), &captured).unwrap();
    assert!(peer.answered_with_success());
}

#[test]
fn silence_takes_consent_away_and_a_check_gives_it_back() {
    let mut peer = Peer::new();
    peer.check(path(1), 100, true).unwrap();
    peer.events();
    peer.wait(Duration::from_millis(9_999));
    assert_eq!(peer.agent.state(), IceState::Connected);
    peer.wait(Duration::from_millis(1));
    assert_eq!(peer.agent.state(), IceState::Disconnected);
    assert_eq!(peer.agent.selected(), Some(path(1)));
    peer.wait(Duration::from_millis(4_999));
    assert_eq!(peer.agent.state(), IceState::Disconnected);
    peer.wait(Duration::from_millis(1));
    assert_eq!((peer.agent.state(), peer.agent.selected()), (IceState::Failed, None));
    assert_eq!(peer.events(), [IceEvent::State(IceState::Disconnected), IceEvent::State(IceState::Failed)]);
    peer.check(path(1), 100, false).unwrap();
    assert_eq!((peer.agent.state(), peer.agent.selected()), (IceState::Connected, Some(path(1))));
}

#[test]
fn checks_on_other_paths_are_no_consent_for_the_selected_one() {
    let mut peer = Peer::new();
    peer.check(path(1), 100, true).unwrap();
    for _ in 0..11 {
        peer.wait(SECOND);
        peer.check(path(2), 100, false).unwrap();
    }
    assert_eq!(peer.agent.state(), IceState::Disconnected);
    peer.check(path(2), 100, true).unwrap();
    assert_eq!((peer.agent.state(), peer.agent.selected()), (IceState::Connected, Some(path(2))));
}

#[test]
fn both_generations_are_valid_until_the_first_new_check() {
    let mut peer = Peer::new();
    peer.check(path(1), 200, true).unwrap();
    peer.wait(2 * SECOND);
    peer.events();
    let (old_local, old_remote) = (peer.local.clone(), peer.remote.clone());
    let (local, remote) = (credentials("fresh"), credentials("renewed"));
    peer.agent.restart(local.clone(), Some(remote.clone()));
    assert_eq!(peer.agent.local_ufrags().collect::<Vec<_>>(), ["freshufrag", "oursufrag"]);
    peer.check(path(1), 200, true).unwrap();
    assert_eq!(peer.events(), []);

    (peer.local, peer.remote) = (local, remote);
    peer.check(path(2), 100, true).unwrap();
    assert_eq!(
        peer.events(),
        [IceEvent::Restarted, IceEvent::Selected { path: path(2), previous: Some(path(1)) }],
        "the old generation's higher priority does not hold the new one back"
    );
    assert_eq!(peer.agent.state(), IceState::Connected);
    (peer.local, peer.remote) = (old_local, old_remote);
    assert_eq!(peer.check(path(1), 200, true), Err(DropReason::StunUsername));
}

#[test]
fn a_silent_peer_is_asked_and_its_answer_is_consent() {
    let mut peer = Peer::new();
    peer.check(path(1), 1, true).unwrap();
    let begin = peer.now;
    peer.wait(4 * SECOND);
    assert!(peer.asked.is_empty(), "whoever checks every few seconds is never asked");
    for round in 1..=10 {
        peer.wait(2 * SECOND);
        let (at, to, question) = peer.asked.pop().unwrap();
        assert_eq!((to, at), (path(1), begin + 6 * SECOND * round), "after 5 s, and once more a second later");
        let message = Message::parse(&question).unwrap();
        assert!(message.is_request() && !message.use_candidate);
        assert_eq!(message.username, Some(&b"theirsufrag:oursufrag"[..]));
        assert_eq!(message.role(), Some(Role::Controlled(0)));
        message.verify_integrity(&IntegrityKey::new(&peer.remote.pwd)).unwrap();
        peer.answer(path(1), &question, &credentials("theirs").pwd).unwrap();
        peer.wait(4 * SECOND);
    }
    assert_eq!(peer.agent.state(), IceState::Connected);
    assert_eq!(peer.events().len(), 2, "selected and connected, and nothing since");
    assert!(peer.agent.accepts(&path(1)), "the path is kept as one that was checked");
}

#[test]
fn a_peer_whose_round_trip_is_wanted_is_asked_for_it_though_he_checks() {
    let mut peer = Peer::new();
    peer.check(path(1), 1, true).unwrap();
    peer.agent.want_answer(true);
    for trip in [Duration::from_millis(180), Duration::from_millis(30)] {
        peer.time_passes();
        let (at, to, question) = peer.asked.pop().expect("he is asked at once, and every three seconds");
        assert_eq!((to, at), (path(1), peer.now));
        peer.wait(trip);
        assert!(peer.asked.is_empty(), "once");
        assert_eq!(peer.answer(path(1), &question, &credentials("theirs").pwd), Ok(trip));
        peer.check(path(1), 1, false).unwrap();
        peer.now += 3 * SECOND - trip;
    }
    peer.agent.want_answer(false);
    peer.time_passes();
    assert!(peer.asked.is_empty());
}

#[test]
fn who_says_that_he_answers_pings_is_sent_some_and_each_is_answered_once() {
    let mut peer = Peer::new();
    peer.check(path(1), 1, true).unwrap();
    let mut out = Vec::new();
    assert_eq!((peer.agent.takes_pings(), peer.agent.ping(peer.now, &mut out)), (None, None), "nobody has asked him");
    peer.agent.want_answer(true);
    peer.time_passes();
    let (_, _, question) = peer.asked.pop().unwrap();
    let theirs = IntegrityKey::new(&peer.remote.pwd);
    let says = stun::testing::signed_answer(&question, &[(0xc059, &[0, 1])], &theirs);
    peer.agent.handle_answer(peer.now, path(1), &Message::parse(&says).unwrap()).unwrap();
    assert_eq!(peer.agent.takes_pings(), Some(true));

    let mut pings = Vec::new();
    for _ in 0..2 {
        assert_eq!(peer.agent.ping(peer.now, &mut out), Some(path(1)));
        pings.push((peer.now, out.clone()));
        peer.now += Duration::from_millis(20);
    }
    assert_ne!(pings[0].1[8..20], pings[1].1[8..20]);
    let (left, ping) = &pings[1];
    let ours = IntegrityKey::new(&peer.local.pwd);
    let pong = stun::testing::pong;
    let mut handle = |from, datagram: &[u8]| peer.agent.handle_pong(from, &Pong::parse(datagram).unwrap());
    assert_eq!(handle(path(2), &pong(ping, &theirs)), Err(DropReason::StunUnexpected), "from elsewhere");
    assert_eq!(handle(path(1), &pong(ping, &ours)), Err(DropReason::StunBadIntegrity));
    assert_eq!(handle(path(1), &pong(&[9; 28], &theirs)), Err(DropReason::StunUnexpected), "never asked");
    assert_eq!(handle(path(1), &pong(ping, &theirs)), Ok(*left));
    assert_eq!(handle(path(1), &pong(ping, &theirs)), Err(DropReason::StunUnexpected), "a replay");
    assert_eq!(handle(path(1), &pong(&pings[0].1, &theirs)), Ok(pings[0].0));
}

#[test]
fn pings_are_no_consent() {
    let mut peer = Peer::new();
    peer.check(path(1), 1, true).unwrap();
    peer.agent.takes_pings = Some(true);
    let mut out = Vec::new();
    for _ in 0..150 {
        if peer.agent.ping(peer.now, &mut out).is_some() {
            let pong = stun::testing::pong(&out, &IntegrityKey::new(&peer.remote.pwd));
            peer.agent.handle_pong(path(1), &Pong::parse(&pong).unwrap()).unwrap();
        }
        peer.wait(Duration::from_millis(100));
    }
    assert_eq!(peer.agent.state(), IceState::Failed, "fifteen seconds without a check or an answer to one");
    assert_eq!(peer.agent.ping(peer.now, &mut out), None);
}

#[test]
fn only_an_answer_to_what_was_asked_is_consent() {
    let mut peer = Peer::new();
    peer.check(path(1), 1, true).unwrap();
    peer.check(path(2), 1, false).unwrap();
    peer.wait(5 * SECOND);
    let (_, _, question) = peer.asked.pop().unwrap();
    let theirs = credentials("theirs").pwd;
    assert_eq!(peer.answer(path(2), &question, &theirs), Err(DropReason::StunUnexpected), "from elsewhere");
    assert_eq!(peer.answer(path(1), &question, "a guess"), Err(DropReason::StunBadIntegrity));
    let unasked = peer.request(1, false);
    assert_eq!(peer.answer(path(1), &unasked, &theirs), Err(DropReason::StunUnexpected));
    peer.answer(path(1), &question, &theirs).unwrap();
    assert_eq!(peer.answer(path(1), &question, &theirs), Err(DropReason::StunUnexpected), "a replay");

    peer.asked.clear();
    peer.wait(14 * SECOND);
    assert_eq!(peer.agent.state(), IceState::Disconnected);
    let transactions: Vec<_> = peer.asked.iter().map(|(_, _, q)| Message::parse(q).unwrap().transaction).collect();
    assert!((1..transactions.len()).all(|n| !transactions[..n].contains(&transactions[n])), "each is new");
    let first = peer.asked[0].2.clone();
    assert_eq!(peer.answer(path(1), &first, &theirs), Err(DropReason::StunUnexpected), "long ago");
    let last = peer.asked.last().unwrap().2.clone();
    peer.answer(path(1), &last, &theirs).unwrap();
    assert_eq!(peer.agent.state(), IceState::Connected);

    peer.wait(16 * SECOND);
    assert_eq!(peer.agent.state(), IceState::Failed);
    let asked = peer.asked.len();
    peer.wait(20 * SECOND);
    assert_eq!(peer.asked.len(), asked, "nobody is asked whose consent is gone");
}

#[test]
fn the_number_of_paths_is_bounded() {
    let mut peer = Peer::new();
    peer.check(path(0), 1, true).unwrap();
    for n in 1..16 {
        peer.check(path(n), 1, false).unwrap();
    }
    assert_eq!(peer.check(path(16), 1, true), Err(DropReason::IceTooManyPaths));
    assert!(peer.out.is_empty());
    // Later an old one gives way, never the selected.
    peer.wait(3 * SECOND);
    peer.check(path(16), 1, false).unwrap();
    assert_eq!(peer.agent.path_count(), 16);
    assert!(peer.agent.accepts(&path(0)) && peer.agent.accepts(&path(16)));
}

#[test]
fn a_closed_connection_is_no_path() {
    let mut peer = Peer::new();
    let tcp = Path { protocol: Protocol::Tcp(3), ..path(1) };
    peer.check(tcp, 1, true).unwrap();
    assert!(!peer.agent.accepts(&path(1)), "the same address over UDP is another path");
    peer.agent.path_closed(&tcp);
    assert!(!peer.agent.accepts(&tcp));
    peer.wait(15 * SECOND);
    assert_eq!(peer.agent.state(), IceState::Failed);
}

/// S-05.
/// Checks that are wrong in one way each: none may be answered with success or bind an address.
#[test]
fn malformed_checks_are_never_answered_with_success() {
    let good = {
        let mut peer = Peer::new();
        peer.request(0x6e00_01ff, true)
    };
    let key = IntegrityKey::new(&credentials("ours").pwd);
    let user = "oursufrag:theirsufrag";
    let build = |username: &str, role: Role, key: &IntegrityKey| {
        let mut out = Vec::new();
        let check =
            Check { transaction: [9; 12], username, priority: 1, use_candidate: true, role, asks_for_pings: false };
        write_request(&mut out, &check, key);
        out
    };
    let named = |username: &str| build(username, Role::Controlling(1), &key);
    let edit = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut out = good.clone();
        change(&mut out);
        out
    };
    // Attributes chosen freely, then signed as they should be.
    let signed = |attributes: &[(u16, &[u8])]| stun::testing::signed_request(attributes, &key);
    type Attribute<'a> = (u16, &'a [u8]);
    let (name, priority): (Attribute, Attribute) = ((0x0006, user.as_bytes()), (0x0024, &[0, 0, 0, 1]));
    let role: Attribute = (0x802a, &[0; 8]);

    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("one byte", vec![0]),
        ("header cut", good[..19].to_vec()),
        ("header only", good[..20].to_vec()),
        ("last byte missing", good[..good.len() - 1].to_vec()),
        ("last word missing", good[..good.len() - 4].to_vec()),
        ("one byte more", [&good[..], &[0]].concat()),
        ("one word more", [&good[..], &[0; 4]].concat()),
        ("top bits set", edit(&|b| b[0] |= 0x80)),
        ("wrong cookie", edit(&|b| b[4] ^= 1)),
        ("wrong length", edit(&|b| b[3] ^= 4)),
        ("length not a multiple of four", edit(&|b| b[3] ^= 1)),
        ("length zero", edit(&|b| b[2..4].fill(0))),
        ("length of 65 535", edit(&|b| b[2..4].fill(0xff))),
        ("other method", edit(&|b| b[1] = 3)),
        ("transaction changed", edit(&|b| b[12] ^= 1)),
        ("username changed", edit(&|b| b[24] ^= 1)),
        ("mac changed", edit(&|b| *b.iter_mut().rev().nth(10).unwrap() ^= 1)),
        ("fingerprint changed", edit(&|b| *b.last_mut().unwrap() ^= 1)),
        ("fingerprint missing", stun::testing::without_fingerprint(&good)),
        ("attribute length beyond the end", edit(&|b| b[22..24].fill(0xff))),
        ("bytes behind the fingerprint", stun::testing::with_attribute_behind(&good)),
        ("wrong key", build(user, Role::Controlling(1), &IntegrityKey::new("not the password"))),
        ("the peer's password", build(user, Role::Controlling(1), &IntegrityKey::new(&credentials("theirs").pwd))),
        ("empty key", build(user, Role::Controlling(1), &IntegrityKey::new(""))),
        ("halves swapped", named("theirsufrag:oursufrag")),
        ("no colon", named("oursufrag")),
        ("only a colon", named(":")),
        ("no local half", named(":theirsufrag")),
        ("no remote half", named("oursufrag:")),
        ("other local half", named("oursufraG:theirsufrag")),
        ("longer local half", named("oursufragx:theirsufrag")),
        ("shorter local half", named("oursufra:theirsufrag")),
        ("other remote half", named("oursufrag:theirsufragx")),
        ("second colon", named("oursufrag:theirsufrag:x")),
        ("empty username", named("")),
        ("username of 509 bytes", named(&format!("oursufrag:{}", "x".repeat(499)))),
        ("no username", signed(&[priority, role])),
        ("no priority", signed(&[name, role])),
        ("priority of 3 bytes", signed(&[name, (0x0024, &[0, 0, 1]), role])),
        ("no role", signed(&[name, priority])),
        ("both roles", signed(&[name, priority, role, (0x8029, &[0; 8])])),
        ("role of 7 bytes", signed(&[name, priority, (0x802a, &[0; 7])])),
        ("use-candidate with a value", signed(&[name, priority, role, (0x0025, &[1, 0, 0, 0])])),
        ("unknown required attribute", signed(&[name, priority, role, (0x7abc, &[1, 2, 3, 4])])),
        ("controlled peer", build(user, Role::Controlled(u64::MAX), &key)),
        ("an indication", signed_as(0x0011, &[name, priority, role], &key)),
        ("a success response", signed_as(0x0101, &[name, priority, role], &key)),
        ("an error response", signed_as(0x0111, &[name, priority, role], &key)),
    ];
    assert!(cases.len() >= 40);
    for (label, datagram) in cases {
        let mut peer = Peer::new();
        let result = peer.deliver(path(1), &datagram);
        assert!(result.is_err(), "{label}");
        assert!(!peer.answered_with_success(), "{label}");
        assert!(!peer.agent.accepts(&path(1)) && peer.agent.selected().is_none(), "{label}");
        let expects_answer = matches!(label, "unknown required attribute" | "controlled peer");
        assert_eq!(!peer.out.is_empty(), expects_answer, "{label}");
        // No amplification: an answer is at most one and a half times the question.
        assert!(peer.out.len() * 2 <= datagram.len() * 3, "{label}");
    }
    let mut peer = Peer::new();
    assert_eq!(peer.deliver(path(1), &good), Ok(()));
    assert!(peer.answered_with_success());
    assert!(peer.out.len() * 2 <= good.len() * 3);
}

fn signed_as(message_type: u16, attributes: &[(u16, &[u8])], key: &IntegrityKey) -> Vec<u8> {
    stun::testing::signed_message(message_type, attributes, key)
}

proptest! {
    /// Whatever the peer does: media goes to a path it nominated, and the bounds hold.
    #[test]
    fn the_selected_path_was_nominated(
        steps in prop::collection::vec((0u16..24, 0u32..1000, any::<bool>(), 0u64..6_000), 1..120),
    ) {
        let mut peer = Peer::new();
        let mut nominated = std::collections::HashSet::new();
        let mut last_switch: Option<Instant> = None;
        for (n, priority, use_candidate, millis) in steps {
            if peer.check(path(n), priority, use_candidate).is_ok() {
                prop_assert!(peer.agent.accepts(&path(n)));
                if use_candidate {
                    nominated.insert(path(n));
                }
            }
            prop_assert!(peer.agent.path_count() <= 16);
            for event in peer.events() {
                if let IceEvent::Selected { path, .. } = event {
                    prop_assert!(nominated.contains(&path));
                    prop_assert!(last_switch.is_none_or(|at| peer.now >= at + SECOND));
                    last_switch = Some(peer.now);
                }
            }
            // In steps of a second, so that a switch by timer is seen when it happens.
            let end = peer.now + Duration::from_millis(millis);
            while let Some(at) = peer.agent.deadline().filter(|at| *at <= end) {
                peer.now = peer.now.max(at);
                peer.time_passes();
                for event in peer.events() {
                    if let IceEvent::Selected { path, .. } = event {
                        prop_assert!(nominated.contains(&path));
                        prop_assert!(last_switch.is_none_or(|at| peer.now >= at + SECOND));
                        last_switch = Some(peer.now);
                    }
                }
            }
            peer.now = end;
        }
    }
}

/// S-09
#[test]
fn an_answer_is_no_longer_than_its_check() {
    let mut peer = Peer::new();
    let request = peer.request(100, true);
    for remote in ["192.0.2.1:1000", "[2001:db8::1]:1000"] {
        let from = Path { remote: remote.parse().unwrap(), protocol: Protocol::Udp };
        let request = peer.request(100, true);
        peer.deliver(from, &request).unwrap();
        assert!(peer.answered_with_success());
        assert!(peer.out.len() <= request.len(), "{} bytes for {}", peer.out.len(), request.len());
    }
    // And to one that cannot be understood but is authentic.
    let _ = peer.deliver(path(1), &request);
    assert!(peer.out.len() <= request.len() * 3 / 2);
}
