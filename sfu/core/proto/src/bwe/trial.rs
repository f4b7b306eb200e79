//! More than a REMB says, on trial: for receivers that send nothing better.
//!
//! Such a receiver cannot name much more than it gets (libwebrtc's growth stops at half as much again), so what it says
//! while video is paused is no bound of the link, and whoever obeyed it would send nothing for ever. The next layer is
//! therefore sent for a while: as long as the REMB climbs towards it nothing speaks against it. One that falls, or stays
//! where it is, ends the trial, and the next one waits longer.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Receivers name a new estimate once or twice a second.
const LOOK: Duration = Duration::from_secs(3);
/// libwebrtc grows by 8 % a second, near the end it met before by about half of that.
const CLIMB: f64 = 1.05;
const FALL: f64 = 0.95;
/// How far a trial may be raised.
const RAISED: f64 = 1.3;
/// The wait after a first failure, and the longest; each failure doubles it.
const WAIT_MIN: Duration = Duration::from_secs(8);
const WAIT_MAX: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct Running {
    bitrate_bps: u64,
    /// The same at first.
    began_bps: u64,
    /// The REMB at the last look, and the next one.
    before_bps: u64,
    #[serde(with = "crate::moment")]
    look_at: Instant,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Trial {
    running: Option<Running>,
    wait: Duration,
    #[serde(with = "crate::moment")]
    not_before: Option<Instant>,
}

impl Trial {
    pub(super) fn new() -> Self {
        Self { running: None, wait: WAIT_MIN, not_before: None }
    }

    /// What may be sent on trial.
    pub(super) fn bitrate_bps(&self) -> Option<u64> {
        self.running.as_ref().map(|running| running.bitrate_bps)
    }

    /// Begins with `bitrate_bps`, unless the last one failed just now. One that is under way is raised a little at most: what
    /// else is sent may have grown, and the next layer shall still fit.
    pub(super) fn begin(&mut self, now: Instant, bitrate_bps: u64, remb_bps: u64) {
        if let Some(running) = &mut self.running {
            let most = (running.began_bps as f64 * RAISED) as u64;
            running.bitrate_bps = running.bitrate_bps.max(bitrate_bps.min(most));
        } else if self.not_before.is_none_or(|at| now >= at) {
            let look_at = now + LOOK;
            self.running = Some(Running { bitrate_bps, began_bps: bitrate_bps, before_bps: remb_bps, look_at });
        }
    }

    /// Takes the newest REMB, or looks at the last one again as time passes.
    pub(super) fn look(&mut self, now: Instant, remb_bps: u64) {
        let Some(running) = &mut self.running else { return };
        let change = remb_bps as f64 / running.before_bps.max(1) as f64;
        if remb_bps >= running.bitrate_bps {
            (self.running, self.wait) = (None, WAIT_MIN);
        } else if change < FALL || now >= running.look_at && change < CLIMB {
            self.running = None;
            self.not_before = Some(now + self.wait);
            self.wait = (self.wait * 2).min(WAIT_MAX);
        } else if now >= running.look_at {
            (running.before_bps, running.look_at) = (remb_bps, now + LOOK);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.running.as_ref().map(|running| running.look_at)
    }
}
