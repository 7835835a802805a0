//! A router's configuration: what of it concerns BGP.
//!
//! Statements that are not known here are skipped. What cannot be decided, as a route-map that matches on communities, is marked, and
//! [`crate::compare`] says nothing of it.

mod bird;
mod cisco;
mod cisco_filters;
mod junos;
mod junos_policies;
mod lines;
mod neighbors;
mod nxos;

use crate::format::Format;
use crate::router::Router;

/// Why a configuration cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// Nothing reads this format.
    #[error(
        "configurations of {0} cannot be read; those of eos, junos, nxos, ios-xe, frr, bird and sonic can"
    )]
    Format(Format),
    /// The text is not in the format.
    #[error("line {line}: this is not {format}: {cause}; name the format with --format")]
    Syntax {
        /// The format.
        format: Format,
        /// Where it ends to be one.
        line: usize,
        /// What was expected.
        cause: String,
    },
    /// It has no BGP.
    #[error("there is no BGP in this configuration of {0}; is it the right file, and the right --format?")]
    NoBgp(Format),
}

/// Reads a router's configuration.
///
/// # Errors
/// It is in another format, or has no BGP.
pub fn read(format: Format, text: &str) -> Result<Router, ReadError> {
    let router = match format {
        Format::Frr | Format::Sonic | Format::Eos | Format::IosXe => cisco::read(format, text),
        Format::Nxos => nxos::read(text),
        Format::Junos => junos::read(text)?,
        Format::Bird => bird::read(text)?,
        other => return Err(ReadError::Format(other)),
    };
    if router.asn.is_none() && router.neighbors.is_empty() {
        return Err(ReadError::NoBgp(format));
    }
    Ok(router)
}
