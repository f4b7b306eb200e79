//! Payload descriptors of every codec, read, rewritten as for a subscriber, and read again.
#![no_main]

use callyard_proto::codec::{Codec, red};
use callyard_proto::downtrack::munger::PayloadPatch;
use libfuzzer_sys::fuzz_target;

const CODECS: [Codec; 6] = [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::H265, Codec::Av1, Codec::Red];

fuzz_target!(|input: (u8, bool, u16, u8, &[u8])| {
    let (codec, marker, picture_id, tl0, payload) = input;
    let codec = CODECS[usize::from(codec) % CODECS.len()];
    let Some(meta) = codec.parse(payload, marker) else { return };
    if codec == Codec::Red
        && let Some(newest) = red::primary(payload)
    {
        assert!(red::older(payload).all(|block| block.range.end <= newest.start && newest.end == payload.len()));
    }
    let patch = PayloadPatch {
        picture_id: meta.picture_id.map(|id| (id, picture_id)),
        tl0: meta.tl0.map(|(_, offset)| (tl0, offset)),
    };
    let mut rewritten = payload.to_vec();
    patch.apply(&mut rewritten);
    assert_eq!(rewritten.len(), payload.len());
    let again = codec.parse(&rewritten, marker).expect("a rewritten descriptor is sound");
    assert_eq!(again.picture_id.map(|id| id.value), meta.picture_id.map(|id| picture_id & id.mask()));
    assert_eq!(again.tl0.map(|(value, _)| value), meta.tl0.map(|_| tl0));
    assert_eq!((again.spatial, again.temporal, again.keyframe), (meta.spatial, meta.temporal, meta.keyframe));
});
