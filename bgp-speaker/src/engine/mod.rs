//! The task that owns the engine, and what stands between it and the peers' tasks, the agent and the kernel's routes.

pub(crate) mod mailbox;
pub(crate) mod outbox;
pub(crate) mod streams;
pub(crate) mod task;
