//! What the packet thread and its owner share: two bounded queues, their wakes, and the last counters.
//!
//! The packet thread never waits here: the queues are lock-free, and the lock on the counters is held for a copy, at
//! scrape time only.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use callyard_proto::command::Command;
use callyard_proto::event::Event;
use crossbeam_queue::ArrayQueue;

use crate::counters::NetCounters;
use crate::wake::Wake;

#[derive(Debug)]
pub struct Shared<C> {
    commands: ArrayQueue<Command>,
    command_wake: Wake,
    events: ArrayQueue<Event>,
    event_wake: Wake,
    lost_events: AtomicBool,
    stop: AtomicBool,
    counters_wanted: AtomicBool,
    published: Mutex<Published<C>>,
    freshly_published: Condvar,
}

#[derive(Debug, Default)]
struct Published<C> {
    generation: u64,
    net: NetCounters,
    machine: C,
}

impl<C> Shared<C> {
    /// Lets the packet thread see what was queued.
    pub fn kick(&self) {
        self.command_wake.kick();
    }

    /// Asks the packet thread to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.kick();
    }
}

impl<C: Clone + Default> Shared<C> {
    pub fn new(queue_capacity: usize) -> io::Result<Self> {
        let capacity = queue_capacity.max(1);
        Ok(Self {
            commands: ArrayQueue::new(capacity),
            command_wake: Wake::new()?,
            events: ArrayQueue::new(capacity),
            event_wake: Wake::new()?,
            lost_events: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            counters_wanted: AtomicBool::new(false),
            published: Mutex::new(Published::default()),
            freshly_published: Condvar::new(),
        })
    }

    /// Room for commands; only the packet thread takes them, so it does not shrink for a single caller.
    pub fn command_capacity_left(&self) -> usize {
        self.commands.capacity() - self.commands.len()
    }

    /// Queues a command; false if the queue is full. [`Self::kick`] after the last one.
    pub fn push_command(&self, command: Command) -> bool {
        self.commands.push(command).is_ok()
    }

    pub fn pop_event(&self) -> Option<Event> {
        self.events.pop()
    }

    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Whether events were lost since the last call. Unlike the counters it wakes nobody.
    pub fn take_lost_events(&self) -> bool {
        self.lost_events.swap(false, Ordering::AcqRel)
    }

    /// Readable when events are waiting, or the packet thread has ended.
    pub fn event_wake(&self) -> &Wake {
        &self.event_wake
    }

    /// Current counters; the last known ones if the packet thread does not answer in time.
    pub fn counters(&self, patience: Duration) -> (NetCounters, C) {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let before = published.generation;
        self.counters_wanted.store(true, Ordering::Release);
        self.kick();
        let (published, _) = self
            .freshly_published
            .wait_timeout_while(published, patience, |published| published.generation == before)
            .unwrap_or_else(PoisonError::into_inner);
        (published.net, published.machine.clone())
    }

    pub(crate) fn command_wake(&self) -> &Wake {
        &self.command_wake
    }

    pub(crate) fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }

    pub(crate) fn next_command(&self) -> Option<Command> {
        self.commands.pop()
    }

    /// False if Python has let the queue fill up; the event is lost.
    pub(crate) fn push_event(&self, event: Event) -> bool {
        let is_taken = self.events.push(event).is_ok();
        if !is_taken {
            self.lost_events.store(true, Ordering::Release);
        }
        is_taken
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(crate) fn take_counters_request(&self) -> bool {
        self.counters_wanted.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn publish(&self, net: NetCounters, machine: C) {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = published.generation.wrapping_add(1);
        *published = Published { generation, net, machine };
        self.freshly_published.notify_all();
    }
}
