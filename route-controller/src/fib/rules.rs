//! Policy rules (`ip rule`) that lead to podroute's own table.
//!
//! At most two: one per family, `from all lookup TABLE` at the configured priority, marked with podroute's protocol number.
//! [`ensure`] compares what exists with what is wanted, and changes the difference.

use std::io;

use linux::netlink::{Batch, CREATE, DUMP, EXCL, Reply, Socket};

use super::route::PROTOCOL;

/// A rule of podroute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rule {
    pub(crate) priority: u32,
    pub(crate) table: u32,
}

/// Makes this the only rule with podroute's protocol number in both families, or removes all. Returns how many rules were
/// added and removed. Blocking calls run on a thread of their own.
pub(crate) async fn ensure(wanted: Option<Rule>) -> io::Result<(usize, usize)> {
    let done = tokio::task::spawn_blocking(move || ensure_blocking(wanted));
    done.await.map_err(io::Error::other)?
}

const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FRA_PROTOCOL: u16 = 21;
const FR_ACT_TO_TBL: u8 = 1;
/// Octets of `fib_rule_hdr`.
const HEADER: usize = 12;

fn ensure_blocking(wanted: Option<Rule>) -> io::Result<(usize, usize)> {
    let socket = Socket::route()?;
    let (mut added, mut removed) = (0, 0);
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = u8::try_from(family).unwrap_or(0);
        let ours = list(&socket, family)?.into_iter().filter(is_ours);
        let (right, wrong): (Vec<_>, Vec<_>) = ours.partition(|rule| Some(read(rule)) == wanted);
        // The new one first, so that packets always find a rule.
        if let (Some(rule), true) = (wanted, right.is_empty()) {
            add(&socket, family, rule)?;
            added += 1;
        }
        for rule in wrong.iter().chain(right.iter().skip(1)) {
            remove(&socket, rule)?;
            removed += 1;
        }
    }
    Ok((added, removed))
}

fn list(socket: &Socket, family: u8) -> Result<Vec<Reply>, linux::Error> {
    let mut header = [0; HEADER];
    header[0] = family;
    let mut batch = Batch::default();
    batch.begin(RTM_GETRULE, DUMP, &header, "list policy rules");
    match socket.run(batch) {
        // The family is disabled in this kernel.
        Err(error)
            if matches!(
                error.errno,
                nix::errno::Errno::EAFNOSUPPORT | nix::errno::Errno::EOPNOTSUPP
            ) =>
        {
            Ok(Vec::new())
        }
        other => other,
    }
}

fn add(socket: &Socket, family: u8, rule: Rule) -> Result<(), linux::Error> {
    let mut batch = Batch::default();
    let header = [family, 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0];
    let action = format!("add the policy rule for table {}", rule.table);
    batch.begin(RTM_NEWRULE, CREATE | EXCL, &header, action);
    batch.attr(FRA_PRIORITY, &rule.priority.to_ne_bytes());
    batch.attr(FRA_TABLE, &rule.table.to_ne_bytes());
    batch.attr(FRA_PROTOCOL, &[PROTOCOL]);
    socket.run(batch).map(drop)
}

fn remove(socket: &Socket, rule: &Reply) -> Result<(), linux::Error> {
    let mut batch = Batch::default();
    let action = format!("remove the policy rule for table {}", read(rule).table);
    batch.begin(RTM_DELRULE, 0, &rule.body, action);
    socket.run(batch).map(drop)
}

fn is_ours(rule: &Reply) -> bool {
    rule.attrs(HEADER).get(FRA_PROTOCOL) == Some(&[PROTOCOL])
}

fn read(rule: &Reply) -> Rule {
    let attributes = rule.attrs(HEADER);
    let short = rule.body.get(4).copied().unwrap_or(0);
    Rule {
        priority: attributes.u32(FRA_PRIORITY).unwrap_or(0),
        table: attributes.u32(FRA_TABLE).unwrap_or(u32::from(short)),
    }
}
