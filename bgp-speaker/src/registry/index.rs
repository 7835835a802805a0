//! Index of peers by address and by range.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use bgp_proto::types::PeerId;

use crate::socket;

/// The remote address of connections, with the interface index if it is link-local.
pub(super) type RemoteAddress = (IpAddr, Option<u32>);

pub(super) fn remote_address(remote: &SocketAddr) -> RemoteAddress {
    (remote.ip().to_canonical(), socket::scope(remote))
}

/// Peer ids by address and by range, so that a connection looks up only its own peer.
#[derive(Default)]
pub(super) struct Index {
    pub(super) by_address: BTreeSet<(RemoteAddress, PeerId)>,
    pub(super) of_range: BTreeMap<String, BTreeSet<PeerId>>,
}

impl Index {
    pub(super) fn insert(&mut self, id: PeerId, from: RemoteAddress, range: Option<&str>) {
        self.by_address.insert((from, id));
        if let Some(range) = range {
            self.of_range.entry(range.to_owned()).or_default().insert(id);
        }
    }

    pub(super) fn remove(&mut self, id: PeerId, from: RemoteAddress, range: Option<&str>) {
        self.by_address.remove(&(from, id));
        if let Some(range) = range
            && let Some(ids) = self.of_range.get_mut(range)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.of_range.remove(range);
            }
        }
    }

    /// The first peer with this address: a configured one before a dynamic one.
    pub(super) fn by_address(&self, from: RemoteAddress) -> Option<PeerId> {
        self.all_by_address(from).next()
    }

    pub(super) fn all_by_address(&self, from: RemoteAddress) -> impl Iterator<Item = PeerId> {
        let all = self
            .by_address
            .range((from, PeerId(0))..=(from, PeerId(u32::MAX)));
        all.map(|(_, id)| *id)
    }

    /// All peers with this address, on any link.
    pub(super) fn all_at(&self, addr: IpAddr) -> impl Iterator<Item = PeerId> {
        let first = ((addr, None), PeerId(0));
        let last = ((addr, Some(u32::MAX)), PeerId(u32::MAX));
        self.by_address.range(first..=last).map(|(_, id)| *id)
    }

    pub(super) fn of_range(&self, name: &str) -> impl Iterator<Item = &PeerId> {
        self.of_range.get(name).into_iter().flatten()
    }

    pub(super) fn count_of_range(&self, name: &str) -> usize {
        self.of_range.get(name).map_or(0, BTreeSet::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_by_address_and_by_range_until_removed() {
        let from = |last: u8, scope| (IpAddr::from([192, 0, 2, last]), scope);
        let mut index = Index::default();
        index.insert(PeerId(2), from(1, None), None);
        index.insert(PeerId(1), from(1, None), Some("racks"));
        index.insert(PeerId(3), from(1, Some(7)), Some("racks"));
        index.insert(PeerId(4), from(2, None), Some("others"));
        assert_eq!(
            index.by_address(from(1, None)),
            Some(PeerId(1)),
            "the lower number"
        );
        assert_eq!(index.by_address(from(1, Some(7))), Some(PeerId(3)));
        assert_eq!(index.by_address(from(1, Some(8))), None);
        assert_eq!(index.count_of_range("racks"), 2);
        index.remove(PeerId(1), from(1, None), Some("racks"));
        assert_eq!(index.by_address(from(1, None)), Some(PeerId(2)));
        assert!(index.of_range("racks").eq(&[PeerId(3)]));
        index.remove(PeerId(4), from(2, None), Some("others"));
        assert_eq!(
            (index.count_of_range("others"), index.by_address(from(2, None))),
            (0, None)
        );
    }
}
