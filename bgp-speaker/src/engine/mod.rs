//! The engine's task, and its channels to the peers' tasks, the agent and the kernel's routes.

pub(crate) mod mailbox;
pub(crate) mod outbox;
pub(crate) mod streams;
pub(crate) mod task;
