//! Packets nobody sealed: refused without a trace. Sealed ones with the fuzzer's bytes inside: returned whole.
#![no_main]

use callyard_proto::ids::SeqNo;
use callyard_proto::rtp::header_len;
use callyard_proto::srtp::{InboundSrtp, MAX_TRAILER_LEN, OutboundSrtp, Profile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|packet: &[u8]| {
    for profile in Profile::ALL {
        let (key, salt) = (vec![7; profile.key_len()], vec![9; profile.salt_len()]);
        let mut inbound = InboundSrtp::new(profile, &key, &salt, 4).expect("lengths of the profile");
        assert!(inbound.unprotect_rtp(&mut packet.to_vec()).is_err());
        assert!(inbound.unprotect_rtcp(&mut packet.to_vec()).is_err());
        assert_eq!(inbound.tracked_ssrcs(), 0);

        let mut outbound = OutboundSrtp::new(profile, &key, &salt).expect("lengths of the profile");
        if header_len(packet).is_ok() {
            let seq = SeqNo(u64::from(u16::from_be_bytes([packet[2], packet[3]])));
            let mut sealed = outbound.protect_rtp(packet, seq).expect("a sound header");
            let got = inbound.unprotect_rtp(&mut sealed).expect("sealed by us");
            assert_eq!((&sealed[..got.len], got.seq), (packet, seq));
        }
        if packet.len() >= 8 {
            let mut buffer = packet.to_vec();
            buffer.resize(packet.len() + MAX_TRAILER_LEN, 0);
            let total = outbound.protect_rtcp(&mut buffer, packet.len()).expect("room for the trailer");
            let len = inbound.unprotect_rtcp(&mut buffer[..total]).expect("sealed by us");
            assert_eq!(&buffer[..len], packet);
        }
    }
});
