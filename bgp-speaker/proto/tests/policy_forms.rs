//! The compiled form of policies says what a plain reading of their lists says, whatever policy and route.
#![cfg(test)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "common/policies.rs"]
mod policies;

use bgp_proto::policy::*;
use bgp_proto::types::Prefix;
use policies::{compare, policy, routes};
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn compiled_and_plain_policies_agree(policy in policy(), routes in routes()) {
        compare(&policy, &routes);
    }

    /// Where every address begins and ends matters most: all lengths of all prefixes of a small space.
    #[test]
    fn prefix_sets_agree_everywhere(ranges in vec((0u32..16, 0u8..5, 0u8..5, 0u8..5), 0..12)) {
        let ranges: Vec<PrefixRange> = ranges.into_iter().map(|(bits, len, low, high)| PrefixRange {
            prefix: Prefix::v4(bits << 28, len),
            min_len: low.min(high),
            max_len: low.max(high),
        }).collect();
        let set = PrefixSet::from(ranges.clone());
        for len in 0..=5 {
            for bits in 0..32 {
                let prefix = Prefix::v4(bits << 27, len);
                let expected = ranges.iter().any(|range| range.matches(&prefix));
                prop_assert_eq!(set.contains(&prefix), expected, "{}", prefix);
            }
        }
    }
}
