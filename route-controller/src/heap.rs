//! Settings of the C library's heap for large tables.
#![allow(unsafe_code, reason = "mallopt, which no library wraps; nothing else is here")]

/// Blocks from this size on get pages of their own, in octets. They grow by being mapped elsewhere, with nothing copied and
/// no hole left behind; what is smaller, as messages are, stays in the heap.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_PAGES: i32 = 1 << 20;
/// Free memory at the heap's end that is kept for the next burst, in octets.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: i32 = 8 << 20;

/// Keeps both sizes where they are: by itself the library raises the first one to that of any block it has freed, and tables
/// of up to 32 MiB would then be copied as they grow.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn tune() {
    // SAFETY: no other thread runs yet. A refusal would leave the library's own sizes.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}

/// Other libraries' heaps are left alone.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn tune() {}
