//! Octets that are mostly few: up to [`ShortBytes::INLINE`] stand in the value itself, more on the heap.

use std::hash::{Hash, Hasher};
use std::ops::Deref;

/// Octets that do not change.
#[derive(Clone)]
pub(super) enum ShortBytes {
    Inline {
        len: u8,
        octets: [u8; ShortBytes::INLINE],
    },
    Heap(Box<[u8]>),
}

impl ShortBytes {
    /// With these it is 24 octets large: an AS path of five numbers in one segment.
    pub(super) const INLINE: usize = 22;

    pub(super) fn heap_octets(&self) -> usize {
        match self {
            Self::Inline { .. } => 0,
            Self::Heap(octets) => octets.len(),
        }
    }
}

impl Deref for ShortBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Inline { len, octets } => octets.get(..usize::from(*len)).unwrap_or_default(),
            Self::Heap(octets) => octets,
        }
    }
}

impl From<&[u8]> for ShortBytes {
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

impl From<Vec<u8>> for ShortBytes {
    fn from(from: Vec<u8>) -> Self {
        if from.len() <= Self::INLINE {
            Self::from(from.as_slice())
        } else {
            Self::Heap(from.into())
        }
    }
}

impl Default for ShortBytes {
    fn default() -> Self {
        Self::from([].as_slice())
    }
}

impl PartialEq for ShortBytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for ShortBytes {}

impl PartialOrd for ShortBytes {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ShortBytes {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (**self).cmp(&**other)
    }
}

impl Hash for ShortBytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_are_the_same_octets() {
        assert_eq!(size_of::<ShortBytes>(), 24);
        for len in [0, 1, ShortBytes::INLINE, ShortBytes::INLINE + 1, 300] {
            let octets: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let (of_slice, of_vec) = (
                ShortBytes::from(octets.as_slice()),
                ShortBytes::from(octets.clone()),
            );
            assert_eq!(&*of_slice, octets.as_slice());
            assert!(of_slice == of_vec);
            assert_eq!(
                matches!(of_vec, ShortBytes::Inline { .. }),
                len <= ShortBytes::INLINE
            );
        }
        assert!(ShortBytes::from([1, 2].as_slice()) < ShortBytes::from(vec![2; 40]));
    }
}
