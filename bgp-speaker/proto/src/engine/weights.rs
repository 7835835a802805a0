//! Weights of equal paths from their link bandwidth (draft-ietf-idr-link-bandwidth).
//!
//! As in the draft, unequal weights need a bandwidth on every path of the set; otherwise all weights are 1. A
//! weight is the percentage of the sum, at least 1, divided by the greatest common divisor: 10 and 40 Gbit/s
//! become 1 and 4. Rates that are all numbers up to 255, as policies set them (no link is that slow), are the weights.

use std::net::IpAddr;

use super::api::FibNextHop;
use crate::wire::PathAttrs;

/// The link bandwidth of a path in octets per second.
pub(super) fn bandwidth(attrs: &PathAttrs) -> Option<f32> {
    let communities = &attrs.extra.as_ref()?.ext_communities;
    communities.iter().find_map(|community| community.bandwidth())
}

/// Sorts the next hops, removes duplicates (the highest bandwidth counts), and computes their weights.
pub(super) fn assign_weights(hops: &mut Vec<(IpAddr, Option<f32>)>, out: &mut Vec<FibNextHop>) {
    hops.sort_unstable_by(|a, b| {
        let most_first = b.1.unwrap_or(0.0).total_cmp(&a.1.unwrap_or(0.0));
        a.0.cmp(&b.0).then(most_first)
    });
    hops.dedup_by_key(|hop| hop.0);
    let rates: Option<f32> = hops.iter().map(|hop| hop.1).sum();
    let are_weights = hops.iter().all(|(_, rate)| rate.is_some_and(is_weight));
    out.extend(hops.iter().map(|(addr, rate)| FibNextHop {
        addr: *addr,
        weight: match rate {
            // In range and whole.
            Some(rate) if are_weights => *rate as u8,
            rate => share(*rate, rates),
        },
    }));
    let divisor = out.iter().fold(0, |divisor, hop| gcd(divisor, hop.weight)).max(1);
    out.iter_mut().for_each(|hop| hop.weight /= divisor);
}

fn is_weight(rate: f32) -> bool {
    (1.0..=255.0).contains(&rate) && rate.fract() == 0.0
}

/// Percentage of the sum, 1–100; 1 without a sum.
fn share(rate: Option<f32>, sum: Option<f32>) -> u8 {
    match (rate, sum) {
        // `clamp` keeps it in range, `round` leaves no fraction.
        (Some(rate), Some(sum)) => (rate / sum * 100.0).round().clamp(1.0, 100.0) as u8,
        _ => 1,
    }
}

fn gcd(a: u8, b: u8) -> u8 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(rates: &[Option<f32>]) -> Vec<u8> {
        let addr = |index: usize| IpAddr::from([192, 0, 2, u8::try_from(index).unwrap()]);
        let mut hops = rates
            .iter()
            .enumerate()
            .map(|(index, rate)| (addr(index), *rate))
            .collect();
        let mut out = Vec::new();
        assign_weights(&mut hops, &mut out);
        out.iter().map(|hop| hop.weight).collect()
    }

    #[test]
    fn shares_follow_the_bandwidth() {
        assert_eq!(shares(&[Some(1.25e9), Some(5e9)]), [1, 4]);
        assert_eq!(shares(&[Some(1e9); 3]), [1, 1, 1]);
        assert_eq!(shares(&[Some(1.0), Some(1e9)]), [1, 100]);
        assert_eq!(shares(&[Some(3.4e38), Some(3.4e38)]), [1, 1]); // their sum is infinite
        assert_eq!(shares(&[Some(7.0)]), [1]);
        assert_eq!(shares(&[Some(10.0), Some(20.0), Some(255.0)]), [2, 4, 51]); // as a policy says
    }

    #[test]
    fn one_without_bandwidth_makes_all_equal() {
        assert_eq!(shares(&[Some(1.25e9), None, Some(5e9)]), [1, 1, 1]);
        assert_eq!(shares(&[]), [0u8; 0]);
    }

    #[test]
    fn the_same_next_hop_twice_counts_once() {
        let addr: IpAddr = "192.0.2.1".parse().unwrap();
        let other: IpAddr = "192.0.2.2".parse().unwrap();
        let mut hops = vec![(addr, Some(1.0)), (other, Some(1.0)), (addr, Some(3.0))];
        let mut out = Vec::new();
        assign_weights(&mut hops, &mut out);
        assert_eq!(
            out,
            [(addr, 3), (other, 1)].map(|(addr, weight)| FibNextHop { addr, weight })
        );
    }
}
