//! Every datagram goes somewhere, and what goes there may be parsed without a panic.
#![no_main]

use callyard_proto::demux::{Kind, classify};
use callyard_proto::{rtcp, rtp, stun};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| match classify(datagram) {
    Kind::Stun => drop(stun::Message::parse(datagram)),
    Kind::Rtp => drop(rtp::RtpHeader::parse(datagram)),
    Kind::Rtcp => drop(rtcp::compound(datagram).map(Iterator::count)),
    Kind::Dtls | Kind::Drop(_) => {}
});
