//! Immutable octets, optimized for short values: up to [`InlineBytes::INLINE`] are stored in place, more on
//! the heap.

use std::hash::{Hash, Hasher};
use std::ops::Deref;

/// Immutable octets.
#[derive(Clone)]
pub(super) enum InlineBytes {
    Inline {
        len: u8,
        octets: [u8; InlineBytes::INLINE],
    },
    Heap(Box<[u8]>),
}

impl InlineBytes {
    /// The number that keeps the value at 24 octets: an AS path of five numbers in one segment.
    pub(super) const INLINE: usize = 22;

    pub(super) fn heap_octets(&self) -> usize {
        match self {
            Self::Inline { .. } => 0,
            Self::Heap(octets) => octets.len(),
        }
    }
}

impl Deref for InlineBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Inline { len, octets } => octets.get(..usize::from(*len)).unwrap_or_default(),
            Self::Heap(octets) => octets,
        }
    }
}

impl From<&[u8]> for InlineBytes {
    fn from(from: &[u8]) -> Self {
        let mut octets = [0; Self::INLINE];
        match (octets.get_mut(..from.len()), u8::try_from(from.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(from);
                Self::Inline { len, octets }
            }
            _ => Self::Heap(from.into()),
        }
    }
}

impl From<Vec<u8>> for InlineBytes {
    fn from(from: Vec<u8>) -> Self {
        if from.len() <= Self::INLINE {
            Self::from(from.as_slice())
        } else {
            Self::Heap(from.into())
        }
    }
}

impl Default for InlineBytes {
    fn default() -> Self {
        Self::from([].as_slice())
    }
}

impl PartialEq for InlineBytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for InlineBytes {}

impl PartialOrd for InlineBytes {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for InlineBytes {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (**self).cmp(&**other)
    }
}

impl Hash for InlineBytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inline_and_heap_octets_are_equal() {
        assert_eq!(size_of::<InlineBytes>(), 24);
        for len in [0, 1, InlineBytes::INLINE, InlineBytes::INLINE + 1, 300] {
            let octets: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let (of_slice, of_vec) = (
                InlineBytes::from(octets.as_slice()),
                InlineBytes::from(octets.clone()),
            );
            assert_eq!(&*of_slice, octets.as_slice());
            assert!(of_slice == of_vec);
            assert_eq!(
                matches!(of_vec, InlineBytes::Inline { .. }),
                len <= InlineBytes::INLINE
            );
        }
        assert!(InlineBytes::from([1, 2].as_slice()) < InlineBytes::from(vec![2; 40]));
    }
}
