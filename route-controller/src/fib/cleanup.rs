//! `podroute cleanup`: removes everything of podroute from the kernel.

use std::io;

use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::RouteMessage;

use super::dump;
use super::objects::{Content, ObjectOp};
use super::writer;

/// Removes every route with podroute's protocol number from all tables, its policy rules and nexthop objects. Returns how many there
/// were.
pub(crate) async fn cleanup() -> io::Result<usize> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let task = tokio::spawn(connection);
    let mut removed = 0;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut wanted = RouteMessage::default();
        wanted.header.address_family = family;
        let all: Vec<RouteMessage> = handle
            .route()
            .get(wanted)
            .execute()
            .try_collect()
            .await
            .map_err(io::Error::other)?;
        for mut route in all
            .into_iter()
            .filter(|route| u8::from(route.header.protocol) == super::PROTOCOL)
        {
            // By its key alone: the kernel returns a nexthop object together with its next hops, but refuses a request with both.
            route.attributes.retain(|attribute| {
                use netlink_packet_route::route::RouteAttribute;
                matches!(
                    attribute,
                    RouteAttribute::Destination(_) | RouteAttribute::Priority(_) | RouteAttribute::Table(_)
                )
            });
            handle
                .route()
                .del(route)
                .execute()
                .await
                .map_err(io::Error::other)?;
            removed += 1;
        }
    }
    task.abort();
    let (_, rules) = super::rules::ensure(None).await?;
    Ok(removed + rules + cleanup_objects()?)
}

/// Removes every nexthop object of podroute, after their routes.
fn cleanup_objects() -> io::Result<usize> {
    let Ok((mut own, _)) = dump::read_objects() else {
        return Ok(0); // this kernel has no nexthop objects
    };
    let rank = |content: &Content| u8::from(matches!(content, Content::Single(..)));
    own.sort_by_key(|(_, content)| rank(content)); // groups first
    let ops: Vec<ObjectOp> = own.into_iter().map(|(id, _)| ObjectOp::Remove(id)).collect();
    let outcomes = writer::apply_objects(&ops)?;
    Ok(outcomes.iter().filter(|outcome| outcome.is_ok()).count())
}
