//! Which log events the journal keeps, and what each is about. docs/reference/events.md has their meaning.

use super::entry::Kind;

/// What a log event is about; `None`: the journal does not keep it.
pub(super) fn kind_of(event: &str) -> Option<Kind> {
    let found = KINDS.iter().find(|(_, events)| events.contains(&event));
    found.map(|(kind, _)| *kind)
}

const KINDS: [(Kind, &[&str]); 8] = [
    (
        Kind::Session,
        &[
            "session_up",
            "session_down",
            "session_failed",
            "listener_key_failed",
            "md5_key_failed",
            "md5_key_switched",
            "update_error",
            "neighbor_found",
            "second_router",
            "prefix_limit_near",
            "memory_limit_near",
            "path_limit",
            "password_changed",
            "peers_not_applied",
            "key_file_unreadable",
            "key_file_readable",
            "blocks_unsent",
            "mesh_changing",
            "bmp_connected",
            "bmp_lost",
            "credit_exceeded",
            "accept_failed",
            "socket_options_failed",
            "address_watch_failed",
        ],
    ),
    (
        Kind::Bfd,
        &[
            "bfd_up",
            "bfd_down",
            "bfd_failed",
            "bfd_key_unusable",
            "bfd_not_realtime",
            "bfd_update_failed",
        ],
    ),
    (
        Kind::Configuration,
        &[
            "config_warning",
            "config_changed",
            "reloaded",
            "reload_failed",
            "list_file_changed",
            "list_file_unreadable",
            "list_file_readable",
            "restart_required",
            "listening",
        ],
    ),
    (
        Kind::Node,
        &[
            "agent_started",
            "agent_stopping",
            "task_stopped",
            "not_ready",
            "state_not_saved",
            "run_dir_restored",
            "run_dir_failed",
            "metrics_failed",
            "host_changed",
            "host_unreadable",
            "api_unreachable",
            "api_reachable",
            "cluster_update_failed",
            "asn_changed",
            "condition_failed",
            "drain_changed",
            "drain_failed",
        ],
    ),
    (
        Kind::Kernel,
        &[
            "sysctl_set",
            "sysctl_restored",
            "sysctl_problem",
            "routes_refused",
            "nexthop_object_refused",
            "kernel_no_answer",
            "kernel_unreadable",
            "notifications_failed",
            "notifications_lost",
            "audit_difference",
            "route_restored",
            "route_replaced",
            "stale_routes_removed",
            "block_routes_missing",
            "no_nexthop_objects",
            "policy_rules",
            "policy_rules_failed",
            "kernel_routes_not_announced",
            "nftables_restored",
            "pods_restored",
        ],
    ),
    (
        Kind::Pod,
        &[
            "pod_added",
            "pod_removed",
            "cni_list_written",
            "cni_list_failed",
            "cni_list_note",
            "node_file_restored",
            "node_file_failed",
            "pods_checked",
            "pods_unchecked",
            "pod_inconsistent",
            "pods_not_restored",
            "pods_unguarded",
        ],
    ),
    (
        Kind::Service,
        &[
            "service_announced",
            "service_withdrawn",
            "rejected",
            "allocator_started",
            "allocator_ended",
            "allocation_failed",
        ],
    ),
    (
        Kind::Policy,
        &[
            "policies_changed",
            "policies_not_enforced",
            "policies_failed",
            "policies_in_force",
            "policies_repaired",
            "policies_removed",
            "policies_not_removed",
            "policy_rejected",
            "policy_connections_ended",
            "policy_thread_ended",
        ],
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Of no use in the journal: another event says the same, there is one for each packet or request, or no journal.
    const LOG_ONLY: [&str; 21] = [
        "log_level",
        "log_suppressed",
        "noderoute_failed",
        "web_failed",
        "web_listening",
        "service_manager_failed",
        "history_gone",
        "control_failed",
        "control_timeout",
        "dump_aborted",
        "policy_drop",
        "policy_log_failed",
        "no_notification_filter",
        "session_state",
        "connection_refused",
        "discovery_failed",
        "address_read_failed",
        "cluster_update",
        "condition_written",
        "event_dropped",
        "journal_failed",
    ];

    #[test]
    fn each_documented_event_is_kept_or_left_out_on_purpose() {
        let page = include_str!("../../../docs/reference/events.md");
        let log = page.split("## Journal").next().unwrap();
        let rows = log.lines().filter_map(|line| line.strip_prefix("| `"));
        let documented: BTreeSet<&str> = rows.map(|row| row.split('`').next().unwrap()).collect();
        let kept = KINDS.iter().flat_map(|(_, events)| events.iter().copied());
        let known: BTreeSet<&str> = kept.chain(LOG_ONLY).collect();
        assert_eq!(documented, known);
    }
}
