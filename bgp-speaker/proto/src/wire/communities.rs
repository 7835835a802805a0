//! A list of communities, optimized for short lists: up to [`Communities::INLINE`] are stored in place.

use std::hash::{Hash, Hasher};
use std::ops::Deref;

use crate::types::Community;

/// COMMUNITIES of a path (RFC 1997), in order. The value takes 16 octets.
#[derive(Clone)]
pub struct Communities(List);

#[derive(Clone)]
enum List {
    Inline {
        len: u8,
        items: [Community; Communities::INLINE],
    },
    // A thin pointer: two words in place would take as much space as three communities.
    #[expect(clippy::box_collection, reason = "a thin pointer keeps the value small")]
    Heap(Box<Vec<Community>>),
}

impl Communities {
    /// The number that keeps the value at 16 octets.
    pub const INLINE: usize = 3;

    /// What they take beside themselves.
    pub(crate) fn heap_octets(&self) -> usize {
        match &self.0 {
            List::Inline { .. } => 0,
            List::Heap(items) => size_of::<Vec<Community>>() + size_of_val(items.as_slice()),
        }
    }
}

impl Deref for Communities {
    type Target = [Community];

    fn deref(&self) -> &[Community] {
        match &self.0 {
            List::Inline { len, items } => items.get(..usize::from(*len)).unwrap_or_default(),
            List::Heap(items) => items,
        }
    }
}

impl FromIterator<Community> for Communities {
    fn from_iter<I: IntoIterator<Item = Community>>(from: I) -> Self {
        let (mut len, mut items) = (0, [Community(0); Self::INLINE]);
        let mut from = from.into_iter();
        while let Some(item) = from.next() {
            let Some(place) = items.get_mut(usize::from(len)) else {
                let all = items.into_iter().chain([item]).chain(from).collect();
                return Self(List::Heap(Box::new(all)));
            };
            *place = item;
            len += 1;
        }
        Self(List::Inline { len, items })
    }
}

impl From<Vec<Community>> for Communities {
    fn from(from: Vec<Community>) -> Self {
        from.into_iter().collect()
    }
}

impl<const N: usize> From<[Community; N]> for Communities {
    fn from(from: [Community; N]) -> Self {
        from.into_iter().collect()
    }
}

impl Default for Communities {
    fn default() -> Self {
        [].into()
    }
}

impl PartialEq for Communities {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Communities {}

impl Hash for Communities {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl std::fmt::Debug for Communities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inline_and_heap_communities_are_equal() {
        assert_eq!(size_of::<Communities>(), 16);
        for len in 0..7 {
            let list: Vec<Community> = (0..len).map(Community).collect();
            let communities: Communities = list.clone().into();
            assert_eq!(&communities[..], list.as_slice());
            assert_eq!(communities, list.iter().copied().collect());
            let inline = matches!(communities.0, List::Inline { .. });
            assert_eq!(inline, list.len() <= Communities::INLINE);
        }
        assert_ne!(
            Communities::from([Community(1)]),
            [Community(1), Community(0)].into()
        );
    }
}
