//! How a packet travels from one address to another, as one node sees it: facts in, ordered steps with a verdict out.
//!
//! | module | does |
//! |---|---|
//! | `facts` | what a node knows of a packet: of both ends, the kernel, BGP, policies |
//! | `judge` | the steps of a packet on a node, each with its verdict; pure |
//! | `route` | of these the route, the next hop and the interface; pure |
//! | `report` | steps, faults and the report that other nodes' steps are added to |
//!
//! `cli/explain/` gathers the facts. Each node answers for itself: a report of two nodes is the steps of both.

mod facts;
mod judge;
mod report;
mod route;

pub(crate) use facts::{
    AgentFacts, Arrival, BlockFacts, End, Facts, HostFacts, KernelAnswer, PodFacts, Probe, ProbeFacts,
    ProbedHop, ServiceFacts, Session, Watch, Way,
};
pub(crate) use judge::explain;
pub(crate) use report::{Explanation, Report, SCHEMA, Step, Verdict};

#[cfg(test)]
mod tests;
