//! Why a session is not up, in words that name a remedy: from its state, its last words and its configuration.
//!
//! Pure. Says only what the facts make likely, and says so.

use bgp_proto::session::{DownReason, Negotiated, State};
use bgp_proto::types::Role;
use bgp_proto::wire::{Capability, Notification, Open, code, open_error};
use bgp_speaker::{PeerSnapshot, Ttl};

/// What to look at; `None` while the session is up, or when its own last words say it all.
pub(crate) fn hint(peer: &PeerSnapshot) -> Option<String> {
    let session = &peer.session;
    if session.state == State::Established || !session.enabled {
        return None;
    }
    if let Some(missing) = &session.waiting_for {
        return Some(missing.clone());
    }
    match session.stats.last_down.as_ref()? {
        DownReason::Closed(Some(error)) => closed(peer, error),
        DownReason::Closed(None) => Some(silent(peer)),
        DownReason::Sent(notification) | DownReason::Received(notification) => notified(peer, notification),
        DownReason::Abandoned => None,
    }
}

/// A system error of the connection.
fn closed(peer: &PeerSnapshot, error: &str) -> Option<String> {
    let transport = &peer.spec.transport;
    let lower = error.to_lowercase();
    if lower.contains("refused") {
        let port = transport.remote.port();
        return Some(format!(
            "the peer does not listen on port {port}, or does not accept this node's address"
        ));
    }
    if lower.contains("timed out") {
        return Some(match &transport.password {
            Some(_) => {
                "no answer: another MD5 secret or none at the peer, a firewall, or a wrong address".to_owned()
            }
            None => {
                "no answer: an MD5 secret that only the peer has, a firewall, or a wrong address".to_owned()
            }
        });
    }
    if lower.contains("unreachable") || lower.contains("no route") {
        return Some(
            match transport.ttl {
                Ttl::Gtsm(_) => "no route: is the peer on a connected subnet (or ttlSecurity.hops too low)?",
                Ttl::Default | Ttl::Multihop(1) => {
                    "no route: a peer that is not on a connected subnet needs multihop"
                }
                Ttl::Multihop(_) => "no route: the node needs a route to the peer",
            }
            .to_owned(),
        );
    }
    lower.contains("reset").then(|| silent(peer))
}

/// RFC 9234 §4.2.
fn role_mismatch(role: Option<Role>) -> String {
    let Some(role) = role else {
        return "the peer wants a role (RFC 9234), and this node has none: set role, or switch the peer's strict mode off".to_owned();
    };
    format!(
        "the roles do not fit (RFC 9234): here role is {role}, so the peer must be {}",
        role.counterpart()
    )
}

/// The peer closed without a word.
fn silent(peer: &PeerSnapshot) -> String {
    let stats = &peer.session.stats;
    if stats.messages_in.open == 0 {
        return "the peer closed before its OPEN: it does not know this node as a peer, or not by this source address (localAddress)".to_owned();
    }
    "the peer restarted, or closed without saying why; its log may say more".to_owned()
}

fn notified(peer: &PeerSnapshot, notification: &Notification) -> Option<String> {
    let spec = &peer.spec.session;
    let words = match (notification.code, notification.subcode) {
        (code::OPEN, open_error::BAD_PEER_AS) => format!(
            "the AS numbers do not match: here asn is {} and our own {}; compare with the peer's configuration",
            spec.remote_asn, spec.local_asn
        ),
        (code::OPEN, open_error::ROLE_MISMATCH) => role_mismatch(spec.role),
        (code::OPEN, open_error::BAD_IDENTIFIER) => {
            "two speakers have one router id: set node.routerId on one of them".to_owned()
        }
        (code::OPEN, open_error::UNACCEPTABLE_HOLD_TIME) => {
            "the hold time is too short for one side: set timers.hold to 3s or more".to_owned()
        }
        (code::OPEN, open_error::UNSUPPORTED_CAPABILITY) => format!(
            "no capability in common: this node offers {}; enable one of them at the peer",
            spec.families.iter().map(|family| family.to_string()).collect::<Vec<_>>().join(", ")
        ),
        (code::HOLD_TIMER, _) => {
            "no message received within the hold time: a dead link, a hanging peer, or packets lost in one direction (MTU)".to_owned()
        }
        _ => return None,
    };
    Some(words)
}

/// What this node offered and the peer did not take up.
pub(crate) fn not_agreed(agreed: &Negotiated) -> Vec<String> {
    let theirs = |ours: &Capability| has(&agreed.remote, ours);
    agreed
        .local
        .capabilities
        .iter()
        .filter(|ours| !theirs(ours))
        .map(ToString::to_string)
        .collect()
}

/// Whether an OPEN answers a capability: the same family, or the same code.
fn has(open: &Open, wanted: &Capability) -> bool {
    open.capabilities.iter().any(|found| match wanted {
        Capability::Multiprotocol(_) => found == wanted,
        _ => found.code() == wanted.code(),
    })
}

#[cfg(test)]
mod tests {
    use bgp_proto::types::{Family, FamilySet};
    use bgp_proto::wire::cease;
    use bgp_speaker::Password;

    use super::*;
    use crate::testing::peer;

    fn after(reason: DownReason) -> PeerSnapshot {
        let mut peer = peer();
        peer.session.stats.last_down = Some(reason);
        peer
    }

    fn says(peer: &PeerSnapshot, words: &str) {
        let hint = hint(peer);
        assert!(
            hint.as_ref().is_some_and(|hint| hint.contains(words)),
            "{words}: {hint:?}"
        );
    }

    fn closed(error: &str) -> PeerSnapshot {
        after(DownReason::Closed(Some(error.to_owned())))
    }

    #[test]
    fn an_error_of_the_connection_names_what_to_look_at() {
        says(
            &closed("Connection refused (os error 111)"),
            "does not listen on port 179",
        );
        says(
            &closed("Connection timed out"),
            "an MD5 secret that only the peer has",
        );
        let mut signed = closed("Connection timed out");
        signed.spec.transport.password = Some(Password::new(b"secret").unwrap());
        says(&signed, "another MD5 secret or none at the peer");
        says(
            &closed("Connection reset by peer"),
            "does not know this node as a peer",
        );
        assert_eq!(hint(&closed("Something else")), None);
    }

    #[test]
    fn no_route_depends_on_the_ttl() {
        let unreachable = |ttl| {
            let mut peer = closed("Network is unreachable (os error 101)");
            peer.spec.transport.ttl = ttl;
            peer
        };
        for ttl in [Ttl::Default, Ttl::Multihop(1)] {
            says(&unreachable(ttl), "needs multihop");
        }
        says(&unreachable(Ttl::Multihop(2)), "needs a route to the peer");
        says(&unreachable(Ttl::Gtsm(1)), "ttlSecurity.hops too low");
    }

    #[test]
    fn a_notification_is_put_into_the_configurations_words() {
        let open = |subcode| {
            after(DownReason::Received(Notification::new(
                code::OPEN,
                subcode,
                Vec::new(),
            )))
        };
        says(
            &open(open_error::BAD_PEER_AS),
            "here asn is 65001 and our own 64512",
        );
        says(&open(open_error::BAD_IDENTIFIER), "node.routerId");
        says(&open(open_error::UNACCEPTABLE_HOLD_TIME), "timers.hold");
        let mut v6 = open(open_error::UNSUPPORTED_CAPABILITY);
        v6.spec.session.families = FamilySet::from_iter([Family::Ipv6]);
        says(&v6, "this node offers ipv6;");
        let hold = Notification::new(code::HOLD_TIMER, 0, Vec::new());
        says(&after(DownReason::Sent(hold)), "within the hold time");
        // A NOTIFICATION that says it all needs no more words.
        let cease = Notification::cease(cease::ADMIN_SHUTDOWN);
        assert_eq!(hint(&after(DownReason::Received(cease))), None);
    }

    #[test]
    fn what_is_missing_comes_first_and_a_session_that_is_up_needs_nothing() {
        let mut peer = closed("Connection refused");
        peer.session.waiting_for = Some("no key for TCP MD5".to_owned());
        says(&peer, "no key for TCP MD5");
        for change in [
            (|peer| peer.session.state = State::Established) as fn(&mut PeerSnapshot),
            |peer| peer.session.enabled = false,
        ] {
            let mut quiet = peer.clone();
            change(&mut quiet);
            assert_eq!(hint(&quiet), None);
        }
        assert_eq!(hint(&after(DownReason::Abandoned)), None);
        let mut silent = after(DownReason::Closed(None));
        says(&silent, "before its OPEN");
        silent.session.stats.messages_in.open = 1;
        says(&silent, "its log may say more");
    }
}
