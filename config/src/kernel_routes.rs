//! What the operator says of kernel routes.

/// `fib`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fib {
    /// False: learn and advertise, but leave the kernel's routes alone.
    pub install: bool,
    /// Metric (priority) of installed routes; lower wins.
    pub metric: u32,
    /// Number of the kernel's table; 254 is main.
    pub table: u32,
    /// Priority of the rules that lead to that table; none: nobody's but the operator's.
    pub rule_priority: Option<u32>,
    /// Most next hops per route, 1–64.
    pub max_paths: u8,
    /// Equal paths may come from different neighbor ASes.
    pub multipath_relax: bool,
    /// Shares of equal paths follow their link bandwidth.
    pub link_bandwidth: bool,
    /// Next hops may be reached over a default route.
    pub resolve_via_default: bool,
    /// Routes refer to the kernel's nexthop objects where it has them.
    pub nexthop_objects: bool,
    /// Groups keep flows where they are when their members change.
    pub resilient_groups: Option<ResilientGroups>,
}

/// `fib.resilientGroups`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResilientGroups {
    /// Parts that flows are hashed into, 1–32768.
    pub buckets: u16,
    /// A part moves to another member when nothing used it for this long.
    pub idle_seconds: u32,
}
