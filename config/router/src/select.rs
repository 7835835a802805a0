//! Which of a node's routers a configuration is of.

use crate::router::Router;
use crate::side::Side;

/// Why no router can be chosen.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SelectError {
    /// None has this AS.
    #[error("the router is AS {0}, and no peer of this node is: {1}; name its peers with --peer")]
    Nobody(String, String),
    /// More than one could be it.
    #[error(
        "the configuration may be that of several routers of this node: {0}; name the peers of one with --peer"
    )]
    Several(String),
}

/// The side that a router's configuration belongs to: the only one, or that with its AS and one of its addresses.
///
/// # Errors
/// Several could be it, or none.
pub fn select<'a>(sides: &'a [Side], router: &Router) -> Result<&'a Side, SelectError> {
    if let [only] = sides {
        return Ok(only);
    }
    let asn = |side: &&Side| router.asn.is_some_and(|asn| asn.value == side.asn.0);
    let same_as: Vec<&Side> = sides.iter().filter(asn).collect();
    let at_address = |side: &&&Side| {
        let mut wanted = side.groups.iter().filter_map(|group| group.router);
        wanted.any(|address| router.addresses.iter().any(|at| at.value == address))
    };
    match same_as.as_slice() {
        [] => {
            let found = router
                .asn
                .map_or("unknown".to_owned(), |asn| asn.value.to_string());
            let known = sides
                .iter()
                .map(|side| format!("{} (AS {})", names(side), side.asn));
            Err(SelectError::Nobody(found, known.collect::<Vec<_>>().join(", ")))
        }
        [only] => Ok(only),
        several => match several.iter().filter(at_address).collect::<Vec<_>>().as_slice() {
            [only] => Ok(only),
            _ => {
                let known: Vec<String> = several.iter().map(|side| names(side)).collect();
                Err(SelectError::Several(known.join("; ")))
            }
        },
    }
}

/// The names of a side's peers.
#[must_use]
pub fn names(side: &Side) -> String {
    let names: Vec<&str> = side.groups.iter().map(|group| group.peer.as_str()).collect();
    names.join(", ")
}
