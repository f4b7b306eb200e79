//! Waking one thread from another: an eventfd with at most one kick on its way.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// A kick is a system call and wakes a CPU, so kicks that the sleeper has not yet seen are merged into one.
#[derive(Debug)]
pub struct Wake {
    fd: OwnedFd,
    pending: AtomicBool,
}

impl Wake {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, pending: AtomicBool::new(false) })
    }

    /// Makes the descriptor readable. Call after the work has been queued.
    pub fn kick(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            let one = 1_u64;
            // SAFETY: eight live bytes. The counter cannot overflow: at most one kick is pending.
            unsafe { libc::write(self.fd.as_raw_fd(), (&raw const one).cast(), 8) };
        }
    }

    /// Clears the kick. Call before looking for work: what is queued later kicks again.
    ///
    /// Reads first and resets second: the other way round could swallow a kick and leave `pending` set for ever. A
    /// kick whose write comes after our read wakes once for nothing.
    pub fn clear(&self) {
        let mut count = 0_u64;
        // SAFETY: eight live bytes; an empty counter only gives EAGAIN.
        unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut count).cast(), 8) };
        self.pending.store(false, Ordering::Release);
    }

    pub(crate) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }
}

impl AsRawFd for Wake {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readable(wake: &Wake) -> bool {
        let mut poll = libc::pollfd { fd: wake.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd, no waiting.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }

    #[test]
    fn kicks_merge_until_cleared_and_start_again_after() {
        let wake = Wake::new().expect("an eventfd is to be had");
        assert!(!readable(&wake));
        wake.kick();
        wake.kick();
        assert!(readable(&wake));
        wake.clear();
        assert!(!readable(&wake));
        wake.kick();
        assert!(readable(&wake));
    }
}
