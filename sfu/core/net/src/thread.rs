//! The packet thread: the pump on a native thread of its own, beside the event loop that owns the process.

use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::machine::Machine;
use crate::priority::prefer_low_latency;
use crate::pump::Pump;
use crate::shared::Shared;

/// Ends its thread when dropped.
pub struct PacketThread<C> {
    shared: Arc<Shared<C>>,
    local: SocketAddr,
    failure: Arc<Mutex<Option<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl<C: Clone + Default + Send + 'static> PacketThread<C> {
    pub fn start<M>(mut pump: Pump<M>, shared: Arc<Shared<C>>) -> io::Result<Self>
    where
        M: Machine<Counters = C> + 'static,
    {
        let local = pump.local_address();
        keep_one_heap();
        let failure = Arc::new(Mutex::new(None));
        let thread = std::thread::Builder::new().name("packets".into()).spawn({
            let (shared, failure) = (Arc::clone(&shared), Arc::clone(&failure));
            move || {
                prefer_low_latency();
                // The engine isolates a transport's panic itself. What comes through here is a bug in the pump: the
                // process must hear of it, and end.
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| pump.run())) {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(sentence(panic.as_ref()));
                }
                shared.event_wake().kick();
            }
        })?;
        Ok(Self { shared, local, failure, thread: Some(thread) })
    }

    pub fn shared(&self) -> &Arc<Shared<C>> {
        &self.shared
    }

    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Why the thread ended by itself; `None` while it runs or after [`Self::stop`].
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the thread and waits for it.
    pub fn stop(&mut self) {
        self.end();
    }
}

impl<C> PacketThread<C> {
    fn end(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            // Its panics are caught inside; there is nothing left to learn from the result.
            _ = thread.join();
        }
    }
}

impl<C> Drop for PacketThread<C> {
    fn drop(&mut self) {
        self.end();
    }
}

/// glibc gives a second thread a heap that grows by single pages, a system call and a page fault each: joins and the
/// filling of histories then cost thousands of them. The main heap grows by what is set here.
fn keep_one_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: plain settings of the allocator, which may be changed at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TOP_PAD, 1 << 20);
    }
}

fn sentence(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "the packet thread panicked".to_owned())
}
