//! What a table holds, as the kernel lists it.

use std::collections::{BTreeMap, HashMap, HashSet};

use linux::netlink::{ACK, DUMP};
use nix::errno::Errno;

use crate::message::{Attrs, Messages};
use crate::object::{Element, SetSpec};
use crate::socket::{Error, Nftables, Result, What, refused};
use crate::transaction::{GETCHAIN, GETGEN, GETRULE, GETSET, GETSETELEM, NEWGEN, NFPROTO_INET, Transaction};

/// A table as listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableListing {
    /// The ruleset's generation before anything was listed.
    pub generation: u32,
    /// Chains by name; each with the comments of its rules.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Names of sets, without those that have another type than asked for.
    pub sets: HashSet<String>,
    /// Sets that have another type than asked for.
    pub other_sets: HashSet<String>,
    pub elements: HashMap<String, HashSet<Element>>,
}

/// Packets and octets that a rule has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}

/// A set is listed at most this often.
const LISTINGS: usize = 10;
/// The number of a set's elements.
const SET_COUNT: u16 = 20;

/// What the kernel lists of a set at one request.
struct ElementListing {
    elements: HashSet<Element>,
    /// Whole for sure.
    is_one_walk: bool,
}

impl Nftables {
    /// The generation of the ruleset.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn generation(&mut self) -> Result<u32> {
        let what = What {
            action: "ask for the ruleset's generation",
            name: String::new(),
        };
        let mut generation = None;
        self.ask(
            GETGEN,
            0,
            &what,
            |_| {},
            |kind, attrs| {
                if kind == NEWGEN {
                    generation = attrs.u32(1);
                }
            },
        )?;
        generation.ok_or(Error::Interrupted)
    }

    /// All of a table; empty where there is none. `spec` says of a set's name how it should be; sets that it does not know are listed
    /// without elements.
    ///
    /// # Errors
    /// The table was changed meanwhile ([`Error::Interrupted`]), or the kernel refuses.
    pub fn list(&mut self, table: &str, spec: impl Fn(&str) -> Option<SetSpec>) -> Result<TableListing> {
        let mut listing = TableListing {
            generation: self.generation()?,
            ..TableListing::default()
        };
        self.list_chains(table, &mut listing)?;
        self.list_rules(table, None, |chain, attrs| {
            let comment = attrs.get(7).and_then(comment).unwrap_or_default();
            listing.chains.entry(chain.to_owned()).or_default().push(comment);
        })?;
        self.list_sets(table, &spec, &mut listing)?;
        let known: Vec<String> = listing
            .sets
            .iter()
            .filter(|name| spec(name).is_some())
            .cloned()
            .collect();
        for name in known {
            let elements = self.list_elements(table, &name)?;
            listing.elements.insert(name, elements);
        }
        Ok(listing)
    }

    fn list_chains(&mut self, table: &str, listing: &mut TableListing) -> Result<()> {
        let what = What {
            action: "list the chains of table",
            name: table.to_owned(),
        };
        self.ask(
            GETCHAIN,
            DUMP,
            &what,
            |m| m.text(1, table),
            |_, attrs| {
                if attrs.text(1) == Some(table)
                    && let Some(name) = attrs.text(3)
                {
                    listing.chains.entry(name.to_owned()).or_default();
                }
            },
        )
    }

    fn list_rules(
        &mut self,
        table: &str,
        chain: Option<&str>,
        mut take: impl FnMut(&str, &Attrs<'_>),
    ) -> Result<()> {
        let what = What {
            action: "list the rules of table",
            name: table.to_owned(),
        };
        let ask = |m: &mut Messages| {
            m.text(1, table);
            if let Some(chain) = chain {
                m.text(2, chain);
            }
        };
        self.ask(GETRULE, DUMP, &what, ask, |_, attrs| {
            if attrs.text(1) == Some(table)
                && let Some(chain) = attrs.text(2)
            {
                take(chain, attrs);
            }
        })
    }

    fn list_sets(
        &mut self,
        table: &str,
        spec: &impl Fn(&str) -> Option<SetSpec>,
        listing: &mut TableListing,
    ) -> Result<()> {
        let what = What {
            action: "list the sets of table",
            name: table.to_owned(),
        };
        let asked = self.ask(
            GETSET,
            DUMP,
            &what,
            |m| m.text(1, table),
            |_, attrs| {
                let Some(name) = attrs.text(2).filter(|_| attrs.text(1) == Some(table)) else {
                    return;
                };
                let is_as_asked = spec(name).is_none_or(|spec| spec.matches(attrs));
                let sets = if is_as_asked {
                    &mut listing.sets
                } else {
                    &mut listing.other_sets
                };
                sets.insert(name.to_owned());
            },
        );
        or_empty(asked)
    }

    /// The elements of a set; none where there is no such set.
    ///
    /// The kernel lists a large set in parts, and begins each part by walking over as many elements as it has listed
    /// before. A set without ranges is a hash table that the kernel resizes in the background, also after the
    /// transaction, and for a transaction that it refuses. The order changes with it: elements are left out or listed
    /// twice, and NLM_F_DUMP_INTR is not set, because the generation stays. So one listing in parts proves nothing: it
    /// is compared with the kernel's count, or else with the next listing.
    ///
    /// # Errors
    /// The set changes all the time ([`Error::Interrupted`]), or the kernel refuses.
    pub fn list_elements(&mut self, table: &str, set: &str) -> Result<HashSet<Element>> {
        let mut previous = None;
        for _ in 0..LISTINGS {
            let listing = self.list_elements_once(table, set)?;
            let is_whole = listing.is_one_walk
                || previous.as_ref() == Some(&listing.elements)
                || self.count_elements(table, set)? == Some(listing.elements.len());
            if is_whole {
                return Ok(listing.elements);
            }
            previous = Some(listing.elements);
        }
        Err(Error::Interrupted)
    }

    fn list_elements_once(&mut self, table: &str, set: &str) -> Result<ElementListing> {
        let what = What {
            action: "list the elements of set",
            name: format!("{set} of table {table}"),
        };
        let mut elements = HashSet::new();
        let mut parts = 0;
        let ask = |m: &mut Messages| {
            m.text(1, table);
            m.text(2, set);
        };
        let asked = self.ask(GETSETELEM, DUMP, &what, ask, |_, attrs| {
            elements.extend(elements_of(attrs));
            parts += 1;
        });
        // Any transaction interrupts, also one of another table; what is listed is compared all the same.
        let is_interrupted = asked == Err(Error::Interrupted);
        if !is_interrupted {
            or_empty(asked)?;
        }
        Ok(ElementListing {
            elements,
            is_one_walk: parts <= 1 && !is_interrupted,
        })
    }

    /// How many elements a set has, with those of a transaction under way: never fewer than are in force. None where
    /// the kernel does not count (before Linux 6.16), or there is no such set.
    fn count_elements(&mut self, table: &str, set: &str) -> Result<Option<usize>> {
        let what = What {
            action: "count the elements of set",
            name: format!("{set} of table {table}"),
        };
        let mut count = None;
        let ask = |m: &mut Messages| {
            m.text(1, table);
            m.text(2, set);
        };
        let asked = self.ask(GETSET, 0, &what, ask, |_, attrs| count = attrs.u32(SET_COUNT));
        or_empty(asked)?;
        Ok(count.and_then(|count| usize::try_from(count).ok()))
    }

    /// One element as it is; none where the set has none of this key.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn find_element(&mut self, table: &str, set: &str, element: &Element) -> Result<Option<Element>> {
        let what = What {
            action: "look up an element of set",
            name: format!("{set} of table {table}"),
        };
        let mut found = None;
        let ask = |m: &mut Messages| {
            m.text(1, table);
            m.text(2, set);
            m.nest(3, |list| element.put(list, false));
        };
        let asked = self.ask(GETSETELEM, 0, &what, ask, |_, attrs| {
            found = elements_of(attrs).next()
        });
        or_empty(asked)?;
        Ok(found)
    }

    /// The counters of a table's rules, by chain and in the rules' order; rules without a counter are left out.
    ///
    /// # Errors
    /// The table was changed meanwhile, or the kernel refuses.
    pub fn counters(&mut self, table: &str) -> Result<HashMap<String, Vec<Counter>>> {
        let mut counters: HashMap<String, Vec<Counter>> = HashMap::new();
        let asked = self.list_rules(table, None, |chain, attrs| {
            let found = attrs.nested(4).iter().filter_map(|(_, bytes)| {
                let expression = Attrs(bytes);
                let data = expression.nested(2);
                (expression.text(1) == Some("counter")).then(|| Counter {
                    bytes: data.u64(1).unwrap_or_default(),
                    packets: data.u64(2).unwrap_or_default(),
                })
            });
            counters.entry(chain.to_owned()).or_default().extend(found);
        });
        or_empty(asked)?;
        Ok(counters)
    }

    /// Removes the table; false where there was none.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove_table(&mut self, table: &str) -> Result<bool> {
        let mut transaction = Transaction::new(table);
        transaction.delete_table();
        match transaction.run(self) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(false),
            done => done.map(|()| true),
        }
    }

    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        what: &What,
        fill: impl FnOnce(&mut Messages),
        mut take: impl FnMut(u16, &Attrs<'_>),
    ) -> Result<()> {
        let sequence = self.socket.sequences(1);
        let mut request = Messages::default();
        let flags = if flags == DUMP { DUMP } else { flags | ACK };
        request.begin(kind, flags, sequence, NFPROTO_INET, 0);
        fill(&mut request);
        if flags == DUMP {
            return self
                .socket
                .dump(&request, sequence, what, |m| take(m.kind, &Attrs::of(&m)));
        }
        self.socket.send(&request)?;
        let failures = self
            .socket
            .answers(sequence, sequence, |m| take(m.kind, &Attrs::of(&m)))?;
        failures
            .into_iter()
            .next()
            .map_or(Ok(()), |failure| Err(refused(what, failure)))
    }
}

/// What is not there has nothing to list.
fn or_empty(asked: Result<()>) -> Result<()> {
    match asked {
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

pub(crate) fn elements_of<'a>(attrs: &Attrs<'a>) -> impl Iterator<Item = Element> + use<'a> {
    let list = attrs.nested(3);
    list.iter().filter_map(|(_, bytes)| Element::read(&Attrs(bytes)))
}

/// The comment in a rule's user data: kind, length, text and a zero.
fn comment(user_data: &[u8]) -> Option<String> {
    let (length, rest) = (*user_data.get(1)?, user_data.get(2..)?);
    let text = rest.get(..usize::from(length).checked_sub(1)?)?;
    String::from_utf8(text.to_vec()).ok()
}
