//! STUN messages straight, and once more with the checksum the fuzzer cannot guess put right.
#![no_main]

use callyard_proto::stun::{IntegrityKey, Message, Pong};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    let key = IntegrityKey::new("password");
    look(datagram, &key);
    let mut repaired = datagram.to_vec();
    if repaired.len() >= 28 && repaired.len().is_multiple_of(4) {
        let len = (repaired.len() - 20) as u16;
        repaired[2..4].copy_from_slice(&len.to_be_bytes());
        repaired[4..8].copy_from_slice(&0x2112_a442u32.to_be_bytes());
        let at = repaired.len() - 8;
        let fingerprint = crc32(&repaired[..at]) ^ 0x5354_554e;
        repaired[at..at + 4].copy_from_slice(&[0x80, 0x28, 0, 4]);
        repaired[at + 4..].copy_from_slice(&fingerprint.to_be_bytes());
        look(&repaired, &key);
    }
});

fn look(datagram: &[u8], key: &IntegrityKey) {
    if let Some(pong) = Pong::parse(datagram) {
        // Four bytes can be guessed, and the fuzzer has the time.
        let _ = (pong.transaction, pong.verify_integrity(key));
    }
    if let Ok(message) = Message::parse(datagram) {
        let _ = (message.ufrags(), message.role(), message.mapped_address(), message.unknown_attributes());
        assert!(message.verify_integrity(key).is_err(), "the fuzzer does not know the key");
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}
