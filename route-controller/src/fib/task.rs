//! The task that owns the kernel's routes: it joins [`Fib`] with the netlink sockets.
//!
//! Commands come over a bounded channel; when it is full the sender waits (the speaker merges kernel
//! changes by prefix meanwhile). Writes are made between commands, a batch at a time.

mod audit;
mod reports;
mod sweep;
mod unread;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_proto::types::{Family, PeerId, Prefix};
use bgp_speaker::{DatapathEvent, SpeakerHandle};
use std::net::IpAddr;
use tokio::sync::{mpsc, oneshot, watch};

use self::audit::Audit;
use self::reports::Reports;
use self::sweep::Sweep;
use self::unread::{Unread, Why};
use super::dump::ObjectReading;
use super::message::ReadRoute;
use super::netlink::{KernelEvent, Monitor, count_failures, read_all, read_objects};
use super::writer::{BATCH, Batch, Outcomes, Writer};
use super::{Failure, Fib, FibConfig, ObjectOp, Op, RouteKey, rules};
use crate::clock::{now, sleep_until};
use crate::measured::Measured;

/// What the task is asked.
pub(crate) enum ToFib {
    /// The whole set of own blocks; answered when their unreachable routes are in.
    Blocks(Blocks, oneshot::Sender<()>),
    /// The whole set of next hops that are gone whatever the kernel thinks, and since when that is so.
    Dead {
        dead: BTreeSet<IpAddr>,
        since: Instant,
    },
    /// Orphans go when the initial routes of these are complete.
    SweepAfter(BTreeSet<(PeerId, Family)>),
    /// Orphans go now.
    Sweep,
    /// The agent stops: the kernel keeps what it has from now on, whatever becomes of the sessions. Answered when nothing is under way
    /// any more.
    Stop(oneshot::Sender<()>),
    Reconfigure(FibConfig),
    Query(Box<dyn FnOnce(&Fib) + Send>),
}

/// Prefixes of which free addresses end here.
pub(crate) struct Blocks {
    /// Pod blocks of this node: nobody else has routes inside them.
    pub(crate) own: Vec<Prefix>,
    /// Aggregates of Services.
    pub(crate) aggregates: Vec<Prefix>,
}

/// Commands under way.
pub(crate) const CAPACITY: usize = 256;
/// Commands taken before writing.
const BURST: usize = 64;
/// Routes that move, or lead nowhere, are held back no longer than this, to see where they go together.
const LONGEST_HOLD: Duration = Duration::from_millis(100);

/// What the task receives.
struct Inputs {
    /// By the agent.
    commands: mpsc::Receiver<ToFib>,
    /// By the speaker.
    datapath: mpsc::Receiver<DatapathEvent>,
}

/// Who waits for what is under way.
#[derive(Default)]
struct Waiting {
    /// For the unreachable routes of blocks.
    blocks: Vec<oneshot::Sender<()>>,
    /// For the task's end.
    stopping: Option<oneshot::Sender<()>>,
}

pub(crate) struct FibTask {
    fib: Fib,
    writer: Writer,
    monitor: Monitor,
    inputs: Inputs,
    speaker: SpeakerHandle,
    waiting: Waiting,
    reports: Reports,
    sweep: Sweep,
    /// The kernel's nexthop objects have to be read.
    unread: Unread,
    audit: Audit,
    /// When routes that are held back have to go.
    flush_held_at: Option<Instant>,
    /// Links, addresses or others' routes may have changed.
    host: watch::Sender<()>,
}

impl FibTask {
    /// Opens the sockets, reads the kernel, and adopts own routes.
    pub(crate) async fn new(
        config: FibConfig,
        inbox: mpsc::Receiver<ToFib>,
        datapath: mpsc::Receiver<DatapathEvent>,
        speaker: SpeakerHandle,
        swept: watch::Sender<bool>,
        host: watch::Sender<()>,
    ) -> io::Result<Self> {
        let writer = Writer::start()?;
        let mut task = Self {
            fib: Fib::new(config),
            monitor: Monitor::new(writer.port())?,
            writer,
            inputs: Inputs {
                commands: inbox,
                datapath,
            },
            speaker,
            waiting: Waiting::default(),
            reports: Reports::default(),
            sweep: Sweep::new(swept),
            unread: Unread::new(now()),
            audit: Audit::new(now(), audit::seed()),
            flush_held_at: None,
            host,
        };
        // The monitor listens already, so that nothing falls between reading and listening.
        task.choose_objects().await;
        for (key, spec) in task.read_kernel().await? {
            task.fib.delta.adopt(key, Arc::new(spec));
        }
        task.ensure_rules().await;
        Ok(task)
    }

    /// Where it counts and measures.
    pub(crate) fn measure(&mut self, measured: Measured) {
        self.reports.measured = measured;
    }

    /// How many routes of an agent before this one were found in the kernel.
    pub(crate) fn adopted(&self) -> usize {
        self.fib.delta.orphans()
    }

    /// Routes refer to nexthop objects where the kernel has them and the operator wants it.
    async fn choose_objects(&mut self) {
        match read_objects().await {
            Ok(reading) => {
                let _ = self.fib.objects_read(reading);
                let config = self.fib.config();
                self.fib.objects.configure(config.objects, config.resilience);
            }
            Err(error) => {
                tracing::info!(event = "no_nexthop_objects", %error, "this kernel has no nexthop objects; each route contains its gateways");
                self.fib.objects.configure(false, None);
            }
        }
    }

    /// The policy rules are as configured; what others do to them is undone.
    async fn ensure_rules(&mut self) {
        match rules::ensure(self.fib.rule()).await {
            Ok((0, 0)) => {}
            Ok((added, removed)) => {
                tracing::info!(event = "policy_rules", added, removed, "policy rules changed")
            }
            Err(error) => {
                tracing::error!(event = "policy_rules_failed", %error, "cannot set policy rules (fib.rulePriority)")
            }
        }
    }

    /// Fills the mirror again and gives the own routes.
    async fn read_kernel(&mut self) -> io::Result<Vec<(RouteKey, super::RouteSpec)>> {
        let reading = read_all(self.fib.config().table).await?;
        if reading.is_doubtful {
            self.audit.soon(now());
        }
        self.fib.mirror.via_default = self.fib.config().via_default;
        let own = self.fib.mirror.fill(reading);
        self.fib.guard_again();
        Ok(own)
    }

    /// Runs until the agent drops the task's sender.
    pub(crate) async fn run(mut self) {
        loop {
            let table = self.fib.config().table;
            let deadline = {
                // What cannot be written yet is written when answers come.
                let can = self.may_write_routes();
                let moments = [
                    self.fib.delta.next_retry().filter(|_| can),
                    self.fib.objects.next_retry().filter(|_| self.writer.is_idle()),
                    self.flush_held_at,
                    self.audit.next(now()),
                    self.unread.next(now()).filter(|_| self.writer.is_idle()),
                ];
                moments.into_iter().flatten().min()
            };
            tokio::select! {
                biased;
                news = self.monitor.next(self.writer.port(), table) => match news {
                    Ok(news) => self.learn(news).await,
                    Err(error) => {
                        tracing::error!(event = "notifications_failed", %error, "cannot receive notifications of the kernel; reading everything again");
                        self.read_again().await;
                    }
                },
                command = self.inputs.commands.recv() => match command {
                    Some(command) => self.take(command).await,
                    None => return,
                },
                event = self.inputs.datapath.recv(), if !self.inputs.datapath.is_closed() || !self.inputs.datapath.is_empty() => {
                    if let Some(event) = event {
                        self.take_event(event).await;
                    }
                },
                Some((batch, outcomes)) = self.writer.next() => self.done(batch, outcomes),
                reading = self.audit.reading() => self.compare(reading).await,
                () = sleep_until(deadline.map(Into::into)) => {}
            }
            for _ in 1..BURST {
                match self.inputs.commands.try_recv() {
                    Ok(command) => self.take(command).await,
                    Err(_) => break,
                }
            }
            if let Some(done) = self.waiting.stopping.take() {
                return self.stop(done).await;
            }
            for _ in 1..BURST {
                match self.inputs.datapath.try_recv() {
                    Ok(event) => self.take_event(event).await,
                    Err(_) => break,
                }
            }
            self.audit_turn();
            self.write();
            if self.is_settled() {
                self.reports.under_way.settled(now(), &self.reports.measured);
            }
        }
    }

    /// What is under way is written to its end.
    async fn stop(mut self, done: oneshot::Sender<()>) {
        while !self.writer.is_idle()
            && let Some((batch, outcomes)) = self.writer.next().await
        {
            self.done(batch, outcomes);
        }
        let _ = done.send(()); // whoever asked may have stopped waiting
    }

    /// When what is held has to go at the latest.
    fn note_hold(&mut self) {
        self.flush_held_at = match self.flush_held_at {
            _ if !self.fib.is_holding() => None,
            None => Some(now() + LONGEST_HOLD),
            known => known,
        };
    }

    /// The mirror changed: next hops may resolve differently.
    async fn resolve_again(&mut self) {
        self.host.send_replace(());
        let news = self.fib.resolve_again();
        self.note_hold();
        self.report_next_hops(news).await;
    }

    /// What the speaker learned.
    async fn take_event(&mut self, event: DatapathEvent) {
        match event {
            DatapathEvent::Received(at) => self.reports.under_way.update(at),
            DatapathEvent::Routes { changes, more } => {
                self.fib.routes(changes, more);
                self.note_hold();
            }
            DatapathEvent::Watch(list) => {
                let news = self.fib.watch(list);
                self.report_next_hops(news).await;
            }
            DatapathEvent::Unwatch(list) => self.fib.unwatch(&list),
            DatapathEvent::EndOfRib(peer, family) => {
                self.sweep.ended.insert((peer, family));
                self.sweep_if_complete();
            }
        }
    }

    async fn take(&mut self, command: ToFib) {
        match command {
            ToFib::Dead { dead, since } => {
                if !dead.is_subset(&self.fib.mirror.dead) {
                    self.reports.under_way.loss(since);
                }
                self.fib.mirror.dead = dead;
                self.resolve_again().await;
            }
            ToFib::Blocks(blocks, done) => {
                self.fib.set_blocks(blocks.own, blocks.aggregates);
                self.waiting.blocks.push(done);
            }
            ToFib::SweepAfter(expected) => {
                self.sweep.expected = Some(expected);
                self.sweep_if_complete();
            }
            ToFib::Sweep => self.sweep(),
            ToFib::Stop(done) => self.waiting.stopping = Some(done),
            ToFib::Reconfigure(config) => {
                let known = self.fib.config();
                if (config.objects, config.resilience) != (known.objects, known.resilience) {
                    let able = config.objects && read_objects().await.is_ok();
                    self.fib.objects.configure(able, config.resilience);
                }
                if config.table != self.fib.config().table {
                    self.audit.at_once(now()); // others' routes in that table are not known
                }
                self.fib.reconfigure(config);
                self.ensure_rules().await;
            }
            ToFib::Query(query) => query(&self.fib),
        }
    }

    fn sweep_if_complete(&mut self) {
        if self.sweep.is_complete() {
            self.sweep();
        }
    }

    fn sweep(&mut self) {
        if self.sweep.done.send_replace(true) {
            return;
        }
        let count = self.fib.delta.sweep();
        if count > 0 {
            tracing::info!(
                event = "stale_routes_removed",
                count,
                "removing routes of the previous run that no peer advertises"
            );
        }
    }

    async fn report_next_hops(&self, news: Vec<(IpAddr, bgp_proto::engine::Reach)>) {
        if !news.is_empty() && self.speaker.next_hops(news).await.is_err() {
            tracing::debug!(
                event = "task_stopped",
                task = "speaker",
                "the speaker has stopped"
            );
        }
    }

    async fn learn(&mut self, news: Vec<KernelEvent>) {
        let mut topology = false;
        let gone: BTreeSet<u32> = news
            .iter()
            .filter_map(|one| match one {
                KernelEvent::ObjectGone(id) => Some(*id),
                _ => None,
            })
            .collect();
        if !gone.is_empty() {
            self.fib.objects_gone(&gone);
        }
        for one in news {
            topology |= match one {
                KernelEvent::Overrun => {
                    tracing::warn!(
                        event = "notifications_lost",
                        "notifications of the kernel were lost (buffer full); reading everything again"
                    );
                    self.read_again().await;
                    false
                }
                KernelEvent::Objects => {
                    self.unread.note(Why::Changed);
                    false
                }
                KernelEvent::ObjectGone(_) => false,
                KernelEvent::Rules => {
                    self.ensure_rules().await;
                    false
                }
                KernelEvent::RouteNew(ReadRoute::Own(key, spec), _) => self.observe(key, Some(spec)),
                KernelEvent::RouteGone(ReadRoute::Own(key, _), true) => {
                    self.fib.delta.observe(key, None); // an address or a link went; next hops may be others
                    false
                }
                KernelEvent::RouteGone(ReadRoute::Own(key, _), false) => self.observe(key, None),
                other => self.mirror(other),
            };
        }
        if topology {
            self.resolve_again().await;
        }
    }

    /// Another program changed or deleted an own route.
    fn observe(&mut self, key: RouteKey, spec: Option<super::RouteSpec>) -> bool {
        let gone = spec.is_none();
        if self.fib.delta.observe(key, spec.map(Arc::new)) && self.reports.may_report(now()) {
            tracing::warn!(event = "route_restored", route = %key, repairs = self.reports.repairs, deleted = gone, "another program deleted or changed a route of podroute; it is restored. systemd-networkd does this unless \
                 ManageForeignRoutes=no is set in networkd.conf, NetworkManager unless the interface is unmanaged");
        }
        false
    }

    /// Another program replaced an own route.
    fn replaced(&mut self, key: RouteKey, protocol: u8) {
        if self.fib.delta.observe(key, None) && self.reports.may_report(now()) {
            tracing::warn!(event = "route_replaced", route = %key, protocol, "another program replaced a route of podroute; it is restored when the other one is gone. Set fib.metric to \
                 a metric that no other program uses");
        }
    }

    /// Takes news of the host into the mirror; true when next hops may resolve differently.
    fn mirror(&mut self, event: KernelEvent) -> bool {
        match event {
            KernelEvent::Link(index, Some(link)) => {
                let is_up = link.up;
                let lost = self.fib.link_new(index, link);
                self.doubt_objects(lost);
                // A carrier that was lost and came back: the kernel may have taken both as no change, and kept what is believed gone.
                self.expected(!(lost && is_up));
            }
            KernelEvent::Link(index, None) => {
                self.fib.link_gone(index);
                self.doubt_objects(true);
            }
            KernelEvent::AddressNew(address, state) => self.fib.address_new(address, state),
            KernelEvent::AddressGone(address) => self.fib.address_gone(address),
            KernelEvent::RouteNew(ReadRoute::Foreign(prefix, route), arrival) => {
                let (key, protocol) = (route.key(prefix), route.protocol);
                let effect = self.fib.foreign_new(prefix, route, arrival);
                if effect.took_own {
                    self.replaced(key, protocol);
                }
                self.expected(!effect.unexpected);
            }
            KernelEvent::RouteGone(ReadRoute::Foreign(prefix, route), _) => {
                let effect = self.fib.foreign_gone(prefix, &route);
                self.expected(!effect.unexpected);
            }
            KernelEvent::RouteNew(ReadRoute::Own(..), _)
            | KernelEvent::RouteGone(ReadRoute::Own(..), _)
            | KernelEvent::Objects
            | KernelEvent::ObjectGone(_)
            | KernelEvent::Rules
            | KernelEvent::Overrun => return false,
        }
        true
    }

    /// Objects were lost: what is under way may have been lost or not.
    fn doubt_objects(&mut self, lost: bool) {
        if lost && self.writer.writes_objects() {
            self.unread.note(Why::Lost);
        }
    }

    /// One batch of changes.
    fn write(&mut self) {
        if self.flush_held_at.is_some_and(|at| at <= now()) {
            self.flush_held_at = None;
            self.fib.flush_held();
        }
        // Objects go alone: routes may refer to them.
        if self.writer.is_idle() && self.unread.is_due(now()) {
            self.unread.begin();
            self.writer.submit(Batch::ReadObjects(ObjectReading::default()));
        } else if self.writer.is_idle() {
            let mut objects = self.fib.objects.changes(now());
            if objects.is_empty() && *self.sweep.done.borrow() {
                objects = self.fib.object_removals();
            }
            self.writer.submit(Batch::Objects(objects));
        }
        while self.may_write_routes() && self.fib.delta.is_due(now()) {
            self.write_routes();
        }
        if self.fib.blocks_ready() {
            for done in self.waiting.blocks.drain(..) {
                let _ = done.send(()); // whoever asked may have stopped waiting
            }
        }
    }

    /// The kernel has answered all changes that can be written now.
    fn is_settled(&self) -> bool {
        self.writer.is_idle()
            && !self.fib.is_holding()
            && !self.fib.objects.has_changes()
            && !self.fib.delta.is_due(now())
    }

    fn may_write_routes(&self) -> bool {
        self.writer.takes_routes() && !self.fib.objects.has_changes() && !self.unread.is_due(now())
    }

    fn write_routes(&mut self) {
        let ops = self.fib.take_routes(now(), BATCH);
        self.writer.submit(Batch::Routes(ops));
    }

    /// A batch has its answers.
    fn done(&mut self, batch: Batch, outcomes: Outcomes) {
        if outcomes.is_err() {
            self.monitor.ignore(self.writer.port());
        }
        match (batch, outcomes) {
            (Batch::Routes(ops), Ok(outcomes)) => self.settle(ops, &outcomes),
            (Batch::Routes(ops), Err(error)) => self.lost_answers(ops, &error),
            (Batch::Objects(ops), Ok(outcomes)) => self.settle_objects(&ops, &outcomes),
            (Batch::Objects(ops), Err(error)) => {
                tracing::error!(event = "kernel_no_answer", %error, "the kernel did not answer changes of nexthop objects; trying again");
                self.settle_objects(&ops, &vec![Err(Failure::Errno(libc::EIO)); ops.len()]);
            }
            (Batch::ReadObjects(reading), Ok(_)) => self.objects_read(reading),
            (Batch::ReadObjects(_), Err(error)) => {
                let _ = self.unread.end(now());
                tracing::error!(event = "kernel_unreadable", %error, "cannot read the kernel's nexthop objects; the next audit tries again");
            }
        }
    }

    fn settle_objects(&mut self, ops: &[ObjectOp], outcomes: &[Result<(), Failure>]) {
        let now = now();
        let mut created = BTreeSet::new();
        let refused: Vec<_> = ops
            .iter()
            .zip(outcomes)
            .filter(|(op, _)| matches!(op, ObjectOp::Put(..)))
            .map(|(_, outcome)| *outcome)
            .collect();
        for (errno, count) in count_failures(&refused) {
            let error = io::Error::from_raw_os_error(errno);
            // One of a group's members may be gone: it is made again first.
            self.reports.refused(now, count, &error);
        }
        for (op, outcome) in ops.iter().zip(outcomes) {
            match (op, outcome) {
                (ObjectOp::Put(id, _), Ok(())) if !self.fib.objects.is_there(*id) => {
                    created.insert(*id);
                }
                _ => {}
            }
            self.fib.objects.done(now, op, outcome.is_ok());
        }
        self.fib.objects_put(&created);
    }

    fn settle(&mut self, ops: Vec<Op>, outcomes: &[Result<(), Failure>]) {
        let now = now();
        for (op, outcome) in ops.into_iter().zip(outcomes) {
            match (&op, outcome) {
                // The object that it refers to is not there.
                (Op::Add(_, spec) | Op::Replace(_, spec), Err(Failure::Errno(libc::EINVAL)))
                    if spec.group().is_some() =>
                {
                    self.unread.note(Why::Lost);
                }
                (Op::Add(key, _), Err(Failure::Exists)) => {
                    let known = self.fib.mirror.foreign(key).is_some();
                    self.expected(known);
                }
                _ => {}
            }
            self.fib.delta.done(now, op, *outcome);
        }
        for (errno, count) in count_failures(outcomes) {
            let error = io::Error::from_raw_os_error(errno);
            tracing::warn!(event = "routes_refused", count, %error, "the kernel refuses routes; trying again later (podroute show fib)");
        }
    }

    /// The answers did not come: nothing is known of these changes.
    fn lost_answers(&mut self, ops: Vec<Op>, error: &io::Error) {
        tracing::error!(event = "kernel_no_answer", %error, count = ops.len(), "the kernel did not answer route changes; trying again");
        let now = now();
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        for op in ops {
            self.fib.delta.done(now, op, Err(Failure::Errno(errno)));
        }
        self.fib.delta.doubt(|_| true);
    }
}
