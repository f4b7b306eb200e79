//! What is told to signaling about how things stand: quality every few seconds, a snapshot, a room's figures on request.

use std::time::{Duration, Instant};

use super::Engine;
use super::down::Downtrack;
use super::up::Uptrack;
use crate::event::{
    DowntrackStats, DowntrackSummary, Event, Snapshot, TransportQuality, TransportState, TransportStats,
    TransportSummary, UptrackStats, UptrackSummary,
};
use crate::ids::RoomId;
use crate::transmit::Path;

impl Engine {
    /// One report for all connected transports; resets the interval's figures.
    pub(super) fn report_quality(&mut self, now: Instant, interval: Duration) {
        let connected: Vec<usize> =
            self.transports.iter().filter(|(_, t)| t.may_send()).map(|(slot, _)| slot).collect();
        let reports: Vec<TransportQuality> = connected
            .into_iter()
            .map(|slot| {
                let quality = self.quality(now, slot, interval);
                let transport = &mut self.transports[slot];
                transport.reported_up = transport.bytes_up;
                transport.reported_down = transport.bytes_down;
                for &uptrack in &transport.uptracks {
                    for encoding in &mut self.uptracks[uptrack].encodings {
                        encoding.stats.begin_interval();
                    }
                }
                quality
            })
            .collect();
        if !reports.is_empty() {
            self.emit(Event::Quality { reports });
        }
    }

    /// Figures since the last report.
    fn quality(&self, now: Instant, slot: usize, interval: Duration) -> TransportQuality {
        let transport = &self.transports[slot];
        let per_second = |bytes: u64| (bytes * 8_000).checked_div(interval.as_millis() as u64).unwrap_or(0);
        let (mut expected, mut lost, mut jitter_up_ms) = (0u64, 0u64, 0f32);
        for uptrack in transport.uptracks.iter().filter_map(|&s| self.uptracks.get(s)) {
            for encoding in &uptrack.encodings {
                let (e, l) = encoding.stats.interval_loss();
                expected += e;
                lost += l;
                jitter_up_ms = jitter_up_ms.max(encoding.stats.jitter_ms());
            }
        }
        let downs: Vec<&Downtrack> = transport.downtracks.iter().filter_map(|&s| self.downtracks.get(s)).collect();
        let fresh = downs.iter().filter(|d| d.reported.at.is_some_and(|at| now - at < 2 * interval));
        let (mut loss_down, mut jitter_down_ms) = (0f32, 0f32);
        for downtrack in fresh {
            loss_down = loss_down.max(downtrack.reported.fraction_lost);
            jitter_down_ms = jitter_down_ms.max(downtrack.reported.jitter_ms);
        }
        let (up, down) = (transport.bytes_up - transport.reported_up, transport.bytes_down - transport.reported_down);
        TransportQuality {
            transport: transport.id,
            rtt_ms: transport.rtt.smoothed().map_or(0.0, |d| d.as_secs_f32() * 1_000.0),
            loss_up: if expected > 0 { lost as f32 / expected as f32 } else { 0.0 },
            loss_down,
            jitter_up_ms,
            jitter_down_ms,
            bitrate_up_bps: per_second(up),
            bitrate_down_bps: per_second(down),
            has_media: up > 0 || down > 0,
            limited: downs.iter().any(|d| d.is_limited()),
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            transports: self
                .transports
                .iter()
                .map(|(_, t)| TransportSummary {
                    transport: t.id,
                    room: t.room,
                    state: t.state,
                    channels: t.open_labels(),
                })
                .collect(),
            uptracks: self
                .uptracks
                .iter()
                .filter_map(|(_, u)| {
                    Some(UptrackSummary {
                        uptrack: u.id,
                        transport: self.transports.get(u.transport)?.id,
                        mime: mime(u),
                        layers: u.announced.as_ref().map(|(_, layers)| layers.clone()).unwrap_or_default(),
                        max_spatial: u.demand.told.flatten(),
                    })
                })
                .collect(),
            downtracks: self
                .downtracks
                .iter()
                .filter_map(|(_, d)| {
                    Some(DowntrackSummary {
                        downtrack: d.id,
                        uptrack: self.uptracks.get(d.uptrack)?.id,
                        transport: self.transports.get(d.transport)?.id,
                        active: d.active.unwrap_or(true),
                    })
                })
                .collect(),
        }
    }

    pub(super) fn room_stats(&mut self, now: Instant, request: u64, room: RoomId) {
        let slots = self.rooms.get(&room).map(|r| r.transports.clone()).unwrap_or_default();
        let since = now.saturating_duration_since(self.next_quality - self.config.quality_interval);
        let interval = since.max(Duration::from_millis(100));
        let (mut transports, mut uptracks, mut downtracks) = (Vec::new(), Vec::new(), Vec::new());
        for slot in slots {
            transports.push(self.transport_stats(now, slot, interval));
            for &index in &self.transports[slot].uptracks {
                uptracks.push(uptrack_stats(now, &mut self.uptracks[index]));
            }
            for &index in &self.transports[slot].downtracks {
                let downtrack = &self.downtracks[index];
                if let Some(uptrack) = self.uptracks.get(downtrack.uptrack) {
                    downtracks.push(downtrack_stats(downtrack, uptrack));
                }
            }
        }
        self.emit(Event::RoomStats { request, room, transports, uptracks, downtracks });
    }

    fn transport_stats(&self, now: Instant, slot: usize, interval: Duration) -> TransportStats {
        let transport = &self.transports[slot];
        let downlink = &transport.downlink;
        TransportStats {
            quality: self.quality(now, slot, interval),
            state: state_name(transport.state).to_owned(),
            cipher: transport.protection.as_ref().map(|p| p.profile.as_str()).unwrap_or_default().to_owned(),
            protocol: match transport.path {
                Some(Path::Udp(_)) => "udp",
                Some(Path::Tcp(_)) => "tcp",
                None => "",
            }
            .to_owned(),
            bytes_up: transport.bytes_up,
            bytes_down: transport.bytes_down,
            packets_up: transport.packets_up,
            packets_down: transport.packets_down,
            estimate_bps: downlink.estimate_bps().unwrap_or(0),
            estimate_limit: downlink.limit().unwrap_or_default().to_owned(),
            acknowledged_bps: downlink.estimator().and_then(|e| e.acknowledged_bps()).unwrap_or(0),
            allocated_bps: transport.allotment.used_bps,
            wanted_bps: transport.allotment.total_bps,
            link_queue_ms: downlink.estimator().map_or(0.0, |e| e.standing_queue().as_secs_f32() * 1_000.0),
            pacer_queue_ms: transport.pacer.delay().as_secs_f32() * 1_000.0,
        }
    }
}

fn mime(uptrack: &Uptrack) -> String {
    uptrack.feedback_codec().map(|c| c.spec.mime.clone()).unwrap_or_default()
}

fn uptrack_stats(now: Instant, uptrack: &mut Uptrack) -> UptrackStats {
    UptrackStats {
        uptrack: uptrack.id,
        mime: mime(uptrack),
        packets: uptrack.packets,
        bytes: uptrack.bytes,
        lost: uptrack.encodings.iter().map(|e| e.stats.lost()).sum(),
        nacks: uptrack.nacks_sent,
        plis: uptrack.plis_sent,
        keyframes: uptrack.keyframes_seen,
        layer_bitrates_bps: uptrack.layers.bitrates_bps(now),
    }
}

fn downtrack_stats(downtrack: &Downtrack, uptrack: &Uptrack) -> DowntrackStats {
    DowntrackStats {
        downtrack: downtrack.id,
        uptrack: uptrack.id,
        packets: downtrack.packets,
        bytes: downtrack.bytes,
        retransmitted: downtrack.retransmitted,
        nacks: downtrack.nacks,
        plis: downtrack.plis,
        current_spatial: downtrack.selector.current().map(|l| l.spatial),
        target_spatial: downtrack.selector.target().map(|l| l.spatial),
        max_spatial: downtrack.max_spatial,
        current_temporal: downtrack.selector.current().map_or(0, |l| l.temporal.0),
        reason: downtrack.reason.to_owned(),
        allocation: downtrack.allocation.to_owned(),
        target_bps: downtrack.target_bps,
    }
}

fn state_name(state: TransportState) -> &'static str {
    match state {
        TransportState::New => "new",
        TransportState::Connecting => "connecting",
        TransportState::Connected => "connected",
        TransportState::Disconnected => "disconnected",
        TransportState::Failed => "failed",
        TransportState::Closed => "closed",
    }
}
