//! Which packets of a track a subscriber is sent, given the layer he is to have. Decides one packet at a time, as a value.
//!
//! Layers are changed only where the picture stays decodable: simulcast at a key frame of the target's stream, SVC at a
//! frame that refers to no earlier one or, with a dependency descriptor, at a switch point whose chain is whole; temporal
//! layers down at any frame, up at a sync point. It does not number packets (`munger`) nor choose the layer (`allocator`).

use serde::{Deserialize, Serialize};

use crate::codec::PacketMeta;
use crate::codec::dd::{Descriptor, Indication, Structure};
use crate::command::MediaKind;
use crate::ids::{Spatial, Temporal};

/// Frames whose forwarding is remembered for chains: a chain refers back at most 255 frames (A.8.2).
const FRAME_MEMORY: usize = 256;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Forward {
        /// First packet of another stream, or after a pause: the munger must switch.
        switched: bool,
        /// The RTP marker bit: set also at the end of the highest forwarded SVC layer.
        marker: bool,
    },
    Drop(Reason),
}

/// Why a packet was left out; labels the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Nothing is wanted, or nothing may be sent.
    Paused,
    /// Of a stream or spatial layer other than the one being sent.
    OtherLayer,
    AboveTemporal,
    WaitingForKeyframe,
    /// Its structure is not known, or it is not part of the decode target.
    NotInTarget,
}

impl Reason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Paused => "paused",
            Reason::OtherLayer => "other_layer",
            Reason::AboveTemporal => "above_temporal",
            Reason::WaitingForKeyframe => "waiting_for_keyframe",
            Reason::NotInTarget => "not_in_target",
        }
    }

    /// True where the packet belongs to the stream being sent, so that the munger must be told.
    pub const fn is_of_current_stream(self) -> bool {
        matches!(self, Reason::AboveTemporal | Reason::NotInTarget | Reason::OtherLayer)
    }
}

/// A layer to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Layer {
    pub spatial: Spatial,
    pub temporal: Temporal,
}

/// One packet as the selector sees it.
#[derive(Clone, Copy)]
pub struct Packet<'a> {
    /// Which stream of the uptrack it came on: the simulcast encoding; 0 where there is one.
    pub encoding: Spatial,
    pub meta: &'a PacketMeta,
    pub marker: bool,
    /// The dependency descriptor and its stream's structure, where negotiated and readable.
    pub descriptor: Option<(&'a Descriptor, &'a Structure)>,
}

/// State of one downtrack's selection.
pub struct Selector {
    kind: MediaKind,
    target: Option<Layer>,
    /// For the moment not above this temporal layer, whatever the target.
    ceiling: Option<Temporal>,
    /// Not above this one while the stream being sent is not the target's.
    interim: Option<Temporal>,
    /// The stream being sent.
    encoding: Option<Spatial>,
    /// Within it: the highest spatial and temporal layer being sent.
    spatial: Spatial,
    temporal: Temporal,
    in_key_picture: bool,
    /// The highest temporal layer seen of the stream being sent.
    top: Temporal,
    /// Layer of the frame whose beginning was forwarded and then left out: what still comes of it has no use.
    left_out: Option<Temporal>,
    /// Apart, for most streams have none and it is a kilobyte.
    svc: Option<Box<Svc>>,
}

/// Selection by dependency descriptor.
struct Svc {
    decode_target: usize,
    /// Frames by number, and whether they were forwarded; one that never came may still come.
    fates: [Option<(u16, bool)>; FRAME_MEMORY],
    /// One bit a chain: every frame of it since its beginning was forwarded.
    whole_chains: u32,
    /// The target's chain is broken: where lower layers are left out between key frames (L3T3_KEY), one cannot even go down.
    is_stuck: bool,
    is_newly_stuck: bool,
}

impl Selector {
    pub fn new(kind: MediaKind) -> Self {
        Self {
            kind,
            target: None,
            ceiling: None,
            interim: None,
            encoding: None,
            spatial: Spatial(0),
            temporal: Temporal(0),
            in_key_picture: false,
            top: Temporal(0),
            left_out: None,
            svc: None,
        }
    }

    /// `None`: send nothing.
    pub fn set_target(&mut self, target: Option<Layer>) {
        if target.is_none() {
            self.restart();
        }
        if let Some(svc) = &mut self.svc {
            svc.is_stuck = false; // until the next frame has shown it
        }
        self.target = target;
        self.interim = None;
    }

    /// Until the target's stream is reached, the present one goes on with these temporal layers only.
    pub fn set_interim(&mut self, temporal: Temporal) {
        self.interim = Some(temporal);
    }

    /// A limit for as long as it stands, on top of the target: a queue to be got rid of. Above it one climbs at sync points.
    pub fn set_ceiling(&mut self, ceiling: Option<Temporal>) {
        self.ceiling = ceiling;
    }

    pub fn ceiling(&self) -> Option<Temporal> {
        self.ceiling
    }

    pub fn target(&self) -> Option<Layer> {
        self.target
    }

    /// What is being sent; `None` while nothing is.
    pub fn current(&self) -> Option<Layer> {
        self.encoding
            .map(|encoding| Layer { spatial: Spatial(encoding.0.max(self.spatial.0)), temporal: self.temporal })
    }

    /// Which stream is being sent.
    #[inline]
    pub fn encoding(&self) -> Option<Spatial> {
        self.encoding
    }

    /// The stream whose key frame is needed to reach the target, if one is.
    ///
    /// `is_svc`: all spatial layers come in one stream.
    pub fn waits_for_keyframe(&self, is_svc: bool) -> Option<Spatial> {
        let target = self.target.filter(|_| self.kind == MediaKind::Video)?;
        if is_svc {
            let is_stuck = self.svc.as_ref().is_some_and(|svc| svc.is_stuck);
            let reached = self.encoding.is_some() && self.spatial >= target.spatial && !is_stuck;
            return (!reached).then_some(Spatial(0));
        }
        (self.encoding != Some(target.spatial)).then_some(target.spatial)
    }

    /// True once as soon as it has turned out that a key frame is needed after all.
    #[inline]
    pub fn take_stuck(&mut self) -> bool {
        self.svc.as_mut().is_some_and(|svc| std::mem::take(&mut svc.is_newly_stuck))
    }

    /// A frame that was to be forwarded has been left out after all, as has whatever else of its stream lies above `below`.
    ///
    /// `frame_number`: the dependency descriptor's. Without one, what refers to it cannot be told: above `below` one climbs anew.
    /// Only the frames of a third temporal layer are referred to by none and go on with the next one; a second layer's may refer to
    /// one another where there are but two (libvpx's patterns).
    pub fn withdraw(&mut self, encoding: Spatial, frame_number: Option<u16>, below: Layer) {
        if self.encoding != Some(encoding) {
            return;
        }
        match (&mut self.svc, frame_number) {
            (Some(svc), Some(number)) => svc.note(number, false),
            _ => {
                self.spatial = self.spatial.min(below.spatial);
                if (self.top, below.temporal) == (Temporal(2), Temporal(1)) {
                    self.left_out = Some(self.top);
                } else {
                    self.temporal = self.temporal.min(below.temporal);
                }
            }
        }
    }

    /// Forgets the stream being sent: the next packet forwarded begins anew, at a key frame.
    pub fn restart(&mut self) {
        self.encoding = None;
        self.svc = None;
        self.spatial = Spatial(0);
        self.temporal = Temporal(0);
    }

    /// Decides one packet. `is_svc` as in [`Selector::waits_for_keyframe`].
    #[inline]
    pub fn select(&mut self, packet: Packet<'_>, is_svc: bool) -> Verdict {
        let Some(mut target) = self.target else { return Verdict::Drop(Reason::Paused) };
        if self.kind == MediaKind::Audio {
            let switched = self.encoding.replace(packet.encoding) != Some(packet.encoding);
            return Verdict::Forward { switched, marker: packet.marker };
        }
        if let Some(ceiling) = self.ceiling {
            target.temporal = target.temporal.min(ceiling);
        }
        if let Some(interim) = self.interim
            && !is_svc
            && self.encoding != Some(target.spatial)
            && packet.encoding != target.spatial
        {
            target.temporal = target.temporal.min(interim);
        }
        if let Some((descriptor, structure)) = packet.descriptor
            && (is_svc || structure.targets.len() > 1)
        {
            return self.by_descriptor(packet, descriptor, structure, target, is_svc);
        }
        let mut switched = false;
        let wanted_encoding = if is_svc { packet.encoding } else { target.spatial };
        if self.encoding != Some(packet.encoding) {
            let begins = packet.meta.begins_key_frame();
            if packet.encoding != wanted_encoding || !begins {
                let reason = if self.encoding.is_some() { Reason::OtherLayer } else { Reason::WaitingForKeyframe };
                return Verdict::Drop(reason);
            }
            self.encoding = Some(packet.encoding);
            self.spatial = Spatial(0);
            self.temporal = target.temporal;
            self.top = Temporal(0);
            switched = true;
        }
        if is_svc {
            self.climb_spatial(packet.meta, target.spatial);
            if packet.meta.spatial > self.spatial {
                return Verdict::Drop(Reason::OtherLayer);
            }
        }
        self.climb_temporal(packet.meta, target.temporal);
        self.top = self.top.max(packet.meta.temporal);
        if packet.meta.start_of_frame {
            self.left_out = None;
        }
        if packet.meta.temporal > self.temporal || self.left_out == Some(packet.meta.temporal) {
            return Verdict::Drop(Reason::AboveTemporal);
        }
        // In a key picture one climbs further, up to the target; its last packet has the publisher's marker at the latest.
        let top = if self.in_key_picture { self.spatial.max(target.spatial) } else { self.spatial };
        let ends_picture = is_svc && packet.meta.end_of_frame && packet.meta.spatial == top;
        Verdict::Forward { switched, marker: packet.marker || ends_picture }
    }

    /// SVC without a descriptor: down at a new picture, up at a layer frame that refers to no earlier picture.
    fn climb_spatial(&mut self, meta: &PacketMeta, target: Spatial) {
        if !meta.start_of_frame {
            return;
        }
        if meta.spatial.0 == 0 && target < self.spatial {
            self.spatial = target;
        }
        if meta.spatial.0 == 0 {
            self.in_key_picture = meta.keyframe;
        }
        if meta.keyframe {
            self.spatial = Spatial(0);
        }
        if meta.spatial.0 == self.spatial.0 + 1 && meta.spatial <= target && meta.spatial_sync {
            self.spatial = meta.spatial;
        }
    }

    fn climb_temporal(&mut self, meta: &PacketMeta, target: Temporal) {
        if !meta.start_of_frame || target == self.temporal {
            return;
        }
        let is_next = meta.temporal.0 == self.temporal.0 + 1;
        if target < self.temporal || meta.keyframe {
            self.temporal = target;
        } else if meta.temporal <= self.temporal {
            // It is sent whatever comes; what follows of higher layers needs nothing of them that was left out.
            if meta.switches_up {
                self.temporal = target;
            }
        } else if meta.temporal <= target && (meta.temporal_sync || meta.switches_up && is_next) {
            // libwebrtc never sets U on the base layer. Where a picture refers to lower layers alone, all of those were
            // sent if it is of the next one.
            self.temporal = meta.temporal;
        }
    }

    fn by_descriptor(
        &mut self,
        packet: Packet<'_>,
        descriptor: &Descriptor,
        structure: &Structure,
        target: Layer,
        is_svc: bool,
    ) -> Verdict {
        let wanted_encoding = if is_svc { packet.encoding } else { target.spatial };
        let spatial = if is_svc { target.spatial.0 } else { u8::MAX };
        let active = descriptor.active.unwrap_or(u32::MAX);
        let Some(best) =
            structure.target(spatial, target.temporal.0, active).or_else(|| structure.target(0, 0, u32::MAX))
        else {
            return Verdict::Drop(Reason::NotInTarget);
        };
        let begins = descriptor.start_of_frame && descriptor.structure.is_some();
        let mut switched = false;
        if self.encoding != Some(packet.encoding) || self.svc.is_none() {
            if packet.encoding != wanted_encoding || !begins {
                let reason = if self.encoding.is_some() { Reason::OtherLayer } else { Reason::WaitingForKeyframe };
                return Verdict::Drop(reason);
            }
            switched = self.encoding != Some(packet.encoding) || self.svc.is_none();
            self.encoding = Some(packet.encoding);
            self.svc = Some(Box::new(Svc {
                decode_target: best,
                fates: [None; FRAME_MEMORY],
                whole_chains: 0,
                is_stuck: false,
                is_newly_stuck: false,
            }));
        }
        let Some(svc) = &mut self.svc else { return Verdict::Drop(Reason::WaitingForKeyframe) };
        let mut is_decodable = !svc.has_fate(descriptor.frame_number, false);
        if descriptor.start_of_frame {
            svc.follow_chains(descriptor);
            is_decodable = !descriptor.references().any(|frame| svc.has_fate(frame, false));
            let is_switch = descriptor.indication(best) == Indication::Switch && is_decodable;
            if svc.decode_target != best && (begins || is_switch && svc.chain_is_whole(structure, best)) {
                svc.decode_target = best;
            }
            let was_stuck = svc.is_stuck;
            svc.is_stuck = svc.decode_target != best && !svc.chain_is_whole(structure, best);
            svc.is_newly_stuck |= svc.is_stuck && !was_stuck;
        }
        if svc.decode_target >= structure.targets.len() {
            svc.decode_target = best; // a new structure with fewer targets
        }
        let (spatial, temporal) = structure.targets[svc.decode_target];
        (self.spatial, self.temporal) = (Spatial(spatial), Temporal(temporal));
        let is_in_target = descriptor.indication(svc.decode_target) != Indication::NotPresent;
        let is_forwarded = is_in_target && is_decodable;
        svc.note(descriptor.frame_number, is_forwarded);
        if !is_forwarded {
            return Verdict::Drop(Reason::NotInTarget);
        }
        let ends_picture = descriptor.end_of_frame && descriptor.spatial == spatial;
        Verdict::Forward { switched, marker: packet.marker || ends_picture }
    }
}

impl Svc {
    /// Takes note of a new frame: a chain whose last frame was left out is broken until it starts anew (A.6). One that did not
    /// come breaks nothing yet: it may come still, and the subscriber waits for it as we do.
    fn follow_chains(&mut self, descriptor: &Descriptor) {
        for chain in 0..32 {
            let back = descriptor.chain_fdiff(chain);
            let previous = descriptor.frame_number.wrapping_sub(u16::from(back));
            if back == 0 {
                self.whole_chains |= 1 << chain;
            } else if self.has_fate(previous, false) {
                self.whole_chains &= !(1 << chain);
            }
        }
    }

    fn note(&mut self, frame: u16, is_forwarded: bool) {
        self.fates[usize::from(frame) % FRAME_MEMORY] = Some((frame, is_forwarded));
    }

    /// Whether that frame came, and was forwarded or left out.
    fn has_fate(&self, frame: u16, was_forwarded: bool) -> bool {
        self.fates[usize::from(frame) % FRAME_MEMORY] == Some((frame, was_forwarded))
    }

    /// Without chains there is nothing to break.
    fn chain_is_whole(&self, structure: &Structure, target: usize) -> bool {
        structure.protected_by.get(target).is_none_or(|&chain| self.whole_chains >> chain & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::codec::dd::tests::{l2t1_key, l2t2, l2t2_referring};

    const FORWARD: Verdict = Verdict::Forward { switched: false, marker: false };
    const SWITCHED: Verdict = Verdict::Forward { switched: true, marker: false };

    fn layer(spatial: u8, temporal: u8) -> Option<Layer> {
        Some(Layer { spatial: Spatial(spatial), temporal: Temporal(temporal) })
    }

    fn meta(spatial: u8, temporal: u8, keyframe: bool, sync: bool) -> PacketMeta {
        PacketMeta {
            spatial: Spatial(spatial),
            temporal: Temporal(temporal),
            keyframe,
            start_of_frame: true,
            end_of_frame: true,
            temporal_sync: sync,
            switches_up: false,
            spatial_sync: keyframe || sync,
            picture_id: None,
            refers_by_picture_id: false,
            tl0: None,
        }
    }

    fn on(encoding: u8, meta: &PacketMeta) -> Packet<'_> {
        Packet { encoding: Spatial(encoding), meta, marker: false, descriptor: None }
    }

    #[test]
    fn simulcast_switches_at_a_key_frame_of_the_target_only() {
        let mut selector = Selector::new(MediaKind::Video);
        let (key, delta) = (meta(0, 0, true, true), meta(0, 0, false, false));
        assert_eq!(selector.select(on(0, &key), false), Verdict::Drop(Reason::Paused));
        selector.set_target(layer(0, 2));
        assert_eq!(selector.select(on(0, &delta), false), Verdict::Drop(Reason::WaitingForKeyframe));
        assert_eq!(selector.waits_for_keyframe(false), Some(Spatial(0)));
        assert_eq!(selector.select(on(0, &key), false), SWITCHED);
        selector.set_target(layer(2, 2));
        assert_eq!(selector.waits_for_keyframe(false), Some(Spatial(2)));
        assert_eq!(selector.select(on(2, &delta), false), Verdict::Drop(Reason::OtherLayer));
        assert_eq!(selector.select(on(0, &delta), false), FORWARD, "the old layer goes on until then");
        assert_eq!(selector.select(on(1, &key), false), Verdict::Drop(Reason::OtherLayer));
        assert_eq!(selector.select(on(2, &key), false), SWITCHED);
        assert_eq!(selector.select(on(0, &key), false), Verdict::Drop(Reason::OtherLayer));
        assert_eq!(selector.waits_for_keyframe(false), None);
        assert_eq!(selector.current(), layer(2, 2));
    }

    #[test]
    fn temporal_layers_go_down_at_once_and_up_at_a_sync_point() {
        let mut selector = Selector::new(MediaKind::Video);
        selector.set_target(layer(0, 2));
        selector.select(on(0, &meta(0, 0, true, true)), false);
        selector.set_target(layer(0, 0));
        assert_eq!(selector.select(on(0, &meta(0, 2, false, false)), false), Verdict::Drop(Reason::AboveTemporal));
        assert_eq!(selector.select(on(0, &meta(0, 0, false, false)), false), FORWARD);
        selector.set_target(layer(0, 2));
        assert_eq!(selector.select(on(0, &meta(0, 1, false, false)), false), Verdict::Drop(Reason::AboveTemporal));
        assert_eq!(selector.select(on(0, &meta(0, 1, false, true)), false), FORWARD);
        assert_eq!(selector.select(on(0, &meta(0, 2, false, false)), false), Verdict::Drop(Reason::AboveTemporal));
        assert_eq!(selector.select(on(0, &meta(0, 2, false, true)), false), FORWARD);
    }

    /// Of 0 2 1 2 the last refers to the third, each other one to the first.
    #[test]
    fn vp9_climbs_where_nothing_is_referred_to_that_was_left_out() {
        for is_libwebrtc in [false, true] {
            let mut selector = Selector::new(MediaKind::Video);
            let mut send = |target: u8, temporal: u8| {
                selector.set_target(layer(0, target));
                let key = selector.current().is_none();
                let switches_up = temporal > 0 || !is_libwebrtc;
                let meta = PacketMeta { switches_up, ..meta(0, temporal, key, false) };
                matches!(selector.select(on(0, &meta), false), Verdict::Forward { .. })
            };
            assert_eq!([0, 2, 1].map(|temporal| send(0, temporal)), [true, false, false]);
            let sent = [2, 0, 2, 1, 2, 0, 2].map(|temporal| send(2, temporal));
            assert_eq!(sent, [false, true, !is_libwebrtc, true, true, true, true], "libwebrtc: {is_libwebrtc}");
        }
    }

    #[test]
    fn a_ceiling_and_an_interim_hold_the_stream_down_until_they_are_over() {
        let mut selector = Selector::new(MediaKind::Video);
        let key = meta(0, 0, true, true);
        selector.set_target(layer(2, 2));
        assert_eq!(selector.select(on(2, &key), false), SWITCHED);
        selector.set_ceiling(Some(Temporal(0)));
        assert_eq!(selector.select(on(2, &meta(0, 1, false, true)), false), Verdict::Drop(Reason::AboveTemporal));
        selector.set_ceiling(None);
        assert_eq!(selector.select(on(2, &meta(0, 2, false, false)), false), Verdict::Drop(Reason::AboveTemporal));
        assert_eq!(selector.select(on(2, &meta(0, 1, false, true)), false), FORWARD);
        selector.set_target(layer(0, 2));
        selector.set_interim(Temporal(0));
        assert_eq!(selector.select(on(2, &meta(0, 1, false, true)), false), Verdict::Drop(Reason::AboveTemporal));
        assert_eq!(selector.select(on(2, &meta(0, 0, false, false)), false), FORWARD);
        assert_eq!(selector.select(on(0, &key), false), SWITCHED);
        assert_eq!(selector.select(on(0, &meta(0, 2, false, false)), false), FORWARD, "it held the old stream only");
    }

    #[test]
    fn svc_by_descriptor_of_the_payload() {
        let mut selector = Selector::new(MediaKind::Video);
        selector.set_target(layer(1, 2));
        assert_eq!(selector.select(on(0, &meta(0, 0, true, true)), true), SWITCHED, "the picture goes on");
        // the upper layer of the key picture refers to the lower only
        assert_eq!(
            selector.select(on(0, &meta(1, 0, false, true)), true),
            Verdict::Forward { switched: false, marker: true }
        );
        assert_eq!(selector.select(on(0, &meta(2, 0, false, true)), true), Verdict::Drop(Reason::OtherLayer));
        selector.set_target(layer(0, 2));
        assert_eq!(
            selector.select(on(0, &meta(1, 0, false, false)), true),
            Verdict::Forward { switched: false, marker: true }
        );
        assert_eq!(
            selector.select(on(0, &meta(0, 0, false, false)), true),
            Verdict::Forward { switched: false, marker: true }
        );
        assert_eq!(selector.select(on(0, &meta(1, 0, false, false)), true), Verdict::Drop(Reason::OtherLayer));
        selector.set_target(layer(1, 2));
        assert_eq!(selector.waits_for_keyframe(true), Some(Spatial(0)));
        assert_eq!(selector.select(on(0, &meta(1, 0, false, false)), true), Verdict::Drop(Reason::OtherLayer));
    }

    #[test]
    fn svc_by_dependency_descriptor_follows_decode_targets_and_chains() {
        let mut selector = Selector::new(MediaKind::Video);
        selector.set_target(layer(1, 1));
        let structure = Descriptor::parse(&l2t2(true, true, 0, 100, true), None).unwrap().structure.unwrap();
        let picture = PacketMeta::sound();
        let send = |selector: &mut Selector, template: u32, number: u16, key: bool| {
            let descriptor = Descriptor::parse(&l2t2(true, true, template, number, key), Some(&structure)).unwrap();
            let packet = Packet {
                encoding: Spatial(0),
                meta: &picture,
                marker: false,
                descriptor: Some((&descriptor, &structure)),
            };
            selector.select(packet, true)
        };
        assert_eq!(send(&mut selector, 0, 99, false), Verdict::Drop(Reason::WaitingForKeyframe));
        assert_eq!(send(&mut selector, 0, 100, true), SWITCHED);
        assert_eq!(send(&mut selector, 2, 101, false), Verdict::Forward { switched: false, marker: true });
        assert_eq!(send(&mut selector, 1, 102, false), FORWARD);
        assert_eq!(send(&mut selector, 3, 103, false), Verdict::Forward { switched: false, marker: true });
        // down: S0T0 is a switch point of the lower target and its chain is whole
        selector.set_target(layer(0, 0));
        assert_eq!(send(&mut selector, 0, 104, false), Verdict::Forward { switched: false, marker: true });
        assert_eq!(send(&mut selector, 2, 105, false), Verdict::Drop(Reason::NotInTarget));
        assert_eq!(selector.current(), layer(0, 0));
        // up: the upper chain was broken by what was left out, so a key frame must come
        selector.set_target(layer(1, 0));
        assert_eq!(send(&mut selector, 0, 108, false), Verdict::Forward { switched: false, marker: true });
        assert_eq!(send(&mut selector, 2, 109, false), Verdict::Drop(Reason::NotInTarget));
        assert_eq!(selector.waits_for_keyframe(true), Some(Spatial(0)));
        assert_eq!(send(&mut selector, 0, 112, true), FORWARD);
        assert_eq!(send(&mut selector, 2, 113, false), Verdict::Forward { switched: false, marker: true });
    }

    #[test]
    fn a_loss_that_was_repaired_bars_no_change_of_layers() {
        let mut selector = Selector::new(MediaKind::Video);
        selector.set_target(layer(1, 1));
        let structure = Descriptor::parse(&l2t2(true, true, 0, 100, true), None).unwrap().structure.unwrap();
        let picture = PacketMeta::sound();
        let send = |selector: &mut Selector, template: u32, number: u16| {
            let bytes = l2t2(true, true, template, number, number == 100);
            let descriptor = Descriptor::parse(&bytes, Some(&structure)).unwrap();
            let descriptor = Some((&descriptor, &structure));
            let packet = Packet { encoding: Spatial(0), meta: &picture, marker: false, descriptor };
            matches!(selector.select(packet, true), Verdict::Forward { .. })
        };
        for (template, number) in [(0, 100), (2, 101), (1, 102), (3, 103)] {
            assert!(send(&mut selector, template, number));
        }
        // 104, of the base, is lost and comes again behind what stands upon it.
        for (template, number) in [(2, 105), (1, 106), (0, 104), (3, 107)] {
            assert!(send(&mut selector, template, number), "{number}");
        }
        selector.set_target(layer(0, 0));
        assert_eq!([send(&mut selector, 0, 108), send(&mut selector, 2, 109)], [true, false]);
        assert_eq!((selector.current(), selector.take_stuck()), (layer(0, 0), false));
    }

    /// L2T1_KEY: between key frames each spatial layer refers to itself alone, and of the lower one nothing is forwarded.
    #[test]
    fn down_needs_a_key_frame_where_the_lower_layer_was_left_out() {
        let mut selector = Selector::new(MediaKind::Video);
        selector.set_target(layer(1, 0));
        let structure = l2t1_key(0, 100, true).structure.unwrap();
        let picture = PacketMeta::sound();
        let send = |selector: &mut Selector, spatial: u8, number: u16, key: bool| {
            let descriptor = l2t1_key(spatial, number, key);
            let descriptor = Some((&descriptor, &structure));
            let packet = Packet { encoding: Spatial(0), meta: &picture, marker: false, descriptor };
            matches!(selector.select(packet, true), Verdict::Forward { .. })
        };
        assert_eq!([send(&mut selector, 0, 100, true), send(&mut selector, 1, 101, true)], [true, true]);
        for number in [102, 104] {
            assert_eq!(
                [send(&mut selector, 0, number, false), send(&mut selector, 1, number + 1, false)],
                [false, true]
            );
        }
        assert_eq!(selector.waits_for_keyframe(true), None);

        selector.set_target(layer(0, 0));
        assert_eq!([send(&mut selector, 0, 106, false), send(&mut selector, 1, 107, false)], [false, true]);
        assert_eq!(selector.waits_for_keyframe(true), Some(Spatial(0)), "or it would never go down");
        assert_eq!([selector.take_stuck(), selector.take_stuck()], [true, false]);
        assert_eq!([send(&mut selector, 0, 108, true), send(&mut selector, 1, 109, true)], [true, false]);
        assert_eq!((selector.waits_for_keyframe(true), selector.current()), (None, layer(0, 0)));
        // Who takes the wish back waits for nothing.
        selector.set_target(layer(1, 0));
        send(&mut selector, 0, 110, false);
        assert_eq!(selector.waits_for_keyframe(true), Some(Spatial(0)));
        selector.set_target(layer(0, 0));
        assert_eq!(selector.waits_for_keyframe(true), None);
    }

    #[test]
    fn what_was_dropped_while_it_waited_is_climbed_to_anew() {
        let mut selector = Selector::new(MediaKind::Video);
        let above = |temporal| Layer { spatial: Spatial(u8::MAX), temporal: Temporal(temporal) };
        selector.set_target(layer(0, 2));
        assert_eq!(selector.select(on(0, &meta(0, 0, true, true)), false), SWITCHED);
        selector.withdraw(Spatial(0), None, above(0));
        let rest = PacketMeta { start_of_frame: false, ..meta(0, 1, false, true) };
        assert_eq!(selector.select(on(0, &rest), false), Verdict::Drop(Reason::AboveTemporal), "of the same frame");
        assert_eq!(selector.select(on(0, &meta(0, 2, false, false)), false), Verdict::Drop(Reason::AboveTemporal));
        assert_eq!(selector.select(on(0, &meta(0, 0, false, false)), false), FORWARD);
        assert_eq!(selector.select(on(0, &meta(0, 2, false, true)), false), FORWARD, "a sync point");
        selector.withdraw(Spatial(0), None, above(1));
        let rest = PacketMeta { start_of_frame: false, ..meta(0, 2, false, true) };
        assert_eq!(selector.select(on(0, &rest), false), Verdict::Drop(Reason::AboveTemporal), "of the same frame");
        assert_eq!(selector.select(on(0, &meta(0, 2, false, false)), false), FORWARD, "which nothing refers to");
        selector.withdraw(Spatial(1), None, above(0));
        assert_eq!(selector.select(on(0, &meta(0, 2, false, false)), false), FORWARD, "that was another stream");
    }

    /// What may happen behind a frame of the property below.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        None,
        Lost,
        /// The pacer drops what it holds above the base, in time or in size.
        Thinned,
        Lowered,
        Aimed(u8, u8),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            6 => Just(Event::None),
            1 => Just(Event::Lost),
            2 => Just(Event::Thinned),
            1 => Just(Event::Lowered),
            2 => (0u8..2, 0u8..2).prop_map(|(spatial, temporal)| Event::Aimed(spatial, temporal)),
        ]
    }

    proptest! {
        /// Whatever is lost, wished or dropped while it waits: nothing is forwarded that refers to a frame that came and was not.
        #[test]
        fn nothing_refers_to_what_was_left_out(
            first in 65_000u16..=u16::MAX,
            pictures in proptest::collection::vec((prop::bool::weighted(0.08), event(), event()), 1..120),
        ) {
            let mut selector = Selector::new(MediaKind::Video);
            selector.set_target(layer(1, 1));
            let structure = Descriptor::parse(&l2t2_referring(0, 0, true), None).unwrap().structure.unwrap();
            let (mut came, mut forwarded) = (BTreeSet::new(), BTreeSet::new());
            // What the pacer may still hold: frames forwarded since the last one of the base.
            let mut held: Vec<(u16, u8, u8)> = Vec::new();
            for (index, (is_key, lower, upper)) in pictures.into_iter().enumerate() {
                let (temporal, number) = ((index % 2) as u8, first.wrapping_add(2 * index as u16));
                let is_key = temporal == 0 && (is_key || index == 0);
                for (spatial, event) in [(0, lower), (1, upper)] {
                    let number = number.wrapping_add(u16::from(spatial));
                    let template = u32::from(2 * spatial + temporal);
                    let descriptor =
                        Descriptor::parse(&l2t2_referring(template, number, is_key && spatial == 0), Some(&structure))
                            .unwrap();
                    let picture = PacketMeta::sound();
                    let packet = Packet {
                        encoding: Spatial(0),
                        meta: &picture,
                        marker: false,
                        descriptor: Some((&descriptor, &structure)),
                    };
                    if matches!(event, Event::Lost) {
                        continue;
                    }
                    came.insert(number);
                    if let Verdict::Forward { .. } = selector.select(packet, true) {
                        for frame in descriptor.references() {
                            let is_owed = came.contains(&frame) && !forwarded.contains(&frame);
                            prop_assert!(!is_owed, "{number} refers to {frame}");
                        }
                        if is_key && spatial == 0 {
                            came.clear(); // nothing refers beyond a key picture
                        }
                        forwarded.insert(number);
                        held.retain(|_| (spatial, temporal) != (0, 0));
                        held.push((number, spatial, temporal));
                    }
                    let below = match event {
                        Event::Thinned => Layer { spatial: Spatial(u8::MAX), temporal: Temporal(0) },
                        Event::Lowered => Layer { spatial: Spatial(0), temporal: Temporal(u8::MAX) },
                        Event::Aimed(spatial, temporal) => {
                            selector.set_target(layer(spatial, temporal));
                            continue;
                        }
                        Event::None | Event::Lost => continue,
                    };
                    if matches!(event, Event::Lowered) {
                        selector.set_target(layer(0, 1));
                    }
                    held.retain(|&(number, spatial, temporal)| {
                        let stays = spatial <= below.spatial.0 && temporal <= below.temporal.0;
                        if !stays {
                            selector.withdraw(Spatial(0), Some(number), below);
                            forwarded.remove(&number);
                        }
                        stays
                    });
                }
            }
        }
    }

    #[test]
    fn sound_is_forwarded_from_its_first_packet() {
        let mut selector = Selector::new(MediaKind::Audio);
        let sound = PacketMeta::sound();
        selector.set_target(layer(0, 0));
        assert_eq!(selector.select(on(0, &sound), false), SWITCHED);
        assert_eq!(selector.select(on(0, &sound), false), FORWARD);
        selector.set_target(None);
        assert_eq!(selector.select(on(0, &sound), false), Verdict::Drop(Reason::Paused));
        selector.set_target(layer(0, 0));
        assert_eq!(selector.select(on(0, &sound), false), SWITCHED);
    }
}
