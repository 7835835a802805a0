//! The kernel shell: netlink, network namespaces, the one ioctl. No decision is taken here.

pub(crate) mod link;
pub(crate) mod netlink;
pub(crate) mod netns;
mod sys;
pub(crate) mod veth;
