//! What all clients of the generator count together, since the last reset.

use std::time::Instant;

use crate::histogram::Histogram;
use crate::protocol::{MediaStats, StatsReport};
use crate::receive::ReceiveStream;

#[derive(Debug, Default)]
pub(crate) struct MediaCounts {
    pub sent_packets: u64,
    pub sent_bytes: u64,
    pub latency: Histogram,
    /// What streams of clients brought that have ended.
    ended: MediaStats,
}

#[derive(Debug)]
pub(crate) struct Stats {
    pub since: Instant,
    pub audio: MediaCounts,
    pub video: MediaCounts,
    pub nacks_sent: u64,
    pub nacked_received: u64,
    pub resent: u64,
    pub keyframes_asked: u64,
    pub twcc_sent: u64,
    pub twcc_received: u64,
    pub srtp_refused: u64,
    pub rtx_unknown: u64,
    pub socket_overflows: u64,
    pub send_failed: u64,
    pub sink_datagrams: u64,
    pub send_lateness: Histogram,
    pub ice_time: Histogram,
    pub dtls_time: Histogram,
    pub first_media_time: Histogram,
}

impl Stats {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            since: now,
            audio: MediaCounts::default(),
            video: MediaCounts::default(),
            nacks_sent: 0,
            nacked_received: 0,
            resent: 0,
            keyframes_asked: 0,
            twcc_sent: 0,
            twcc_received: 0,
            srtp_refused: 0,
            rtx_unknown: 0,
            socket_overflows: 0,
            send_failed: 0,
            sink_datagrams: 0,
            send_lateness: Histogram::default(),
            ice_time: Histogram::default(),
            dtls_time: Histogram::default(),
            first_media_time: Histogram::default(),
        }
    }

    pub(crate) fn media(&mut self, is_video: bool) -> &mut MediaCounts {
        if is_video { &mut self.video } else { &mut self.audio }
    }

    /// Keeps what a stream brought whose client ends.
    pub(crate) fn end_stream(&mut self, stream: &ReceiveStream) {
        add(&mut self.media(stream.is_video).ended, stream);
    }

    /// Everything but what lives in the clients; `streams` are all they receive.
    pub(crate) fn report<'a>(
        &self,
        now: Instant,
        request: u64,
        streams: impl Iterator<Item = &'a ReceiveStream>,
    ) -> StatsReport {
        let sent = |counts: &MediaCounts| MediaStats {
            sent_packets: counts.sent_packets,
            sent_bytes: counts.sent_bytes,
            latency: counts.latency.summary(),
            ..counts.ended
        };
        let (mut audio, mut video) = (sent(&self.audio), sent(&self.video));
        for stream in streams {
            let media = if stream.is_video { &mut video } else { &mut audio };
            media.streams += 1;
            add(media, stream);
        }
        StatsReport {
            request,
            elapsed_us: now.saturating_duration_since(self.since).as_micros() as u64,
            transports: 0,
            connected: 0,
            audio,
            video,
            nacks_sent: self.nacks_sent,
            nacked_received: self.nacked_received,
            resent: self.resent,
            keyframes_asked: self.keyframes_asked,
            twcc_sent: self.twcc_sent,
            twcc_received: self.twcc_received,
            srtp_refused: self.srtp_refused,
            rtx_unknown: self.rtx_unknown,
            socket_overflows: self.socket_overflows,
            send_failed: self.send_failed,
            send_lateness: self.send_lateness.summary(),
            sink_datagrams: self.sink_datagrams,
            ice_time: self.ice_time.summary(),
            dtls_time: self.dtls_time.summary(),
            first_media_time: self.first_media_time.summary(),
        }
    }
}

fn add(media: &mut MediaStats, stream: &ReceiveStream) {
    let (expected, lost) = stream.expected_and_lost();
    media.received_packets += stream.window.received;
    media.received_bytes += stream.window.bytes;
    media.expected += expected;
    media.lost += lost;
    media.recovered += stream.window.recovered;
    media.duplicates += stream.window.duplicates;
    media.reordered += stream.window.reordered;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_got_counts_after_it_has_gone() {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        let now = Instant::now();
        let mut stats = Stats::new(now);
        let mut stream = ReceiveStream::new(now, 1, true, 90_000, 10);
        for seq in [10, 11, 13] {
            stream.on_packet(now, seq, 0, 100, false);
        }
        stats.end_stream(&stream);
        let report = stats.report(now, 1, std::iter::once(&stream));
        assert_eq!((report.video.received_packets, report.video.received_bytes), (6, 600));
        assert_eq!((report.video.expected, report.video.lost, report.video.streams), (8, 2, 1));
        assert_eq!(report.audio.received_packets, 0);
    }
}
