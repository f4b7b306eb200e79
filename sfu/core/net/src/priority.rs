//! Lets the packet thread run soon after it wakes, without a privilege.
//!
//! Since Linux 6.12 a thread of the fair class may ask for a short time slice: it gets no more CPU, but earlier. That
//! is what a thread wants that works for microseconds beside an event loop that works for milliseconds.

use std::time::Duration;

/// The shortest the kernel grants.
const SLICE: Duration = Duration::from_micros(100);
/// Timers of the fair class may be late by 50 µs unless a thread says otherwise; a tick is not much longer.
const TIMER_SLACK: Duration = Duration::from_micros(5);

/// `struct sched_attr`, first version (sched(7), sched_setattr(2)).
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// For the calling thread. Best effort: an older kernel ignores the slice, and nothing depends on it but latency.
pub fn prefer_low_latency() {
    let attributes = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: libc::SCHED_OTHER as u32,
        // SAFETY: asks for the calling thread's own nice value.
        nice: unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) },
        runtime: SLICE.as_nanos() as u64,
        ..SchedAttr::default()
    };
    // SAFETY: a live struct whose size it states; 0 is the calling thread.
    unsafe {
        libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0);
        libc::prctl(libc::PR_SET_TIMERSLACK, TIMER_SLACK.as_nanos() as libc::c_ulong);
    }
}
