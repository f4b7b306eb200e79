//! The cost of one packet on its way through: parse, decrypt, rewrite, encrypt. 1 200 bytes, four header extensions.

use std::hint::black_box;
use std::time::Duration;

use callyard_proto::ids::{Pt, SeqNo, Ssrc};
use callyard_proto::rtcp;
use callyard_proto::rtp::{HeaderFields, HeaderWriter, RtpHeader};
use callyard_proto::srtp::{InboundSrtp, OutboundSrtp, Payload, Profile};
use callyard_proto::stun::{Check, IntegrityKey, Message, Role, write_request};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const PACKET_LEN: usize = 1200;
/// Packets sealed in advance; a context can open each of them once.
const BATCH: u64 = 1024;

fn contexts(profile: Profile) -> (OutboundSrtp, InboundSrtp) {
    let (key, salt) = (vec![7; profile.key_len()], vec![9; profile.salt_len()]);
    // The lengths are the profile's own.
    let outbound = OutboundSrtp::new(profile, &key, &salt).expect("key of the right length");
    (outbound, InboundSrtp::new(profile, &key, &salt, 64).expect("key of the right length"))
}

fn write_header(out: &mut [u8], seq: u16, timestamp: u32) -> usize {
    let fields = HeaderFields { marker: false, pt: Pt(96), seq, timestamp, ssrc: Ssrc(7), padding: false };
    // The caller's buffer has room for a whole packet.
    let mut writer = HeaderWriter::new(out, fields, &[]).expect("room");
    for (id, data) in [(1, &b"0"[..]), (3, &seq.to_be_bytes()), (4, &[1, 2, 3]), (10, &[0x80])] {
        writer.extension(id, data).expect("room");
    }
    writer.finish()
}

fn clear_packet(seq: u16) -> Vec<u8> {
    let mut packet = vec![0x5a; PACKET_LEN];
    write_header(&mut packet, seq, 1);
    packet
}

fn header(c: &mut Criterion) {
    let packet = clear_packet(1);
    c.bench_function("rtp/parse", |b| b.iter(|| RtpHeader::parse(black_box(&packet)).map(|h| h.payload().len())));
    c.bench_function("rtp/parse_and_two_extensions", |b| {
        b.iter(|| {
            let header = RtpHeader::parse(black_box(&packet))?;
            Ok::<_, callyard_proto::drop_reason::DropReason>((header.extension(3), header.extension(10)))
        })
    });
    let mut out = [0u8; PACKET_LEN];
    c.bench_function("rtp/write", |b| b.iter(|| write_header(black_box(&mut out), 5, 6)));
}

fn srtp(c: &mut Criterion) {
    for profile in Profile::ALL {
        let mut group = c.benchmark_group(profile.as_str());
        group.throughput(Throughput::Elements(1));
        let (outbound, _) = contexts(profile);
        let sealed: Vec<_> = (0..BATCH)
            .map(|seq| outbound.protect_rtp(&clear_packet(seq as u16), SeqNo(seq)).expect("a sound packet"))
            .collect();
        group.bench_function("unprotect", |b| {
            let mut buffer = [0u8; 1500];
            b.iter_custom(|iterations| {
                let mut spent = Duration::ZERO;
                let mut left = iterations;
                while left > 0 {
                    let (_, mut inbound) = contexts(profile);
                    let now = left.min(BATCH) as usize;
                    let timer = clock();
                    for packet in &sealed[..now] {
                        buffer[..packet.len()].copy_from_slice(packet);
                        inbound.unprotect_rtp(black_box(&mut buffer[..packet.len()])).expect("sealed by us");
                    }
                    spent += timer.elapsed();
                    left -= now as u64;
                }
                spent
            })
        });

        let clear = clear_packet(0);
        // Parsed once for all subscribers.
        let body = RtpHeader::parse(&clear).expect("written by us").payload();
        for (label, prefix, padding_len) in [
            ("rewrite_and_protect", &b""[..], 0),
            ("rewrite_descriptor_and_protect", b"abcd", 0),
            ("pad_and_protect", b"", 1),
        ] {
            group.bench_function(label, |b| {
                let (mut out, mut seq) = ([0u8; 1500], 0u64);
                b.iter(|| {
                    seq += 1;
                    let header_len = write_header(&mut out, seq as u16, 9);
                    let (header, rest) = out.split_at_mut(header_len);
                    let payload = Payload { prefix, body: &body[prefix.len()..], padding_len };
                    outbound.protect_rtp_into(header, payload, black_box(rest), Ssrc(7), SeqNo(seq))
                })
            });
        }
        group.finish();
    }
}

fn control(c: &mut Criterion) {
    // One run-length chunk of packets that never arrived: the most statuses for the fewest bytes.
    let mut bomb = vec![0x8f, 205, 0, 5, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0x10, 0, 0, 0, 0, 0, 0x10, 0, 0, 0];
    c.bench_function("rtcp/twcc_bomb", |b| b.iter(|| read_all(black_box(&bomb))));
    // As many of them as one datagram holds.
    bomb = bomb.repeat(rtcp::MAX_RTCP_LEN / bomb.len());
    c.bench_function("rtcp/twcc_bombs_in_one_datagram", |b| b.iter(|| read_all(black_box(&bomb))));

    let key = IntegrityKey::new("a-password-of-22-chars");
    let role = Role::Controlling(1);
    let check = Check {
        transaction: [1; 12],
        username: "local:remote",
        priority: 1,
        use_candidate: true,
        role,
        asks_for_pings: false,
    };
    let mut datagram = Vec::new();
    write_request(&mut datagram, &check, &key);
    c.bench_function("stun/parse", |b| b.iter(|| Message::parse(black_box(&datagram)).map(|m| m.use_candidate)));
    c.bench_function("stun/parse_and_verify", |b| {
        b.iter(|| Message::parse(black_box(&datagram)).and_then(|m| m.verify_integrity(&key)))
    });
}

fn read_all(bytes: &[u8]) -> usize {
    let Ok(packets) = rtcp::compound(bytes) else { return 0 };
    packets
        .map(|packet| match packet {
            Ok(rtcp::Packet::Twcc(feedback)) => feedback.statuses().count(),
            _ => 0,
        })
        .sum()
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn clock() -> std::time::Instant {
    std::time::Instant::now()
}

criterion_group!(benches, header, srtp, control);
criterion_main!(benches);
