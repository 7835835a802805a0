//! Export: update groups, their Adj-RIB-Out, export rules and packing.
//!
//! Peers that are sent identical bytes share one [`group::Group`]: one Adj-RIB-Out and one encoding. A flush
//! encodes its changes once into a [`chunk::Chunk`], of which every member writes all but the routes that
//! came from itself. A slow reader leaves this fast path: only the set of changed prefixes is kept for it,
//! and it catches up from the Adj-RIB-Out.
//!
//! ```
//! # use bgp_proto::export::adj_out::Excluded;
//! use bgp_proto::export::pack::Packer;
//! use bgp_proto::types::{FamilySet, PathId, PeerId};
//! use bgp_proto::wire::{EncodeContext, MAX_LEN, Nlri};
//!
//! let mut packer = Packer::default();
//! for third in 0..200 {
//!     let prefix = bgp_proto::types::Prefix::v4(0x0AF4_0000 | third << 8, 24);
//!     packer.queue_for_all(Nlri { path_id: PathId(0), prefix }, None, Excluded::default());
//! }
//! let context =
//!     EncodeContext { four_octet_as: true, add_path: FamilySet::EMPTY, max_len: MAX_LEN, internal: false };
//! let chunk = packer.encode(&context, |_, _, _| None);
//! // Encoded once: 200 withdrawals of 4 octets and one header, the same bytes for every member.
//! assert_eq!(chunk.len_for(PeerId(1)), 19 + 2 + 200 * 4 + 2);
//! assert_eq!(chunk.data_for(PeerId(1)).next(), chunk.data_for(PeerId(2)).next());
//! ```

pub mod add_path;
pub mod adj_out;
pub mod catch_up;
pub mod chunk;
pub mod counts;
pub mod group;
pub mod pack;
pub mod rib;
pub mod rules;
pub mod sources;
