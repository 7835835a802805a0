//! Neighbors and the groups that they take statements from.

use std::collections::{BTreeMap, BTreeSet};

use crate::router::{Neighbor, Place, Settings};

/// What is collected before groups are resolved.
#[derive(Debug, Default)]
pub(super) struct Collected {
    /// Statements by the name of the neighbor or group.
    settings: BTreeMap<String, Settings>,
    /// Groups and templates.
    groups: BTreeSet<String>,
    /// Which group a neighbor belongs to.
    group_of: BTreeMap<String, String>,
    /// Where neighbors are, with the line that says so.
    places: Vec<(String, Place, usize)>,
}

impl Collected {
    /// The statements of a neighbor or group.
    pub(super) fn settings(&mut self, name: &str) -> &mut Settings {
        self.settings.entry(name.to_owned()).or_default()
    }

    pub(super) fn group(&mut self, name: &str) {
        self.groups.insert(name.to_owned());
    }

    pub(super) fn join(&mut self, neighbor: &str, group: &str) {
        self.groups.insert(group.to_owned());
        self.group_of.insert(neighbor.to_owned(), group.to_owned());
    }

    /// A neighbor that has statements under `name`.
    pub(super) fn place(&mut self, name: &str, place: Place, line: usize) {
        if !self.places.iter().any(|(_, known, _)| *known == place) {
            self.places.push((name.to_owned(), place, line));
        }
    }

    /// All neighbors, with what they have of their groups and of the router as a whole.
    pub(super) fn resolve(mut self, of_all: &Settings) -> Vec<Neighbor> {
        let places = std::mem::take(&mut self.places);
        places
            .into_iter()
            .filter(|(name, place, _)| !self.groups.contains(name) || matches!(place, Place::Range(_)))
            .map(|(name, place, line)| {
                let mut settings = self.settings.get(&name).cloned().unwrap_or_default();
                // A group may itself belong to one; more levels than these exist in no format.
                let mut above = self.group_of.get(&name);
                for _ in 0..4 {
                    let Some(group) = above else { break };
                    if let Some(group) = self.settings.get(group) {
                        settings.inherit(group);
                    }
                    above = self.group_of.get(group);
                }
                settings.inherit(of_all);
                Neighbor {
                    place,
                    line,
                    settings,
                }
            })
            .collect()
    }
}

/// Where a neighbor with this name is: an address, a range, or else an interface.
pub(super) fn place(name: &str) -> Place {
    if let Ok(address) = name.parse() {
        return Place::Address(address);
    }
    match name.parse() {
        Ok(range) => Place::Range(range),
        Err(_) => Place::Interface(name.to_owned()),
    }
}
