//! Who hears of what: update groups, their Adj-RIB-Out, export rules and packing.
//!
//! Peers that get identical bytes share one [`group::Group`]: one Adj-RIB-Out and one encoding. What a
//! flush changes is encoded once into a [`chunk::Chunk`], which every member writes as it
//! stands, less the routes that came from itself. A member that reads too slowly leaves that path:
//! it keeps only the set of prefixes it missed, and is served from the Adj-RIB-Out when it has caught up.

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
