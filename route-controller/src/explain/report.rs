//! Steps, faults, and the report.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Name and version of the report's form.
pub(crate) const SCHEMA: &str = "podroute.explain/v1";

/// How a step is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Verdict {
    Ok,
    /// It cannot be found out from here.
    Unknown,
    /// The packet passes here, and something is not as it should be.
    Warning,
    /// The packet or its answer does not pass.
    Broken,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Unknown => "?",
            Self::Warning => "warning",
            Self::Broken => "BROKEN",
        })
    }
}

/// What is wrong: a stable name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Fault {
    AgentDown,
    StaleApiData,
    NodeDrained,
    SessionDown,
    ImportRejected,
    ExportRejected,
    NextHopUnresolved,
    PathUnusable,
    RouteMissing,
    KernelRefused,
    ForeignRoute,
    NeighborFailed,
    InterfaceDown,
    ForwardingOff,
    ReversePathFilter,
    SmallerMtu,
    PodGone,
    PodInterfaceDown,
    PodRouteMissing,
    DuplicateAddress,
    BlockNotAdvertised,
    NetworkPolicy,
    AsymmetricReturn,
    NoReturnRoute,
    ConntrackFull,
    ServiceWithoutEndpoints,
    ServiceRejected,
    ServiceNotAnnounced,
    PortClosed,
    PacketsLost,
}

/// A step of a packet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Step {
    /// What is looked at: `source`, `policy`, `route` …
    pub(crate) part: String,
    pub(crate) verdict: Verdict,
    pub(crate) text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<Fault>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<String>,
}

impl Step {
    pub(super) fn ok(part: &str, text: impl Into<String>) -> Self {
        Self::new(part, Verdict::Ok, text.into())
    }

    pub(super) fn unknown(part: &str, text: impl Into<String>) -> Self {
        Self::new(part, Verdict::Unknown, text.into())
    }

    pub(super) fn broken(
        part: &str,
        fault: Fault,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            fault: Some(fault),
            remedy: Some(remedy.into()),
            ..Self::new(part, Verdict::Broken, text.into())
        }
    }

    pub(super) fn warning(
        part: &str,
        fault: Fault,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            verdict: Verdict::Warning,
            ..Self::broken(part, fault, text, remedy)
        }
    }

    fn new(part: &str, verdict: Verdict, text: String) -> Self {
        Self {
            part: part.to_owned(),
            verdict,
            text,
            fault: None,
            remedy: None,
        }
    }
}

/// The steps on one node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hop {
    pub(crate) node: String,
    /// `source`, `destination`, `both` or `transit`.
    pub(crate) role: String,
    pub(crate) steps: Vec<Step>,
}

/// One source address, one destination address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    pub(crate) source: String,
    pub(crate) destination: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<String>,
    /// In the order of the packet: steps of other nodes are added to it.
    pub(crate) hops: Vec<Hop>,
    /// The worst of all steps.
    pub(crate) verdict: Verdict,
    /// The first broken step, or the first with a warning: number of the hop and of its step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) first_fault: Option<(usize, usize)>,
    /// The node whose steps are missing, where this node knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) other_node: Option<String>,
}

impl Explanation {
    /// Verdict and first fault follow from the hops.
    pub(crate) fn conclude(&mut self) {
        let steps = || self.hops.iter().flat_map(|hop| &hop.steps);
        self.verdict = steps().map(|step| step.verdict).max().unwrap_or(Verdict::Unknown);
        let first = |verdict| {
            self.hops.iter().enumerate().find_map(|(hop, of)| {
                let step = of
                    .steps
                    .iter()
                    .position(|step| step.verdict == verdict && step.fault.is_some())?;
                Some((hop, step))
            })
        };
        self.first_fault = first(Verdict::Broken).or_else(|| first(Verdict::Warning));
    }

    /// The first broken step, or the first with a warning.
    pub(crate) fn fault(&self) -> Option<&Step> {
        let (hop, step) = self.first_fault?;
        self.hops.get(hop)?.steps.get(step)
    }
}

/// Everything that was asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) schema: String,
    /// One for each pair of addresses of one family.
    pub(crate) explanations: Vec<Explanation>,
}
