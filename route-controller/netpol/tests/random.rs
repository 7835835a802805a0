//! Random clusters: the compiled rules against the oracle, and against themselves in another order of events.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used
)]

mod common;

use std::net::IpAddr;

use common::oracle;
use common::rules::Compiled;
use common::world::{EXTERNAL, Event, PORTS, World, event};
use proptest::collection::vec;
use proptest::prelude::*;

fn addresses(world: &World) -> Vec<IpAddr> {
    let pods = world.pods.iter().flat_map(|pod| pod.addresses.clone());
    pods.chain(EXTERNAL.iter().map(|text| text.parse().unwrap()))
        .collect()
}

fn compare(world: &World, compiled: &Compiled) -> Result<(), TestCaseError> {
    let all = addresses(world);
    for source in &all {
        for destination in all.iter().filter(|other| other.is_ipv4() == source.is_ipv4()) {
            for (protocol, port) in PORTS {
                let expected = oracle::allows(world, *source, *destination, protocol, port);
                let found = compiled.verdict(world, *source, *destination, protocol, port);
                prop_assert_eq!(
                    found,
                    expected,
                    "{} → {} protocol {} port {}",
                    source,
                    destination,
                    protocol,
                    port
                );
                let model = &compiled.model;
                let allows = model.allows(
                    podroute_netpol::Direction::Egress,
                    *source,
                    *destination,
                    protocol,
                    port,
                ) && model.allows(
                    podroute_netpol::Direction::Ingress,
                    *destination,
                    *source,
                    protocol,
                    port,
                );
                let is_self = world
                    .pods
                    .iter()
                    .any(|pod| pod.addresses.contains(source) && pod.addresses.contains(destination));
                prop_assert!(
                    is_self || allows == expected,
                    "allows: {} → {} {}/{}",
                    source,
                    destination,
                    protocol,
                    port
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    /// Whatever happened before, packets pass as the objects say now.
    #[test]
    fn packets_pass_as_the_oracle_says(events in vec(event(), 1..40)) {
        let mut compiled = Compiled::default();
        events.iter().for_each(|event| compiled.apply(event));
        compare(&World::of(&events), &compiled)?;
    }

    /// Each change was reported, and any order of events comes to the same rules.
    #[test]
    fn any_order_gives_equal_rules(events in vec(event(), 1..40), seed in any::<u64>()) {
        let mut compiled = Compiled::default();
        events.iter().for_each(|event| compiled.apply(event));
        prop_assert_eq!(&compiled.mirror, &compiled.whole(), "a change was not reported");
        let world = World::of(&events);
        let mut fresh = Compiled::of(&world, |events| shuffle(events, seed));
        // Pods that were here before have left their interfaces; what is known of namespaces without objects is nothing.
        prop_assert_eq!(&compiled.mirror, &fresh.mirror);
        // Everything can go again.
        let mut all: Vec<Event> = Vec::new();
        all.extend(world.pods.iter().map(|pod| Event::PodGone(pod.namespace.clone(), pod.name.clone())));
        all.extend(world.policies.iter().map(|p| Event::PolicyGone(p.namespace.clone(), p.name.clone())));
        all.extend(world.namespaces.keys().map(|name| Event::NamespaceGone(name.clone())));
        shuffle(&mut all, seed);
        all.iter().for_each(|event| fresh.apply(event));
        prop_assert_eq!(&fresh.mirror, &Compiled::default().mirror);
        prop_assert_eq!(fresh.model.sizes().map(|(_, size)| size), [0; 6]);
    }

    /// The explanation comes to what the oracle says, where both ends are on this node.
    #[test]
    fn explanations_agree_with_the_oracle(events in vec(event(), 1..30)) {
        let mut world = World::of(&events);
        world.pods.iter_mut().for_each(|pod| pod.local = true);
        let compiled = Compiled::of(&world, |_| {});
        let all = addresses(&world);
        for source in &all {
            for destination in all.iter().filter(|other| other.is_ipv4() == source.is_ipv4()) {
                for (protocol, port) in PORTS {
                    let expected = oracle::allows(&world, *source, *destination, protocol, port);
                    let found = compiled.model.explain(*source, *destination, protocol, port);
                    prop_assert_eq!(found.is_allowed(), expected, "{:?}", found);
                }
            }
        }
    }
}

fn shuffle(events: &mut [Event], mut seed: u64) {
    for last in (1..events.len()).rev() {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let other = usize::try_from(seed >> 33).unwrap() % (last + 1);
        events.swap(last, other);
    }
}
