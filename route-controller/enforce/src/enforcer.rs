//! Owns the model and the kernel's state, and makes the second follow the first.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use podroute_netfilter::{Conntrack, Counter, Flow, Nftables, Notifications};
use podroute_netpol::{Changes, Direction, Model};

use crate::flows;
use crate::kernel::Kernel;
use crate::layout::{FIRST_OF_CONNECTION, Object, TABLE, WAITING, class_chain};
use crate::plan::Plan;

/// Why policies are not in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("network policies cannot be brought into force: {0}")]
pub struct Error(#[from] podroute_netfilter::Error);

/// What a call of [`Enforcer::sync`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Octets of the transaction; 0: nothing was to be done.
    pub octets: usize,
    /// Something that was allowed may be forbidden now: see [`Enforcer::end_forbidden_flows`].
    pub restricts: bool,
    /// Another program had changed the table.
    pub repaired: bool,
}

/// Packets that rules dropped, by direction and namespace, and other counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// By direction and namespace.
    pub dropped: BTreeMap<(Direction, String), u64>,
    /// Of pods whose rules were not there yet.
    pub waiting: u64,
    /// Of TCP connections that are not tracked any more.
    pub midstream: u64,
    /// Accepted by rules, once for each connection.
    pub accepted: u64,
}

/// The owner of the table. Works in the network namespace of the thread that made it.
#[derive(Debug)]
pub struct Enforcer {
    pub model: Model,
    nftables: Nftables,
    notifications: Notifications,
    conntrack: Conntrack,
    kernel: Kernel,
    pending: Changes,
    /// The table has to be listed before anything else.
    must_list: bool,
    /// Another program changed the table since the last transaction.
    is_disturbed: bool,
}

impl Enforcer {
    /// Nothing is listed and nothing changed before [`Self::sync`].
    ///
    /// # Errors
    /// The kernel lacks nftables or connection tracking, or a right is missing.
    pub fn open() -> Result<Self, Error> {
        let nftables = Nftables::open()?;
        let notifications = Notifications::open(TABLE, nftables.port())?;
        Ok(Self {
            model: Model::new(),
            notifications,
            nftables,
            conntrack: Conntrack::open()?,
            kernel: Kernel::default(),
            pending: Changes::default(),
            must_list: true,
            is_disturbed: false,
        })
    }

    /// Adds the table with its fixed chains where they are not there. Nothing else of it changes: what an earlier process brought
    /// into force stays, until [`Self::sync`].
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn prepare(&mut self) -> Result<(), Error> {
        // A table of another version is replaced by `sync`: until then its rules are better than none.
        let Some(kernel) = self.find()?.filter(|kernel| !kernel.has_base) else {
            return Ok(());
        };
        let plan = Plan::new(&self.model, &kernel, &Changes::default());
        match plan.transaction(false).run(&mut self.nftables) {
            // A chain of the same name with another hook, or another kind of chain.
            Err(error) if matches!(error.errno(), Some(Errno::EEXIST | Errno::EOPNOTSUPP)) => Ok(()),
            done => Ok(done?),
        }
    }

    /// Readable when another program changed the table.
    #[must_use]
    pub fn notifications(&self) -> BorrowedFd<'_> {
        self.notifications.fd()
    }

    /// Takes in what other programs did.
    ///
    /// # Errors
    /// The kernel's notifications cannot be read.
    pub fn read_notifications(&mut self) -> Result<(), Error> {
        for notification in self.notifications.read()? {
            self.is_disturbed = true;
            if !self.kernel.notice(notification, &mut self.pending) {
                self.must_list = true;
            }
        }
        Ok(())
    }

    /// Another program changed the table since the last transaction.
    #[must_use]
    pub fn is_disturbed(&self) -> bool {
        self.is_disturbed
    }

    /// Everything is compared at the next [`Self::sync`].
    pub fn audit(&mut self) {
        self.must_list = true;
    }

    /// Brings the model's changes into force, in one transaction. What is in force already stays as it is.
    ///
    /// # Errors
    /// The kernel refuses. All of it is tried again at the next call.
    pub fn sync(&mut self) -> Result<Outcome, Error> {
        let changes = self.model.take_changes();
        self.pending.extend(changes);
        self.read_notifications()?;
        if self.must_list {
            self.list()?;
        }
        if self.pending.is_empty() && self.kernel.has_base {
            return Ok(Outcome::default());
        }
        match self.bring_into_force(false) {
            Ok(outcome) => Ok(outcome),
            Err(_) => {
                // Another program changed the table: it is listed, and replaced if the transaction fails again.
                self.list()?;
                self.bring_into_force(false).or_else(|_| self.replace())
            }
        }
    }

    /// Ends established connections that the model forbids; gives how many.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn end_forbidden_flows(&mut self) -> Result<usize, Error> {
        self.model.settle();
        Ok(flows::end_forbidden(&mut self.conntrack, &self.model)?)
    }

    /// Established connections that the model forbids.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forbidden_flows(&mut self) -> Result<Vec<Flow>, Error> {
        self.model.settle();
        Ok(flows::forbidden(&mut self.conntrack, &self.model)?)
    }

    /// Packets that were dropped and accepted since each chain is there.
    ///
    /// # Errors
    /// The table was changed meanwhile, or the kernel refuses.
    pub fn totals(&mut self) -> Result<Totals, Error> {
        let mut totals = Totals::default();
        for (chain, counters) in self.nftables.counters(TABLE)? {
            let packets = |counter: Option<&Counter>| counter.map_or(0, |counter| counter.packets);
            match Object::parse(&chain) {
                Some(Object::GroupChain(direction, name)) => {
                    let (last, rest) = (counters.last(), counters.len().saturating_sub(1));
                    let namespace = self
                        .model
                        .group_rules(direction, name)
                        .map(|rules| rules.namespace);
                    *totals
                        .dropped
                        .entry((direction, namespace.unwrap_or_default()))
                        .or_default() += packets(last);
                    totals.midstream += packets(counters.first());
                    let accepts = counters.iter().take(rest).skip(1);
                    totals.accepted += accepts.map(|counter| counter.packets).sum::<u64>();
                }
                _ if Direction::BOTH.map(class_chain).contains(&chain) => {
                    totals.accepted += counters.iter().map(|counter| counter.packets).sum::<u64>();
                }
                _ if chain == WAITING => totals.waiting += packets(counters.first()),
                _ if chain == FIRST_OF_CONNECTION => totals.midstream += packets(counters.first()),
                _ => {}
            }
        }
        Ok(totals)
    }

    /// Removes the table.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove() -> Result<bool, Error> {
        Ok(Nftables::open()?.remove_table(TABLE)?)
    }

    /// What the table holds; none where all of it has to be replaced.
    fn find(&mut self) -> Result<Option<Kernel>, Error> {
        let spec = |name: &str| Object::parse(name)?.set();
        Ok(Kernel::of(self.nftables.list(TABLE, spec)?))
    }

    fn list(&mut self) -> Result<(), Error> {
        let found = self.find()?;
        self.must_list = false;
        match found {
            Some(kernel) => self.kernel = kernel,
            None => {
                self.replace()?;
            }
        }
        let mut all = self.kernel.everything();
        all.extend(self.model.everything());
        // The model says by itself when its namespaces change.
        all.namespaces = false;
        self.pending.extend(all);
        Ok(())
    }

    fn bring_into_force(&mut self, replaces_table: bool) -> Result<Outcome, Error> {
        let plan = Plan::new(&self.model, &self.kernel, &self.pending);
        let mut outcome = Outcome {
            restricts: plan.restricts,
            ..Outcome::default()
        };
        if !plan.is_empty() {
            let transaction = plan.transaction(replaces_table);
            outcome.octets = transaction.length();
            transaction.run(&mut self.nftables)?;
            outcome.repaired = self.is_disturbed;
            plan.apply(&mut self.kernel);
        }
        self.is_disturbed = false;
        self.pending = Changes::default();
        Ok(outcome)
    }

    /// The whole table again, in one transaction.
    fn replace(&mut self) -> Result<Outcome, Error> {
        self.kernel = Kernel::default();
        self.pending = self.model.everything();
        self.bring_into_force(true)
    }
}
