//! Channel establishment messages: what is read survives the way back.
#![no_main]

use callyard_proto::sctp::dcep::{Dcep, parse, write_open};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    let Some(Dcep::Open(open)) = parse(message) else { return };
    let Some(Dcep::Open(again)) = parse(&write_open(&open.spec)) else { panic!("what we write is sound") };
    assert_eq!(again.spec, open.spec);
});
