//! What all of a client's REMBs say together (draft-alvestrand-rmcat-remb-03 §2.2): each bounds the sum of the streams that
//! it names. Browsers send one for everything; stacks with an estimator a receiver (aiortc) send one for each.

use std::time::{Duration, Instant};

use crate::command::MediaKind;

/// Clients repeat a REMB at least this often while they receive what it is about.
pub const LIFETIME: Duration = Duration::from_secs(3);

/// The latest REMB about some streams; no stream stands in two.
#[derive(Debug)]
struct Part {
    at: Instant,
    bitrate_bps: u64,
    ssrcs: Vec<u32>,
    has_sound: bool,
}

/// What a client can receive, as its REMBs say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub bitrate_bps: u64,
    /// It is of pictures alone: sound comes beside it. So say clients that do not measure sound.
    pub is_beside_sound: bool,
}

/// Bounded by the streams that the client is sent: nothing is kept of others.
#[derive(Debug, Default)]
pub struct RembSum {
    parts: Vec<Part>,
}

impl RembSum {
    /// Takes a REMB and returns what the client can receive in all. One that names nothing that is sent speaks of
    /// everything. `sent`: the kind of what is sent under an SSRC.
    pub fn take(
        &mut self,
        now: Instant,
        bitrate_bps: u64,
        ssrcs: impl Iterator<Item = u32>,
        sent: impl Fn(u32) -> Option<MediaKind>,
    ) -> Told {
        let mut ssrcs: Vec<u32> = ssrcs.filter(|ssrc| sent(*ssrc).is_some()).collect();
        ssrcs.sort_unstable();
        ssrcs.dedup();
        if ssrcs.is_empty() {
            self.parts.clear();
            return Told { bitrate_bps, is_beside_sound: false };
        }
        self.parts.retain(|part| {
            let is_fresh = now.saturating_duration_since(part.at) < LIFETIME;
            is_fresh && part.ssrcs.iter().all(|ssrc| sent(*ssrc).is_some() && ssrcs.binary_search(ssrc).is_err())
        });
        let has_sound = ssrcs.iter().any(|ssrc| sent(*ssrc) == Some(MediaKind::Audio));
        self.parts.push(Part { at: now, bitrate_bps, ssrcs, has_sound });
        Told {
            bitrate_bps: self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.bitrate_bps)),
            is_beside_sound: self.parts.iter().all(|part| !part.has_sound),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        Instant::now()
    }

    fn all(_: u32) -> Option<MediaKind> {
        Some(MediaKind::Video)
    }

    fn only(sent: u32) -> impl Fn(u32) -> Option<MediaKind> {
        move |ssrc| (ssrc == sent).then_some(MediaKind::Video)
    }

    /// Bits a second after another REMB.
    fn sum(of: &mut RembSum, now: Instant, bps: u64, ssrcs: &[u32], sent: impl Fn(u32) -> Option<MediaKind>) -> u64 {
        of.take(now, bps, ssrcs.iter().copied(), sent).bitrate_bps
    }

    #[test]
    fn one_for_everything_is_the_whole_and_the_latest_counts() {
        let (mut of, now) = (RembSum::default(), now());
        assert_eq!(sum(&mut of, now, 900, &[1, 2], all), 900);
        assert_eq!(sum(&mut of, now, 700, &[1, 2, 3], all), 700);
        assert_eq!(sum(&mut of, now, 800, &[3, 3, 1], all), 800);
    }

    #[test]
    fn those_of_several_receivers_add_up_while_they_are_fresh() {
        let (mut of, now) = (RembSum::default(), now());
        assert_eq!(sum(&mut of, now, 500, &[1, 11], all), 500);
        assert_eq!(sum(&mut of, now, 400, &[2, 12], all), 900);
        assert_eq!(sum(&mut of, now + LIFETIME / 2, 600, &[1, 11], all), 1_000);
        assert_eq!(sum(&mut of, now + LIFETIME, 650, &[1, 11], all), 650, "the other one has stopped");
        assert_eq!(sum(&mut of, now + LIFETIME, u64::MAX, &[2], all), u64::MAX);
    }

    #[test]
    fn what_is_not_sent_or_not_sent_any_more_does_not_count() {
        let (mut of, now) = (RembSum::default(), now());
        assert_eq!(sum(&mut of, now, 500, &[1], all), 500);
        assert_eq!(sum(&mut of, now, 400, &[2], only(2)), 400, "1 has ended");
        for stranger in 100..10_000 {
            assert_eq!(sum(&mut of, now, 300, &[stranger], only(2)), 300);
        }
        assert!(of.parts.is_empty());
    }

    #[test]
    fn sound_is_beside_what_names_pictures_alone() {
        let (mut of, now) = (RembSum::default(), now());
        let sent = |ssrc| Some(if ssrc < 10 { MediaKind::Audio } else { MediaKind::Video });
        let mut is_beside = |ssrcs: &[u32]| of.take(now, 100, ssrcs.iter().copied(), sent).is_beside_sound;
        assert!(is_beside(&[11, 12]));
        assert!(!is_beside(&[1]), "sound has one of its own");
        assert!(!is_beside(&[11, 12]), "which still counts");
        assert!(!is_beside(&[1, 11, 12]));
        assert!(is_beside(&[11, 12]), "the one that named sound has been replaced");
        assert!(!is_beside(&[]), "of everything");
    }
}
