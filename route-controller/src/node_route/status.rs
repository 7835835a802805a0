//! What the object says: a pure function of what the agent knows.

use serde::{Deserialize, Serialize};

use super::conditions::{self, Condition, State};
use crate::status::{BlockStatus, ClusterStatus, ConfigurationStatus, PeerStatus};

/// Peers that are listed; a mesh has as many as nodes, and an object has limits.
const PEERS_LISTED: usize = 64;
/// Longest text of a problem, in characters.
const TEXT_MAX: usize = 500;

/// What the agent knows.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) peers: Vec<PeerStatus>,
    pub(crate) blocks: Vec<BlockStatus>,
    pub(crate) cluster: ClusterStatus,
    pub(crate) routes: Routes,
}

/// Kernel routes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Routes {
    pub(crate) installed: usize,
    pub(crate) failed: usize,
}

/// The object's `status`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) configuration: ConfigurationStatus,
    pub(crate) sessions: Sessions,
    pub(crate) routes: Routes,
    /// Addresses and aggregates of Services that the node announces.
    pub(crate) services: usize,
    /// `No`, `PreferOthers` or `Withdrawn`.
    pub(crate) drained: String,
    pub(crate) blocks: Vec<Block>,
    pub(crate) peers: Vec<Peer>,
    /// The most important fault; empty, and absent from the object: none is known. (API servers of 1.20 read an empty text as null.)
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) problem: String,
    pub(crate) conditions: Vec<Condition>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Sessions {
    pub(crate) established: usize,
    pub(crate) wanted: usize,
    /// For the column of `kubectl get`: `2/3`.
    pub(crate) summary: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Block {
    pub(crate) prefix: String,
    pub(crate) state: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) address: String,
    /// Absent while it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) asn: Option<u32>,
    pub(crate) state: String,
}

/// The status without times of its conditions.
pub(crate) fn of(facts: &Facts) -> Status {
    let wanted: Vec<&PeerStatus> = facts.peers.iter().filter(|peer| is_wanted(peer)).collect();
    let established = wanted.iter().filter(|peer| peer.uptime_seconds.is_some()).count();
    let sessions = Sessions {
        established,
        wanted: wanted.len(),
        summary: format!("{established}/{}", wanted.len()),
    };
    let cluster = &facts.cluster;
    let drained = match cluster.drained.as_str() {
        "prefer-others" => "PreferOthers",
        "withdrawn" => "Withdrawn",
        _ => "No",
    };
    let problem = problem(facts);
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        configuration: cluster.configuration.clone(),
        routes: facts.routes,
        services: cluster.announced,
        blocks: facts
            .blocks
            .iter()
            .map(|block| Block {
                prefix: block.prefix.clone(),
                state: block.state.clone(),
            })
            .collect(),
        peers: peers(&wanted),
        conditions: conditions::of(&State {
            not_ready: cluster.not_ready.clone(),
            down: wanted
                .iter()
                .filter(|peer| peer.uptime_seconds.is_none())
                .map(|peer| peer.name.clone())
                .collect(),
            is_config_rejected: cluster.configuration.rejected,
            failed_routes: facts.routes.failed,
            drained: drained.to_owned(),
        }),
        sessions,
        drained: drained.to_owned(),
        problem,
    }
}

/// Sessions that should be up: not those that an operator disabled, nor peers that came by a range.
fn is_wanted(peer: &PeerStatus) -> bool {
    peer.enabled && peer.range.is_none()
}

/// Those that are down first, so that none of them is cut off.
fn peers(wanted: &[&PeerStatus]) -> Vec<Peer> {
    let mut listed: Vec<&&PeerStatus> = wanted.iter().collect();
    listed.sort_by_key(|peer| (peer.uptime_seconds.is_some(), peer.name.clone()));
    listed
        .into_iter()
        .take(PEERS_LISTED)
        .map(|peer| Peer {
            name: peer.name.clone(),
            address: peer.address.to_string(),
            asn: peer.asn,
            state: state(peer).to_owned(),
        })
        .collect()
}

/// A session that tries to come up changes its state every few seconds; that alone is not written.
fn state(peer: &PeerStatus) -> &'static str {
    if peer.uptime_seconds.is_some() {
        "Established"
    } else {
        "Down"
    }
}

/// In the order of what an operator looks at first.
fn problem(facts: &Facts) -> String {
    let rejected = facts
        .cluster
        .configuration
        .rejected
        .then(|| "the configuration on disk was rejected: see 'podroute check'".to_owned());
    let down = facts
        .peers
        .iter()
        .filter(|peer| is_wanted(peer) && peer.uptime_seconds.is_none())
        .map(|peer| {
            let why = peer.last_end.as_ref().or(peer.last_error.as_ref());
            match why {
                Some(why) => format!("{} is down: {why}", peer.name),
                None => format!("{} is down", peer.name),
            }
        });
    let failed = (facts.routes.failed > 0).then(|| {
        format!(
            "{} routes are not in the kernel: see 'podroute show fib'",
            facts.routes.failed
        )
    });
    let blocks = facts
        .blocks
        .iter()
        .flat_map(|block| block.troubles.first().cloned());
    let all = rejected
        .into_iter()
        .chain(facts.cluster.not_ready.iter().cloned())
        .chain(down)
        .chain(failed)
        .chain(blocks);
    all.map(|text| shorten(&text)).next().unwrap_or_default()
}

fn shorten(text: &str) -> String {
    let printable = text.chars().filter(|c| !c.is_control());
    printable.take(TEXT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views;

    fn peer(name: &str, up: bool) -> PeerStatus {
        let mut peer = views::peer(&crate::testing::peer());
        peer.name = name.to_owned();
        peer.enabled = true;
        peer.range = None;
        peer.uptime_seconds = up.then_some(60);
        peer.state = if up { "Established" } else { "Active" }.to_owned();
        peer
    }

    fn facts(peers: Vec<PeerStatus>) -> Facts {
        Facts {
            peers,
            ..Facts::default()
        }
    }

    #[test]
    fn sessions_that_should_be_up_are_counted() {
        let mut disabled = peer("tor-c", false);
        disabled.enabled = false;
        let mut of_range = peer("guest", true);
        of_range.range = Some("guests".to_owned());
        let status = of(&facts(vec![
            peer("tor-a", true),
            peer("tor-b", false),
            disabled,
            of_range,
        ]));
        assert_eq!(status.sessions.summary, "1/2");
        let listed: Vec<_> = status
            .peers
            .iter()
            .map(|peer| (peer.name.as_str(), peer.state.as_str()))
            .collect();
        assert_eq!(
            listed,
            [("tor-b", "Down"), ("tor-a", "Established")],
            "those that are down are first"
        );
    }

    #[test]
    fn attempts_of_a_session_that_is_down_change_nothing() {
        let mut later = peer("tor-a", false);
        "Connect".clone_into(&mut later.state);
        assert_eq!(of(&facts(vec![peer("tor-a", false)])), of(&facts(vec![later])));
        let mut longer = peer("tor-a", true);
        longer.uptime_seconds = Some(61);
        assert_eq!(of(&facts(vec![peer("tor-a", true)])), of(&facts(vec![longer])));
    }

    #[test]
    fn a_mesh_lists_some_peers_and_those_that_are_down_are_among_them() {
        let mut peers: Vec<PeerStatus> = (0..1000).map(|n| peer(&format!("node-{n:04}"), true)).collect();
        peers.push(peer("zz", false));
        let status = of(&facts(peers));
        assert_eq!(status.sessions.summary, "1000/1001");
        assert_eq!(
            (status.peers.len(), status.peers[0].name.as_str()),
            (PEERS_LISTED, "zz")
        );
        assert!(serde_json::to_string(&status).unwrap().len() < 16 << 10);
    }

    #[test]
    fn the_problem_is_the_first_that_matters() {
        let mut down = peer("tor-a", false);
        down.last_end = Some("hold timer expired\u{1b}[2J".to_owned());
        let mut all = facts(vec![down]);
        assert_eq!(of(&all).problem, "tor-a is down: hold timer expired[2J");
        all.cluster.configuration.rejected = true;
        assert!(
            of(&all)
                .problem
                .starts_with("the configuration on disk was rejected")
        );
        assert_eq!(of(&facts(vec![peer("tor-a", true)])).problem, "");
    }
}
