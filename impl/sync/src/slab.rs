//! Values in slots that are used again: insertion and removal in constant time, with no allocation of its own per value.

/// A vector with a chain of free slots.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: usize,
    len: usize,
}

#[derive(Debug)]
enum Slot<T> {
    Used(T),
    Free(usize),
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: usize::MAX, len: 0 }
    }
}

impl<T> Slab<T> {
    /// Keeps `value`; gives its slot.
    pub(crate) fn insert(&mut self, value: T) -> usize {
        self.len += 1;
        if let Some(Slot::Free(next)) = self.slots.get(self.free) {
            let slot = self.free;
            self.free = *next;
            self.slots[slot] = Slot::Used(value);
            return slot;
        }
        self.slots.push(Slot::Used(value));
        self.slots.len() - 1
    }

    /// The value in `slot`.
    pub(crate) fn get_mut(&mut self, slot: usize) -> Option<&mut T> {
        match self.slots.get_mut(slot) {
            Some(Slot::Used(value)) => Some(value),
            _ => None,
        }
    }

    /// Takes the value out of `slot`.
    pub(crate) fn remove(&mut self, slot: usize) -> Option<T> {
        let place = self.slots.get_mut(slot).filter(|place| matches!(place, Slot::Used(_)))?;
        let taken = std::mem::replace(place, Slot::Free(self.free));
        self.free = slot;
        self.len -= 1;
        match taken {
            Slot::Used(value) => Some(value),
            Slot::Free(_) => None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn into_values(self) -> impl Iterator<Item = T> {
        self.slots.into_iter().filter_map(|slot| match slot {
            Slot::Used(value) => Some(value),
            Slot::Free(_) => None,
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Slab;

    #[test]
    fn a_freed_slot_is_used_again_and_a_slot_is_freed_once() {
        let mut slab = Slab::default();
        let (a, b) = (slab.insert('a'), slab.insert('b'));
        assert_eq!((slab.remove(a), slab.remove(a)), (Some('a'), None));
        assert_eq!((slab.insert('c'), slab.len()), (a, 2));
        assert_eq!(slab.get_mut(b), Some(&mut 'b'));
        assert_eq!(slab.into_values().collect::<String>(), "cb");
    }
}
