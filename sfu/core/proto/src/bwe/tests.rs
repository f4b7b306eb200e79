//! The estimator on a modelled link in virtual time: rate, propagation, a drop-tail queue, random loss.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::probe::ProbeResult;
use super::*;

const MS: Duration = Duration::from_millis(1);

struct Link {
    rate_bps: f64,
    propagation: Duration,
    queue_limit: Duration,
    loss: f64,
    seed: u64,
    free_at: Duration,
}

impl Link {
    fn new(rate_bps: f64) -> Self {
        Self {
            rate_bps,
            propagation: Duration::from_millis(20),
            queue_limit: Duration::from_millis(300),
            loss: 0.0,
            seed: 7,
            free_at: Duration::ZERO,
        }
    }

    /// Arrival time of a packet handed in at `at`, `None` if it is lost.
    fn carry(&mut self, at: Duration, bytes: u32) -> Option<Duration> {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = (self.seed >> 33) as f64 / f64::from(1u32 << 31);
        if random < self.loss || self.free_at.saturating_sub(at) > self.queue_limit {
            return None;
        }
        self.free_at = self.free_at.max(at) + Duration::from_secs_f64(f64::from(bytes) * 8.0 / self.rate_bps);
        Some(self.free_at + self.propagation)
    }

    fn queue(&self, at: Duration) -> Duration {
        self.free_at.saturating_sub(at)
    }
}

/// A sender that sends what the estimate allows, but no more than it has, and probes for what it wants.
struct Run {
    origin: Instant,
    estimator: Estimator,
    link: Link,
    now: Duration,
    number: u64,
    debt: f64,
    pending: VecDeque<(u64, Option<Duration>, Duration)>,
    media_bps: f64,
    wanted_bps: u64,
    worst_queue: Duration,
}

impl Run {
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the origin of virtual time")]
    fn new(link: Link, media_bps: f64) -> Self {
        Self {
            origin: Instant::now(),
            estimator: Estimator::new(BweConfig::default()),
            link,
            now: Duration::ZERO,
            number: 0,
            debt: 0.0,
            pending: VecDeque::new(),
            media_bps,
            wanted_bps: media_bps as u64,
            worst_queue: Duration::ZERO,
        }
    }

    fn send(&mut self, at: Duration, bytes: u32, probe: Option<u32>) {
        self.estimator.sent(Sent { number: self.number, at: self.origin + at, bytes, probe, shadowed: false });
        let received = self.link.carry(at, bytes);
        self.pending.push_back((self.number, received, at));
        self.number += 1;
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.worst_queue = Duration::ZERO;
        while self.now < end {
            self.now += MS * 5;
            let rate = self.media_bps.min(self.estimator.estimate_bps() as f64);
            self.debt += rate * 0.005 / 8.0;
            while self.debt >= 1200.0 {
                self.debt -= 1200.0;
                self.send(self.now, 1200, None);
            }
            let now = self.origin + self.now;
            self.estimator.want(now, self.wanted_bps, self.wanted_bps);
            if let Some(cluster) = self.estimator.poll_probe(now) {
                let bytes = cluster.packet_bytes();
                let packets = cluster.min_packets.max(cluster.min_bytes.div_ceil(bytes));
                for index in 0..packets {
                    let gap = Duration::from_secs_f64(f64::from(bytes) * 8.0 / cluster.bitrate_bps as f64);
                    self.send(self.now + gap * index, bytes, Some(cluster.id));
                }
            }
            if self.now.as_millis().is_multiple_of(50) {
                self.report();
            }
            if self.estimator.deadline().is_some_and(|deadline| deadline <= now) {
                self.estimator.timeout(now);
            }
            self.worst_queue = self.worst_queue.max(self.link.queue(self.now));
        }
    }

    /// Feedback every 50 ms, 20 ms on its way back; a loss is known once a later packet is in.
    fn report(&mut self) {
        let seen = self.now.saturating_sub(self.link.propagation);
        let newest = self.pending.iter().rposition(|(_, received, _)| received.is_some_and(|at| at <= seen));
        let Some(newest) = newest else { return };
        let arrivals: Vec<Arrival> = self
            .pending
            .drain(..=newest)
            .map(|(number, received, _)| Arrival {
                number,
                received: received.map(|at| at + Duration::from_secs(1000)),
            })
            .collect();
        self.estimator.feedback(self.origin + self.now, &arrivals);
    }

    fn estimate_mbps(&self) -> f64 {
        self.estimator.estimate_bps() as f64 / 1e6
    }
}

#[test]
fn it_climbs_to_what_is_wanted_within_seconds_on_a_wide_link() {
    let mut run = Run::new(Link::new(20e6), 3e6);
    run.run(Duration::from_secs(4));
    assert!(run.estimate_mbps() >= 3.0, "{}", run.estimate_mbps());
}

#[test]
fn it_settles_under_a_narrow_link_with_a_short_queue() {
    let mut run = Run::new(Link::new(1e6), 5e6);
    run.run(Duration::from_secs(10));
    run.run(Duration::from_secs(30));
    assert!((0.6..1.05).contains(&run.estimate_mbps()), "{}", run.estimate_mbps());
    assert!(run.worst_queue < Duration::from_millis(200), "{:?}", run.worst_queue);
}

#[test]
fn it_follows_a_step_down_at_once_and_up_within_seconds() {
    let mut run = Run::new(Link::new(3e6), 2.5e6);
    run.run(Duration::from_secs(15));
    assert!(run.estimate_mbps() > 2.3, "{}", run.estimate_mbps());
    run.link.rate_bps = 0.5e6;
    run.run(Duration::from_millis(700));
    assert!(run.estimate_mbps() < 0.75, "{}", run.estimate_mbps());
    run.run(Duration::from_secs(20));
    assert!((0.25..0.65).contains(&run.estimate_mbps()), "{}", run.estimate_mbps());
    run.link.rate_bps = 3e6;
    run.run(Duration::from_secs(4));
    assert!(run.estimate_mbps() > 2.3, "{}", run.estimate_mbps());
}

/// Cameras, and a screen whose frames are large and seldom: each meets a queue of its own making.
#[test]
fn a_burst_on_a_link_that_stands_idle_in_between_costs_little() {
    let mut run = Run::new(Link::new(2e6), 1.35e6);
    run.wanted_bps = 1_900_000;
    run.run(Duration::from_secs(10));
    let (mut least, mut falls, mut before) = (f64::MAX, 0, run.estimate_mbps());
    for step in 0..8_000 {
        // 1.35 Mbit/s, and for a quarter of each second 2.55.
        if step % 200 < 50 && step % 8 < 5 {
            run.send(run.now, 1_200, None);
        }
        run.run(MS * 5);
        let now = run.estimate_mbps();
        falls += usize::from(now < before);
        (least, before) = (now.min(least), now);
    }
    assert!(falls > 0, "its queue was seen");
    assert!(least > 1.85, "{least}");
}

/// As mobile links are while they change their cell.
#[test]
fn a_link_that_was_narrow_for_a_moment_is_soon_believed_wide_again() {
    let mut run = Run::new(Link::new(3e6), 2.5e6);
    run.run(Duration::from_secs(15));
    assert!(run.estimate_mbps() > 2.3, "{}", run.estimate_mbps());
    run.link.rate_bps = 0.2e6;
    run.run(Duration::from_millis(300));
    run.link.rate_bps = 3e6;
    run.run(Duration::from_millis(300));
    assert!(run.estimate_mbps() < 0.5, "{}", run.estimate_mbps());
    run.run(Duration::from_millis(1_200));
    assert!(run.estimate_mbps() > 2.0, "{}", run.estimate_mbps());
}

/// Sends all of `cluster` at `now` and has it arrive at `bps`; true if the link turned out full.
fn is_full_at(prober: &mut Prober, now: Instant, cluster: ProbeCluster, bps: f64) -> bool {
    result_of(prober, now, cluster, bps, Duration::ZERO).is_some_and(|result| result.is_full)
}

/// Nothing is read for `held_up` from its first packet on.
fn result_of(
    prober: &mut Prober,
    now: Instant,
    cluster: ProbeCluster,
    bps: f64,
    held_up: Duration,
) -> Option<ProbeResult> {
    let packets = cluster.min_packets.max(cluster.min_bytes.div_ceil(cluster.packet_bytes()));
    let bytes = cluster.packet_bytes();
    for index in 0..packets {
        let takes = |packets: u32, bps: f64| Duration::from_secs_f64(f64::from(bytes * packets) * 8.0 / bps);
        let sent_bps = cluster.bitrate_bps as f64;
        let at = now + takes(index, sent_bps);
        let sent = Sent { number: u64::from(index), at, bytes, probe: Some(cluster.id), shadowed: true };
        prober.sent(&sent);
        let arrives = (takes(index, bps.min(sent_bps)) + takes(1, bps)).max(held_up);
        let waited = arrives.saturating_sub(takes(index, sent_bps));
        prober.received(&sent, MS * 50 + arrives, waited, &AcknowledgedBitrate::new());
    }
    prober.answered(u64::from(packets));
    prober.result(now)
}

/// A link of 2 Mbit/s that is asked for 2.5 would pass for wide enough if its first packet were taken as it came.
#[test]
fn a_receiver_that_was_held_up_does_not_make_a_link_seem_wide() {
    let start = Run::new(Link::new(1e6), 1e6).origin;
    for (bps, held_up_ms, is_full) in [(2e6, 0, true), (2e6, 8, true), (2e6, 20, true), (3e6, 20, false)] {
        let mut prober = Prober::new();
        prober.failed(start);
        let (now, sight) = (start + Duration::from_secs(5), Sight { is_clean: true, is_drained: true });
        prober.want(start, 2_200_000, 4_000_000, 2_000_000, sight);
        prober.want(now, 2_200_000, 4_000_000, 2_000_000, sight);
        let cluster = prober.poll(now).unwrap();
        assert_eq!(cluster.bitrate_bps, 2_530_000);
        let result = result_of(&mut prober, now, cluster, bps, MS * held_up_ms).unwrap();
        assert_eq!(result.is_full, is_full, "{bps} {held_up_ms}: {result:?}");
        let most = if is_full { 2_100_000 } else { 2_403_500 };
        assert!((most - 210_000..=most).contains(&result.bitrate_bps), "{bps} {held_up_ms}: {result:?}");
    }
}

/// What we had sent before a cluster has made it wait: the link was busy then, and that counts.
#[test]
fn what_a_cluster_had_to_wait_for_is_carried_as_well() {
    let start = Run::new(Link::new(1e6), 1e6).origin;
    for (is_known, is_full) in [(true, false), (false, true)] {
        let (mut prober, mut before) = (Prober::new(), AcknowledgedBitrate::new());
        prober.want(start, 3_000_000, 3_000_000, 300_000, Sight { is_clean: true, is_drained: true });
        let cluster = prober.poll(start).unwrap();
        // 1.2 Mbit/s: 1 200 bytes each 8 ms, of which three wait when the cluster leaves.
        let at = |index: u32| MS * 100 + MS * 8 * index;
        (0..3).filter(|_| is_known).for_each(|index| before.add(at(index), 1_200, MS * 8 * index));
        for index in 0..5 {
            let leaves = start + MS * 8 * index;
            let sent = Sent { number: index.into(), at: leaves, bytes: 1_200, probe: Some(cluster.id), shadowed: true };
            prober.sent(&sent);
            prober.received(&sent, at(3 + index), MS * 24, &before);
        }
        prober.answered(4);
        // The first that finds the link full is not told; the next one is asked for instead.
        assert_eq!(prober.result(start).is_none(), is_full, "{is_known}");
    }
}

/// A first packet that came late makes a wide link look full.
#[test]
fn the_end_of_a_link_that_is_still_climbed_is_looked_at_twice() {
    let start = Run::new(Link::new(1e6), 1e6).origin;
    let sight = Sight { is_clean: true, is_drained: true };
    // What the second cluster is delivered at, and the aims of the third, at once and half a second later.
    for (second_bps, then) in [(3e6, [Some(600_000), None]), (0.8e6, [None, None])] {
        let mut prober = Prober::new();
        let aim = |prober: &mut Prober, at_ms: u32| {
            prober.want(start + MS * at_ms, 3_000_000, 3_000_000, 300_000, sight);
            prober.poll(start + MS * at_ms)
        };
        let first = aim(&mut prober, 0).unwrap();
        assert_eq!(first.bitrate_bps, 1_200_000);
        assert!(!is_full_at(&mut prober, start + MS * 100, first, 0.8e6), "nobody is told yet");
        assert!(prober.is_climbing());
        let second = aim(&mut prober, 100).unwrap();
        assert!((990_000..1_010_000).contains(&second.bitrate_bps), "{second:?}");
        assert_eq!(is_full_at(&mut prober, start + MS * 200, second, second_bps), second_bps < 1e6);
        assert_eq!(prober.is_climbing(), second_bps > 1e6);
        assert_eq!([200, 700].map(|ms| aim(&mut prober, ms).map(|cluster| cluster.bitrate_bps)), then);
    }
}

#[test]
fn what_was_there_before_a_steep_fall_is_sought_ever_less_often() {
    let start = Run::new(Link::new(1e6), 1e6).origin;
    let clusters = |after_bps: u64, is_drained: bool| {
        let (mut prober, mut found) = (Prober::new(), Vec::new());
        prober.fell(start, 3_000_000, after_bps);
        for ms in 0..8_000 {
            let now = start + MS * ms;
            prober.want(now, 3_000_000, 3_000_000, after_bps, Sight { is_clean: false, is_drained });
            if let Some(cluster) = prober.poll(now) {
                assert!(is_full_at(&mut prober, now, cluster, after_bps as f64));
                found.push((ms, cluster.bitrate_bps));
            }
        }
        found
    };
    let expected = [300, 500, 900, 1_700, 3_300].map(|ms| (ms, 560_000));
    assert_eq!(clusters(400_000, true), expected, "for five seconds, in small steps");
    assert_eq!(clusters(400_000, false), [], "not before the queue is empty");
    assert_eq!(clusters(2_200_000, true), [], "it did not fall so far");
}

#[test]
fn what_is_regained_is_sought_no_more() {
    let start = Run::new(Link::new(1e6), 1e6).origin;
    let mut prober = Prober::new();
    prober.fell(start, 3_000_000, 400_000);
    let sight = Sight { is_clean: false, is_drained: true };
    let mut aim = |at_ms: u32, estimate_bps| {
        let now = start + MS * at_ms;
        prober.want(now, 3_000_000, 3_000_000, estimate_bps, sight);
        let cluster = prober.poll(now)?;
        assert!(!is_full_at(&mut prober, now, cluster, 3e6));
        Some(cluster.bitrate_bps)
    };
    assert_eq!(aim(300, 400_000), Some(560_000));
    assert_eq!(aim(400, 532_000), Some(1_064_000), "a success is followed at once, by twice as much");
    assert_eq!(aim(500, 1_440_000), Some(2_550_000), "0.85 of what was there");
    assert_eq!(aim(600, 2_560_000), None);
}

#[test]
fn loss_without_a_queue_costs_nothing() {
    for loss in [0.01, 0.05, 0.10, 0.20] {
        let mut run = Run::new(Link { loss, ..Link::new(10e6) }, 2e6);
        run.run(Duration::from_secs(20));
        assert!(run.estimate_mbps() >= 1.9, "{loss}: {}", run.estimate_mbps());
    }
}

#[test]
fn an_answer_that_does_not_come_holds_back_where_nothing_was_lost_lately() {
    for (loss, holds) in [(0.0, true), (0.02, false)] {
        let mut run = Run::new(Link { loss, ..Link::new(10e6) }, 2e6);
        run.run(Duration::from_secs(10));
        let now = run.origin + run.now;
        let hold = run.estimator.hold().filter(|hold| hold.contains(&(now + MS * 100)));
        assert_eq!((hold.is_some(), run.estimator.standing_queue() > RISE), (holds, false), "{loss}: {hold:?}");
    }
}

#[test]
fn a_policer_that_never_queues_is_found_by_its_loss() {
    let mut run = Run::new(Link { queue_limit: Duration::from_millis(12), ..Link::new(1e6) }, 3e6);
    run.run(Duration::from_secs(30));
    assert!(run.estimate_mbps() < 1.4, "{}", run.estimate_mbps());
}

#[test]
fn without_feedback_the_rate_falls_to_the_floor() {
    // Pictures, and a voice that says nothing.
    for media_bps in [2e6, 24e3] {
        let mut run = Run::new(Link::new(5e6), 2e6);
        run.run(Duration::from_secs(5));
        (run.link.loss, run.media_bps) = (1.0, media_bps);
        run.run(Duration::from_secs(8));
        assert!(run.estimate_mbps() < 0.1, "{}", run.estimate_mbps());
        assert_eq!(run.estimator.limit(), Limit::Silence);
    }
}

/// Everybody is muted for a while, again and again. The last packet before that arrives, or it is lost.
#[test]
fn who_is_sent_nothing_is_not_silent() {
    for loses_last in [false, true] {
        let mut run = Run::new(Link::new(20e6), 3e6);
        run.run(Duration::from_secs(5));
        let before = run.estimate_mbps();
        assert!(before >= 3.0, "{before}");
        for pause in [1_600, 2_500, 5_000, 30_000, 60_000, 2_000] {
            run.link.loss = if loses_last { 1.0 } else { 0.0 };
            run.send(run.now, 1_200, None);
            (run.link.loss, run.media_bps, run.wanted_bps) = (0.0, 0.0, 0);
            run.run(MS * pause);
            assert!(run.estimate_mbps() >= before, "{pause} ms of pause: {}", run.estimate_mbps());
            (run.media_bps, run.wanted_bps) = (3e6, 3_000_000);
            run.run(MS * 500);
            assert!(run.estimate_mbps() >= before, "after {pause} ms of pause: {}", run.estimate_mbps());
        }
    }
}

/// All cameras are off while somebody else fills the link for a moment.
#[test]
fn a_fall_while_nothing_more_was_wanted_is_forgotten_once_more_is() {
    let mut run = Run::new(Link::new(3e6), 40e3);
    run.wanted_bps = 0;
    run.run(Duration::from_secs(5));
    run.link.rate_bps = 30e3;
    run.run(Duration::from_secs(3));
    run.link.rate_bps = 3e6;
    run.run(Duration::from_secs(30));
    assert!(run.estimate_mbps() < 0.2, "{}", run.estimate_mbps());
    (run.media_bps, run.wanted_bps) = (2e6, 2_000_000);
    run.run(Duration::from_secs(1));
    assert!(run.estimate_mbps() >= 2.0, "{}", run.estimate_mbps());
}

/// S-21
#[test]
fn a_receiver_that_reports_what_was_never_sent_moves_nothing() {
    let mut run = Run::new(Link::new(5e6), 1e6);
    run.run(Duration::from_secs(2));
    let before = run.estimator.estimate_bps();
    let lies: Vec<Arrival> =
        (0..5000).map(|n| Arrival { number: 1 << 30 | n, received: Some(MS * n as u32) }).collect();
    run.estimator.feedback(run.origin + run.now, &lies);
    assert_eq!(run.estimator.estimate_bps(), before);
}

#[test]
fn remb_serves_who_knows_nothing_better_and_bounds_the_others() {
    let mut run = Run::new(Link::new(20e6), 3e6);
    run.estimator.remb(run.origin, 1_200_000);
    assert_eq!((run.estimator.estimate_bps(), run.estimator.limit()), (1_200_000, Limit::Remb));
    let mut run = Run::new(Link::new(20e6), 3e6);
    run.run(Duration::from_secs(5));
    run.estimator.remb(run.origin + run.now, 800_000);
    run.run(Duration::from_secs(1));
    assert_eq!(run.estimator.estimate_bps(), 800_000);
}
