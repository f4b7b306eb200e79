//! A byte stream cut in two places gives the same frames as in one piece.
#![no_main]

use callyard_proto::framing::FrameDecoder;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, u16, Vec<u8>)| {
    let (first, second, stream) = input;
    let whole = frames(&[&stream]);
    let (left, rest) = stream.split_at(usize::from(first).min(stream.len()));
    let (middle, right) = rest.split_at(usize::from(second).min(rest.len()));
    assert_eq!(frames(&[left, middle, right]), whole);
});

fn frames(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, bool) {
    let (mut decoder, mut got) = (FrameDecoder::new(1500), Vec::new());
    let sound = pieces.iter().all(|piece| decoder.feed(piece, |frame| got.push(frame.to_vec())).is_ok());
    (got, sound)
}
