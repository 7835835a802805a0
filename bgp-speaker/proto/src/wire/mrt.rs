//! MRT table dumps (RFC 6396 §4.3, TABLE_DUMP_V2), encoding only.
//!
//! A dump consists of one [`peer_index`] and a [`rib_entry`] for each prefix, which refers to its sources by
//! their position in the index. Path identifiers are omitted: few readers support RFC 8050, and no path is
//! lost. All times are the time of the dump, since the arrival times of paths are not recorded.
//!
//! ```
//! use bgp_proto::types::{Asn, RouterId};
//! use bgp_proto::wire::mrt::{MrtPeer, peer_index};
//! use bytes::BytesMut;
//!
//! let collector = RouterId::new(0x0A00_0001).unwrap();
//! let peer = MrtPeer { router_id: None, address: [192, 0, 2, 1].into(), asn: Asn(65001) };
//! let mut out = BytesMut::new();
//! peer_index(&mut out, 1_700_000_000, collector, &[peer]);
//! assert_eq!(out[4..8], [0, 13, 0, 1]); // TABLE_DUMP_V2, PEER_INDEX_TABLE
//! ```

use std::net::IpAddr;

use ::bytes::{BufMut, BytesMut};

use super::{PathAttrs, encode_stored};
use crate::types::{Asn, Family, Prefix, RouterId};

const TABLE_DUMP_V2: u16 = 13;
const PEER_INDEX_TABLE: u16 = 1;
const RIB_IPV4_UNICAST: u16 = 2;
const RIB_IPV6_UNICAST: u16 = 4;
/// The peer's address is IPv6 (§4.3.1).
const IPV6: u8 = 1;
/// The peer's AS number has four octets.
const WIDE_AS: u8 = 2;

/// A source of paths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MrtPeer {
    /// BGP identifier; `None` if it was never up.
    pub router_id: Option<RouterId>,
    /// Its address.
    pub address: IpAddr,
    /// Its AS number.
    pub asn: Asn,
}

/// Appends a record (§2).
fn record(out: &mut BytesMut, time: u32, subtype: u16, body: impl FnOnce(&mut BytesMut)) {
    out.put_u32(time);
    out.put_u16(TABLE_DUMP_V2);
    out.put_u16(subtype);
    out.put_u32(0);
    let start = out.len();
    body(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX).to_be_bytes();
    if let Some(length_at) = out.get_mut(start - 4..start) {
        length_at.copy_from_slice(&length);
    }
}

/// Appends the index of sources (§4.3.1), at most 65,535. `time` is in seconds since 1970.
pub fn peer_index(out: &mut BytesMut, time: u32, collector: RouterId, peers: &[MrtPeer]) {
    let count = u16::try_from(peers.len()).unwrap_or(u16::MAX);
    record(out, time, PEER_INDEX_TABLE, |out| {
        out.put_u32(collector.get());
        out.put_u16(0); // no view name
        out.put_u16(count);
        for peer in peers.iter().take(usize::from(count)) {
            out.put_u8(WIDE_AS | if peer.address.is_ipv6() { IPV6 } else { 0 });
            out.put_u32(peer.router_id.map_or(0, RouterId::get));
            match peer.address {
                IpAddr::V4(address) => out.put_slice(&address.octets()),
                IpAddr::V6(address) => out.put_slice(&address.octets()),
            }
            out.put_u32(peer.asn.0);
        }
    });
}

/// Appends a prefix with its paths (§4.3.2, §4.3.4): the position of the source in the index, and the
/// attributes. A path with more than 65,535 octets of attributes cannot be encoded and is omitted.
pub fn rib_entry<'a>(
    out: &mut BytesMut,
    time: u32,
    sequence: u32,
    prefix: &Prefix,
    paths: impl Iterator<Item = (u16, &'a PathAttrs)>,
) {
    let family = prefix.family();
    let subtype = match family {
        Family::Ipv4 => RIB_IPV4_UNICAST,
        Family::Ipv6 => RIB_IPV6_UNICAST,
    };
    record(out, time, subtype, |out| {
        out.put_u32(sequence);
        put_prefix(out, prefix);
        let length_at = out.len();
        out.put_u16(0);
        let mut count = 0u16;
        for (peer, attrs) in paths {
            let octets = encode_stored(family, attrs);
            let Ok(length) = u16::try_from(octets.len()) else {
                continue;
            };
            out.put_u16(peer);
            out.put_u32(time);
            out.put_u16(length);
            out.put_slice(&octets);
            count = count.saturating_add(1);
        }
        if let Some(length_at) = out.get_mut(length_at..length_at + 2) {
            length_at.copy_from_slice(&count.to_be_bytes());
        }
    });
}

fn put_prefix(out: &mut BytesMut, prefix: &Prefix) {
    let octets = usize::from(prefix.len()).div_ceil(8);
    out.put_u8(prefix.len());
    match prefix.addr() {
        IpAddr::V4(addr) => out.extend(addr.octets().iter().take(octets)),
        IpAddr::V6(addr) => out.extend(addr.octets().iter().take(octets)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{AsPath, NextHop};

    #[test]
    fn an_index_and_an_entry() {
        let mut out = BytesMut::new();
        let peer = MrtPeer {
            router_id: RouterId::new(0x0A00_0002),
            address: "2001:db8::2".parse().unwrap(),
            asn: Asn(65001),
        };
        peer_index(&mut out, 7, RouterId::new(0x0A00_0001).unwrap(), &[peer]);
        let mut expected = vec![0, 0, 0, 7, 0, 13, 0, 1, 0, 0, 0, 33];
        expected.extend([10, 0, 0, 1, 0, 0, 0, 1, 3, 10, 0, 0, 2]);
        expected.extend([
            0x20, 1, 0xD, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0xFD, 0xE9,
        ]);
        assert_eq!(&out[..], expected);
        let mut out = BytesMut::new();
        let mut attrs = PathAttrs::originated(NextHop::V4([192, 0, 2, 1].into()));
        attrs.as_path = AsPath::sequence(&[Asn(65001)]);
        rib_entry(
            &mut out,
            7,
            3,
            &"10.1.2.0/23".parse().unwrap(),
            [(0, &attrs)].into_iter(),
        );
        let mut expected = vec![0, 0, 0, 7, 0, 13, 0, 2, 0, 0, 0, 38];
        expected.extend([0, 0, 0, 3, 23, 10, 1, 2, 0, 1, 0, 0, 0, 0, 0, 7, 0, 20]);
        expected.extend([
            0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xFD, 0xE9, 0x40, 3, 4, 192, 0, 2, 1,
        ]);
        assert_eq!(&out[..], expected);
    }

    #[test]
    fn of_mp_reach_only_the_next_hop() {
        let attrs = PathAttrs::originated(NextHop::V6("2001:db8::1".parse().unwrap()));
        let octets = encode_stored(Family::Ipv6, &attrs);
        let mut expected = vec![
            0x80, 14, 17, 16, 0x20, 1, 0xD, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
        ];
        expected.extend([0x40, 1, 1, 0, 0x40, 2, 0]);
        assert_eq!(octets, expected);
    }
}
