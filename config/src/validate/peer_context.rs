//! What peers are checked against.

use bgp_proto::types::Asn;

use super::node::Node;
use super::policies::Policies;
use crate::model::Listen;
use crate::problem::Problems;

/// The rest of the configuration, as far as peers depend on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub(super) asn: Option<Asn>,
    pub(super) node: &'a Node,
    pub(super) listen: &'a Listen,
    pub(super) policies: &'a Policies<'a>,
    pub(super) problems: &'a Problems,
}
