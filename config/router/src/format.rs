//! Languages of routers.

use std::fmt;
use std::str::FromStr;

/// A router's language.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Format {
    /// Arista EOS.
    Eos,
    /// Juniper Junos, as `set` commands; read also with braces.
    Junos,
    /// Cisco NX-OS.
    Nxos,
    /// Cisco IOS XE.
    IosXe,
    /// FRRouting.
    Frr,
    /// BIRD 2.
    Bird,
    /// SONiC with FRR's own configuration.
    Sonic,
    /// MikroTik RouterOS 7.
    RouterOs,
    /// VyOS 1.4.
    Vyos,
    /// Nokia SR Linux.
    SrLinux,
    /// GoBGP.
    Gobgp,
    /// OpenBGPD.
    Openbgpd,
}

impl Format {
    /// All, in the order of the documentation.
    pub const ALL: [Format; 12] = [
        Format::Eos,
        Format::Junos,
        Format::Nxos,
        Format::IosXe,
        Format::Frr,
        Format::Bird,
        Format::Sonic,
        Format::RouterOs,
        Format::Vyos,
        Format::SrLinux,
        Format::Gobgp,
        Format::Openbgpd,
    ];

    /// Those that [`crate::read`] reads.
    pub const READ: [Format; 7] = [
        Format::Eos,
        Format::Junos,
        Format::Nxos,
        Format::IosXe,
        Format::Frr,
        Format::Bird,
        Format::Sonic,
    ];

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Eos => "eos",
            Self::Junos => "junos",
            Self::Nxos => "nxos",
            Self::IosXe => "ios-xe",
            Self::Frr => "frr",
            Self::Bird => "bird",
            Self::Sonic => "sonic",
            Self::RouterOs => "routeros",
            Self::Vyos => "vyos",
            Self::SrLinux => "srlinux",
            Self::Gobgp => "gobgp",
            Self::Openbgpd => "openbgpd",
        }
    }

    /// What begins a comment.
    pub(crate) fn comment(self) -> &'static str {
        match self {
            Self::Eos | Self::Nxos | Self::IosXe | Self::Frr | Self::Sonic => "!",
            _ => "#",
        }
    }

    /// Without a policy an eBGP neighbor neither sends nor gets routes (RFC 8212).
    pub(crate) fn needs_policy(self) -> bool {
        matches!(self, Self::Frr | Self::Sonic | Self::Bird)
    }

    /// Paths with the AS of the neighbor are not sent to it, unless it says so.
    pub(crate) fn holds_back_peer_as(self) -> bool {
        matches!(self, Self::Junos | Self::Nxos)
    }

    /// Peers' routes are kept while they restart, unless it says otherwise.
    pub(crate) fn helps_restart(self) -> bool {
        self != Self::IosXe
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no format.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "'{0}' is not a format; use one of eos, junos, nxos, ios-xe, frr, bird, sonic, routeros, vyos, srlinux, gobgp, openbgpd"
)]
pub struct UnknownFormat(String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        let found = Self::ALL.into_iter().find(|format| format.name() == text);
        found.ok_or_else(|| UnknownFormat(text.escape_debug().to_string()))
    }
}

/// The format of a router's configuration, by statements that only one language has.
#[must_use]
pub fn detect(text: &str) -> Option<Format> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let has = |test: &dyn Fn(&str) -> bool| lines.iter().any(|line| test(line));
    let junos = |line: &str| {
        line.starts_with("set protocols bgp group")
            || line.starts_with("set routing-options")
            || line.starts_with("policy-options {")
            || line.starts_with("routing-options {")
    };
    let bird = |line: &str| {
        ["protocol bgp", "template bgp", "protocol device"]
            .iter()
            .any(|word| line.starts_with(word))
            && line.contains(['{', ' '])
    };
    if has(&junos) {
        return Some(Format::Junos);
    }
    if has(&bird) {
        return Some(Format::Bird);
    }
    if !has(&|line| line.starts_with("router bgp")) {
        return None;
    }
    let nxos = |line: &str| {
        line == "feature bgp" || line.starts_with("maximum-peers ") || line.starts_with("inherit peer ")
    };
    let eos = |line: &str| {
        line.starts_with("service routing protocols model")
            || line.starts_with("neighbor ")
                && (line.ends_with(" peer group") || line.contains(" maximum-routes "))
    };
    let ios = |line: &str| {
        line.starts_with("neighbor ") && line.contains(" fall-over bfd")
            || line == "bgp log-neighbor-changes"
            || line.starts_with("version 1") && !line.contains("frr")
    };
    Some(if has(&nxos) {
        Format::Nxos
    } else if has(&eos) {
        Format::Eos
    } else if has(&ios) && !has(&|line| line.starts_with("frr ")) {
        Format::IosXe
    } else {
        Format::Frr
    })
}
