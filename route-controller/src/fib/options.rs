//! Kernel route options that import policies set, and the source addresses among them.

use std::net::IpAddr;

use bgp_proto::engine::KernelRoute;
use bgp_proto::types::Prefix;
use rustc_hash::FxHashMap;

/// Options by prefix; most prefixes have none.
#[derive(Debug, Default)]
pub(super) struct Options {
    by_prefix: FxHashMap<Prefix, KernelRoute>,
    /// How many prefixes want a source address.
    sources: FxHashMap<IpAddr, usize>,
}

impl Options {
    pub(super) fn get(&self, prefix: &Prefix) -> KernelRoute {
        self.by_prefix.get(prefix).copied().unwrap_or_default()
    }

    /// Sets the options of a prefix; gives the previous ones.
    pub(super) fn set(&mut self, prefix: Prefix, route: KernelRoute) -> KernelRoute {
        let is_default = route == KernelRoute::default();
        let old = if is_default {
            self.by_prefix.remove(&prefix)
        } else {
            self.by_prefix.insert(prefix, route)
        };
        if let Some(addr) = route.source {
            *self.sources.entry(addr).or_default() += 1;
        }
        let old = old.unwrap_or_default();
        if let Some(addr) = old.source
            && let Some(count) = self.sources.get_mut(&addr)
        {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&addr);
            }
        }
        old
    }

    /// Whether a route wants this source address.
    pub(super) fn wants_source(&self, addr: IpAddr) -> bool {
        self.sources.contains_key(&addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_counted() {
        let prefix = |third: u8| Prefix::v4(0x0AF4_0000 + (u32::from(third) << 8), 24);
        let addr: IpAddr = "192.0.2.99".parse().unwrap();
        let with = KernelRoute {
            source: Some(addr),
            ..KernelRoute::default()
        };
        let mut options = Options::default();
        for third in [1, 1, 2] {
            options.set(prefix(third), with);
        }
        assert_eq!(options.set(prefix(1), KernelRoute::default()), with);
        assert!(options.wants_source(addr), "of the other prefix");
        options.set(prefix(2), KernelRoute::default());
        assert!(!options.wants_source(addr));
        assert_eq!(options.get(&prefix(2)), KernelRoute::default());
    }
}
