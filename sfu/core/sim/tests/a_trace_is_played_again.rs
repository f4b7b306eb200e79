//! What was recorded of one subscriber, given to the same code again, is decided in the same way.

use callyard_proto::config::Config;
use callyard_proto::trace::{End, Line};
use callyard_sim::call::Call;
use callyard_sim::link::LinkSpec;
use callyard_sim::profile::Rate;
use callyard_sim::replay::{Played, play, report};
use callyard_sim::scenario::{self, Publisher, Scenario, Subscriber, Targets, Video};

fn recorded(scenario: &Scenario, seed: u64, config: Config, from_s: f64) -> String {
    let mut call = Call::recorded(scenario, seed, config, 0, from_s);
    call.run();
    String::from_utf8(std::mem::take(&mut call.trace)).expect("JSON is text")
}

fn short(link: LinkSpec, muted: Vec<(f64, f64)>) -> Scenario {
    let publisher = |video: &[Video], muted| Publisher { video: video.to_vec(), audio: true, muted, count: None };
    Scenario {
        name: "short".to_owned(),
        title: "short".to_owned(),
        seconds: 20.0,
        publishers: vec![publisher(&[Video::Camera, Video::Screen], Vec::new()), publisher(&[Video::CameraSvc], muted)],
        subscribers: vec![Subscriber { link, tiles: vec![(1280, 720)], count: None }],
        targets: Targets::default(),
    }
}

fn narrow() -> Scenario {
    let steps = Rate::Steps { steps: vec![(0.0, 3_000.0), (6.0, 300.0), (12.0, 2_000.0)] };
    short(LinkSpec { rate: Some(steps), loss: 0.01, ..LinkSpec::default() }, vec![(8.0, 10.0)])
}

fn has(played: &Played, is_it: impl Fn(&Line) -> bool) -> bool {
    played.before.iter().any(is_it)
}

/// The same decisions and the same state to begin with.
fn assert_same(name: &str, text: &str) -> Played {
    let played = play(text, &[]).expect("what was written can be read");
    assert_eq!(played.difference(), None, "{name}");
    let state = |lines: &[Line]| lines.iter().find(|line| matches!(line, Line::State { .. })).cloned();
    assert_eq!(state(&played.before), state(&played.after), "{name}");
    assert!(played.before.windows(2).all(|pair| pair[0].at_ns() <= pair[1].at_ns()), "{name}: time does not go back");
    assert!(has(&played, |line| matches!(line, Line::Outcome { .. })), "{name}");
    played
}

#[test]
fn every_scenario_is_decided_again_as_it_was() {
    for mut scenario in scenario::builtin() {
        // Long enough for its first climbs; some last for minutes, and `record` and `replay` do those.
        scenario.seconds = scenario.seconds.min(8.0);
        let text = recorded(&scenario, 3, Config::default(), 0.0);
        assert_same(&scenario.name, &text);
    }
}

#[test]
fn a_link_that_narrows_is_decided_again_with_all_that_follows() {
    for seed in 1..=2 {
        let played = assert_same("narrow", &recorded(&narrow(), seed, Config::default(), 0.0));
        assert!(has(&played, |line| matches!(line, Line::Probe { .. })));
        assert!(has(&played, |line| matches!(line, Line::Keyframe { .. })));
        let is_paused = |line: &Line| match line {
            Line::Outcome { outcome, .. } => outcome.choices.iter().any(|choice| choice.layer.is_none()),
            _ => false,
        };
        assert!(has(&played, is_paused), "something had to give way");
        assert!(matches!(played.before.last(), Some(Line::End { reason: End::Stopped, .. })));
    }
}

#[test]
fn a_trace_may_begin_at_any_moment() {
    // Before, in and after the fall; while probes are under way, while a queue stands, while something is paused.
    for from_s in [0.1, 0.35, 1.0, 2.5, 5.95, 6.1, 6.3, 6.6, 7.2, 9.0, 12.05, 12.4, 13.0, 16.0] {
        let scenario = Scenario { seconds: from_s + 3.0, ..narrow() };
        assert_same(&format!("from {from_s} s on"), &recorded(&scenario, 2, Config::default(), from_s));
    }
}

#[test]
fn other_settings_decide_otherwise_and_the_first_difference_is_told() {
    let text = recorded(&narrow(), 1, Config::default(), 0.0);
    let changed = play(&text, &["estimate_max_bps=400000".to_owned()]).expect("it can be played");
    let (then, now) = changed.difference().expect("less may be sent");
    assert_ne!(then, now);
    let told = report(&changed);
    assert!(told.contains("the first that differs under the changed settings"), "{told}");
    for line in &changed.after {
        if let Line::Estimate { judgement, .. } = line {
            assert!(judgement.estimate_bps <= Some(400_000));
        }
    }
    let refused = play(&text, &["estimate_most_bps=1".to_owned()]).expect_err("there is no such setting");
    assert!(refused.contains("estimate_max_bps"), "{refused}");
    assert!(play(&text, &["estimate_max_bps=many".to_owned()]).is_err());
}

#[test]
fn a_trace_ends_at_its_bounds() {
    let config = Config { trace_max_bytes: 100_000, ..Config::default() };
    let text = recorded(&narrow(), 1, config, 0.0);
    // What left last is written before the end is seen.
    assert!((100_000..200_000).contains(&text.len()), "{}", text.len());
    let played = assert_same("cut", &text);
    assert!(matches!(played.before.last(), Some(Line::End { reason: End::Size, .. })));

    let config = Config { trace_max_time: std::time::Duration::from_secs(3), ..Config::default() };
    let text = recorded(&narrow(), 1, config, 0.0);
    let played = assert_same("short", &text);
    let last = played.before.last().expect("it has lines");
    assert!(matches!(last, Line::End { reason: End::Time, .. }));
    assert!((3.0..3.3).contains(&(last.at_ns() as f64 / 1e9)), "{last:?}");
}

#[test]
fn what_is_no_trace_is_refused_with_a_sentence() {
    assert!(play("", &[]).expect_err("nothing").contains("no state"));
    assert!(play("{\"line\":\"tick\"}", &[]).expect_err("no time").contains("line 1"));
    let header = "{\"line\":\"header\",\"version\":99,\"core\":\"9\",\"settings\":{}}";
    assert!(play(header, &[]).is_err());
}
