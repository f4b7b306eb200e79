//! Our SRTP against an independent one, byte for byte: what libsrtp sealed we open, and what we seal is what it sealed.
//!
//! `tests/sfu/captures/make_srtp.py` writes the packets; a test there holds the file against the library.

use callyard_proto::ids::SeqNo;
use callyard_proto::srtp::{InboundSrtp, MAX_TRAILER_LEN, OutboundSrtp, Profile};

const PACKETS: &str = include_str!("fixtures/srtp/libsrtp.txt");

struct Sender {
    inbound: InboundSrtp,
    outbound: OutboundSrtp,
    /// Of the last packet, extended by the roll-overs.
    last: Option<u64>,
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two digits");
    (0..hex.len()).step_by(2).map(digits).collect()
}

fn sender(name: &str, key: &[u8], salt: &[u8]) -> Sender {
    let profile = Profile::ALL.into_iter().find(|profile| format!("{profile:?}") == name).expect("a profile of ours");
    let inbound = InboundSrtp::new(profile, key, salt, 4).expect("lengths of the profile");
    Sender { inbound, outbound: OutboundSrtp::new(profile, key, salt).expect("lengths of the profile"), last: None }
}

impl Sender {
    fn rtp(&mut self, clear: &[u8], sealed: &[u8]) {
        let seq = u64::from(u16::from_be_bytes([clear[2], clear[3]]));
        // They come in order: a smaller number is one behind a roll-over.
        let mut index = seq | self.last.unwrap_or(0) & !0xffff;
        if self.last.is_some_and(|last| index < last) {
            index += 1 << 16;
        }
        self.last = Some(index);
        assert_eq!(self.outbound.protect_rtp(clear, SeqNo(index)).expect("a sound header"), sealed, "number {index}");
        let mut packet = sealed.to_vec();
        let opened = self.inbound.unprotect_rtp(&mut packet).expect("sealed by libsrtp");
        assert_eq!((&packet[..opened.len], opened.seq), (clear, SeqNo(index)));
        assert!(self.inbound.unprotect_rtp(&mut sealed.to_vec()).is_err(), "once is enough");
    }

    fn rtcp(&mut self, clear: &[u8], sealed: &[u8]) {
        let mut buffer = clear.to_vec();
        buffer.resize(clear.len() + MAX_TRAILER_LEN, 0);
        let len = self.outbound.protect_rtcp(&mut buffer, clear.len()).expect("room for the trailer");
        assert_eq!(&buffer[..len], sealed);
        let mut packet = sealed.to_vec();
        let len = self.inbound.unprotect_rtcp(&mut packet).expect("sealed by libsrtp");
        assert_eq!(&packet[..len], clear);
    }
}

#[test]
fn each_opens_what_the_other_seals() {
    let mut current: Option<Sender> = None;
    let (mut profiles, mut packets) = (0, 0);
    for line in PACKETS.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match (&words[..], &mut current) {
            (["profile", name, key, salt], _) => {
                profiles += 1;
                current = Some(sender(name, &bytes(key), &bytes(salt)));
            }
            (["rtp", clear, sealed], Some(sender)) => sender.rtp(&bytes(clear), &bytes(sealed)),
            (["rtcp", clear, sealed], Some(sender)) => sender.rtcp(&bytes(clear), &bytes(sealed)),
            _ => panic!("not a line of this file: {line}"),
        }
        packets += usize::from(words[0] != "profile");
    }
    assert_eq!((profiles, packets), (Profile::ALL.len(), 25 * Profile::ALL.len()));
}
