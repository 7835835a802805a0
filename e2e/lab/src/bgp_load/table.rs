//! The routes of a load, by number: number 7 is always the same prefix with the same mark.

use std::ops::Range;

use super::Spec;
use super::wire::{HEADER, LARGEST, UPDATE, message};

/// 20.0.0.0: the /24s.
const BASE_24: u32 = 20 << 24;
/// 100.0.0.0: the /32s.
const BASE_32: u32 = 100 << 24;

/// `len` routes; of each `group` numbers the first is a /24 and the others are /32s, or all are /24s.
#[derive(Debug, Clone)]
pub struct Table {
    len: u32,
    /// Routes with the same attributes.
    per_set: u32,
    /// One of this number of routes is a /24; 1: all are.
    group: u32,
    /// LOCAL_PREF is sent, NEXT_HOP is the client itself, AS_PATH is empty.
    internal: bool,
}

impl Table {
    /// `len` /24s, `per_set` with the same attributes.
    pub fn new(len: u32, per_set: u32, internal: bool) -> Self {
        Self {
            len,
            per_set,
            group: 1,
            internal,
        }
    }

    /// Of each `group` one /24, the others /32s.
    pub fn with_hosts(mut self, group: u32) -> Self {
        self.group = group;
        self
    }

    /// How many routes there are.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The mark of a route: a community that says which attribute set it belongs to.
    pub(super) fn mark(&self, route: u32) -> u32 {
        0xfc00_0000 + route / self.per_set
    }

    /// An address inside a route.
    pub fn host(&self, route: u32) -> std::net::Ipv4Addr {
        let (address, length) = self.prefix(route);
        (address + u32::from(length == 24)).into()
    }

    /// Address and length of a route.
    #[must_use]
    pub fn prefix_of(&self, route: u32) -> (std::net::Ipv4Addr, u8) {
        let (address, length) = self.prefix(route);
        (address.into(), length)
    }

    fn prefix(&self, route: u32) -> (u32, u8) {
        let (group, place) = (route / self.group, route % self.group);
        if place == 0 {
            (BASE_24 + (group << 8), 24)
        } else {
            (BASE_32 + group * (self.group - 1) + place - 1, 32)
        }
    }

    /// The number of a prefix; `None` if it is not in the table.
    pub(super) fn route(&self, address: u32, length: u8) -> Option<u32> {
        let route = match length {
            24 => (address.checked_sub(BASE_24)? >> 8) * self.group,
            32 if self.group > 1 => {
                let host = address.checked_sub(BASE_32)?;
                host / (self.group - 1) * self.group + host % (self.group - 1) + 1
            }
            _ => return None,
        };
        (route < self.len && self.prefix(route) == (address, length)).then_some(route)
    }

    /// UPDATEs for these routes, as full as they may be.
    pub(super) fn announce(&self, spec: &Spec, routes: Range<u32>) -> Vec<u8> {
        let mut out = Vec::new();
        let mut at = routes.start;
        while at < routes.end {
            let end = (at / self.per_set + 1)
                .saturating_mul(self.per_set)
                .min(routes.end);
            let attributes = self.attributes(spec, at);
            let length = u16::try_from(attributes.len())
                .expect("few attributes")
                .to_be_bytes();
            self.chunks(at..end, LARGEST - HEADER - 4 - attributes.len(), |nlri| {
                message(&mut out, UPDATE, &[&[0, 0], &length, &attributes, nlri]);
            });
            at = end;
        }
        out
    }

    /// UPDATEs that take these routes back.
    pub(super) fn withdraw(&self, routes: Range<u32>) -> Vec<u8> {
        let mut out = Vec::new();
        self.chunks(routes, LARGEST - HEADER - 4, |nlri| {
            let length = u16::try_from(nlri.len()).expect("one message").to_be_bytes();
            message(&mut out, UPDATE, &[&length, nlri, &[0, 0]]);
        });
        out
    }

    fn chunks(&self, routes: Range<u32>, room: usize, mut put: impl FnMut(&[u8])) {
        let mut nlri = Vec::with_capacity(room);
        for route in routes {
            if nlri.len() + 5 > room {
                put(&nlri);
                nlri.clear();
            }
            let (address, length) = self.prefix(route);
            nlri.push(length);
            nlri.extend(&address.to_be_bytes()[..usize::from(length / 8)]);
        }
        if !nlri.is_empty() {
            put(&nlri);
        }
    }

    fn attributes(&self, spec: &Spec, route: u32) -> Vec<u8> {
        let mark = self.mark(route);
        let mut out = vec![0x40, 1, 1, 0];
        if self.internal {
            out.extend([0x40, 2, 0]);
        } else {
            let set = route / self.per_set;
            out.extend([0x40, 2, 18, 2, 4]);
            for asn in [spec.asn, 3000 + set % 997, 4000 + set / 997, 7] {
                out.extend(asn.to_be_bytes());
            }
        }
        out.extend([0x40, 3, 4]);
        out.extend(spec.local.octets());
        if self.internal {
            out.extend([0x40, 5, 4, 0, 0, 0, 100]);
        }
        out.extend([0xc0, 8, 4]);
        out.extend(mark.to_be_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_has_a_number_and_a_prefix() {
        for table in [
            Table::new(1000, 5, true),
            Table::new(1000 * 21, 21, true).with_hosts(21),
        ] {
            for route in 0..table.len() {
                let (address, length) = table.prefix(route);
                assert_eq!(table.route(address, length), Some(route));
            }
            assert_eq!(table.route(BASE_24 + (1000 << 8), 24), None);
        }
    }
}
