//! The RIB as an MRT file (RFC 6396), for `podroute dump`: written page by page, so that a full table neither fills the
//! memory nor holds up the engine.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use bgp_proto::engine::{RouteFilter, RouteView};
use bgp_proto::types::{Asn, PeerId, RouterId};
use bgp_proto::wire::mrt::{self, MrtPeer};
use bgp_speaker::{SpeakerHandle, Stopped};
use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;

/// Prefixes of one page.
pub(crate) const PAGE: usize = 1000;

/// A dump that was begun.
pub(crate) struct Dump {
    index: BTreeMap<PeerId, u16>,
    head: BytesMut,
    time: u32,
}

impl Dump {
    /// Names the sources of paths: ourselves first, then the peers.
    pub(crate) async fn begin(
        speaker: &SpeakerHandle,
        (asn, router_id): (Asn, RouterId),
    ) -> Result<Self, Stopped> {
        let mut peers = vec![MrtPeer {
            router_id: Some(router_id),
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            asn,
        }];
        let mut index = BTreeMap::from([(PeerId::LOCAL, 0)]);
        for peer in speaker.peers().await? {
            let Ok(place) = u16::try_from(peers.len()) else {
                break;
            };
            index.insert(peer.id, place);
            peers.push(MrtPeer {
                router_id: peer.session.negotiated.as_ref().map(|agreed| agreed.remote_id()),
                address: peer.spec.transport.remote.ip(),
                asn: peer.asn().unwrap_or_default(),
            });
        }
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let time = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
        let mut head = BytesMut::new();
        mrt::peer_index(&mut head, time, router_id, &peers);
        Ok(Self { index, head, time })
    }

    pub(crate) fn peers(&self) -> usize {
        self.index.len() - 1
    }

    /// Writes the file.
    pub(crate) async fn write(self, speaker: &SpeakerHandle, out: &mut OwnedWriteHalf) -> io::Result<()> {
        out.write_all(&self.head).await?;
        let (mut place, mut sequence) = (Some(0), 0);
        while let Some(from) = place {
            let (page, next) = speaker
                .routes(RouteFilter::default(), from, PAGE)
                .await
                .map_err(io::Error::other)?;
            out.write_all(&self.page(&page, &mut sequence)).await?;
            place = next;
        }
        out.shutdown().await
    }

    fn page(&self, page: &[RouteView], sequence: &mut u32) -> BytesMut {
        let mut out = BytesMut::new();
        for route in page {
            let paths = route.paths.iter();
            let paths = paths.filter_map(|path| Some((*self.index.get(&path.peer)?, &path.attrs)));
            mrt::rib_entry(&mut out, self.time, *sequence, &route.prefix, paths);
            *sequence += 1;
        }
        out
    }
}
