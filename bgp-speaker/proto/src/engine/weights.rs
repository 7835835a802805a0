//! Shares of equal paths, from their link bandwidth (draft-ietf-idr-link-bandwidth).
//!
//! As the draft has it, unequal shares need a bandwidth on every path of the set; otherwise all shares are one. Shares
//! are percent of the sum, at least one, brought to their lowest terms: 10 and 40 Gbit/s come to 1 and 4. Where all are numbers up to
//! 255, as policies set them (no link is that slow), they are the shares.

use std::net::IpAddr;

use super::api::FibHop;
use crate::wire::PathAttrs;

/// The bandwidth that a path says it has, in octets per second.
pub(super) fn bandwidth(attrs: &PathAttrs) -> Option<f32> {
    let communities = &attrs.rare.as_ref()?.ext_communities;
    communities.iter().find_map(|community| community.bandwidth())
}

/// The set of next hops, sorted, each once (with the most bandwidth it is said to have), and their shares.
pub(super) fn weigh(ways: &mut Vec<(IpAddr, Option<f32>)>, out: &mut Vec<FibHop>) {
    ways.sort_unstable_by(|a, b| {
        let most_first = b.1.unwrap_or(0.0).total_cmp(&a.1.unwrap_or(0.0));
        a.0.cmp(&b.0).then(most_first)
    });
    ways.dedup_by_key(|way| way.0);
    let rates: Option<f32> = ways.iter().map(|way| way.1).sum();
    let are_shares = ways.iter().all(|(_, rate)| rate.is_some_and(is_share));
    out.extend(ways.iter().map(|(addr, rate)| FibHop {
        addr: *addr,
        weight: match rate {
            // In range and whole.
            Some(rate) if are_shares => *rate as u8,
            rate => share(*rate, rates),
        },
    }));
    let divisor = out.iter().fold(0, |divisor, hop| gcd(divisor, hop.weight)).max(1);
    out.iter_mut().for_each(|hop| hop.weight /= divisor);
}

fn is_share(rate: f32) -> bool {
    (1.0..=255.0).contains(&rate) && rate.fract() == 0.0
}

/// Percent of the sum, 1–100; 1 where there is no sum.
fn share(rate: Option<f32>, sum: Option<f32>) -> u8 {
    match (rate, sum) {
        // In range by its bounds; the cast drops the fraction that round left none of.
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
        let mut ways = rates
            .iter()
            .enumerate()
            .map(|(index, rate)| (addr(index), *rate))
            .collect();
        let mut out = Vec::new();
        weigh(&mut ways, &mut out);
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
        let mut ways = vec![(addr, Some(1.0)), (other, Some(1.0)), (addr, Some(3.0))];
        let mut out = Vec::new();
        weigh(&mut ways, &mut out);
        assert_eq!(
            out,
            [(addr, 3), (other, 1)].map(|(addr, weight)| FibHop { addr, weight })
        );
    }
}
