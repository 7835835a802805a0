//! Values by small numbers, which are used again.

use std::marker::PhantomData;

/// A number of one kind of values.
pub(crate) struct Id<T> {
    index: u32,
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Id<T> {}

impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index
    }
}

impl<T> Eq for Id<T> {}

impl<T> std::hash::Hash for Id<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.index.hash(state);
    }
}

impl<T> PartialOrd for Id<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Id<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.index.cmp(&other.index)
    }
}

impl<T> std::fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{}", self.index)
    }
}

/// Values by number.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    pub(crate) fn insert(&mut self, value: T) -> Id<T> {
        let index = match self.free.pop() {
            Some(index) => {
                if let Some(slot) = self.slots.get_mut(place(index)) {
                    *slot = Some(value);
                }
                index
            }
            None => {
                self.slots.push(Some(value));
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        id(index)
    }

    pub(crate) fn remove(&mut self, id: Id<T>) -> Option<T> {
        let value = self.slots.get_mut(place(id.index))?.take()?;
        self.free.push(id.index);
        Some(value)
    }

    pub(crate) fn get(&self, id: Id<T>) -> Option<&T> {
        self.slots.get(place(id.index))?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: Id<T>) -> Option<&mut T> {
        self.slots.get_mut(place(id.index))?.as_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Id<T>, &T)> {
        let slots = (0..).zip(&self.slots);
        slots.filter_map(|(index, slot)| Some((id(index), slot.as_ref()?)))
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

fn id<T>(index: u32) -> Id<T> {
    Id {
        index,
        kind: PhantomData,
    }
}

fn place(index: u32) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}
