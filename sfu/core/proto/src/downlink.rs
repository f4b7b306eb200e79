//! The way down to one subscriber: its transport-wide numbering and what was sent when (transport-wide congestion control).
//!
//! Every packet to the subscriber passes here between selector and arena: the seam where estimator and pacer belong.

use std::time::Instant;

/// Packets remembered for feedback: 4 s at 4 000 packets a second, and a power of two.
const REMEMBERED: usize = 4_096;

/// One sent packet that feedback may speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentPacket {
    pub seq: u64,
    pub at: Instant,
    pub bytes: u16,
    pub acked: Option<bool>,
}

#[derive(Debug, Default)]
pub struct Downlink {
    next_seq: u64,
    /// Ring by `seq % REMEMBERED`; empty until the first packet is numbered.
    sent: Vec<SentPacket>,
    received: u64,
    lost: u64,
}

impl Downlink {
    /// The number of the next packet; it goes into its header.
    #[inline]
    pub fn number(&mut self, now: Instant, bytes: usize) -> u16 {
        let seq = self.next_seq;
        self.next_seq += 1;
        let packet = SentPacket { seq, at: now, bytes: bytes.min(usize::from(u16::MAX)) as u16, acked: None };
        if self.sent.len() < REMEMBERED {
            self.sent.push(packet);
        } else {
            self.sent[seq as usize % REMEMBERED] = packet;
        }
        seq as u16
    }

    /// Looks up a packet by its 16-bit number. A number that was never sent, or is forgotten, is a lie or too late.
    pub fn acknowledge(&mut self, seq: u16, is_received: bool) -> Option<SentPacket> {
        if self.next_seq == 0 {
            return None;
        }
        let last = self.next_seq - 1;
        let behind = u64::from((last as u16).wrapping_sub(seq));
        let full = last.checked_sub(behind)?;
        if behind >= REMEMBERED as u64 {
            return None;
        }
        let packet = self.sent.get_mut(full as usize % REMEMBERED)?;
        if packet.seq != full || packet.acked == Some(true) {
            return None;
        }
        match (packet.acked, is_received) {
            (None, true) => self.received += 1,
            (None, false) => self.lost += 1,
            (Some(false), true) => {
                self.received += 1;
                self.lost -= 1;
            }
            _ => {}
        }
        packet.acked = Some(is_received);
        Some(*packet)
    }

    /// Share of numbered packets lost so far, as the subscriber's feedback says.
    pub fn loss(&self) -> Option<f32> {
        let total = self.received + self.lost;
        (total > 0).then(|| self.lost as f32 / total as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        Instant::now()
    }

    #[test]
    fn feedback_finds_its_packet_across_the_wrap() {
        let mut downlink = Downlink::default();
        let now = now();
        let last = (0..70_000).map(|_| downlink.number(now, 1_000)).last();
        assert_eq!(last, Some(69_999u32 as u16));
        assert_eq!(downlink.acknowledge(69_999u32 as u16, true).map(|p| p.seq), Some(69_999));
        assert_eq!(downlink.acknowledge(65_905u32 as u16, false).map(|p| p.seq), Some(65_905));
        assert_eq!(downlink.loss(), Some(0.5));
    }

    #[test]
    fn what_was_never_sent_or_is_forgotten_or_said_before_is_not_believed() {
        let mut downlink = Downlink::default();
        assert_eq!(downlink.acknowledge(0, true), None);
        let now = now();
        for _ in 0..REMEMBERED + 10 {
            downlink.number(now, 100);
        }
        assert_eq!(downlink.acknowledge(9, true), None, "forgotten");
        assert_eq!(downlink.acknowledge(REMEMBERED as u16 + 10, true), None, "not sent yet");
        assert!(downlink.acknowledge(10, true).is_some());
        assert_eq!(downlink.acknowledge(10, true), None, "said before");
        assert_eq!(downlink.loss(), Some(0.0));
    }
}
