//! Checks of every section `bfd`, and of `nextHops`.

use std::time::Duration;

use crate::model::{Bfd, BfdAuth, BfdDampening, WatchedNextHop};
use crate::problem::Problems;
use crate::schema::{self, repeated};

const INTERVAL: Duration = Duration::from_millis(100);
const MULTIPLIER: u8 = 3;
const LOSSES: u8 = 3;
const HALF_LIFE: Duration = Duration::from_secs(15);
const LONGEST: Duration = Duration::from_secs(60);

/// BFD towards what may be on one link or behind routers, as it is written.
pub(super) fn plain(written: &schema::Bfd) -> Bfd {
    let is = |field: &Option<crate::decode::Located<bool>>| field.as_ref().is_some_and(|on| on.value);
    Bfd {
        interval: written
            .interval
            .as_ref()
            .map_or(INTERVAL, |interval| interval.value),
        multiplier: written
            .multiplier
            .as_ref()
            .map_or(MULTIPLIER, |count| count.value),
        multihop: is(&written.multihop),
        min_ttl: 0,
        strict: is(&written.strict),
        auth: written.auth.as_ref().and_then(auth),
        dampening: written.dampening.as_ref().map(dampening),
    }
}

/// BFD towards a peer: over several hops when its session is.
pub(super) fn towards(written: &schema::Bfd, peer: &schema::Peer) -> Bfd {
    let far = peer.multihop.as_ref().is_some_and(|ttl| ttl.value > 1)
        || peer.ttl_security.as_ref().is_some_and(|hops| hops.value > 1);
    // RFC 5082 §3: what left with TTL 255 has lost at most one less than the hops between.
    let min_ttl = |hops: u8| 255 - hops.saturating_sub(1);
    Bfd {
        multihop: written.multihop.as_ref().map_or(far, |on| on.value),
        min_ttl: peer.ttl_security.as_ref().map_or(0, |hops| min_ttl(hops.value)),
        ..plain(written)
    }
}

fn auth(written: &schema::BfdAuth) -> Option<BfdAuth> {
    Some(BfdAuth {
        kind: written.kind.as_ref()?.value,
        key_id: written.key_id.as_ref().map_or(1, |key| key.value),
        file: written.file.as_ref()?.value.clone(),
    })
}

fn dampening(written: &schema::BfdDampening) -> BfdDampening {
    BfdDampening {
        losses: written.losses.as_ref().map_or(LOSSES, |losses| losses.value),
        half_life: written.half_life.as_ref().map_or(HALF_LIFE, |time| time.value),
        longest: written.longest.as_ref().map_or(LONGEST, |time| time.value),
    }
}

pub(super) fn next_hops(written: &[schema::NextHop], problems: &Problems) -> Vec<WatchedNextHop> {
    let addresses: Vec<_> = written.iter().filter_map(|hop| hop.address.clone()).collect();
    for (address, first) in repeated(&addresses) {
        problems.error(address.location.problem(
            format!("{} is already in {}", address.value, first.path),
            "keep one of the two",
        ));
    }
    for hop in written {
        let strict = hop.bfd.as_ref().and_then(|bfd| bfd.strict.as_ref());
        if let Some(strict) = strict {
            let message = "strict holds a BGP session back, and here is none".to_owned();
            problems.error(strict.location.problem(message, "remove it"));
        }
        let (Some(address), Some(local)) = (&hop.address, &hop.local_address) else {
            continue;
        };
        if address.value.is_ipv4() != local.value.is_ipv4() {
            let message = format!("{} and {} are of different families", address.value, local.value);
            problems.error(hop.location.problem(message, "use addresses of one family"));
        }
    }
    written
        .iter()
        .filter_map(|hop| {
            Some(WatchedNextHop {
                address: hop.address.as_ref()?.value,
                local_address: hop.local_address.as_ref().map(|local| local.value),
                bfd: plain(hop.bfd.as_ref()?),
            })
        })
        .collect()
}
