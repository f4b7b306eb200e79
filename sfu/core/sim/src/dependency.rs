//! Dependency descriptors as an encoder writes them (AV1 RTP specification, Appendix A): all spatial layers of a stream
//! refer to the one below in every picture, each to its own earlier frames, with a decode target for every layer and a chain
//! for every spatial one.

use crate::format::Shape;

/// Extension id and name in every session of the simulator.
pub const DESCRIPTOR_ID: u8 = 13;
pub const DESCRIPTOR: &str = "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";

const SPATIALS: usize = 3;
const TEMPORALS: u8 = 3;
/// What a frame is to a decode target (A.4).
const NOT_PRESENT: u8 = 0;
const DISCARDABLE: u8 = 1;
const SWITCH: u8 = 2;
const REQUIRED: u8 = 3;

/// Numbers the frames of one stream and remembers what they may refer to.
#[derive(Clone, Debug, Default)]
pub struct Dependencies {
    next: u16,
    /// By spatial layer: numbers of the last frame of the base layer, and of the last that only the base is below.
    base: [u16; SPATIALS],
    middle: [u16; SPATIALS],
    /// By spatial layer: the last frame of its chain.
    chains: [u16; SPATIALS],
}

/// One frame of one layer, as it goes into the descriptors of its packets.
#[derive(Clone, Copy, Debug)]
pub struct Described<'a> {
    pub spatial: u8,
    pub temporal: u8,
    /// Refers to the base layer alone.
    pub is_sync: bool,
    pub is_key: bool,
    /// Sizes of all layers of the stream.
    pub layers: &'a [Shape],
    /// The highest layer that is made at present.
    pub top: u8,
}

/// A numbered frame: its descriptor is the same in all of its packets but for the structure and the borders.
#[derive(Clone, Debug)]
pub struct Numbered<'a> {
    frame: Described<'a>,
    number: u16,
    fdiffs: Vec<u16>,
    chain_fdiffs: Vec<u16>,
}

impl Dependencies {
    /// Begins near the wrap.
    pub fn new(first: u16) -> Self {
        Self { next: first, ..Self::default() }
    }

    /// The next frame; of one picture the lowest layer first.
    pub fn number<'a>(&mut self, frame: Described<'a>) -> Numbered<'a> {
        let number = self.next;
        self.next = number.wrapping_add(1);
        let (spatial, temporal) = (usize::from(frame.spatial), frame.temporal);
        let mut references = Vec::new();
        if !frame.is_key {
            let is_by_middle = temporal == TEMPORALS - 1 && !frame.is_sync;
            references.push(if is_by_middle { self.middle[spatial] } else { self.base[spatial] });
        }
        if spatial > 0 {
            references.push(number.wrapping_sub(1));
        }
        let begins = frame.is_key && spatial == 0;
        let chains = &mut self.chains[..frame.layers.len()];
        let chain_fdiffs = chains.iter().map(|last| if begins { 0 } else { number.wrapping_sub(*last) }).collect();
        if temporal == 0 {
            self.base[spatial] = number;
            // A layer above is protected by all below it.
            chains[spatial..].fill(number);
        }
        if temporal <= 1 {
            self.middle[spatial] = number;
        }
        let fdiffs = references.into_iter().map(|reference| number.wrapping_sub(reference)).collect();
        Numbered { frame, number, fdiffs, chain_fdiffs }
    }
}

impl Numbered<'_> {
    /// The descriptor of one of the frame's packets.
    pub fn descriptor(&self, starts: bool, ends: bool) -> Vec<u8> {
        let Described { spatial, temporal, is_key, layers, top, .. } = self.frame;
        let has_structure = starts && is_key && spatial == 0;
        let mut bits = Bits::default();
        bits.put(1, starts.into()).put(1, ends.into());
        bits.put(6, u32::from(spatial * TEMPORALS + temporal)).put(16, self.number.into());
        // Everything of its own but the layer: indications, references and chains.
        let is_reduced = usize::from(top) + 1 < layers.len();
        bits.put(1, has_structure.into()).put(1, is_reduced.into()).put(3, 0b111);
        if has_structure {
            structure(&mut bits, layers);
        }
        let targets = || (0..layers.len() as u8).flat_map(|s| (0..TEMPORALS).map(move |t| (s, t)));
        if is_reduced {
            // The first of the mask is the last decode target.
            let active = targets().zip(0..).filter(|((s, _), _)| *s <= top).fold(0, |mask, (_, i)| mask | 1 << i);
            bits.put(layers.len() as u32 * u32::from(TEMPORALS), active);
        }
        for target in targets() {
            bits.put(2, indication((spatial, temporal), target, is_key).into());
        }
        for &fdiff in &self.fdiffs {
            match fdiff - 1 {
                small @ 0..16 => bits.put(2, 1).put(4, small.into()),
                large => bits.put(2, 2).put(8, large.into()),
            };
        }
        bits.put(2, 0);
        for &fdiff in &self.chain_fdiffs {
            bits.put(8, fdiff.into());
        }
        bits.bytes
    }
}

/// What a frame is to a decode target.
fn indication((spatial, temporal): (u8, u8), target: (u8, u8), is_key: bool) -> u8 {
    if spatial > target.0 || temporal > target.1 {
        NOT_PRESENT
    } else if spatial < target.0 {
        if is_key { SWITCH } else { REQUIRED }
    } else if temporal > 0 && temporal == target.1 {
        DISCARDABLE
    } else {
        SWITCH
    }
}

fn structure(bits: &mut Bits, layers: &[Shape]) {
    let (spatials, temporals) = (layers.len() as u32, u32::from(TEMPORALS));
    bits.put(6, 0).put(5, spatials * temporals - 1);
    // From each template to the next: a temporal layer more, a spatial one, no more.
    for spatial in 0..spatials {
        for _ in 1..temporals {
            bits.put(2, 1);
        }
        bits.put(2, if spatial + 1 < spatials { 2 } else { 3 });
    }
    let all = || (0..layers.len() as u8).flat_map(|s| (0..TEMPORALS).map(move |t| (s, t)));
    for template in all() {
        for target in all() {
            bits.put(2, indication(template, target, false).into());
        }
    }
    // References and chains are told frame by frame.
    bits.put(spatials * temporals, 0);
    bits.non_symmetric(spatials * temporals + 1, spatials);
    for (spatial, _) in all() {
        bits.non_symmetric(spatials, spatial.into());
    }
    for _ in 0..spatials * temporals * spatials {
        bits.put(4, 0);
    }
    bits.put(1, 1);
    for shape in layers {
        bits.put(16, shape.width - 1).put(16, shape.height - 1);
    }
}

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    fn put(&mut self, count: u32, value: u32) -> &mut Self {
        for bit in (0..count).rev() {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let last = self.bytes.len() - 1;
            self.bytes[last] |= (value >> bit & 1) as u8 * (0x80 >> (self.used % 8));
            self.used += 1;
        }
        self
    }

    /// ns(n) of the AV1 specification §4.10.7.
    fn non_symmetric(&mut self, n: u32, value: u32) {
        let width = 32 - n.leading_zeros();
        let shorter = (1 << width) - n;
        if value < shorter {
            self.put(width - 1, value);
        } else {
            self.put(width, value + shorter);
        }
    }
}

#[cfg(test)]
mod tests {
    use callyard_proto::codec::dd::{Descriptor, Structure};

    use super::*;
    use crate::format;
    use crate::scenario::Video;

    /// Pictures of three layers in the pattern 0 2 1 2; from the ninth on the top layer is off.
    #[test]
    fn what_is_written_is_read_and_leads_to_the_frames_that_are_meant() {
        let format = format::of(Video::CameraAv1Svc);
        let mut dependencies = Dependencies::new(u16::MAX - 3);
        let mut structure: Option<Structure> = None;
        let mut numbers: Vec<Vec<u16>> = Vec::new();
        for picture in 0..16usize {
            let (temporal, is_sync) = format.temporal.cycle[picture % 4];
            let (is_key, top) = (picture == 0, if picture < 8 { 2 } else { 1 });
            let mut layers = Vec::new();
            for spatial in 0..=top {
                let described = Described { spatial, temporal, is_sync, is_key, layers: format.layers, top };
                let numbered = dependencies.number(described);
                let bytes = numbered.descriptor(true, false);
                let read = Descriptor::parse(&bytes, structure.as_ref()).unwrap();
                assert_eq!((read.spatial, read.temporal, read.start_of_frame), (spatial, temporal, true));
                assert_eq!(read.structure.is_some(), is_key && spatial == 0);
                structure = read.structure.clone().or(structure);
                let known = structure.as_ref().unwrap();
                assert_eq!((known.targets.len(), known.protected_by[8], known.resolutions[2]), (9, 2, (1_280, 720)));
                let best = known.target(2, 2, read.active.unwrap_or(u32::MAX));
                assert_eq!(best, Some(if top == 2 { 8 } else { 5 }), "which targets are fed");
                let back = match picture % 4 {
                    0 => 4,
                    1 | 3 => 1,
                    _ => 2,
                };
                let mut expected = Vec::new();
                if !is_key {
                    expected.push(numbers[picture - back][usize::from(spatial)]);
                }
                expected.extend(layers.last());
                assert_eq!(read.references().collect::<Vec<_>>(), expected, "picture {picture}, layer {spatial}");
                layers.push(read.frame_number);
            }
            numbers.push(layers);
        }
    }
}
