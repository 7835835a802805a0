//! Policy rules (`ip rule`) that lead to podroute's own table.
//!
//! At most two: one per family, `from all lookup TABLE` at the configured priority, marked with podroute's protocol number.
//! [`ensure`] compares what exists with what is wanted, and changes the difference.

use std::io;

use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::route::PROTOCOL;

/// A rule of podroute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rule {
    pub(crate) priority: u32,
    pub(crate) table: u32,
}

/// Makes this the only rule with podroute's protocol number in both families, or removes all. Returns how many rules were added and
/// removed.
pub(crate) async fn ensure(wanted: Option<Rule>) -> io::Result<(usize, usize)> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let task = tokio::spawn(connection);
    let outcome = ensure_with(&handle, wanted).await.map_err(io::Error::other);
    task.abort();
    outcome
}

async fn ensure_with(
    handle: &rtnetlink::Handle,
    wanted: Option<Rule>,
) -> Result<(usize, usize), rtnetlink::Error> {
    let (mut added, mut removed) = (0, 0);
    for version in [rtnetlink::IpVersion::V4, rtnetlink::IpVersion::V6] {
        let v4 = matches!(version, rtnetlink::IpVersion::V4);
        let found: Vec<RuleMessage> = handle.rule().get(version).execute().try_collect().await?;
        let own = found.into_iter().filter(is_own);
        let (right, wrong): (Vec<_>, Vec<_>) = own.partition(|rule| Some(read(rule)) == wanted);
        // The new one first, so that packets always find a rule.
        if let (Some(rule), true) = (wanted, right.is_empty()) {
            add(handle, rule, v4).await?;
            added += 1;
        }
        for rule in wrong.into_iter().chain(right.into_iter().skip(1)) {
            handle.rule().del(rule).execute().await?;
            removed += 1;
        }
    }
    Ok((added, removed))
}

async fn add(handle: &rtnetlink::Handle, rule: Rule, v4: bool) -> Result<(), rtnetlink::Error> {
    let mut request = handle
        .rule()
        .add()
        .table_id(rule.table)
        .priority(rule.priority)
        .action(RuleAction::ToTable);
    let message = request.message_mut();
    message.header.family = if v4 {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    message.attributes.push(RuleAttribute::Protocol(PROTOCOL.into()));
    request.execute().await
}

fn is_own(rule: &RuleMessage) -> bool {
    rule.attributes.iter().any(
        |attribute| matches!(attribute, RuleAttribute::Protocol(protocol) if u8::from(*protocol) == PROTOCOL),
    )
}

fn read(message: &RuleMessage) -> Rule {
    let mut rule = Rule {
        priority: 0,
        table: u32::from(message.header.table),
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            _ => {}
        }
    }
    rule
}
