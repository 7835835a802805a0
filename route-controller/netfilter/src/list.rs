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

/// Anything is listed at most this often.
const LISTINGS: usize = 10;
/// The number of a set's elements.
const SET_COUNT: u16 = 20;

/// What the kernel lists at one request.
struct Listed<T> {
    content: T,
    /// Whole for sure. Any transaction interrupts a listing in parts, also one of another table.
    is_whole: bool,
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
    /// The table is changed all the time ([`Error::Interrupted`]), or the kernel refuses.
    pub fn list(&mut self, table: &str, spec: impl Fn(&str) -> Option<SetSpec>) -> Result<TableListing> {
        let mut listing = TableListing {
            generation: self.generation()?,
            ..TableListing::default()
        };
        let chains = self.until_whole(PartialEq::eq, |this| this.list_chains(table))?;
        listing.chains = chains.into_iter().map(|name| (name, Vec::new())).collect();
        let comment_of = |attrs: &Attrs<'_>| attrs.get(7).and_then(comment).unwrap_or_default();
        let rules = self.until_whole(PartialEq::eq, |this| this.list_rules(table, comment_of))?;
        for (chain, comment) in rules {
            listing.chains.entry(chain).or_default().push(comment);
        }
        let sets = self.until_whole(PartialEq::eq, |this| this.list_sets(table, &spec))?;
        for (name, is_as_asked) in sets {
            if !is_as_asked {
                listing.other_sets.insert(name);
                continue;
            }
            if spec(&name).is_some() {
                let elements = self.list_elements(table, &name)?;
                listing.elements.insert(name.clone(), elements);
            }
            listing.sets.insert(name);
        }
        Ok(listing)
    }

    /// Lists until a listing is whole for sure, or agrees with the previous one.
    fn until_whole<T>(
        &mut self,
        agree: impl Fn(&T, &T) -> bool,
        mut list: impl FnMut(&mut Self) -> Result<Listed<T>>,
    ) -> Result<T> {
        let mut previous = None;
        for _ in 0..LISTINGS {
            let Listed { content, is_whole } = list(self)?;
            if is_whole || previous.is_some_and(|previous| agree(&previous, &content)) {
                return Ok(content);
            }
            previous = Some(content);
        }
        Err(Error::Interrupted)
    }

    fn list_chains(&mut self, table: &str) -> Result<Listed<Vec<String>>> {
        let what = What {
            action: "list the chains of table",
            name: table.to_owned(),
        };
        let mut content = Vec::new();
        let is_whole = self.dump(
            GETCHAIN,
            &what,
            |m| m.text(1, table),
            |attrs| {
                if attrs.text(1) == Some(table) {
                    content.extend(attrs.text(3).map(str::to_owned));
                }
            },
        )?;
        Ok(Listed { content, is_whole })
    }

    /// What `read` gives of each rule, with the rule's chain.
    fn list_rules<T>(
        &mut self,
        table: &str,
        read: impl Fn(&Attrs<'_>) -> T,
    ) -> Result<Listed<Vec<(String, T)>>> {
        let what = What {
            action: "list the rules of table",
            name: table.to_owned(),
        };
        let mut content = Vec::new();
        let is_whole = self.dump(
            GETRULE,
            &what,
            |m| m.text(1, table),
            |attrs| {
                if attrs.text(1) == Some(table)
                    && let Some(chain) = attrs.text(2)
                {
                    content.push((chain.to_owned(), read(attrs)));
                }
            },
        )?;
        Ok(Listed { content, is_whole })
    }

    /// Names of sets, and whether their type is as asked for.
    fn list_sets(
        &mut self,
        table: &str,
        spec: &impl Fn(&str) -> Option<SetSpec>,
    ) -> Result<Listed<Vec<(String, bool)>>> {
        let what = What {
            action: "list the sets of table",
            name: table.to_owned(),
        };
        let mut content = Vec::new();
        let is_whole = self.dump(
            GETSET,
            &what,
            |m| m.text(1, table),
            |attrs| {
                if let Some(name) = attrs.text(2).filter(|_| attrs.text(1) == Some(table)) {
                    let is_as_asked = spec(name).is_none_or(|spec| spec.matches(attrs));
                    content.push((name.to_owned(), is_as_asked));
                }
            },
        )?;
        Ok(Listed { content, is_whole })
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
        self.until_whole(PartialEq::eq, |this| this.list_elements_once(table, set))
    }

    fn list_elements_once(&mut self, table: &str, set: &str) -> Result<Listed<HashSet<Element>>> {
        let what = What {
            action: "list the elements of set",
            name: format!("{set} of table {table}"),
        };
        let mut content = HashSet::new();
        let mut parts = 0;
        let ask = |m: &mut Messages| {
            m.text(1, table);
            m.text(2, set);
        };
        let is_undisturbed = self.dump(GETSETELEM, &what, ask, |attrs| {
            content.extend(elements_of(attrs));
            parts += 1;
        })?;
        let is_one_walk = is_undisturbed && parts <= 1;
        let is_whole = is_one_walk || self.count_elements(table, set)? == Some(content.len());
        Ok(Listed { content, is_whole })
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
    /// The table is changed all the time ([`Error::Interrupted`]), or the kernel refuses.
    pub fn counters(&mut self, table: &str) -> Result<HashMap<String, Vec<Counter>>> {
        type Counted = Vec<(String, Vec<Counter>)>;
        // Counts differ from one listing to the next.
        let agree = |a: &Counted, b: &Counted| {
            let shape = |(chain, counters): &(String, Vec<Counter>)| (chain.clone(), counters.len());
            a.iter().map(shape).eq(b.iter().map(shape))
        };
        let mut counters: HashMap<String, Vec<Counter>> = HashMap::new();
        for (chain, found) in self.until_whole(agree, |this| this.list_rules(table, counters_of))? {
            counters.entry(chain).or_default().extend(found);
        }
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

    /// One listing; nothing where there is no such object. False: it was interrupted.
    fn dump(
        &mut self,
        kind: u16,
        what: &What,
        fill: impl FnOnce(&mut Messages),
        mut take: impl FnMut(&Attrs<'_>),
    ) -> Result<bool> {
        match self.ask(kind, DUMP, what, fill, |_, attrs| take(attrs)) {
            Err(Error::Interrupted) => Ok(false),
            asked => or_empty(asked).map(|()| true),
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

/// A rule's counters.
fn counters_of(attrs: &Attrs<'_>) -> Vec<Counter> {
    let expressions = attrs.nested(4).iter().map(|(_, bytes)| Attrs(bytes));
    let counters = expressions.filter(|expression| expression.text(1) == Some("counter"));
    let read = |expression: Attrs<'_>| {
        let data = expression.nested(2);
        Counter {
            bytes: data.u64(1).unwrap_or_default(),
            packets: data.u64(2).unwrap_or_default(),
        }
    };
    counters.map(read).collect()
}

/// The comment in a rule's user data: kind, length, text and a zero.
fn comment(user_data: &[u8]) -> Option<String> {
    let (length, rest) = (*user_data.get(1)?, user_data.get(2..)?);
    let text = rest.get(..usize::from(length).checked_sub(1)?)?;
    String::from_utf8(text.to_vec()).ok()
}
