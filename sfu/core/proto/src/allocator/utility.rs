//! What a layer is worth to the person who looks at it. Pure arithmetic; units are arbitrary but comparable over tracks.

use crate::command::Content;

/// A picture of 160 × 90: below it a face is not recognised, so it is the zero of the scale (`allocation.md`).
pub const BASE_PIXELS: f64 = 14_400.0;
/// Being seen at all, in the same unit as a doubling of the pixels: everybody is shown before anybody is shown larger.
const PRESENCE: f64 = 2.0;
/// Pixels beyond what the tile shows are worth this share of a seen doubling: sharpness after down-scaling, no more.
const BEYOND_TILE: f64 = 0.1;

/// What the subscriber and the room say about a track.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    pub content: Content,
    /// Pixels of the tile it is shown in; 0: not said.
    pub tile_pixels: u32,
    /// The speaker's picture is worth more than a listener's.
    pub speaking: bool,
}

/// Worth of `pixels` at `fps` out of the track's `full_fps`, for this view. Never negative.
pub fn of(view: View, pixels: u32, fps: f32, full_fps: f32) -> f64 {
    let size = seen_doublings(f64::from(pixels.max(1)), f64::from(view.tile_pixels));
    let share = f64::from((fps / full_fps.max(1.0)).clamp(0.0, 1.0));
    let motion = match view.content {
        // A face needs motion: half the frames are worth half the picture.
        Content::Camera => share,
        // Text needs sharpness: a slide at 5 of 30 frames is still nearly all of it.
        Content::Screen => 0.75 + 0.25 * share,
    };
    let weight = if view.speaking { 2.0 } else { 1.0 };
    weight * (PRESENCE + size) * motion
}

fn seen_doublings(pixels: f64, tile_pixels: f64) -> f64 {
    let doublings = |pixels: f64| (pixels / BASE_PIXELS).log2().max(0.0);
    if tile_pixels <= 0.0 || pixels <= tile_pixels {
        return doublings(pixels);
    }
    let seen = doublings(tile_pixels);
    seen + BEYOND_TILE * (doublings(pixels) - seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAMERA: View = View { content: Content::Camera, tile_pixels: 0, speaking: false };

    #[test]
    fn smooth_and_small_beats_large_and_jerky_for_a_face() {
        assert!(of(CAMERA, 640 * 360, 30.0, 30.0) > of(CAMERA, 1280 * 720, 7.5, 30.0));
    }

    #[test]
    fn sharp_and_slow_beats_smooth_and_small_for_a_slide() {
        let screen = View { content: Content::Screen, ..CAMERA };
        assert!(of(screen, 1920 * 1080, 5.0, 30.0) > of(screen, 640 * 360, 30.0, 30.0));
    }

    #[test]
    fn pixels_that_the_tile_cannot_show_are_worth_little() {
        let thumbnail = View { tile_pixels: 320 * 180, ..CAMERA };
        let gain = of(thumbnail, 1280 * 720, 30.0, 30.0) - of(thumbnail, 320 * 180, 30.0, 30.0);
        assert!(gain > 0.0 && gain < 0.5, "{gain}");
    }

    #[test]
    fn worth_is_finite_and_not_negative_for_any_input() {
        for pixels in [0, 1, 14_399, 14_400, u32::MAX] {
            for fps in [0.0, 0.1, 1000.0] {
                for full in [0.0, 30.0] {
                    let worth = of(CAMERA, pixels, fps, full);
                    assert!(worth.is_finite() && worth >= 0.0, "{pixels} {fps} {full}: {worth}");
                }
            }
        }
    }
}
