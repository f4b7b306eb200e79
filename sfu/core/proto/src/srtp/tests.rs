//! Whole-packet vectors and the refusals.

use super::cipher::Cipher;
use super::*;
use crate::drop_reason::DropReason;
use crate::ids::{SeqNo, Ssrc};
use crate::testing::hex;
use proptest::prelude::*;

const RTP: &str =
    "8040f17b8041f8d35501a0b247616c6c696120657374206f6d6e69732064697669736120696e207061727465732074726573";
const RTCP: &str = "81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61\
                    deadbeefdeadbeefdeadbeefdeadbeefdeadbeef";

fn session(profile: Profile) -> Cipher {
    let key: Vec<u8> = (0..profile.key_len() as u8).collect();
    Cipher::gcm(&key, hex("517569642070726f2071756f").try_into().unwrap()).unwrap()
}

fn rfc_7714_pair(profile: Profile) -> (OutboundSrtp, InboundSrtp) {
    (
        OutboundSrtp::from_ciphers(profile, session(profile), session(profile)),
        InboundSrtp::from_ciphers(profile, session(profile), session(profile), 64),
    )
}

fn pair(profile: Profile, max_ssrcs: usize) -> (OutboundSrtp, InboundSrtp) {
    let key: Vec<u8> = (0..profile.key_len() as u8).collect();
    let salt: Vec<u8> = (100..100 + profile.salt_len() as u8).collect();
    let inbound = InboundSrtp::new(profile, &key, &salt, max_ssrcs).unwrap();
    (OutboundSrtp::new(profile, &key, &salt).unwrap(), inbound)
}

fn rtp(seq: u64, ssrc: u32, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80, 96];
    packet.extend((seq as u16).to_be_bytes());
    packet.extend([0, 0, 0, 1]);
    packet.extend(ssrc.to_be_bytes());
    packet.extend(payload);
    packet
}

#[test]
fn rfc_7714_section_16() {
    let table = [
        (
            Profile::AeadAes128Gcm,
            "8040f17b8041f8d35501a0b2f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833\
             899d7f27beb16a9152cf765ee4390cce",
        ),
        (
            Profile::AeadAes256Gcm,
            "8040f17b8041f8d35501a0b232b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b\
             7aa3db36dfffd6b0f9bb7878d7a76c13",
        ),
    ];
    for (profile, sealed) in table {
        let (outbound, mut inbound) = rfc_7714_pair(profile);
        assert_eq!(outbound.protect_rtp(&hex(RTP), SeqNo(0xf17b)).unwrap(), hex(sealed), "{profile:?}");
        let mut packet = hex(sealed);
        let got = inbound.unprotect_rtp(&mut packet).unwrap();
        assert_eq!((&packet[..got.len], got.seq), (&hex(RTP)[..], SeqNo(0xf17b)));
    }
}

#[test]
fn rfc_7714_section_17() {
    let table = [
        (
            Profile::AeadAes128Gcm,
            "81c8000d4d61727363e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda4ce09b4686303ded\
             0bb9275bc84aa45896cf4d2fc5abf87245d9eade800005d4",
        ),
        (
            Profile::AeadAes256Gcm,
            "81c8000d4d617273d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50a2eaa5c1110555be8415f658c61de047\
             6f1b6fad1d1eb30c4446839f57ff6f6cb26ac3be800005d4",
        ),
    ];
    for (profile, sealed) in table {
        let (mut outbound, mut inbound) = rfc_7714_pair(profile);
        let mut packet = hex(sealed);
        let len = inbound.unprotect_rtcp(&mut packet).unwrap();
        assert_eq!(packet[..len], hex(RTCP), "{profile:?}");
        // The vector's index is 0x5d4 and ours start at 1.
        for index in 1..=0x5d4 {
            let mut buffer = hex(RTCP);
            let len = buffer.len();
            buffer.resize(len + MAX_TRAILER_LEN, 0);
            let total = outbound.protect_rtcp(&mut buffer, len).unwrap();
            assert_eq!(buffer[..total] == hex(sealed), index == 0x5d4);
        }
    }
}

/// S-12
#[test]
fn rfc_7714_section_17_3_tagged_but_clear_is_refused() {
    let mut packet = hex(&format!("{RTCP}841dd9683dd78ec92ae58790125f62b3000005d4"));
    let (_, mut inbound) = rfc_7714_pair(Profile::AeadAes128Gcm);
    assert_eq!(inbound.unprotect_rtcp(&mut packet), Err(DropReason::SrtcpNotEncrypted));
}

#[test]
fn prefix_and_padding_are_sealed_like_one_piece() {
    for profile in Profile::ALL {
        let (outbound, mut inbound) = pair(profile, 64);
        for (n, (prefix, padding_len)) in [(&b""[..], 0), (b"xy", 0), (b"", 1), (b"xyz", 7)].into_iter().enumerate() {
            let mut header = rtp(n as u64, 7, b"");
            header[0] |= u8::from(padding_len > 0) << 5;
            let mut out = [0u8; 100];
            let payload = Payload { prefix, body: b"payload", padding_len };
            let len = outbound.protect_rtp_into(&header, payload, &mut out, Ssrc(7), SeqNo(n as u64)).unwrap();
            let mut packet = [&header[..], &out[..len]].concat();
            let got = inbound.unprotect_rtp(&mut packet).unwrap();
            let parsed = crate::rtp::RtpHeader::parse(&packet[..got.len]).unwrap();
            assert_eq!(parsed.payload(), [prefix, b"payload"].concat());
            assert_eq!(parsed.padding_len, usize::from(padding_len));
        }
    }
}

/// S-10
#[test]
fn every_single_bit_is_protected_and_a_forgery_changes_nothing() {
    for profile in Profile::ALL {
        let (mut outbound, mut inbound) = pair(profile, 64);
        let sealed = outbound.protect_rtp(&rtp(5, 7, b"payload"), SeqNo(5)).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut forged = sealed.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(inbound.unprotect_rtp(&mut forged).is_err(), "{profile:?} bit {bit}");
        }
        assert_eq!(inbound.tracked_ssrcs(), 0);
        assert!(inbound.unprotect_rtp(&mut sealed.clone()).is_ok());

        let mut report = hex(RTCP);
        let len = report.len();
        report.resize(len + MAX_TRAILER_LEN, 0);
        let total = outbound.protect_rtcp(&mut report, len).unwrap();
        report.truncate(total);
        for bit in 0..report.len() * 8 {
            let mut forged = report.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(inbound.unprotect_rtcp(&mut forged).is_err(), "{profile:?} bit {bit}");
        }
        assert_eq!(inbound.unprotect_rtcp(&mut report.clone()), Ok(len));
        assert_eq!(inbound.unprotect_rtcp(&mut report), Err(DropReason::SrtpReplay));
    }
}

/// S-24
#[test]
fn the_table_of_ssrcs_is_bounded() {
    let (outbound, mut inbound) = pair(Profile::AeadAes128Gcm, 3);
    let receive = |inbound: &mut InboundSrtp, ssrc, seq| {
        let mut packet = outbound.protect_rtp(&rtp(seq, ssrc, b"x"), SeqNo(seq)).unwrap();
        (inbound.unprotect_rtp(&mut packet).map(|u| u.seq), inbound.tracked_ssrcs())
    };
    for ssrc in 0..3 {
        assert_eq!(receive(&mut inbound, ssrc, 1), (Ok(SeqNo(1)), ssrc as usize + 1));
        inbound.hold(Ssrc(ssrc));
    }
    assert_eq!(receive(&mut inbound, 3, 1), (Err(DropReason::SrtpTooManySsrcs), 3));
    assert_eq!(receive(&mut inbound, 2, 2), (Ok(SeqNo(2)), 3));
    inbound.release(Ssrc(1));
    assert_eq!(receive(&mut inbound, 3, 1), (Ok(SeqNo(1)), 3), "the one that was released gave way");
    assert_eq!(receive(&mut inbound, 1, 2), (Ok(SeqNo(2)), 3), "and begins anew");
}

/// A track that is revoked and granted again goes on under its ssrc, and nobody tells us how often it rolled over.
#[test]
fn a_released_ssrc_keeps_its_roll_over_count_and_its_replay_window_while_there_is_room() {
    let (outbound, mut inbound) = pair(Profile::AeadAes128Gcm, 3);
    let sealed = |index: u64| outbound.protect_rtp(&rtp(index, 7, b"x"), SeqNo(index)).unwrap();
    inbound.hold(Ssrc(7));
    for index in (0..=0x2_0000).step_by(0x4000) {
        assert_eq!(inbound.unprotect_rtp(&mut sealed(index)).map(|u| u.seq), Ok(SeqNo(index)));
    }
    inbound.release(Ssrc(7));
    assert_eq!(inbound.unprotect_rtp(&mut sealed(0x2_0001)).map(|u| u.seq), Ok(SeqNo(0x2_0001)), "a straggler");
    assert_eq!(inbound.tracked_ssrcs(), 1);
    inbound.hold(Ssrc(7));
    assert_eq!(inbound.unprotect_rtp(&mut sealed(0x2_0002)).map(|u| u.seq), Ok(SeqNo(0x2_0002)));
    assert_eq!(inbound.unprotect_rtp(&mut sealed(0x2_0001)), Err(DropReason::SrtpReplay));
}

/// Pion reports on each stream under another ssrc, and asks for repairs under the stream's own.
#[test]
fn feedback_is_taken_however_many_ssrcs_a_subscriber_has_used() {
    for profile in Profile::ALL {
        let (mut outbound, mut inbound) = pair(profile, 2);
        for ssrc in 0..100_u32 {
            let mut report = hex(RTCP);
            report[4..8].copy_from_slice(&ssrc.to_be_bytes());
            let len = report.len();
            report.resize(len + MAX_TRAILER_LEN, 0);
            let total = outbound.protect_rtcp(&mut report, len).unwrap();
            report.truncate(total);
            assert_eq!(inbound.unprotect_rtcp(&mut report.clone()), Ok(len), "{profile:?} {ssrc}");
            assert_eq!(inbound.unprotect_rtcp(&mut report), Err(DropReason::SrtpReplay));
        }
    }
}

#[test]
fn no_length_panics() {
    for profile in Profile::ALL {
        let (_, mut inbound) = pair(profile, 64);
        for len in 0..200 {
            for first in [0x80, 0x8f, 0x90, 0xbf] {
                let mut packet = vec![0xff; len];
                if let Some(byte) = packet.first_mut() {
                    *byte = first;
                }
                assert!(inbound.unprotect_rtp(&mut packet.clone()).is_err());
                assert!(inbound.unprotect_rtcp(&mut packet).is_err());
            }
        }
    }
}

/// S-16
#[test]
fn wrong_key_lengths_and_exhausted_keys_are_errors() {
    assert_eq!(OutboundSrtp::new(Profile::AeadAes256Gcm, &[0; 16], &[0; 12]).err(), Some(SrtpError::KeyLength));
    let (outbound, _) = pair(Profile::AeadAes128Gcm, 1);
    assert_eq!(outbound.protect_rtp(&rtp(0, 1, b""), SeqNo(1 << 48)), Err(SrtpError::KeyExhausted));
    let short = outbound.protect_rtp_into(&rtp(0, 1, b""), b"abc".as_slice().into(), &mut [0; 18], Ssrc(1), SeqNo(0));
    assert_eq!(short, Err(SrtpError::BufferTooSmall));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// F-43.
    /// F-42.
    /// Any order of delivery within half the number space decrypts to the right extended number, once.
    #[test]
    fn roll_over_is_followed(
        profile in prop::sample::select(&Profile::ALL[..]),
        start in 0u64..0x8000,
        steps in prop::collection::vec(prop_oneof![6 => -20i64..20, 1 => 0i64..30_000], 200),
    ) {
        let (outbound, mut inbound) = pair(profile, 64);
        let (mut newest, mut seen) = (start, std::collections::HashSet::new());
        for step in std::iter::once(0).chain(steps) {
            let seq = newest.saturating_add_signed(step);
            if newest - newest.min(seq) >= REPLAY_WINDOW {
                continue;
            }
            let mut packet = outbound.protect_rtp(&rtp(seq, 9, b"data"), SeqNo(seq)).unwrap();
            let got = inbound.unprotect_rtp(&mut packet).map(|u| u.seq);
            if seen.insert(seq) {
                prop_assert_eq!(got, Ok(SeqNo(seq)));
                newest = newest.max(seq);
            } else {
                prop_assert_eq!(got, Err(DropReason::SrtpReplay));
            }
        }
    }
}
