//! Why a node does not announce an address of a Service.

use std::fmt;

use crate::guard::Refusal;

/// A reason, with its remedy where there is one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Unannounced {
    /// Its kind is not in `services.advertise`.
    KindOff,
    /// `services.selector` does not select the Service.
    NotSelected,
    /// Another program's `loadBalancerClass`.
    OtherClass,
    /// This node takes no traffic of load balancers.
    NodeExcluded,
    /// The traffic policy is Local, and no endpoint of the family is ready here.
    NoEndpointHere,
    /// No endpoint of the family is ready anywhere.
    NoEndpoint,
    /// Nobody may announce it.
    Refused(Refusal),
}

impl fmt::Display for Unannounced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KindOff => "services.advertise does not list addresses of this kind; add it there",
            Self::NotSelected => "services.selector does not select the Service's labels",
            Self::OtherClass => "its loadBalancerClass is not services.loadBalancerClass, nor that of a pool",
            Self::NodeExcluded => {
                "this node has the label node.kubernetes.io/exclude-from-external-load-balancers; remove the label to announce"
            }
            Self::NoEndpointHere => {
                "the traffic policy is Local and no endpoint of this family is ready on this node; nodes that have one announce it"
            }
            Self::NoEndpoint => {
                "no endpoint of this family is ready on any node (services.withoutEndpoints: withdraw); check the Service's selector and pods"
            }
            Self::Refused(refusal) => return refusal.fmt(f),
        })
    }
}
