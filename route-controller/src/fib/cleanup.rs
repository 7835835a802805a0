//! `podroute cleanup`: removes everything of podroute from the kernel.

use std::io;

use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};

use super::dump;
use super::objects::{Content, ObjectOp};
use super::writer;

/// A listing beside another program that adds IPv6 routes may leave out routes, or list them twice.
const LISTINGS: usize = 5;

/// Removes every route with podroute's protocol number from all tables, its policy rules and nexthop objects. Returns how many there
/// were.
pub(crate) async fn cleanup() -> io::Result<usize> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let task = tokio::spawn(connection);
    let mut removed = 0;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for _ in 0..LISTINGS {
            let found = remove_routes(&handle, family).await?;
            removed += found;
            if found == 0 {
                break;
            }
        }
    }
    task.abort();
    let (_, rules) = super::rules::ensure(None).await?;
    Ok(removed + rules + cleanup_objects()?)
}

/// Removes the routes that one listing has.
async fn remove_routes(handle: &rtnetlink::Handle, family: AddressFamily) -> io::Result<usize> {
    let mut wanted = RouteMessage::default();
    wanted.header.address_family = family;
    let listing = handle.route().get(wanted).execute();
    let all: Vec<RouteMessage> = listing.try_collect().await.map_err(io::Error::other)?;
    let mut removed = 0;
    for mut route in all
        .into_iter()
        .filter(|route| u8::from(route.header.protocol) == super::PROTOCOL)
    {
        // By its key alone: the kernel returns a nexthop object together with its next hops, but refuses a request with both.
        route.attributes.retain(|attribute| {
            matches!(
                attribute,
                RouteAttribute::Destination(_) | RouteAttribute::Priority(_) | RouteAttribute::Table(_)
            )
        });
        match handle.route().del(route).execute().await {
            Ok(()) => removed += 1,
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ESRCH => {}
            Err(error) => return Err(io::Error::other(error)),
        }
    }
    Ok(removed)
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
