//! What the plugin asks of the kernel: links, addresses, routes, nftables, network namespaces, one ioctl. No decision is
//! taken here.

pub(crate) mod link;
pub(crate) mod netns;
pub(crate) mod nft;
pub(crate) mod settings;
mod sys;
pub(crate) mod table;
pub(crate) mod veth;
