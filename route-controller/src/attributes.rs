//! Path attributes with the names of the configuration, and the difference of two sets.

use bgp_proto::wire::{Origin, PathAttrs};

/// Attributes that differ, each with its value before and after.
pub(crate) fn changes(before: &PathAttrs, after: &PathAttrs) -> Vec<String> {
    let or_none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
    let pairs = fields(before).into_iter().zip(fields(after));
    pairs
        .filter(|((_, old), (_, new))| old != new)
        .map(|((name, old), (_, new))| format!("{name}: {} -> {}", or_none(old), or_none(new)))
        .collect()
}

/// The attributes under the names of a route that is written.
pub(crate) fn fields(attrs: &PathAttrs) -> Vec<(&'static str, String)> {
    let number = |number: Option<u32>| number.map_or_else(String::new, |number| number.to_string());
    let rare = attrs.extra.as_deref().cloned().unwrap_or_default();
    let kernel = rare.kernel;
    vec![
        ("asPath", attrs.as_path.to_string()),
        ("communities", join(&attrs.communities)),
        ("largeCommunities", join(&rare.large_communities)),
        ("extCommunities", join(&rare.ext_communities)),
        ("localPreference", number(attrs.local_pref)),
        ("med", number(attrs.med)),
        ("origin", origin(attrs.origin).to_owned()),
        ("nextHop", attrs.next_hop.to_string()),
        (
            "install",
            if kernel.install {
                "true".to_owned()
            } else {
                String::new()
            },
        ),
        (
            "kernel.type",
            if kernel.blackhole {
                "blackhole".to_owned()
            } else {
                String::new()
            },
        ),
        ("kernel.metric", number(kernel.metric)),
        ("kernel.table", number(kernel.table)),
        (
            "kernel.source",
            kernel.source.map_or_else(String::new, |addr| addr.to_string()),
        ),
        ("kernel.weight", number(kernel.weight.map(u32::from))),
    ]
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Igp => "igp",
        Origin::Egp => "egp",
        Origin::Incomplete => "incomplete",
    }
}

fn join<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}
