//! RTP in, looked at from all sides, rewritten, and what was written read again.
#![no_main]

use callyard_proto::ids::{Pt, Ssrc};
use callyard_proto::rtp::{
    AbsCaptureTime, AbsSendTime, AudioLevel, HeaderFields, HeaderWriter, PlayoutDelay, RtpHeader, TransportSeq,
    VideoOrientation, read_sdes_text, rtx,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|packet: &[u8]| {
    let Ok(header) = RtpHeader::parse(packet) else { return };
    for (_, data) in header.extensions() {
        let _ = (AbsCaptureTime::read(data), AbsSendTime::read(data), AudioLevel::read(data), PlayoutDelay::read(data));
        let _ = (TransportSeq::read(data), VideoOrientation::read(data), read_sdes_text(data));
    }

    let mut out = [0u8; 8192];
    let fields = HeaderFields { seq: header.seq.wrapping_add(1), ssrc: Ssrc(9), ..HeaderFields::from(&header) };
    let Some(mut writer) = HeaderWriter::new(&mut out, fields, header.csrc_bytes()) else { return };
    let written: Vec<_> = header.extensions().filter(|(id, data)| writer.extension(*id, data).is_some()).collect();
    let len = writer.finish();
    let payload = &packet[header.header_len..];
    let again = [&out[..len], payload].concat();
    let read = RtpHeader::parse(&again).expect("what we write is sound");
    assert_eq!(read.payload(), header.payload());
    assert_eq!(read.extensions().collect::<Vec<_>>(), written);
    assert_eq!(read.csrc_bytes(), header.csrc_bytes());

    let mut restored = again.clone();
    if let Ok(start) = rtx::restore(&mut restored, Pt(96), Ssrc(1)) {
        let original = RtpHeader::parse(&restored[start..]).expect("a restored packet is sound");
        assert_eq!(original.payload(), &read.payload()[2..]);
    }
});
