//! `podroute show services` as tables.

use super::CliError;
use super::show::{new_table, text};
use crate::status::{ServiceAddressStatus, ServiceStatus, ServicesStatus};

/// Only the Services of this name, with or without their namespace.
///
/// # Errors
/// There is none.
pub(super) fn select(status: &mut ServicesStatus, name: &str) -> Result<(), CliError> {
    let is_it = |full: &str| full == name || full.split_once('/').is_some_and(|(_, short)| short == name);
    status.services.retain(|service| is_it(&service.name));
    if status.services.is_empty() {
        return Err(CliError::NoService(name.to_owned()));
    }
    Ok(())
}

pub(super) fn table(status: &ServicesStatus) -> String {
    let mut out = String::new();
    if status.allocates {
        let who = status.allocator.as_deref().unwrap_or("nobody yet");
        let here = if status.is_allocator { " (this agent)" } else { "" };
        out = format!("addresses are allocated by {who}{here}\n");
    }
    if let Some(error) = &status.last_error {
        out = format!("{out}last error: {error}\n");
    }
    let mut pools = new_table(&["POOL", "SIZE", "USED", "FREE"]);
    for pool in &status.pools {
        pools.add_row([
            pool.name.clone(),
            pool.size.to_string(),
            pool.used.to_string(),
            pool.free.to_string(),
        ]);
    }
    if !pools.is_empty() {
        out = format!("{out}{}\n", text(&pools, ""));
    }
    let mut services = new_table(&[
        "SERVICE",
        "ADDRESS",
        "POOL",
        "ANNOUNCED HERE",
        "COMMUNITIES",
        "ENDPOINTS HERE / ANYWHERE",
        "WHY NOT",
    ]);
    for service in &status.services {
        for row in rows(service, status) {
            services.add_row(row);
        }
    }
    if !out.is_empty() {
        out.push('\n');
    }
    out + &text(&services, "no Service has addresses for clients outside")
}

fn rows(service: &ServiceStatus, status: &ServicesStatus) -> Vec<[String; 7]> {
    let mut rows: Vec<_> = service
        .addresses
        .iter()
        .map(|one| address(service, one))
        .collect();
    if service.pending || !service.problems.is_empty() {
        let why = match (service.problems.as_slice(), &status.allocator) {
            ([], _) if !status.allocates => {
                "no address: services.pools is not configured, and no other program gave one".to_owned()
            }
            ([], Some(holder)) if !status.is_allocator => {
                let node = holder.split('_').next().unwrap_or_default();
                format!("no address yet; the agent on {node} allocates: ask it, or kubectl describe service")
            }
            ([], _) => "no address yet".to_owned(),
            (some, _) => some.join("; "),
        };
        let none = if service.pending { "<pending>" } else { "" };
        rows.push(row(service, none, "", "", "", &why));
    }
    rows
}

fn address(service: &ServiceStatus, one: &ServiceAddressStatus) -> [String; 7] {
    row(
        service,
        &one.address.to_string(),
        one.pool.as_deref().unwrap_or("-"),
        one.announced.as_deref().unwrap_or("no"),
        &one.communities.join(" "),
        one.not_announced.as_deref().unwrap_or(""),
    )
}

fn row(
    service: &ServiceStatus,
    address: &str,
    pool: &str,
    announced: &str,
    communities: &str,
    why: &str,
) -> [String; 7] {
    let list = |families: &[String]| match families {
        [] => "-".to_owned(),
        some => some.join(","),
    };
    let endpoints = format!(
        "{} / {}",
        list(&service.endpoints_here),
        list(&service.endpoints_anywhere)
    );
    [
        service.name.clone(),
        address.to_owned(),
        pool.to_owned(),
        announced.to_owned(),
        communities.to_owned(),
        endpoints,
        why.to_owned(),
    ]
}
