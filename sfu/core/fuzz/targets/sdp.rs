//! Descriptions from strangers: read within their bounds or refused, and what was read is written back unchanged.
#![no_main]

use callyard_proto::sdp::{agree, parse, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(session) = parse(text) else { return };
    let mut expected = session.clone();
    for media in &session.media {
        let _ = agree(media, &[]);
    }
    let written = write(&session).expect("what was read can be written");
    let again = parse(written.as_bytes()).expect("what was written can be read");
    // A section without any codec is written with a payload type that stands for itself.
    for (media, read) in expected.media.iter_mut().zip(&again.media) {
        if media.is_rtp() && media.codecs.is_empty() {
            media.codecs.clone_from(&read.codecs);
        }
    }
    assert_eq!(again, expected);
});
