//! A call as data: who publishes what, who watches it over which link, what is expected. `scenarios/*.json` holds them.

use serde::{Deserialize, Serialize};

use crate::link::LinkSpec;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    /// For people: a row of the table.
    pub title: String,
    /// After the subscribers' join.
    pub seconds: f64,
    pub publishers: Vec<Publisher>,
    pub subscribers: Vec<Subscriber>,
    #[serde(default)]
    pub targets: Targets,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publisher {
    #[serde(default)]
    pub video: Vec<Video>,
    #[serde(default)]
    pub audio: bool,
    /// Times at which it stops and goes on, seconds: it is muted in between.
    #[serde(default)]
    pub muted: Vec<(f64, f64)>,
    #[serde(default)]
    pub count: Option<usize>,
}

/// What an encoder makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Video {
    /// VP8 simulcast, 720p30, 360p30 and 180p30 of 1.8, 0.53 and 0.165 Mbit/s, three temporal layers each.
    Camera,
    /// The camera's layers in one VP9 stream (`L3T3_KEY`): each rate includes those below.
    CameraSvc,
    /// The camera's layers as AV1 simulcast, one dependency descriptor a stream.
    CameraAv1,
    /// The camera's layers in one AV1 stream (`L3T3`, an upper layer refers to the one below in every picture).
    CameraAv1Svc,
    /// VP8, 1080p5, 0.8 Mbit/s, one layer.
    Screen,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscriber {
    #[serde(default)]
    pub link: LinkSpec,
    /// Tiles of the video tracks in order of publication, pixels; where there are fewer, the last one counts.
    #[serde(default)]
    pub tiles: Vec<(u32, u32)>,
    #[serde(default)]
    pub count: Option<usize>,
}

/// What the result is held against; a figure without target is shown only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Targets {
    pub utility: Option<f64>,
    pub frozen_ms_per_min: Option<f64>,
    pub longest_freeze_ms: Option<f64>,
    pub queue_p95_ms: Option<f64>,
    pub worst_offered: Option<f64>,
    pub concealed_percent: Option<f64>,
    pub down_s: Option<f64>,
    pub up_s: Option<f64>,
    pub reversals_per_min: Option<f64>,
    pub first_frame_ms: Option<f64>,
    pub target_layer_s: Option<f64>,
    pub inversion_s: Option<f64>,
    pub keyframes_per_min: Option<f64>,
    pub wasted_percent: Option<f64>,
}

/// The scenarios that come with the simulator.
pub fn builtin() -> Vec<Scenario> {
    serde_json::from_str(include_str!("../scenarios/quality.json")).expect("the scenarios are well-formed")
}

impl Scenario {
    /// Publishers and subscribers with their counts written out.
    pub fn expanded(&self) -> (Vec<Publisher>, Vec<Subscriber>) {
        let publishers = self.publishers.iter().flat_map(|p| std::iter::repeat_n(p.clone(), p.count.unwrap_or(1)));
        let subscribers = self.subscribers.iter().flat_map(|s| std::iter::repeat_n(s.clone(), s.count.unwrap_or(1)));
        (publishers.collect(), subscribers.collect())
    }
}

impl Subscriber {
    /// Tile of the `index`th video track; `None`: not said.
    pub fn tile(&self, index: usize) -> Option<(u32, u32)> {
        self.tiles.get(index).or(self.tiles.last()).copied()
    }
}
