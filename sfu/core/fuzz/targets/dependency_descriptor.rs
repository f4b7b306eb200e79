//! A stream's descriptors one after another: each is read by the latest structure, and says nothing beyond its bounds.
#![no_main]

use callyard_proto::codec::dd::{Descriptor, MAX_DECODE_TARGETS};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|descriptors: Vec<Vec<u8>>| {
    let mut structure = None;
    for bytes in descriptors {
        let Some(descriptor) = Descriptor::parse(&bytes, structure.as_ref()) else { continue };
        assert!(descriptor.references().count() <= 8);
        for target in 0..=MAX_DECODE_TARGETS {
            let _ = (descriptor.indication(target), descriptor.chain_fdiff(target));
        }
        let mut renumbered = bytes.clone();
        Descriptor::write_frame_number(&mut renumbered, descriptor.frame_number.wrapping_add(1));
        let again = Descriptor::parse(&renumbered, structure.as_ref()).expect("only its number has changed");
        assert_eq!(again.frame_number, descriptor.frame_number.wrapping_add(1));
        assert_eq!((again.spatial, again.temporal), (descriptor.spatial, descriptor.temporal));
        if let Some(new) = descriptor.structure {
            assert!(new.targets.len() <= MAX_DECODE_TARGETS && new.max_spatial() < 4);
            structure = Some(new);
        }
    }
});
