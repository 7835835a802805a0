//! Texts as numbers: labels and names occur many times among pods.

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

/// A text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name(u32);

/// All texts that are in use, counted.
#[derive(Debug, Default)]
pub(crate) struct Names {
    by_text: HashMap<Box<str>, Name, FxBuildHasher>,
    entries: Vec<Entry>,
    free: Vec<Name>,
}

#[derive(Debug, Default)]
struct Entry {
    text: Box<str>,
    references: u32,
}

impl Names {
    /// The text's number, which is the caller's to release.
    pub(crate) fn intern(&mut self, text: &str) -> Name {
        if let Some(name) = self.by_text.get(text) {
            let name = *name;
            if let Some(entry) = self.entry(name) {
                entry.references += 1;
            }
            return name;
        }
        let new = Entry {
            text: text.into(),
            references: 1,
        };
        let name = match self.free.pop() {
            Some(name) => {
                if let Some(entry) = self.entry(name) {
                    *entry = new;
                }
                name
            }
            None => {
                self.entries.push(new);
                Name(u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX))
            }
        };
        self.by_text.insert(text.into(), name);
        name
    }

    /// The number of a text that is in use.
    pub(crate) fn find(&self, text: &str) -> Option<Name> {
        self.by_text.get(text).copied()
    }

    pub(crate) fn text(&self, name: Name) -> &str {
        let index = usize::try_from(name.0).unwrap_or(usize::MAX);
        self.entries.get(index).map_or("", |entry| &entry.text)
    }

    pub(crate) fn release(&mut self, name: Name) {
        let Some(entry) = self.entry(name) else { return };
        entry.references -= 1;
        if entry.references == 0 {
            let text = std::mem::take(&mut entry.text);
            self.by_text.remove(&text);
            self.free.push(name);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_text.len()
    }

    fn entry(&mut self, name: Name) -> Option<&mut Entry> {
        let index = usize::try_from(name.0).unwrap_or(usize::MAX);
        self.entries.get_mut(index)
    }
}

/// FNV-1a, for names of kernel objects: the same in every build and on every host.
pub(crate) fn stable_hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_text_makes_room() {
        let mut names = Names::default();
        let (a, again, b) = (names.intern("a"), names.intern("a"), names.intern("b"));
        assert_eq!(a, again);
        assert_ne!(a, b);
        names.release(a);
        assert_eq!(names.find("a"), Some(a));
        names.release(a);
        assert_eq!(names.find("a"), None);
        let c = names.intern("c");
        assert_eq!((names.text(c), names.text(b)), ("c", "b"));
        assert_eq!(c, a, "the number is used again");
    }
}
