//! The decision process (RFC 4271 §9.1.2): the candidates of one prefix, narrowed step by step.
//!
//! | # | RFC 4271 and updates | here |
//! |---|---|---|
//! | 0 | next hop resolvable, no loop (§9.1.2) | the caller leaves ineligible paths out |
//! | 1 | highest degree of preference: LOCAL_PREF (§9.1.2) | originated routes first, long-lived stale ones last (RFC 9494 §4.3), then LOCAL_PREF; absent is 100; GRACEFUL_SHUTDOWN is 0 (RFC 8326) |
//! | 2 | shortest AS_PATH, a set counts one (§9.1.2.2 a) | the same; confederation segments count 0 (RFC 5065) |
//! | 3 | lowest ORIGIN (b) | the same |
//! | 4 | lowest MED among paths of one neighbor AS (c) | the same; absent is 0 |
//! | 5 | eBGP over iBGP (d) | the same |
//! | 6 | lowest cost to the next hop (e) | metric of the kernel's route to it |
//! | – | | the remaining candidates are the multipath set |
//! | 7 | lowest BGP identifier (f) | ORIGINATOR_ID if present (RFC 4456 §9) |
//! | 8 | shortest CLUSTER_LIST (RFC 4456 §9) | the same |
//! | 9 | lowest peer address (g) | the same |
//! | 10 | – | lowest ADD-PATH identifier |
//!
//! Each step eliminates candidates from the whole set, as in the RFC's text. A pairwise comparison would make
//! the result depend on the order of arrival where MEDs of several neighbors are involved (RFC 3345). The
//! result depends on the set of candidates only.
//!
//! ```
//! use bgp_proto::rib::attrs::AttrTable;
//! use bgp_proto::rib::decision::{Candidate, Multipath, select};
//! use bgp_proto::rib::nexthop::NextHops;
//! use bgp_proto::rib::table::{Path, Table};
//! use bgp_proto::types::{PathId, PeerId};
//! use bgp_proto::wire::{NextHop, PathAttrs};
//!
//! let (mut table, mut attrs, mut next_hops) = (Table::default(), AttrTable::default(), NextHops::default());
//! let dest = table.dest(&"10.0.0.0/8".parse().unwrap());
//! let set = attrs.intern(PathAttrs::originated(NextHop::V4([192, 0, 2, 1].into())), &mut next_hops);
//! let mut candidates: Vec<Candidate> = [2, 1]
//!     .map(|router_id| {
//!         let path = Path {
//!             peer: PeerId(router_id),
//!             path_id: PathId(0),
//!             received: set,
//!             imported: Ok(set),
//!             generation: Default::default(),
//!         };
//!         table.insert(dest, path);
//!         let (at, _) = table.path(dest, path.peer, path.path_id).unwrap();
//!         Candidate {
//!             at,
//!             local: false,
//!             rank: attrs.rank(set),
//!             external: true,
//!             metric: 0,
//!             router_id,
//!             clusters: 0,
//!             peer_addr: None,
//!             path_id: PathId(0),
//!         }
//!     })
//!     .into();
//! select(&mut candidates, Multipath { max_paths: 1, relax: false });
//! assert_eq!(candidates[0].router_id, 1); // step 7: all else is equal
//! ```

use std::cmp::Reverse;
use std::net::IpAddr;

use super::attrs::Rank;
use super::table::PathIdx;
use crate::types::{Asn, PathId};

/// An eligible path with all criteria.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The path.
    pub at: PathIdx,
    /// Originated by this speaker.
    pub local: bool,
    /// Criteria from its attributes.
    pub rank: Rank,
    /// Learned from another AS.
    pub external: bool,
    /// Cost to the next hop.
    pub metric: u32,
    /// ORIGINATOR_ID or the peer's identifier.
    pub router_id: u32,
    /// Length of CLUSTER_LIST.
    pub clusters: usize,
    /// The peer's address; `None` for originated routes.
    pub peer_addr: Option<IpAddr>,
    /// ADD-PATH identifier.
    pub path_id: PathId,
}

/// Multipath rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Multipath {
    /// Most paths used together, 1–64.
    pub max_paths: u8,
    /// They may come from different neighbor ASes.
    pub relax: bool,
}

/// Narrows `candidates` to the paths to use together, the best one first. Without candidates it does nothing.
pub fn select(candidates: &mut Vec<Candidate>, multipath: Multipath) {
    if candidates.len() < 2 {
        return;
    }
    keep_max(candidates, |candidate| candidate.local);
    keep_max(candidates, |candidate| candidate.rank.not_llgr_stale);
    keep_max(candidates, |candidate| candidate.rank.local_pref);
    keep_max(candidates, |candidate| Reverse(candidate.rank.hops));
    keep_max(candidates, |candidate| Reverse(candidate.rank.origin));
    keep_lowest_med(candidates);
    keep_max(candidates, |candidate| candidate.external);
    keep_max(candidates, |candidate| Reverse(candidate.metric));
    candidates.sort_by_key(|candidate| {
        (
            candidate.router_id,
            candidate.clusters,
            candidate.peer_addr,
            candidate.path_id,
        )
    });
    keep_multipath(candidates, multipath);
}

fn keep_max<K: Ord>(candidates: &mut Vec<Candidate>, key: impl Fn(&Candidate) -> K) {
    if candidates.len() > 1
        && let Some(best) = candidates.iter().map(&key).max()
    {
        candidates.retain(|candidate| key(candidate) == best);
    }
}

/// RFC 4271 §9.1.2.2 c: removes a path if one of the same neighbor AS has a lower MED.
fn keep_lowest_med(candidates: &mut Vec<Candidate>) {
    let lowest = |neighbor: Option<Asn>, all: &[Candidate]| {
        all.iter()
            .filter(|other| other.rank.neighbor == neighbor)
            .map(|other| other.rank.med)
            .min()
    };
    let keep: Vec<bool> = candidates
        .iter()
        .map(|candidate| lowest(candidate.rank.neighbor, candidates) == Some(candidate.rank.med))
        .collect();
    let mut keep = keep.into_iter();
    candidates.retain(|_| keep.next().unwrap_or(true));
}

fn keep_multipath(candidates: &mut Vec<Candidate>, multipath: Multipath) {
    let Some(best) = candidates.first().copied() else {
        return;
    };
    candidates.retain(|candidate| multipath.relax || candidate.rank.neighbor == best.rank.neighbor);
    candidates.truncate(usize::from(multipath.max_paths.max(1)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Origin;
    use proptest::prelude::*;

    fn idx(n: u32) -> PathIdx {
        // Only a table creates these: the n-th path of a table.
        let (mut attrs, mut hops) =
            <(super::super::attrs::AttrTable, super::super::nexthop::NextHops)>::default();
        let set = crate::wire::PathAttrs::originated(crate::wire::NextHop::V4([192, 0, 2, 1].into()));
        let id = attrs.intern(set, &mut hops);
        let mut table = super::super::table::Table::default();
        let dest = table.dest(&"10.0.0.0/8".parse().unwrap());
        for peer in 0..=n {
            let path = super::super::table::Path {
                peer: crate::types::PeerId(peer),
                path_id: PathId(0),
                received: id,
                imported: Ok(id),
                generation: Default::default(),
            };
            table.insert(dest, path);
        }
        table.path(dest, crate::types::PeerId(n), PathId(0)).unwrap().0
    }

    fn candidate(n: u32) -> Candidate {
        Candidate {
            at: idx(n),
            local: false,
            rank: Rank {
                not_llgr_stale: true,
                local_pref: 100,
                hops: 1,
                origin: Origin::Igp,
                med: 0,
                neighbor: Some(Asn(65001)),
            },
            external: true,
            metric: 0,
            router_id: n,
            clusters: 0,
            peer_addr: Some(IpAddr::from([192, 0, 2, n as u8])),
            path_id: PathId(0),
        }
    }

    const ONE: Multipath = Multipath {
        max_paths: 1,
        relax: false,
    };
    const MANY: Multipath = Multipath {
        max_paths: 8,
        relax: false,
    };

    fn winner(mut candidates: Vec<Candidate>) -> PathIdx {
        select(&mut candidates, ONE);
        candidates[0].at
    }

    #[test]
    fn each_step_decides_when_all_before_are_equal() {
        let steps: [fn(&mut Candidate); 11] = [
            |c| c.local = true,
            |c| c.rank.not_llgr_stale = true,
            |c| c.rank.local_pref = 101,
            |c| c.rank.hops = 0,
            |c| c.rank.origin = Origin::Igp,
            |c| c.rank.med = 0,
            |c| c.external = true,
            |c| c.metric = 0,
            |c| c.router_id = 0,
            |c| c.clusters = 0,
            |c| c.peer_addr = Some(IpAddr::from([192, 0, 2, 0])),
        ];
        let plain = || Candidate {
            rank: Rank {
                not_llgr_stale: false,
                origin: Origin::Egp,
                med: 9,
                ..candidate(0).rank
            },
            external: false,
            metric: 9,
            router_id: 9,
            clusters: 9,
            ..candidate(9)
        };
        for (step, improve) in steps.iter().enumerate() {
            let mut better = Candidate {
                at: idx(1),
                ..plain()
            };
            improve(&mut better);
            let mut worse = Candidate {
                at: idx(2),
                ..plain()
            };
            for later in &steps[step + 1..] {
                later(&mut worse);
            }
            assert_eq!(winner(vec![worse, better]), better.at, "step {step}");
            assert_eq!(winner(vec![better, worse]), better.at, "step {step}");
        }
    }

    #[test]
    fn med_counts_only_inside_a_neighbor_as() {
        // The pattern of RFC 3345: a beats b by MED, c is from another AS.
        let a = Candidate {
            rank: Rank {
                med: 1,
                ..candidate(3).rank
            },
            ..candidate(3)
        };
        let b = Candidate {
            rank: Rank {
                med: 2,
                ..candidate(1).rank
            },
            ..candidate(1)
        };
        let c = Candidate {
            rank: Rank {
                med: 9,
                neighbor: Some(Asn(65002)),
                ..candidate(2).rank
            },
            ..candidate(2)
        };
        for order in [[a, b, c], [c, b, a], [b, c, a], [b, a, c]] {
            assert_eq!(winner(order.to_vec()), c.at);
        }
    }

    #[test]
    fn multipath_set() {
        let mut set = vec![
            candidate(2),
            candidate(1),
            Candidate {
                metric: 1,
                ..candidate(3)
            },
        ];
        set.push(Candidate {
            rank: Rank {
                neighbor: Some(Asn(65002)),
                ..candidate(4).rank
            },
            ..candidate(4)
        });
        let mut strict = set.clone();
        select(&mut strict, MANY);
        assert_eq!(strict.iter().map(|c| c.at).collect::<Vec<_>>(), [idx(1), idx(2)]);
        select(&mut set, Multipath { relax: true, ..MANY });
        assert_eq!(set.len(), 3);
    }

    proptest! {
        #[test]
        fn order_does_not_matter(
            facts in proptest::collection::vec((0u32..2, 0u32..2, 0u32..3, 1u32..3, any::<bool>(), 0u32..2), 1..6),
            seed in any::<u64>(),
        ) {
            let set: Vec<Candidate> = facts.iter().enumerate().map(|(n, (pref, hops, med, neighbor, external, metric))| {
                let rank = Rank { not_llgr_stale: true, local_pref: *pref, hops: *hops, med: *med, neighbor: Some(Asn(*neighbor)), origin: Origin::Igp };
                Candidate { rank, external: *external, metric: *metric, ..candidate(n as u32) }
            }).collect();
            let mut shuffled = set.clone();
            let mut state = seed;
            for i in (1..shuffled.len()).rev() {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                shuffled.swap(i, (state >> 33) as usize % (i + 1));
            }
            let (mut one, mut two) = (set, shuffled);
            select(&mut one, MANY);
            select(&mut two, MANY);
            prop_assert_eq!(one, two);
        }
    }
}
