//! Export: update groups, their Adj-RIB-Out, export rules and packing.
//!
//! Peers that are sent identical bytes share one [`group::Group`]: one Adj-RIB-Out and one encoding. A flush
//! encodes its changes once into a [`chunk::Chunk`], of which every member writes all but the routes that
//! came from itself. A slow reader leaves this fast path: only the set of changed prefixes is kept for it,
//! and it catches up from the Adj-RIB-Out.

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
