//! Objects that are gone or not as known.

use std::collections::BTreeSet;

use super::{Content, Leftovers, Objects};

impl Objects {
    /// A link lost its carrier or was shut: the kernel has removed the gateways on it, with them the groups that led over
    /// no other, and all without a notification. Gives these groups: their routes are gone too.
    pub(crate) fn link_lost(&mut self, ifindex: u32) -> BTreeSet<u32> {
        let on_it = |content: &Content| matches!(content, Content::Single(_, hop) if hop.ifindex == ifindex);
        let gone = self.kernel.iter().filter(|(_, content)| on_it(content));
        let gone: BTreeSet<u32> = gone.map(|(id, _)| *id).collect();
        let mut emptied = BTreeSet::new();
        if gone.is_empty() {
            return emptied;
        }
        for (id, content) in &mut self.kernel {
            if let Content::Group(members, _) = content {
                let before = members.len();
                members.retain(|(member, _)| !gone.contains(member));
                if members.len() != before {
                    self.dirty.insert(*id);
                }
                if members.is_empty() {
                    emptied.insert(*id);
                }
            }
        }
        self.kernel
            .retain(|id, _| !gone.contains(id) && !emptied.contains(id));
        self.dirty.extend(gone);
        self.find_unclaimed();
        self.leftovers = Leftovers::Possible;
        emptied
    }

    /// Whether an object of the kernel's, or a wanted one, is on this link.
    pub(crate) fn touches(&self, ifindex: u32) -> bool {
        let in_kernel =
            |content: &Content| matches!(content, Content::Single(_, hop) if hop.ifindex == ifindex);
        self.kernel.values().any(in_kernel)
            || self.singles.values().any(|single| single.hop.ifindex == ifindex)
    }

    /// What the kernel refused may work now.
    pub(crate) fn retry_now(&mut self) {
        self.retry_at = None;
        self.dirty.append(&mut self.failed);
    }

    /// Whether the kernel has an object of this id, as far as is known.
    pub(crate) fn is_there(&self, id: u32) -> bool {
        self.kernel.contains_key(&id)
    }
}
