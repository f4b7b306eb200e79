//! A worker that is awake anyway does what would soon wake it, and does it no more often than by itself.

use std::time::Duration;

use callyard_peer::World;
use callyard_peer::media::{Source, subscribe};
use callyard_peer::netem::LinkConfig;
use callyard_proto::command::{DtlsRole, Want};

const FRAME: Duration = Duration::from_millis(33);

fn call() -> (World, Source) {
    let link = LinkConfig { delay: Duration::from_millis(5), ..LinkConfig::default() };
    let mut world = World::new(7);
    for _ in 0..2 {
        world.add_client(DtlsRole::Server, link.clone());
    }
    world.connect();
    let camera = Source::video(0, 1, 1_000);
    camera.publish(&mut world);
    subscribe(&mut world, 1, &camera, 1, 5_000, Want::default());
    (world, camera)
}

/// (reports to the publisher in ten seconds, before how many of the 300 next frames the engine wanted to be woken).
fn ten_seconds(goes_along: bool) -> (u64, u32) {
    let (mut world, mut camera) = call();
    let told = |world: &World| world.engine.counters().feedback_out.receiver_report;
    let (mut before, mut alone) = (0, 0);
    for frame in 0..400 {
        if frame == 100 {
            (before, alone) = (told(&world), 0);
        }
        camera.send(&mut world);
        if goes_along {
            world.engine.while_awake(world.now);
            world.flush();
        }
        let next = world.now + FRAME;
        alone += u32::from(world.engine.deadline().is_some_and(|at| at < next));
        world.run(FRAME);
    }
    (told(&world) - before, alone)
}

#[test]
fn the_tick_comes_with_a_frame_and_as_often_as_by_itself() {
    let (reports, alone) = ten_seconds(false);
    assert_eq!(reports, 10);
    assert!(alone >= 95, "each tick wakes: {alone}");
    let (reports, alone) = ten_seconds(true);
    assert_eq!(reports, 10);
    assert!(alone <= 5, "hardly any wakes: {alone}");
}

#[test]
fn reports_are_waited_for_while_somebody_is_new() {
    let (mut world, _) = call();
    assert!(world.engine.hurries_reports(world.now));
    world.run(Duration::from_secs(3));
    assert!(!world.engine.hurries_reports(world.now));
}
