//! `podroute cleanup`: removes everything of podroute from the kernel.

use std::io;

use linux::netlink::{Batch, DUMP, Reply, Socket};

use super::dump;
use super::objects::{Content, ObjectOp};
use super::writer;

/// Removes every route with podroute's protocol number from all tables, its policy rules and nexthop objects. Returns how many there were.
pub(crate) async fn cleanup() -> io::Result<usize> {
    let routes = tokio::task::spawn_blocking(cleanup_routes);
    let routes = routes.await.map_err(io::Error::other)??;
    let (_, rules) = super::rules::ensure(None).await?;
    Ok(routes + rules + cleanup_objects()?)
}

const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;
const RTMSG: usize = 12;
/// Offset of `rtm_protocol`.
const PROTOCOL_OFFSET: usize = 5;

fn cleanup_routes() -> io::Result<usize> {
    let socket = Socket::route()?;
    let mut removed = 0;
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut header = [0; RTMSG];
        header[0] = u8::try_from(family).unwrap_or(0);
        let mut batch = Batch::default();
        batch.begin(RTM_GETROUTE, DUMP, &header, "list routes");
        let ours = |route: &&Reply| route.body.get(PROTOCOL_OFFSET) == Some(&super::PROTOCOL);
        for route in socket.run(batch)?.iter().filter(ours) {
            remove(&socket, route)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// By its key alone: the kernel returns a nexthop object together with its next hops, but refuses a request with both.
fn remove(socket: &Socket, route: &Reply) -> Result<(), linux::Error> {
    let mut batch = Batch::default();
    let header = route.body.get(..RTMSG).unwrap_or_default();
    batch.begin(RTM_DELROUTE, 0, header, "remove a route");
    let is_key = |kind: &u16| matches!(*kind, RTA_DST | RTA_PRIORITY | RTA_TABLE);
    for (kind, value) in route.attrs(RTMSG).filter(|(kind, _)| is_key(kind)) {
        batch.attr(kind, value);
    }
    socket.run(batch).map(drop)
}

/// Removes every nexthop object of podroute, after their routes.
fn cleanup_objects() -> io::Result<usize> {
    let Ok((mut ours, _)) = dump::read_objects() else {
        return Ok(0); // this kernel has no nexthop objects
    };
    let rank = |content: &Content| u8::from(matches!(content, Content::Single(..)));
    ours.sort_by_key(|(_, content)| rank(content)); // groups first
    let ops: Vec<ObjectOp> = ours.into_iter().map(|(id, _)| ObjectOp::Remove(id)).collect();
    let outcomes = writer::apply_objects(&ops)?;
    Ok(outcomes.iter().filter(|outcome| outcome.is_ok()).count())
}
