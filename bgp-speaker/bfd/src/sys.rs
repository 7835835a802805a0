//! What no library does for us: random numbers of the kernel, and real-time scheduling of a thread.
#![allow(
    unsafe_code,
    reason = "getrandom and sched_setscheduler with plain structures; nothing else is here"
)]

use std::io;

/// Random octets of the kernel, fit for what must not be guessed.
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

/// Lets the calling thread run before all ordinary ones. False without the privilege (CAP_SYS_NICE).
pub(crate) fn run_first() -> bool {
    schedule(libc::SCHED_FIFO, 1)
}

fn schedule(policy: libc::c_int, priority: libc::c_int) -> bool {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: 0 is the calling thread, and the pointer is to a live structure.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) == 0 }
}

/// Gives the calling thread BFD's priority while it lives, for a system call that the kernel may be at for long.
///
/// A kernel that is not preemptible ends a system call before anything else runs on its processor. One that wakes BFD leaves it on
/// the processor where it last was if an ordinary thread is at work there, and it waits for as long as that takes; behind a thread of its
/// own priority it is given another processor. With one alone nothing is changed: on a preemptible kernel BFD goes first then.
#[derive(Debug)]
pub struct BesideBfd(bool);

impl BesideBfd {
    /// Begins now. Without the privilege (CAP_SYS_NICE) nothing changes.
    #[must_use]
    pub fn begin() -> Self {
        Self(processors() > 1 && run_first())
    }
}

impl Drop for BesideBfd {
    fn drop(&mut self) {
        if self.0 {
            schedule(libc::SCHED_OTHER, 0);
        }
    }
}

/// Processors that the calling thread may run on.
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
        let beside = BesideBfd::begin();
        let now = if beside.0 { libc::SCHED_FIFO } else { before };
        assert_eq!(policy(), now);
        drop(beside);
        assert_eq!(policy(), before);
    }
}
