//! Annotations of the Node object that take precedence over the file: `podroute/asn`, `podroute/router-id` and `podroute/peers`, where `node.annotations` names them.
//!
//! A peer of the annotation stands in place of the file's peer of the same name, or beside the others. Errors name the
//! annotation, with line and column in it. Whoever may change Node objects writes annotations: they name no files.

use crate::decode::Located;
use crate::model::{
    ASN_ANNOTATION, NodeFact, NodeFacts, PEERS_ANNOTATION, ROUTER_ID_ANNOTATION, RouterIdChoice,
};
use crate::problem::{Location, Position, Problems};
use crate::schema::{self, Annotation, Document, Peer};
use crate::value::{self, Scalar};
use crate::yaml;

/// The document as it is for this node.
pub(crate) fn apply(mut document: Document, facts: &NodeFacts, problems: &Problems) -> Document {
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
    take_asn(&mut document, own, problems);
    take_router_id(&mut document, own, problems);
    take_peers(&mut document, own, problems);
    document
}

/// Whether the file takes it; one that it does not take is reported.
fn is_taken(document: &Document, annotation: Annotation, name: &str, problems: &Problems) -> bool {
    let taken = document.node.annotations.iter().any(|at| at.value == annotation);
    if !taken {
        let what = match annotation {
            Annotation::Asn => "asn",
            Annotation::Peers => "peers",
            Annotation::RouterId => "routerId",
        };
        problems.reject(
            format!("annotation {name}"),
            format!("the file does not enable it; add node.annotations: [{what}], or remove the annotation"),
        );
    }
    taken
}

fn take_asn(document: &mut Document, own: &NodeFact, problems: &Problems) {
    let Some(text) = &own.asn else { return };
    if !is_taken(document, Annotation::Asn, ASN_ANNOTATION, problems) {
        return;
    }
    let location = Location {
        path: format!("annotation {ASN_ANNOTATION}"),
        position: Position { line: 1, column: 1 },
    };
    let scalar = Scalar {
        text: text.trim(),
        quoted: false,
    };
    match (value::ASN.parse)(scalar) {
        Ok(asn) => {
            document.node.has_asn = true;
            document.node.asn = Some(Located::new(asn, &location));
        }
        Err(_) => problems.error(location.problem(
            format!("{} is not an AS number", crate::problem::quoted(text)),
            "use a number from 1 to 4294967295, as \"64601\"",
        )),
    }
}

fn take_router_id(document: &mut Document, own: &NodeFact, problems: &Problems) {
    let Some(text) = &own.router_id else { return };
    if !is_taken(document, Annotation::RouterId, ROUTER_ID_ANNOTATION, problems) {
        return;
    }
    let scalar = Scalar {
        text: text.trim(),
        quoted: false,
    };
    match (value::ROUTER_ID.parse)(scalar) {
        Ok(id) => document.node.router_id = Some(id.map_or(RouterIdChoice::Auto, RouterIdChoice::Fixed)),
        // The node keeps the identifier that it has.
        Err(_) => problems.reject(
            format!("annotation {ROUTER_ID_ANNOTATION}"),
            format!(
                "{} is not a BGP identifier; use four numbers as 192.0.2.11, or auto",
                crate::problem::quoted(text)
            ),
        ),
    }
}

fn take_peers(document: &mut Document, own: &NodeFact, problems: &Problems) {
    let Some(text) = &own.peers else { return };
    if !is_taken(document, Annotation::Peers, PEERS_ANNOTATION, problems) {
        return;
    }
    let peers = read(text, problems);
    for peer in &peers {
        let key = peer.bfd.as_ref().and_then(|bfd| bfd.auth.as_ref()?.file.as_ref());
        let password = peer.password.as_ref();
        let next = password.and_then(|password| password.next.as_ref());
        let files = password.map(|password| &password.file).into_iter().chain(next);
        for file in files.chain(key) {
            let remedy = "write the peer into the file, with a nodeSelector; annotations name no files";
            problems.error(
                file.location
                    .problem("an annotation names a file of the node", remedy),
            );
        }
    }
    let names: Vec<String> = peers.iter().filter_map(name_of).collect();
    document
        .peers
        .retain(|peer| name_of(peer).is_none_or(|name| !names.contains(&name)));
    document.peers.extend(peers);
}

fn read(text: &str, problems: &Problems) -> Vec<Peer> {
    let name = format!("annotation {PEERS_ANNOTATION}");
    match yaml::parse(text) {
        Ok(root) => schema::read_peer_list(&root, problems, &name),
        Err(mut problem) => {
            problem.path = name;
            problems.error(problem);
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
        node: {name: node-7, blocks: [10.244.7.0/24], annotations: [asn, peers]}\npeers:\n\
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
    fn a_bad_annotation_is_rejected_alone_and_named() {
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
            (
                None,
                Some("- {name: x, address: 192.0.2.9, asn: 65001, password: {file: /dev/zero}}"),
                "annotation podroute/peers[0].password.file: an annotation names a file of the node",
            ),
            // An error that only shows beside the file.
            (
                None,
                Some("- {name: x, address: 192.0.2.1, asn: 65001}"),
                "192.0.2.1",
            ),
        ] {
            let config = load_for(FILE, &facts(asn, peers)).unwrap();
            let rejected: Vec<String> = config.rejected.iter().map(ToString::to_string).collect();
            assert!(
                rejected.len() == 1 && rejected[0].contains(wanted),
                "{wanted}: {rejected:?}"
            );
            assert!(
                config.unready.len() == 1 && config.unready[0].contains("annotation podroute/"),
                "{:?}",
                config.unready
            );
            let names: Vec<&str> = config.peers.iter().map(|peer| peer.name.as_str()).collect();
            assert_eq!(
                names,
                ["tor-a", "tor-b"],
                "the file is as if the annotation were not there"
            );
        }
        // The good one of two is taken.
        let config = load_for(FILE, &facts(Some("64607"), Some("[{"))).unwrap();
        assert_eq!((config.node.asn.0, config.rejected.len()), (64607, 1));
    }

    #[test]
    fn what_the_file_does_not_take_is_reported() {
        let file = FILE.replace(", annotations: [asn, peers]", "");
        let peers = "- {name: lab, address: 203.0.113.9, asn: 65009, multihop: 3}";
        let config = load_for(&file, &facts(Some("64607"), Some(peers))).unwrap();
        assert_eq!((config.node.asn.0, config.peers.len()), (64512, 2));
        let rejected: Vec<String> = config.rejected.iter().map(ToString::to_string).collect();
        assert!(
            rejected.len() == 2 && rejected[1].contains("add node.annotations: [peers]"),
            "{rejected:?}"
        );
        assert!(config.unready.is_empty());
    }
}
