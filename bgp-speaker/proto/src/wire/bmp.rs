//! BGP Monitoring Protocol (RFC 7854), encoding for the monitored router. A station sends nothing back.
//!
//! Routes are sent with 4-octet AS numbers, whatever the session uses (§4.2, the A flag is 0).
//!
//! ```
//! use bgp_proto::wire::bmp;
//! use bytes::BytesMut;
//!
//! let mut out = BytesMut::new();
//! bmp::initiation(&mut out, "podroute", "node-1");
//! assert_eq!((out[0], out[5]), (3, 4)); // version, type Initiation
//! ```

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ::bytes::{BufMut, Bytes, BytesMut};

use super::{
    EncodeContext, MAX_LEN_EXTENDED, Nlri, Notification, PathAttrs, encode_announce, encode_end_of_rib,
    encode_withdraw,
};
use crate::types::{Asn, Family, FamilySet, RouterId};

const VERSION: u8 = 3;
/// Message types (§4.1).
const ROUTE_MONITORING: u8 = 0;
const STATISTICS: u8 = 1;
const PEER_DOWN: u8 = 2;
const PEER_UP: u8 = 3;
const INITIATION: u8 = 4;
const TERMINATION: u8 = 5;

/// The peer that a message is about (§4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BmpPeer {
    /// The peer's address.
    pub address: IpAddr,
    /// The peer's AS number.
    pub asn: Asn,
    /// The peer's BGP identifier.
    pub router_id: RouterId,
}

/// The view of a peer's routes (§2, §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    /// As received.
    PrePolicy,
    /// After import policy.
    PostPolicy,
}

/// Why a session ended (§4.9).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerDownReason {
    /// We sent this NOTIFICATION.
    Sent(Notification),
    /// We closed without a NOTIFICATION.
    Closed,
    /// The peer sent this NOTIFICATION.
    Received(Notification),
    /// The connection was lost.
    Lost,
    /// The peer was removed from the configuration.
    Deconfigured,
}

fn message(out: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u8(VERSION);
    out.put_u32(0);
    out.put_u8(kind);
    body(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX).to_be_bytes();
    if let Some(place) = out.get_mut(start + 1..start + 5) {
        place.copy_from_slice(&length);
    }
}

fn put_address(out: &mut BytesMut, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            out.put_bytes(0, 12);
            out.put_slice(&address.octets());
        }
        IpAddr::V6(address) => out.put_slice(&address.octets()),
    }
}

/// Per-peer header (§4.2); `time` is since 1970.
fn put_peer(out: &mut BytesMut, peer: &BmpPeer, view: View, time: Duration) {
    const IPV6: u8 = 0x80;
    const POST: u8 = 0x40;
    out.put_u8(0); // global instance peer
    let family = if peer.address.is_ipv6() { IPV6 } else { 0 };
    out.put_u8(family | if view == View::PostPolicy { POST } else { 0 });
    out.put_u64(0); // no distinguisher
    put_address(out, peer.address);
    out.put_u32(peer.asn.0);
    out.put_u32(peer.router_id.get());
    out.put_u32(u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
    out.put_u32(time.subsec_micros());
}

fn put_text(out: &mut BytesMut, kind: u16, text: &str) {
    let text: Vec<u8> = text.bytes().take(usize::from(u16::MAX)).collect();
    out.put_u16(kind);
    out.put_u16(u16::try_from(text.len()).unwrap_or(0));
    out.put_slice(&text);
}

/// Initiation (§4.3), the first message of a connection: description and name of the router.
pub fn initiation(out: &mut BytesMut, description: &str, name: &str) {
    message(out, INITIATION, |out| {
        put_text(out, 1, description);
        put_text(out, 2, name);
    });
}

/// Termination (§4.5), the last message: administratively closed.
pub fn termination(out: &mut BytesMut) {
    message(out, TERMINATION, |out| {
        out.put_u16(1); // reason
        out.put_u16(2);
        out.put_u16(0);
    });
}

/// Peer up (§4.10), with the OPENs as sent on the wire.
pub fn peer_up(
    out: &mut BytesMut,
    peer: &BmpPeer,
    time: Duration,
    (local, remote): (SocketAddr, SocketAddr),
    (sent, received): (&Bytes, &Bytes),
) {
    message(out, PEER_UP, |out| {
        put_peer(out, peer, View::PrePolicy, time);
        put_address(out, local.ip().to_canonical());
        out.put_u16(local.port());
        out.put_u16(remote.port());
        out.put_slice(sent);
        out.put_slice(received);
    });
}

/// Peer down (§4.9).
pub fn peer_down(out: &mut BytesMut, peer: &BmpPeer, time: Duration, why: &PeerDownReason) {
    message(out, PEER_DOWN, |out| {
        put_peer(out, peer, View::PrePolicy, time);
        match why {
            PeerDownReason::Sent(notification) => {
                out.put_u8(1);
                out.put_slice(&notification.encode());
            }
            PeerDownReason::Closed => {
                out.put_u8(2);
                out.put_u16(0); // no FSM event applies
            }
            PeerDownReason::Received(notification) => {
                out.put_u8(3);
                out.put_slice(&notification.encode());
            }
            PeerDownReason::Lost => out.put_u8(4),
            PeerDownReason::Deconfigured => out.put_u8(5),
        }
    });
}

/// Statistics (§4.8): number of routes per family in the peer's Adj-RIB-In (types 7 and 9).
pub fn statistics(out: &mut BytesMut, peer: &BmpPeer, time: Duration, received: &[(Family, u64)]) {
    message(out, STATISTICS, |out| {
        put_peer(out, peer, View::PrePolicy, time);
        out.put_u32(u32::try_from(received.len() + 1).unwrap_or(0));
        out.put_u16(7);
        out.put_u16(8);
        out.put_u64(received.iter().map(|(_, count)| count).sum());
        for (family, count) in received {
            out.put_u16(9);
            out.put_u16(11);
            out.put_u16(family.afi());
            out.put_u8(1); // unicast
            out.put_u64(*count);
        }
    });
}

/// Route monitoring (§4.6): a prefix with these attributes, or withdrawn. Attributes that do not fit into a
/// message withdraw it.
pub fn route(
    out: &mut BytesMut,
    peer: &BmpPeer,
    view: View,
    time: Duration,
    nlri: Nlri,
    attrs: Option<&PathAttrs>,
    add_path: FamilySet,
) {
    let context = EncodeContext {
        four_octet_as: true,
        add_path,
        max_len: MAX_LEN_EXTENDED,
        internal: true,
    };
    let family = nlri.prefix.family();
    let mut update = BytesMut::new();
    match attrs {
        Some(attrs) => {
            if encode_announce(&mut update, &context, family, attrs, &[nlri]).is_err() {
                encode_withdraw(&mut update, &context, family, &[nlri]);
            }
        }
        None => {
            encode_withdraw(&mut update, &context, family, &[nlri]);
        }
    }
    message(out, ROUTE_MONITORING, |out| {
        put_peer(out, peer, view, time);
        out.put_slice(&update);
    });
}

/// End-of-RIB (§5): the initial routes of a family and view are complete.
pub fn end_of_rib(out: &mut BytesMut, peer: &BmpPeer, view: View, time: Duration, family: Family) {
    let mut update = BytesMut::new();
    encode_end_of_rib(&mut update, family);
    message(out, ROUTE_MONITORING, |out| {
        put_peer(out, peer, view, time);
        out.put_slice(&update);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PathId;

    fn peer() -> BmpPeer {
        BmpPeer {
            address: [192, 0, 2, 1].into(),
            asn: Asn(65001),
            router_id: RouterId::new(0x0A00_0009).unwrap(),
        }
    }

    #[test]
    fn golden_messages() {
        let mut out = BytesMut::new();
        initiation(&mut out, "d", "nn");
        assert_eq!(
            &out[..],
            [3, 0, 0, 0, 17, 4, 0, 1, 0, 1, b'd', 0, 2, 0, 2, b'n', b'n']
        );
        out.clear();
        termination(&mut out);
        assert_eq!(&out[..], [3, 0, 0, 0, 12, 5, 0, 1, 0, 2, 0, 0]);
        out.clear();
        let time = Duration::from_micros(5_000_007);
        peer_down(&mut out, &peer(), time, &PeerDownReason::Lost);
        let mut expected = vec![3, 0, 0, 0, 49, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1]);
        expected.extend([0, 0, 0xFD, 0xE9, 10, 0, 0, 9, 0, 0, 0, 5, 0, 0, 0, 7, 4]);
        assert_eq!(&out[..], expected);
    }

    #[test]
    fn routes_carry_an_update() {
        let nlri = Nlri {
            path_id: PathId(0),
            prefix: "10.1.0.0/16".parse().unwrap(),
        };
        let mut out = BytesMut::new();
        route(
            &mut out,
            &peer(),
            View::PostPolicy,
            Duration::ZERO,
            nlri,
            None,
            FamilySet::EMPTY,
        );
        assert_eq!((out[4], out[5], out[7]), (48 + 26, 0, 0x40));
        let mut update = BytesMut::from(&out[48..]);
        let frame = crate::wire::cut_frame(&mut update, false).unwrap().unwrap();
        assert_eq!(&frame.body[..], [0, 3, 16, 10, 1, 0, 0]);
    }

    #[test]
    fn statistics_count_paths() {
        let mut out = BytesMut::new();
        statistics(
            &mut out,
            &peer(),
            Duration::ZERO,
            &[(Family::Ipv4, 3), (Family::Ipv6, 4)],
        );
        let body = &out[48..];
        assert_eq!(&body[..16], [0, 0, 0, 3, 0, 7, 0, 8, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(body.len(), 4 + 12 + 2 * 15);
    }
}
