//! System calls without a safe wrapper: random numbers, and real-time scheduling of a thread.
#![allow(
    unsafe_code,
    reason = "getrandom and sched_setscheduler with plain structures; nothing else is here"
)]

use std::io;

/// A random number of the kernel, fit for security purposes.
pub(crate) fn random() -> io::Result<u64> {
    let mut octets = [0u8; 8];
    // SAFETY: pointer and length describe one live array.
    let got = unsafe { libc::getrandom(octets.as_mut_ptr().cast(), octets.len(), 0) };
    if usize::try_from(got) == Ok(octets.len()) {
        Ok(u64::from_ne_bytes(octets))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Gives the calling thread real-time priority. False without the privilege (CAP_SYS_NICE).
pub(crate) fn set_realtime_priority() -> bool {
    schedule(libc::SCHED_FIFO, 1)
}

fn schedule(policy: libc::c_int, priority: libc::c_int) -> bool {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: 0 is the calling thread, and the pointer is to a live structure.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) == 0 }
}

/// Gives the calling thread the real-time priority of BFD until it is dropped, for system calls that take
/// long.
///
/// A non-preemptible kernel finishes a system call before another thread runs on that processor. A wakeup of
/// the BFD thread leaves it on its last processor if an ordinary thread runs there, so that it waits for the
/// system call; behind a thread of the same priority it is moved to another processor. With a single
/// processor nothing is changed: on a preemptible kernel BFD then runs first.
#[derive(Debug)]
pub struct RealtimeGuard(bool);

impl RealtimeGuard {
    /// Takes effect at once. Without the privilege (CAP_SYS_NICE) it does nothing.
    #[must_use]
    pub fn begin() -> Self {
        Self(processors() > 1 && set_realtime_priority())
    }
}

impl Drop for RealtimeGuard {
    fn drop(&mut self) {
        if self.0 {
            schedule(libc::SCHED_OTHER, 0);
        }
    }
}

/// Number of processors that the calling thread may run on.
fn processors() -> usize {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0));
    let is_set = |processor: &usize| set.is_ok_and(|set| set.is_set(*processor).unwrap_or(false));
    (0..nix::sched::CpuSet::count()).filter(is_set).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> libc::c_int {
        // SAFETY: it takes the number of a thread, and 0 is the calling one.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn the_priority_is_bfds_while_it_lives() {
        assert!(processors() >= 1);
        let before = policy();
        assert_eq!(before, libc::SCHED_OTHER);
        let beside = RealtimeGuard::begin();
        let now = if beside.0 { libc::SCHED_FIFO } else { before };
        assert_eq!(policy(), now);
        drop(beside);
        assert_eq!(policy(), before);
    }
}
