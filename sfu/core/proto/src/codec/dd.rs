//! AV1 dependency descriptor, an RTP header extension (AV1 RTP specification, Appendix A).
//!
//! It tells layers, decode targets and chains of any codec without looking at the payload, so it also serves encrypted
//! and SVC streams. The structure comes with key frames and is kept per stream by [`Structure`]'s owner.

/// Bounds of the syntax: 5 bits of decode targets, 6 bits of template ids.
pub const MAX_DECODE_TARGETS: usize = 32;
const MAX_TEMPLATES: usize = 64;
const MAX_FDIFFS: usize = 64;
/// References of one frame that are kept: no codec has more (AV1 specification §5.9.2: `REFS_PER_FRAME` is 7).
const KEPT_FDIFFS: usize = 8;

/// What a frame is to a decode target (A.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indication {
    NotPresent,
    Discardable,
    Switch,
    Required,
}

impl Indication {
    fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::NotPresent,
            1 => Self::Discardable,
            2 => Self::Switch,
            _ => Self::Required,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Template {
    spatial: u8,
    temporal: u8,
    indications: Vec<Indication>,
    /// How many frames back those are that it refers to.
    fdiffs: Fdiffs,
    chain_fdiffs: Vec<u8>,
}

/// Distances to the frames that one refers to; 0 where there is none.
type Fdiffs = [u16; KEPT_FDIFFS];

/// The template dependency structure: valid from the key frame that carries it until the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Structure {
    id_offset: u8,
    templates: Vec<Template>,
    /// Highest (spatial, temporal) of each decode target.
    pub targets: Vec<(u8, u8)>,
    /// Which chain protects each decode target; empty without chains.
    pub protected_by: Vec<u8>,
    chain_count: usize,
    /// Width and height of each spatial layer; may be empty.
    pub resolutions: Vec<(u16, u16)>,
}

impl Structure {
    /// The best active decode target within these layers, lowest index among equals.
    pub fn target(&self, spatial: u8, temporal: u8, active: u32) -> Option<usize> {
        let allowed = |(index, layers): &(usize, &(u8, u8))| {
            layers.0 <= spatial && layers.1 <= temporal && active >> index & 1 == 1
        };
        let candidates = self.targets.iter().enumerate().filter(allowed);
        candidates.max_by_key(|(index, layers)| (**layers, std::cmp::Reverse(*index))).map(|(index, _)| index)
    }

    pub fn max_spatial(&self) -> u8 {
        self.targets.iter().map(|(spatial, _)| *spatial).max().unwrap_or(0)
    }
}

/// One packet's descriptor, resolved against the structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub start_of_frame: bool,
    pub end_of_frame: bool,
    pub frame_number: u16,
    pub spatial: u8,
    pub temporal: u8,
    /// Carries a new structure: the first packet of a key frame.
    pub structure: Option<Structure>,
    /// Which decode targets the sender still feeds, where it said so.
    pub active: Option<u32>,
    indications: [Indication; MAX_DECODE_TARGETS],
    fdiffs: Fdiffs,
    chain_fdiffs: [u8; MAX_DECODE_TARGETS],
}

impl Descriptor {
    /// Reads a descriptor; `known` is the stream's latest structure. `None`: malformed, or its structure is not known.
    pub fn parse(bytes: &[u8], known: Option<&Structure>) -> Option<Self> {
        let mut bits = Bits { bytes, at: 0 };
        let start_of_frame = bits.flag()?;
        let end_of_frame = bits.flag()?;
        let template_id = bits.read(6)? as u8;
        let frame_number = bits.read(16)? as u16;
        let (mut structure, mut active) = (None, None);
        let (mut custom_indications, mut custom_fdiffs, mut custom_chains) = (false, false, false);
        if bytes.len() > 3 {
            let has_structure = bits.flag()?;
            let has_active = bits.flag()?;
            custom_indications = bits.flag()?;
            custom_fdiffs = bits.flag()?;
            custom_chains = bits.flag()?;
            if has_structure {
                structure = Some(read_structure(&mut bits)?);
            }
            let count = structure.as_ref().or(known)?.targets.len();
            if has_structure {
                active = Some(mask(count));
            }
            if has_active {
                active = Some(bits.read(count as u32)?);
            }
        }
        let current = structure.as_ref().or(known)?;
        let index = usize::from((template_id + 64 - current.id_offset) % 64);
        let template = current.templates.get(index)?;
        let mut indications = [Indication::NotPresent; MAX_DECODE_TARGETS];
        for (target, place) in indications.iter_mut().enumerate().take(current.targets.len()) {
            *place =
                if custom_indications { Indication::from_bits(bits.read(2)?) } else { template.indications[target] };
        }
        let mut fdiffs = template.fdiffs;
        if custom_fdiffs {
            fdiffs = Fdiffs::default();
            for index in 0..MAX_FDIFFS {
                let size = bits.read(2)?;
                if size == 0 {
                    break;
                }
                let fdiff = bits.read(4 * size)? as u16 + 1;
                if let Some(place) = fdiffs.get_mut(index) {
                    *place = fdiff;
                }
            }
        }
        let mut chain_fdiffs = [0; MAX_DECODE_TARGETS];
        for (chain, place) in chain_fdiffs.iter_mut().enumerate().take(current.chain_count) {
            *place = if custom_chains { bits.read(8)? as u8 } else { template.chain_fdiffs[chain] };
        }
        Some(Self {
            start_of_frame,
            end_of_frame,
            frame_number,
            spatial: template.spatial,
            temporal: template.temporal,
            structure,
            active,
            indications,
            fdiffs,
            chain_fdiffs,
        })
    }

    /// Numbers of the frames that this one refers to. Only a frame's first packet is sure to tell.
    pub fn references(&self) -> impl Iterator<Item = u16> {
        self.fdiffs.iter().filter(|back| **back > 0).map(|back| self.frame_number.wrapping_sub(*back))
    }

    pub fn indication(&self, target: usize) -> Indication {
        self.indications.get(target).copied().unwrap_or(Indication::NotPresent)
    }

    /// How many frames back the previous frame of `chain` is; 0: the chain starts here (A.6).
    pub fn chain_fdiff(&self, chain: usize) -> u8 {
        self.chain_fdiffs.get(chain).copied().unwrap_or(0)
    }

    /// Writes another frame number into a descriptor's bytes: where two streams are joined into one.
    pub fn write_frame_number(bytes: &mut [u8], frame_number: u16) {
        if let Some(place) = bytes.get_mut(1..3) {
            place.copy_from_slice(&frame_number.to_be_bytes());
        }
    }
}

fn mask(count: usize) -> u32 {
    if count >= 32 { u32::MAX } else { (1 << count) - 1 }
}

fn read_structure(bits: &mut Bits<'_>) -> Option<Structure> {
    let id_offset = bits.read(6)? as u8;
    let target_count = bits.read(5)? as usize + 1;
    let mut layers = Vec::with_capacity(8);
    let (mut spatial, mut temporal) = (0u8, 0u8);
    loop {
        if layers.len() == MAX_TEMPLATES {
            return None;
        }
        layers.push((spatial, temporal));
        match bits.read(2)? {
            0 => {}
            1 => temporal = (temporal < 7).then_some(temporal + 1)?,
            2 => {
                temporal = 0;
                spatial = (spatial < 3).then_some(spatial + 1)?;
            }
            _ => break,
        }
    }
    let mut templates = Vec::with_capacity(layers.len());
    for &(spatial, temporal) in &layers {
        let indications =
            (0..target_count).map(|_| bits.read(2).map(Indication::from_bits)).collect::<Option<Vec<_>>>()?;
        let fdiffs = Fdiffs::default();
        templates.push(Template { spatial, temporal, indications, fdiffs, chain_fdiffs: Vec::new() });
    }
    for template in &mut templates {
        let mut count = 0;
        while bits.flag()? {
            let fdiff = bits.read(4)? as u16 + 1;
            if let Some(place) = template.fdiffs.get_mut(count) {
                *place = fdiff;
            }
            count += 1;
            if count > MAX_FDIFFS {
                return None;
            }
        }
    }
    let chain_count = bits.non_symmetric(target_count as u32 + 1)? as usize;
    let mut protected_by = Vec::new();
    if chain_count > 0 {
        for _ in 0..target_count {
            protected_by.push(bits.non_symmetric(chain_count as u32)? as u8);
        }
        for template in &mut templates {
            template.chain_fdiffs =
                (0..chain_count).map(|_| bits.read(4).map(|n| n as u8)).collect::<Option<Vec<_>>>()?;
        }
    }
    let mut resolutions = Vec::new();
    if bits.flag()? {
        for _ in 0..=spatial {
            resolutions.push((bits.read(16)?.wrapping_add(1) as u16, bits.read(16)?.wrapping_add(1) as u16));
        }
    }
    let targets = (0..target_count)
        .map(|target| {
            let present = templates.iter().filter(|template| template.indications[target] != Indication::NotPresent);
            present.fold((0, 0), |(s, t), template| (s.max(template.spatial), t.max(template.temporal)))
        })
        .collect();
    Some(Structure { id_offset, templates, targets, protected_by, chain_count, resolutions })
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn flag(&mut self) -> Option<bool> {
        self.read(1).map(|bit| bit == 1)
    }

    fn read(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = *self.bytes.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    /// ns(n) of the AV1 specification §4.10.7.
    fn non_symmetric(&mut self, n: u32) -> Option<u32> {
        let width = 32 - n.leading_zeros();
        let shorter = (1 << width) - n;
        let value = self.read(width - 1)?;
        if value < shorter { Some(value) } else { Some((value << 1) - shorter + self.read(1)?) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Writes descriptors, so that tests need no captured bytes.
    #[derive(Default)]
    pub(crate) struct Writer {
        bits: Vec<bool>,
    }

    impl Writer {
        pub(crate) fn put(&mut self, count: u32, value: u32) -> &mut Self {
            self.bits.extend((0..count).rev().map(|bit| value >> bit & 1 == 1));
            self
        }

        pub(crate) fn bytes(&self) -> Vec<u8> {
            self.bits
                .chunks(8)
                .map(|chunk| chunk.iter().enumerate().fold(0, |byte, (i, bit)| byte | u8::from(*bit) << (7 - i)))
                .collect()
        }
    }

    /// A packet of L2T2 (full SVC): templates S0T0, S0T1, S1T0, S1T1; targets (0,0) (0,1) (1,0) (1,1); two chains.
    pub(crate) fn l2t2(start: bool, end: bool, template: u32, frame_number: u16, key: bool) -> Vec<u8> {
        l2t2_with(&[&[], &[], &[], &[]], (start, end), template, frame_number, key)
    }

    /// Every frame refers to the lower layer's of its picture, and to the last one with a lower temporal layer of its own.
    pub(crate) fn l2t2_referring(template: u32, frame_number: u16, key: bool) -> Vec<u8> {
        l2t2_with(&[&[4], &[2], &[1, 4], &[1, 2]], (true, true), template, frame_number, key)
    }

    fn l2t2_with(
        references: &[&[u32]; 4],
        (start, end): (bool, bool),
        template: u32,
        frame_number: u16,
        key: bool,
    ) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.put(1, start.into()).put(1, end.into()).put(6, template).put(16, frame_number.into());
        if key {
            writer.put(5, 0b10011).put(6, 0).put(5, 3); // a structure, no references, and chains that begin here
            for next in [1, 2, 1, 3] {
                writer.put(2, next);
            }
            for indications in [[2, 3, 3, 3], [0, 1, 0, 3], [0, 0, 2, 3], [0, 0, 0, 1]] {
                for indication in indications {
                    writer.put(2, indication);
                }
            }
            for back in references {
                back.iter().for_each(|back| _ = writer.put(1, 1).put(4, back - 1));
                writer.put(1, 0);
            }
            writer.put(2, 2); // ns(5) = 2 chains
            for chain in [0, 0, 1, 1] {
                writer.put(1, chain); // ns(2)
            }
            for fdiffs in [[4, 3], [2, 1], [1, 1], [3, 2]] {
                writer.put(4, fdiffs[0]).put(4, fdiffs[1]);
            }
            writer.put(1, 0).put(2, 0).put(8, 0).put(8, 0);
        }
        writer.bytes()
    }

    /// A frame of L2T1_KEY: between key frames each spatial layer refers to itself alone; targets (0,0) (1,0), a chain each.
    pub(crate) fn l2t1_key(spatial: u8, frame_number: u16, key: bool) -> Descriptor {
        let mut writer = Writer::default();
        let template = 2 * u32::from(spatial) + u32::from(key);
        writer.put(1, 1).put(1, 1).put(6, template).put(16, frame_number.into());
        writer.put(5, 0b10000).put(6, 0).put(5, 1);
        for next in [0, 2, 0, 3] {
            writer.put(2, next);
        }
        for indications in [[2, 0], [2, 2], [0, 2], [0, 2]] {
            writer.put(2, indications[0]).put(2, indications[1]);
        }
        for back in [&[2][..], &[], &[2], &[1]] {
            back.iter().for_each(|back| _ = writer.put(1, 1).put(4, back - 1));
            writer.put(1, 0);
        }
        writer.put(2, 0b11).put(1, 0).put(1, 1); // ns(3) = 2 chains
        for fdiffs in [[2, 1], [0, 0], [1, 2], [1, 1]] {
            writer.put(4, fdiffs[0]).put(4, fdiffs[1]);
        }
        writer.put(1, 0);
        let mut descriptor = Descriptor::parse(&writer.bytes(), None).unwrap();
        descriptor.structure = descriptor.structure.filter(|_| key && spatial == 0);
        descriptor
    }

    #[test]
    fn a_structure_is_read_and_serves_the_packets_after_it() {
        let key = Descriptor::parse(&l2t2(true, false, 0, 100, true), None).unwrap();
        let structure = key.structure.clone().unwrap();
        assert_eq!(structure.targets, [(0, 0), (0, 1), (1, 0), (1, 1)]);
        assert_eq!(structure.protected_by, [0, 0, 1, 1]);
        assert_eq!(key.active, Some(0b1111));
        let upper = Descriptor::parse(&l2t2(true, true, 3, 103, false), Some(&structure)).unwrap();
        assert_eq!((upper.spatial, upper.temporal, upper.frame_number), (1, 1, 103));
        assert_eq!(upper.indication(3), Indication::Discardable);
        assert_eq!(upper.indication(0), Indication::NotPresent);
        assert_eq!((upper.chain_fdiff(0), upper.chain_fdiff(1)), (3, 2));
        assert_eq!(structure.target(1, 0, 0b1111), Some(2));
        assert_eq!(structure.target(3, 7, 0b1111), Some(3));
        assert_eq!(structure.target(3, 7, 0b0011), Some(1));
        assert_eq!(Descriptor::parse(&l2t2(true, true, 3, 103, false), None), None, "its structure is not known");
        assert_eq!(Descriptor::parse(&l2t2(true, true, 4, 103, false), Some(&structure)), None, "no such template");
    }

    proptest! {
        /// S-26
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let structure = Descriptor::parse(&l2t2(true, false, 0, 100, true), None).unwrap().structure;
            let _ = Descriptor::parse(&bytes, None);
            let _ = Descriptor::parse(&bytes, structure.as_ref());
        }
    }
}
