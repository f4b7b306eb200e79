//! One subscriber's pacer: what may leave now, and what waits. Audio never waits; video waits for the rate, retransmissions
//! a moment for the video, probe padding for nothing but its own schedule.
//!
//! On a link that carries what is sent nothing ever waits, and a packet costs one comparison. What waits is a reference into
//! the uptrack's history, taken before it is numbered, so that what is dropped here leaves no gap. It moves no bytes.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::bwe::ProbeCluster;
use crate::codec::PacketMeta;
use crate::downlink::WIRE_OVERHEAD_BYTES;
use crate::ids::{SeqNo, Spatial};

/// How often what waits is looked at.
pub const BEAT: Duration = Duration::from_millis(5);
/// What may leave at once on top of the rate: an ordinary frame, so that it stays one segmented send.
const BURST: Duration = Duration::from_millis(25);
const BURST_MIN_BYTES: f64 = 4_000.0;
/// Where the link is what limits: a frame that waits here would else wait there, and look like congestion.
const BURST_NARROW: Duration = Duration::from_millis(10);
const BURST_NARROW_MIN_BYTES: f64 = 1_250.0;
/// Where nothing has been measured that limits, and first pictures are waited for.
const BURST_UNTRIED_MIN_BYTES: f64 = 2_500.0;
/// What has left beyond the rate is paid back before anything else leaves, as far as that takes no longer than this, or than
/// two bursts: sound alone may be more than a narrow link is believed to carry, for as long as somebody speaks.
const DEBT: Duration = Duration::from_millis(500);
const DEBT_BURSTS: f64 = 2.0;
/// On a narrow link a probe waits so long at most for what has left before it to be off the link: its queue comes on top.
const PROBE_PATIENCE: Duration = Duration::from_millis(50);
/// So long a retransmission waits for video: behind a large key frame it would be too late, and the frame useless.
const RESEND_PATIENCE: Duration = Duration::from_millis(50);
/// Retransmissions that nobody has asked for again for this long come too late.
const RESEND_LIFE: Duration = Duration::from_millis(400);
const MAX_RESENDS: usize = 256;

/// What a link is believed to carry, measured by what is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Width {
    #[default]
    Enough,
    /// Less, but that is a guess.
    Untried,
    Narrow,
}

/// One source packet as a subscriber's copy needs it.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    pub encoding: usize,
    pub codec: usize,
    pub seq: SeqNo,
    pub timestamp: u32,
    pub marker: bool,
    pub meta: PacketMeta,
    pub frame_number: Option<u16>,
    /// First packet of another stream, or after a pause.
    pub switched: bool,
    pub received: Instant,
}

/// What waits: a packet to be sent, or one that was left out among them and must be told to the munger in its turn.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    pub downtrack: usize,
    pub unit: Unit,
    /// 0: left out.
    pub bytes: u32,
}

/// Fair queueing by start time (Goyal, Vin, Cheng 1997): a slide's key frame must not keep small pictures waiting.
#[derive(Clone, Copy, Debug)]
struct Lane {
    downtrack: usize,
    /// Where its last packet stands on the queue's own clock, which counts bytes.
    finish: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resend {
    pub downtrack: usize,
    pub seq: u16,
    /// The last time.
    pub asked: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Probing {
    cluster: ProbeCluster,
    began: Instant,
    sent_bytes: u64,
    sent_packets: u32,
}

#[derive(Debug, Default)]
pub struct Pacer {
    /// `None`: nothing is known that would limit.
    rate_bps: Option<u64>,
    width: Width,
    /// Only sound leaves meanwhile.
    hold: Option<Range<Instant>>,
    ping_hold: Option<Range<Instant>>,
    credit_bytes: f64,
    credited: Option<Instant>,
    /// By rising finish.
    waiting: VecDeque<(u64, Waiting)>,
    waiting_bytes: u64,
    lanes: Vec<Lane>,
    /// Finish of the last packet released.
    clock: u64,
    /// With when they were first asked for.
    resends: VecDeque<(Instant, Resend)>,
    probing: Option<Probing>,
    /// To begin as soon as it may, and since when.
    next_probe: Option<(Instant, ProbeCluster)>,
    /// It is on the engine's list of those that are looked at by the beat.
    pub is_listed: bool,
}

impl Pacer {
    /// Sets the rate; `None`: everything passes.
    pub fn set_rate(&mut self, now: Instant, rate_bps: Option<u64>, width: Width) {
        self.credit(now);
        (self.rate_bps, self.width) = (rate_bps, width);
    }

    /// Sets the time within which nothing but sound may leave, whatever the rate.
    pub fn set_hold(&mut self, hold: Option<Range<Instant>>) {
        self.hold = hold;
    }

    /// Another such time.
    pub fn set_ping_hold(&mut self, hold: Option<Range<Instant>>) {
        self.ping_hold = hold;
    }

    /// Whether video may leave now; the packets of one frame after its first may overdraw the credit by a burst, but where that
    /// would only wait on the link.
    #[inline]
    pub fn admits(&mut self, now: Instant, continues: bool) -> bool {
        if self.rate_bps.is_none() {
            return self.waiting.is_empty();
        }
        if !self.waiting.is_empty() || self.is_held(now) {
            return false;
        }
        self.credit(now);
        self.credit_bytes > if continues && self.width != Width::Narrow { -self.burst() } else { 0.0 }
    }

    /// Takes what has left out of the credit. `bytes`: the datagram; the rate is that of the wire.
    #[inline]
    pub fn spend(&mut self, bytes: usize) {
        if self.rate_bps.is_some() {
            self.credit_bytes = (self.credit_bytes - (bytes + WIRE_OVERHEAD_BYTES) as f64).max(-self.debt());
        }
        self.spend_padding(bytes);
    }

    pub fn hold(&mut self, waiting: Waiting) {
        if self.waiting.is_empty() {
            self.lanes.clear();
        }
        let index = self.lanes.iter().position(|lane| lane.downtrack == waiting.downtrack).unwrap_or_else(|| {
            self.lanes.push(Lane { downtrack: waiting.downtrack, finish: 0 });
            self.lanes.len() - 1
        });
        let lane = &mut self.lanes[index];
        lane.finish = lane.finish.max(self.clock) + u64::from(waiting.bytes);
        let finish = lane.finish;
        self.waiting_bytes += u64::from(waiting.bytes);
        let behind = self.waiting.iter().rev().take_while(|(other, _)| *other > finish).count();
        self.waiting.insert(self.waiting.len() - behind, (finish, waiting));
    }

    /// Whether that packet waits.
    pub fn holds(&self, downtrack: usize, encoding: usize, seq: SeqNo) -> bool {
        let is_it = |w: &Waiting| (w.downtrack, w.unit.encoding, w.unit.seq) == (downtrack, encoding, seq);
        self.waiting.iter().any(|(_, waiting)| is_it(waiting))
    }

    /// The first packet to be sent of those that wait for a downtrack.
    pub fn first_of(&self, downtrack: usize) -> Option<&Unit> {
        let is_its = |(_, waiting): &&(u64, Waiting)| waiting.downtrack == downtrack && waiting.bytes > 0;
        self.waiting.iter().find(is_its).map(|(_, waiting)| &waiting.unit)
    }

    /// The next packet that may leave now, if it may.
    pub fn release(&mut self, now: Instant) -> Option<Waiting> {
        self.credit(now);
        let (_, front) = self.waiting.front()?;
        // A probe is spent on what waits; the credit that it overdraws is paid back after it.
        let may_leave = self.rate_bps.is_none() || self.credit_bytes > 0.0 || self.probe_wants(now).is_some();
        if front.bytes > 0 && (!may_leave || self.is_held(now)) {
            return None;
        }
        let (finish, waiting) = self.waiting.pop_front()?;
        self.clock = finish;
        self.waiting_bytes -= u64::from(waiting.bytes);
        Some(waiting)
    }

    /// Lets a retransmission wait; false: it leaves now.
    pub fn holds_resend(&mut self, now: Instant, resend: Resend) -> bool {
        if self.waiting.is_empty() && self.resends.is_empty() && self.admits(now, false) {
            return false;
        }
        if self.resends.len() >= MAX_RESENDS {
            self.resends.pop_front();
        }
        self.resends.push_back((now, resend));
        true
    }

    /// True: it waits already, and is asked for again.
    pub fn renew_resend(&mut self, now: Instant, downtrack: usize, seq: u16) -> bool {
        let is_it = |(_, resend): &&mut (Instant, Resend)| (resend.downtrack, resend.seq) == (downtrack, seq);
        let Some((_, resend)) = self.resends.iter_mut().find(is_it) else { return false };
        resend.asked = now;
        true
    }

    /// The next retransmission that may leave now; while video waits, one that has waited long enough for it.
    pub fn release_resend(&mut self, now: Instant) -> Option<Resend> {
        while let Some(&(since, Resend { asked, .. })) = self.resends.front() {
            if now.saturating_duration_since(asked) > RESEND_LIFE {
                self.resends.pop_front();
                continue;
            }
            self.credit(now);
            let has_credit = self.rate_bps.is_none() || self.credit_bytes > 0.0;
            let may_leave = !self.is_held(now)
                && match self.waiting.is_empty() {
                    true => has_credit || self.probe_wants(now).is_some(),
                    false => has_credit && now.saturating_duration_since(since) > RESEND_PATIENCE,
                };
            return if may_leave { self.resends.pop_front().map(|(_, resend)| resend) } else { None };
        }
        None
    }

    /// Forgets everything that waits for one downtrack: it is useless from now on.
    pub fn forget(&mut self, downtrack: usize) -> usize {
        let before = self.waiting.len();
        let bytes = &mut self.waiting_bytes;
        self.waiting.retain(|(_, waiting)| {
            let is_its = waiting.downtrack == downtrack;
            if is_its {
                *bytes -= u64::from(waiting.bytes);
            }
            !is_its
        });
        self.resends.retain(|(_, resend)| resend.downtrack != downtrack);
        before - self.waiting.len()
    }

    /// Leaves out every waiting frame of a temporal layer above the base, and all retransmissions. `left_out` is told of each
    /// packet: its downtrack, and what it was.
    pub fn thin(&mut self, mut left_out: impl FnMut(usize, &Unit)) {
        let mut begun: Vec<usize> = Vec::new();
        for (_, waiting) in &mut self.waiting {
            // The rest of a frame whose first packets have left must follow.
            if waiting.unit.meta.start_of_frame && !begun.contains(&waiting.downtrack) {
                begun.push(waiting.downtrack);
            }
            if waiting.bytes > 0 && waiting.unit.meta.temporal.0 > 0 && begun.contains(&waiting.downtrack) {
                self.waiting_bytes -= u64::from(waiting.bytes);
                waiting.bytes = 0;
                left_out(waiting.downtrack, &waiting.unit);
            }
        }
        self.resends.clear();
    }

    /// Leaves out what waits of a stream's spatial layers above `spatial`, and ends its pictures below them. `left_out` is
    /// told of each packet.
    pub fn lower(&mut self, downtrack: usize, spatial: Spatial, mut left_out: impl FnMut(&Unit)) {
        let mut has_begun = false;
        for (_, waiting) in self.waiting.iter_mut().filter(|(_, w)| w.downtrack == downtrack && w.bytes > 0) {
            let meta = waiting.unit.meta;
            // A picture of which something has left must be whole.
            has_begun |= meta.start_of_frame && meta.spatial == Spatial(0);
            if !has_begun {
                continue;
            }
            if meta.spatial > spatial {
                self.waiting_bytes -= u64::from(waiting.bytes);
                waiting.bytes = 0;
                left_out(&waiting.unit);
            }
            waiting.unit.marker |= meta.spatial == spatial && meta.end_of_frame;
        }
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.resends.is_empty() && !self.has_probe()
    }

    pub fn has_video_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// How long the last of what waits will wait.
    pub fn delay(&self) -> Duration {
        match self.rate_bps {
            Some(rate @ 1..) => Duration::from_secs_f64(self.waiting_bytes as f64 * 8.0 / rate as f64),
            _ => Duration::ZERO,
        }
    }

    /// Lets a cluster begin, as soon as it may.
    pub fn begin_probe(&mut self, now: Instant, cluster: ProbeCluster) {
        self.probing = None;
        self.next_probe = Some((now, cluster));
        self.start_probe(now);
    }

    fn start_probe(&mut self, now: Instant) {
        let Some((since, cluster)) = self.next_probe else { return };
        self.credit(now);
        let is_off = self.rate_bps.is_none() || self.width != Width::Narrow || self.credit_bytes >= self.burst();
        if is_off || now.saturating_duration_since(since) >= PROBE_PATIENCE {
            self.next_probe = None;
            self.probing = Some(Probing { cluster, began: now, sent_bytes: 0, sent_packets: 0 });
        }
    }

    /// Takes what was sent for the probe alone: not out of the credit, the probe is meant to be more than that.
    pub fn spend_padding(&mut self, bytes: usize) {
        if let Some(probing) = &mut self.probing {
            probing.sent_bytes += bytes as u64;
            probing.sent_packets += 1;
        }
    }

    pub fn end_probe(&mut self) {
        self.probing = None;
    }

    /// A cluster is being sent, or is about to be.
    pub fn has_probe(&self) -> bool {
        self.probing.is_some() || self.next_probe.is_some()
    }

    /// Packets that the running cluster has had so far.
    pub fn probe_packets(&self) -> u32 {
        self.probing.map_or(0, |probing| probing.sent_packets)
    }

    /// The cluster to which what leaves now belongs.
    #[inline]
    pub fn probe(&self) -> Option<u32> {
        self.probing.map(|probing| probing.cluster.id)
    }

    /// Size of the padding packet that the cluster needs now, if it does; ends the cluster when it is whole.
    pub fn padding(&mut self, now: Instant) -> Option<usize> {
        self.start_probe(now);
        let probing = self.probing?;
        let cluster = probing.cluster;
        if self.is_held(now) {
            self.probing = None;
            return None;
        }
        if probing.sent_bytes >= u64::from(cluster.min_bytes) && probing.sent_packets >= cluster.min_packets {
            self.probing = None;
            return None;
        }
        self.probe_wants(now)
    }

    /// Size of the next packet of a cluster that is not whole, if it is due.
    fn probe_wants(&self, now: Instant) -> Option<usize> {
        let Probing { cluster, began, sent_bytes, .. } = self.probing?;
        // All of a beat leaves at its beginning: a link that stood idle until the next one would look narrower than it is.
        let due = (now.saturating_duration_since(began) + BEAT).as_secs_f64() * cluster.bitrate_bps as f64 / 8.0;
        (due > sent_bytes as f64).then_some(cluster.packet_bytes() as usize)
    }

    #[inline]
    fn is_held(&self, now: Instant) -> bool {
        [&self.hold, &self.ping_hold].into_iter().flatten().any(|hold| hold.contains(&now))
    }

    fn burst(&self) -> f64 {
        let rate = self.rate_bps.unwrap_or(0) as f64;
        let (time, least) = match self.width {
            Width::Enough => (BURST, BURST_MIN_BYTES),
            Width::Untried => (BURST_NARROW, BURST_UNTRIED_MIN_BYTES),
            Width::Narrow => (BURST_NARROW, BURST_NARROW_MIN_BYTES),
        };
        (rate / 8.0 * time.as_secs_f64()).max(least)
    }

    /// The most that is owed. What was run up at a higher rate is not paid for at this one.
    #[inline]
    fn debt(&self) -> f64 {
        if self.width == Width::Untried {
            return self.burst();
        }
        let rate = self.rate_bps.unwrap_or(0) as f64;
        (rate / 8.0 * DEBT.as_secs_f64()).max(self.burst() * DEBT_BURSTS)
    }

    #[inline]
    fn credit(&mut self, now: Instant) {
        let Some(rate) = self.rate_bps else { return };
        if self.credited == Some(now) {
            return;
        }
        let elapsed = self.credited.replace(now).map_or(BURST, |at| now.saturating_duration_since(at));
        if elapsed > Duration::ZERO {
            let credit = self.credit_bytes.max(-self.debt()) + elapsed.as_secs_f64() * rate as f64 / 8.0;
            self.credit_bytes = credit.min(self.burst());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Temporal;
    use crate::testing::origin;

    fn waiting(downtrack: usize, seq: u64, temporal: u8, starts: bool) -> Waiting {
        let meta = PacketMeta {
            spatial: Spatial(0),
            temporal: Temporal(temporal),
            keyframe: false,
            start_of_frame: starts,
            end_of_frame: false,
            temporal_sync: false,
            switches_up: false,
            spatial_sync: false,
            picture_id: None,
            refers_by_picture_id: false,
            tl0: None,
        };
        let unit = Unit {
            encoding: 0,
            codec: 0,
            seq: SeqNo(seq),
            timestamp: 0,
            marker: false,
            meta,
            frame_number: None,
            switched: false,
            received: origin(),
        };
        Waiting { downtrack, unit, bytes: 1_000 }
    }

    fn limited(now: Instant, rate_bps: u64) -> Pacer {
        let mut pacer = Pacer::default();
        pacer.set_rate(now, Some(rate_bps), Width::Enough);
        pacer
    }

    #[test]
    fn without_a_rate_everything_passes() {
        let mut pacer = Pacer::default();
        for _ in 0..10_000 {
            assert!(pacer.admits(origin(), false));
            pacer.spend(1_200);
        }
    }

    #[test]
    fn what_leaves_follows_the_rate_and_the_order() {
        let mut now = origin();
        let mut pacer = limited(now, 800_000);
        let mut sent = 0;
        while pacer.admits(now, sent > 0) {
            pacer.spend(1_000);
            sent += 1;
        }
        assert!((4..=9).contains(&sent), "a frame leaves at once, {sent}");
        (0..50).for_each(|seq| pacer.hold(waiting(1, seq, 0, true)));
        assert_eq!(pacer.delay(), Duration::from_millis(500));
        let (began, mut released) = (now, Vec::new());
        while pacer.has_video_waiting() {
            now += BEAT;
            while let Some(waiting) = pacer.release(now) {
                pacer.spend(waiting.bytes as usize);
                released.push(waiting.unit.seq.0);
            }
        }
        assert_eq!(released, (0..50).collect::<Vec<_>>());
        let took = now - began;
        assert!((Duration::from_millis(480)..Duration::from_millis(600)).contains(&took), "{took:?}");
    }

    /// Sound of 300 kbit/s for 20 s on a link that is believed to carry 50; then it is wide again, or nobody speaks any more.
    #[test]
    fn sound_that_overfills_a_link_is_paid_for_within_moments() {
        for (then_bps, within_ms) in [(2_000_000, 50), (50_000, 1_500)] {
            let mut now = origin();
            let mut pacer = limited(now, 50_000);
            pacer.hold(waiting(1, 1, 0, true));
            let resend = |now| Resend { downtrack: 1, seq: 7, asked: now };
            for step in 0..1_000 {
                now += Duration::from_millis(20);
                pacer.spend(750);
                assert!(step < 5 || pacer.release(now).is_none(), "sound alone fills the link");
            }
            pacer.set_rate(now, Some(then_bps), Width::Enough);
            let began = now;
            while pacer.release(now).is_none() {
                now += BEAT;
                assert!(now < began + Duration::from_millis(within_ms), "{then_bps}");
            }
            assert!(!pacer.holds_resend(now, resend(now)), "nor do retransmissions wait");
        }
    }

    #[test]
    fn what_was_overdrawn_at_a_high_rate_is_not_paid_for_at_a_low_one() {
        let mut now = origin();
        let mut pacer = limited(now, 20_000_000);
        pacer.spend(1_000_000);
        pacer.set_rate(now, Some(100_000), Width::Enough);
        now += Duration::from_secs(1);
        assert!(pacer.admits(now, false));
    }

    #[test]
    fn a_large_picture_is_spread_where_the_link_is_narrow() {
        let at_once = |width| {
            let (now, mut pacer) = (origin(), Pacer::default());
            pacer.set_rate(now, Some(2_000_000), width);
            let admitted = (0..30).take_while(|packet| {
                let admits = pacer.admits(now, *packet > 0);
                pacer.spend(1_000);
                admits
            });
            admitted.count()
        };
        assert_eq!([Width::Enough, Width::Untried, Width::Narrow].map(at_once), [13, 5, 3], "two bursts, and one");
    }

    #[test]
    fn a_large_picture_does_not_keep_a_small_one_waiting() {
        let now = origin();
        let mut pacer = limited(now, 100_000);
        (0..50).for_each(|seq| pacer.hold(waiting(1, seq, 0, true)));
        (0..3).for_each(|seq| pacer.hold(waiting(2, seq, 0, true)));
        let order: Vec<_> = (0..53)
            .map_while(|i| pacer.release(now + Duration::from_secs(i)))
            .map(|w| (w.downtrack, w.unit.seq.0))
            .collect();
        assert_eq!(order.len(), 53);
        assert!(order.iter().position(|w| *w == (2, 2)).unwrap() <= 6, "{order:?}");
        let large: Vec<_> = order.iter().filter(|w| w.0 == 1).map(|w| w.1).collect();
        assert_eq!(large, (0..50).collect::<Vec<_>>(), "each in its own order");
    }

    #[test]
    fn retransmissions_wait_for_video_and_grow_old() {
        let now = origin();
        let mut pacer = limited(now, 100_000);
        while pacer.admits(now, true) {
            pacer.spend(1_000);
        }
        pacer.hold(waiting(1, 1, 0, true));
        assert!(pacer.holds_resend(now, Resend { downtrack: 1, seq: 7, asked: now }));
        assert_eq!(pacer.release_resend(now + BEAT), None);
        let later = now + RESEND_LIFE * 3;
        assert!(pacer.holds_resend(later, Resend { downtrack: 1, seq: 8, asked: later }));
        while pacer.release(later).is_some() {}
        assert_eq!(pacer.release_resend(later).map(|r| r.seq), Some(8), "the old one is not sent any more");
    }

    #[test]
    fn a_retransmission_overtakes_what_waits_and_leaves_once_however_often_it_is_asked_for() {
        let (began, mut resent) = (origin(), Vec::new());
        let (mut now, mut pacer) = (began, limited(began, 1_000_000));
        (0..100).for_each(|seq| pacer.hold(waiting(1, seq, 0, true)));
        assert!(pacer.holds_resend(now, Resend { downtrack: 1, seq: 7, asked: now }));
        for step in 1..=200u32 {
            now += BEAT;
            assert!(step > 8 || !step.is_multiple_of(4) || pacer.renew_resend(now, 1, 7), "it waits");
            loop {
                if let Some(resend) = pacer.release_resend(now) {
                    pacer.spend(1_000);
                    resent.push((resend.seq, now - began));
                } else if let Some(waiting) = pacer.release(now) {
                    pacer.spend(waiting.bytes as usize);
                } else {
                    break;
                }
            }
        }
        assert!(!pacer.has_video_waiting());
        assert!(matches!(resent[..], [(7, after)] if after <= Duration::from_millis(100)), "{resent:?}");
        assert!(!pacer.renew_resend(now, 1, 7), "it has left");
    }

    /// As long as he asks, he waits for it.
    #[test]
    fn a_retransmission_lives_as_long_as_it_is_asked_for() {
        let (began, hold) = (origin(), Duration::from_millis(600));
        let mut pacer = limited(began, 1_000_000);
        pacer.set_hold(Some(began..began + hold));
        for (seq, asked_ms) in [(7, 300), (8, 100)] {
            assert!(pacer.holds_resend(began, Resend { downtrack: 1, seq, asked: began }));
            assert!(pacer.renew_resend(began + Duration::from_millis(asked_ms), 1, seq));
        }
        assert_eq!(pacer.release_resend(began + hold).map(|resend| resend.seq), Some(7));
        assert_eq!(pacer.release_resend(began + hold), None);
        assert!(pacer.is_idle());
    }

    #[test]
    fn thinning_keeps_the_base_and_what_was_begun() {
        let now = origin();
        let mut pacer = limited(now, 100_000);
        for (seq, temporal, starts) in [(1, 2, false), (2, 0, true), (3, 1, true), (4, 1, false), (5, 0, true)] {
            pacer.hold(waiting(1, seq, temporal, starts));
        }
        let mut left_out = Vec::new();
        pacer.thin(|downtrack, unit| left_out.push((downtrack, unit.seq.0)));
        assert_eq!(left_out, [(1, 3), (1, 4)]);
        assert_eq!(
            pacer.waiting.iter().filter(|(_, w)| w.bytes > 0).map(|(_, w)| w.unit.seq.0).collect::<Vec<_>>(),
            [1, 2, 5]
        );
        pacer.hold(waiting(2, 6, 0, true));
        assert_eq!(pacer.forget(1), 5, "those left out among them");
        assert_eq!(pacer.waiting_bytes, 1_000);
    }

    #[test]
    fn a_link_never_stands_idle_within_a_cluster() {
        for (bitrate_bps, min_bytes) in [(300_000, 750), (1_200_000, 3_000), (2_600_000, 6_500), (9_000_000, 22_500)] {
            let began = origin();
            let mut pacer = limited(began, 300_000);
            let cluster = ProbeCluster { id: 1, bitrate_bps, min_bytes, min_packets: 5 };
            pacer.begin_probe(began, cluster);
            let (mut now, mut sent) = (began, 0.0);
            loop {
                while let Some(bytes) = pacer.padding(now) {
                    pacer.spend(bytes);
                    sent += bytes as f64;
                }
                now += BEAT;
                if pacer.probe().is_none() {
                    break;
                }
                let carried = now.saturating_duration_since(began).as_secs_f64() * bitrate_bps as f64 / 8.0;
                assert!(sent >= carried, "{bitrate_bps}: {sent} of {carried} bytes after {:?}", now - began);
                assert!(sent <= carried + 1_200.0, "{bitrate_bps}: {sent}, more than a packet ahead");
            }
        }
    }

    #[test]
    fn on_a_narrow_link_a_cluster_waits_for_what_has_left_before_it() {
        let cluster = ProbeCluster { id: 1, bitrate_bps: 700_000, min_bytes: 2_600, min_packets: 5 };
        let begins_after = |width, left_bytes| {
            let (began, mut pacer) = (origin(), Pacer::default());
            pacer.set_rate(began, Some(500_000), width);
            pacer.credit(began);
            pacer.spend(left_bytes);
            pacer.begin_probe(began, cluster);
            assert!(pacer.has_probe() && !pacer.is_idle());
            let beat = (0..50).find(|beat| pacer.padding(began + BEAT * *beat).is_some()).unwrap();
            (BEAT * beat).as_millis()
        };
        assert_eq!([700, 1_200, 9_000].map(|bytes| begins_after(Width::Narrow, bytes)), [15, 20, 50]);
        assert_eq!([1_200, 9_000].map(|bytes| begins_after(Width::Untried, bytes)), [0, 0]);
    }

    #[test]
    fn a_cluster_leaves_at_its_rate_and_ends() {
        let mut now = origin();
        let mut pacer = limited(now, 300_000);
        let cluster = ProbeCluster { id: 9, bitrate_bps: 1_200_000, min_bytes: 3_000, min_packets: 5 };
        pacer.begin_probe(now, cluster);
        let (began, mut sent) = (now, 0);
        while pacer.probe() == Some(9) {
            while let Some(bytes) = pacer.padding(now) {
                pacer.spend(bytes);
                sent += bytes;
            }
            now += BEAT;
        }
        assert!((3_000..4_500).contains(&sent), "{sent}");
        let took = now - began;
        assert!((Duration::from_millis(15)..=Duration::from_millis(30)).contains(&took), "{took:?}");
    }
}
