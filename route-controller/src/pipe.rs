//! Ends a command quietly when its output is closed, as in `podroute show routes | head`.
#![allow(
    unsafe_code,
    reason = "signal(2), which no library calls safely; nothing else is here"
)]

/// Lets SIGPIPE end the process, as it ends other commands. Rust's start-up code ignores it, and printing then panics. Not for the
/// agent, whose sockets and pipes must end nothing.
pub(crate) fn end_quietly() {
    // SAFETY: no other thread runs yet, and the default action is no function.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}
