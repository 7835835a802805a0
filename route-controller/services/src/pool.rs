//! Pools of addresses, and which Services each one serves.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::range::Range;
use crate::service::Service;

/// Labels of an object, or those that a selector asks for.
pub type Labels = BTreeMap<String, String>;

/// A pool of addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pool {
    /// Unique.
    pub name: String,
    /// Its addresses; disjoint, also from those of other pools.
    pub ranges: Vec<Range>,
    /// Only Services with all of these labels.
    pub service_selector: Labels,
    /// Only Services of namespaces with all of these labels.
    pub namespace_selector: Labels,
    /// Only Services of this `loadBalancerClass`.
    pub class: Option<String>,
    /// Pools with a higher number are used first.
    pub priority: u32,
    /// False: only Services that ask for it, or for one of its addresses.
    pub automatic: bool,
    /// Nobody gets the first and last address of a prefix, nor an IPv4 address that ends in .0 or .255, unless asked for.
    pub avoid_first_and_last: bool,
}

/// Why a pool does not serve a Service.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mismatch {
    /// Its `serviceSelector`.
    Service,
    /// Its `namespaceSelector`.
    Namespace,
    /// Its `loadBalancerClass`.
    Class,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "its serviceSelector does not select the Service's labels",
            Self::Namespace => "its namespaceSelector does not select the namespace's labels",
            Self::Class => "it is for another loadBalancerClass",
        })
    }
}

impl Pool {
    /// Whether the address is one of its own.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(addr))
    }

    /// Whether it serves the Service, of a namespace with these labels. `own_class` is the class that pools without one serve.
    ///
    /// # Errors
    /// Why not.
    pub fn serves(
        &self,
        service: &Service,
        namespace: &Labels,
        own_class: Option<&str>,
    ) -> Result<(), Mismatch> {
        let is_class = match (service.class.as_deref(), self.class.as_deref()) {
            (None, None) => true,
            (Some(class), Some(of_pool)) => class == of_pool,
            (Some(class), None) => own_class == Some(class),
            (None, Some(_)) => false,
        };
        if !is_class {
            Err(Mismatch::Class)
        } else if !selects(&self.service_selector, &service.labels) {
            Err(Mismatch::Service)
        } else if !selects(&self.namespace_selector, namespace) {
            Err(Mismatch::Namespace)
        } else {
            Ok(())
        }
    }

    /// The addresses that it gives away; those of `avoid_first_and_last` are not counted.
    #[must_use]
    pub fn size(&self) -> u128 {
        let sizes = self.ranges.iter().map(|range| range.size() - self.avoided(range));
        sizes.fold(0, u128::saturating_add)
    }

    /// Whether nobody gets the address unless asked for.
    pub(crate) fn avoids(&self, range: &Range, addr: IpAddr) -> bool {
        if !self.avoid_first_and_last {
            return false;
        }
        let is_end =
            range.prefix().is_some() && range.size() > 2 && (addr == range.first() || addr == range.last());
        let is_buggy = matches!(addr, IpAddr::V4(v4) if matches!(v4.octets()[3], 0 | 255));
        is_end || is_buggy
    }

    fn avoided(&self, range: &Range) -> u128 {
        if !self.avoid_first_and_last {
            return 0;
        }
        let ends = [range.first(), range.last()];
        let count = |addr: &IpAddr| u128::from(self.avoids(range, *addr));
        let at_ends = if range.size() == 1 {
            count(&range.first())
        } else {
            ends.iter().map(count).sum()
        };
        at_ends + self.inner_buggy(range)
    }

    /// IPv4 addresses that end in .0 or .255, the range's own ends left out.
    fn inner_buggy(&self, range: &Range) -> u128 {
        let (IpAddr::V4(first), IpAddr::V4(last)) = (range.first(), range.last()) else {
            return 0;
        };
        let (first, last) = (first.to_bits(), last.to_bits());
        let inner = (first + u32::from(first < last))..last;
        let ending = |end: u32| {
            // Numbers n of the open range with n % 256 == end.
            let below = |n: u32| u128::from(n / 256) + u128::from(n % 256 > end);
            below(inner.end).saturating_sub(below(inner.start))
        };
        ending(0) + ending(255)
    }
}

/// Whether an object with these labels is selected.
pub(crate) fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::after;

    #[test]
    fn its_size_is_what_can_be_given_away() {
        for text in [
            "192.0.2.0/24",
            "192.0.2.0/31",
            "192.0.2.0/32",
            "192.0.0.0/22",
            "192.0.2.255",
            "192.0.2.250-192.0.5.3",
            "192.0.2.0-192.0.2.0",
            "192.0.2.1-192.0.2.3",
            "192.0.2.254-192.0.2.255",
            "2001:db8::/120",
            "2001:db8::1-2001:db8::9",
        ] {
            let range: Range = text.parse().unwrap();
            let pool = Pool {
                ranges: vec![range],
                avoid_first_and_last: true,
                ..Pool::default()
            };
            let mut count = 0;
            let mut next = Some(range.first());
            while let Some(addr) = next.filter(|addr| range.contains(*addr)) {
                count += u128::from(!pool.avoids(&range, addr));
                next = after(addr);
            }
            assert_eq!(pool.size(), count, "{text}");
        }
    }
}
