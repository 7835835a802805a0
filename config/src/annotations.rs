//! What the node's object says against the file: `podroute/asn` and `podroute/peers`.
//!
//! A peer of the annotation stands in place of the file's peer of the same name, or beside the others. Errors name the
//! annotation, with line and column in it; they refuse the whole configuration, like errors in the file.

use crate::decode::At;
use crate::model::{ASN_ANNOTATION, NodeFact, NodeFacts, PEERS_ANNOTATION};
use crate::problem::{Mark, Sink, Spot};
use crate::schema::{self, Document, Peer};
use crate::value::{self, Scalar};
use crate::yaml;

/// The document as it is for this node.
pub(crate) fn apply(mut document: Document, facts: &NodeFacts, sink: &Sink) -> Document {
    let name = document
        .node
        .name
        .as_ref()
        .map(|name| &name.value)
        .or(facts.name.as_ref());
    let own = facts
        .cluster
        .as_ref()
        .zip(name)
        .and_then(|(cluster, name)| cluster.nodes.get(name));
    let Some(own) = own else { return document };
    take_asn(&mut document, own, sink);
    take_peers(&mut document, own, sink);
    document
}

fn take_asn(document: &mut Document, own: &NodeFact, sink: &Sink) {
    let Some(text) = &own.asn else { return };
    let spot = Spot {
        path: format!("annotation {ASN_ANNOTATION}"),
        mark: Mark { line: 1, column: 1 },
    };
    let scalar = Scalar {
        text: text.trim(),
        quoted: false,
    };
    match (value::ASN.parse)(scalar) {
        Ok(asn) => {
            document.node.has_asn = true;
            document.node.asn = Some(At::new(asn, &spot));
        }
        Err(_) => sink.error(spot.problem(
            format!("{} is not an AS number", crate::problem::quoted(text)),
            "use a number from 1 to 4294967295, as \"64601\"",
        )),
    }
}

fn take_peers(document: &mut Document, own: &NodeFact, sink: &Sink) {
    let Some(text) = &own.peers else { return };
    let peers = read(text, sink);
    let names: Vec<String> = peers.iter().filter_map(name_of).collect();
    document
        .peers
        .retain(|peer| name_of(peer).is_none_or(|name| !names.contains(&name)));
    document.peers.extend(peers);
}

fn read(text: &str, sink: &Sink) -> Vec<Peer> {
    let name = format!("annotation {PEERS_ANNOTATION}");
    match yaml::parse(text) {
        Ok(root) => schema::read_peer_list(&root, sink, &name),
        Err(mut problem) => {
            problem.path = name;
            sink.error(problem);
            Vec::new()
        }
    }
}

fn name_of(peer: &Peer) -> Option<String> {
    peer.name.as_ref().map(|name| name.value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClusterFacts, load_for};

    const FILE: &str = "apiVersion: podroute/v1\ncluster: {asn: 64512, podCIDRs: [10.244.0.0/16]}\n\
        node: {name: node-7, blocks: [10.244.7.0/24]}\npeers:\n\
        - {name: tor-a, address: 192.0.2.1, asn: 65001, import: all, export: all}\n\
        - {name: tor-b, address: 192.0.2.2, asn: 65001, import: all, export: all}\npolicies: {all: accept}\n";

    fn facts(asn: Option<&str>, peers: Option<&str>) -> NodeFacts {
        let fact = NodeFact {
            asn: asn.map(str::to_owned),
            peers: peers.map(str::to_owned),
            ..NodeFact::default()
        };
        NodeFacts {
            cluster: Some(ClusterFacts {
                nodes: [("node-7".to_owned(), fact)].into(),
                ..ClusterFacts::default()
            }),
            ..NodeFacts::default()
        }
    }

    #[test]
    fn a_node_has_its_own_as_and_peers() {
        let peers = "- {name: tor-b, address: 198.51.100.2, asn: 65002, import: all, export: all}\n\
                     - {name: lab, address: 203.0.113.9, asn: 65009, multihop: 3, import: all, export: all}\n";
        let config = load_for(FILE, &facts(Some("64607"), Some(peers))).unwrap();
        assert_eq!(config.node.asn.0, 64607);
        let names: Vec<String> = config
            .peers
            .iter()
            .map(|peer| format!("{} {}", peer.name, peer.remote_asn))
            .collect();
        assert_eq!(names, ["tor-a 65001", "tor-b 65002", "lab 65009"]);
    }

    #[test]
    fn errors_name_the_annotation() {
        for (asn, peers, wanted) in [
            (
                Some("many"),
                None,
                "annotation podroute/asn: 'many' is not an AS number",
            ),
            (
                None,
                Some("- {name: x, asn: 65001}"),
                "annotation podroute/peers[0]: ",
            ),
            (None, Some("tor: 1"), "annotation podroute/peers: "),
            (None, Some("[{"), "annotation podroute/peers: "),
        ] {
            let errors = load_for(FILE, &facts(asn, peers)).unwrap_err().to_string();
            assert!(errors.contains(wanted), "{errors}");
        }
    }
}
