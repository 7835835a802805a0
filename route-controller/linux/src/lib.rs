//! Synchronous access to the Linux kernel for the agent, the CNI plugin and the test lab.
//!
//! [`netlink`] builds and reads netlink messages and sends requests; [`sysctl`] reads and writes kernel settings;
//! [`netns`] identifies and enters network namespaces. No async runtime, no global state besides a sequence number.
//!
//! The `unsafe` code of the crate is in `sockopt` and in `netns`: system calls without a safe wrapper.
//! Nothing here panics on any input.

mod error;
pub mod netlink;
pub mod netns;
mod sockopt;
pub mod sysctl;

pub use error::Error;
