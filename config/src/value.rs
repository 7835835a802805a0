//! Scalars: parses each kind of value.
//!
//! A [`Kind`] says what it is called, shows an example and parses. YAML's own types play no part: a field
//! knows what it wants, so `64512:100`, `010` or `no` are never read as something else by surprise.

mod times;

use std::net::IpAddr;
use std::path::PathBuf;

use bgp_proto::policy::{AsPathPattern, Source};
use bgp_proto::types::{Asn, Community, Family, LargeCommunity, Prefix, PrefixError, RouterId};

pub(crate) use times::*;

use crate::problem::is_hidden;
use crate::suggest::nearest;

/// The text of a scalar.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar<'a> {
    pub(crate) text: &'a str,
    pub(crate) quoted: bool,
}

/// Why a text is not the value that the field wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Bad {
    /// Not of this kind at all.
    Shape,
    /// Of this kind, but not one of these.
    Range(String),
    /// Right, were it not in quotes.
    Quoted,
    /// Problem (follows the quoted value) and remedy.
    Said(String, String),
}

impl Bad {
    fn said<T>(problem: impl Into<String>, remedy: impl Into<String>) -> Result<T, Bad> {
        Err(Bad::Said(problem.into(), remedy.into()))
    }
}

/// A kind of scalar.
#[derive(Debug)]
pub(crate) struct Kind<T> {
    /// With its article, as in "'x' is not an AS number".
    pub(crate) what: &'static str,
    /// A good value.
    pub(crate) example: &'static str,
    pub(crate) parse: fn(Scalar<'_>) -> Result<T, Bad>,
}

/// Decimal digits without quotes, sign or leading zeros.
fn number(scalar: Scalar<'_>) -> Result<u64, Bad> {
    let digits = !scalar.text.is_empty() && scalar.text.bytes().all(|b| b.is_ascii_digit());
    if !digits {
        return Err(Bad::Shape);
    }
    if scalar.quoted {
        return Err(Bad::Quoted);
    }
    if scalar.text.len() > 1 && scalar.text.starts_with('0') {
        return Bad::said(
            "begins with 0 and might be meant as an octal number",
            "write it without leading zeros",
        );
    }
    Ok(scalar.text.parse().unwrap_or(u64::MAX))
}

/// A number from `MIN` to `MAX`.
pub(crate) fn int<T: TryFrom<u64>, const MIN: u64, const MAX: u64>(scalar: Scalar<'_>) -> Result<T, Bad> {
    let range = || Bad::Range(format!("a number from {MIN} to {MAX}"));
    let number = match number(scalar) {
        Err(Bad::Shape) => return Err(range()),
        other => other?,
    };
    Some(number)
        .filter(|number| (MIN..=MAX).contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(range)
}

pub(crate) const BOOL: Kind<bool> = Kind {
    what: "true or false",
    example: "true",
    parse: |scalar| match (scalar.text, scalar.quoted) {
        ("true" | "True" | "TRUE", false) => Ok(true),
        ("false" | "False" | "FALSE", false) => Ok(false),
        ("true" | "false", true) => Err(Bad::Quoted),
        ("yes" | "on" | "y", _) => Bad::said("is not true or false", "write true"),
        ("no" | "off" | "n", _) => Bad::said("is not true or false", "write false"),
        _ => Err(Bad::Shape),
    },
};

/// Octets, written as Kubernetes does.
pub(crate) const MEMORY: Kind<usize> = Kind {
    what: "an amount of memory",
    example: "512Mi",
    parse: memory,
};

fn memory(scalar: Scalar<'_>) -> Result<usize, Bad> {
    let units = [("Mi", 20), ("Gi", 30)];
    let range = || Bad::Range("an amount of memory from 1Mi to 1024Gi, like 512Mi".to_owned());
    let of = |(unit, shift): (&str, u32)| Some((scalar.text.strip_suffix(unit)?, shift));
    let (count, shift) = units.into_iter().find_map(of).ok_or_else(range)?;
    let text = Scalar {
        text: count,
        quoted: false,
    };
    let count = number(text).ok().filter(|count| (1..=1 << 20).contains(count));
    let octets = count
        .map(|count| count << shift)
        .filter(|octets| *octets <= 1 << 40);
    octets
        .and_then(|octets| usize::try_from(octets).ok())
        .ok_or_else(range)
}

pub(crate) const ASN: Kind<Asn> = Kind {
    what: "an AS number",
    example: "64512",
    parse: asn,
};

fn asn(scalar: Scalar<'_>) -> Result<Asn, Bad> {
    if let Some((high, low)) = scalar.text.split_once('.') {
        let parts = high.parse::<u16>().ok().zip(low.parse::<u16>().ok());
        let Some((high, low)) = parts else {
            return Err(Bad::Shape);
        };
        let plain = u32::from(high) << 16 | u32::from(low);
        return Bad::said(
            "is in dotted form (RFC 5396)",
            format!("write the same number as {plain}"),
        );
    }
    match number(scalar)? {
        0 => Bad::said(
            "is not a usable AS number (RFC 7607)",
            "use the number of the AS, 1 to 4294967295",
        ),
        23456 => Bad::said(
            "stands for other AS numbers on the wire (AS_TRANS, RFC 6793 §9)",
            "use the real number of the AS",
        ),
        number => u32::try_from(number)
            .map(Asn)
            .map_err(|_| Bad::Range("a number from 1 to 4294967295".to_owned())),
    }
}

pub(crate) const PORT: Kind<u16> = Kind {
    what: "a TCP port",
    example: "179",
    parse: int::<u16, 1, 65535>,
};

pub(crate) const ADDRESS: Kind<IpAddr> = Kind {
    what: "an IP address",
    example: "192.0.2.1",
    parse: address,
};

fn address(scalar: Scalar<'_>) -> Result<IpAddr, Bad> {
    if scalar
        .text
        .split_once('%')
        .is_some_and(|(base, _)| base.parse::<IpAddr>().is_ok())
    {
        return Bad::said(
            "names an interface behind '%'",
            "use a global or unique local address (fd00::/8)",
        );
    }
    if let Some((base, _)) = scalar
        .text
        .split_once('/')
        .filter(|(base, _)| base.parse::<IpAddr>().is_ok())
    {
        return Bad::said("is a prefix, not an address", format!("write {base}"));
    }
    match scalar.text.parse() {
        Ok(IpAddr::V6(v6)) => match v6.to_ipv4_mapped() {
            Some(v4) => Bad::said("is an IPv4 address in IPv6 form", format!("write {v4}")),
            None => Ok(IpAddr::V6(v6)),
        },
        Ok(v4) => Ok(v4),
        Err(_) => Err(Bad::Shape),
    }
}

/// An address that a packet can be sent to or from.
pub(crate) const HOST: Kind<IpAddr> = Kind {
    what: "an IP address",
    example: "192.0.2.1",
    parse: host,
};

fn host(scalar: Scalar<'_>) -> Result<IpAddr, Bad> {
    let addr = address(scalar)?;
    let broadcast = matches!(addr, IpAddr::V4(v4) if v4.is_broadcast());
    if addr.is_unspecified() || addr.is_multicast() || broadcast {
        return Bad::said("is not the address of one host", "use a unicast address");
    }
    match addr {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Bad::said(
            "is a link-local address, which needs an interface",
            "use a global or unique local address (fd00::/8)",
        ),
        addr => Ok(addr),
    }
}

pub(crate) const PREFIX: Kind<Prefix> = Kind {
    what: "a prefix",
    example: "10.244.0.0/16",
    parse: prefix,
};

fn prefix(scalar: Scalar<'_>) -> Result<Prefix, Bad> {
    scalar.text.parse().map_err(|error| match error {
        PrefixError::Syntax(_) => match scalar.text.parse::<IpAddr>() {
            Ok(addr) => Bad::Said(
                "is an address without a length".to_owned(),
                format!("add it, as in {}", Prefix::host(addr)),
            ),
            Err(_) => orlonger(scalar.text).unwrap_or(Bad::Shape),
        },
        PrefixError::Length(_, most) => Bad::Said(
            format!("is longer than {most} bits"),
            format!("use a length up to {most}"),
        ),
        PrefixError::HostBits { meant, .. } => Bad::Said(
            "has bits set behind its length".to_owned(),
            format!("did you mean {meant}?"),
        ),
    })
}

/// `10.0.0.0/8+` and `10.0.0.0/8{16,24}`, as other daemons write prefixes and those inside.
fn orlonger(text: &str) -> Option<Bad> {
    let (prefix, _) = text.split_once(['+', '{', '^'])?;
    let prefix: Prefix = prefix.parse().ok()?;
    Some(Bad::Said(
        "is more than one prefix".to_owned(),
        format!("write {{in: {prefix}}}, with length: 16-24 if only some lengths are meant"),
    ))
}

/// A prefix, or an address that stands for its /32 or /128.
pub(crate) const PREFIX_OR_ADDRESS: Kind<Prefix> = Kind {
    what: "a prefix or address",
    example: "192.0.2.1",
    parse: |scalar| match scalar.text.parse::<IpAddr>() {
        Ok(addr) => Ok(Prefix::host(addr)),
        Err(_) => prefix(scalar),
    },
};

pub(crate) const ROUTER_ID: Kind<Option<RouterId>> = Kind {
    what: "a router id",
    example: "192.0.2.11",
    parse: |scalar| match scalar.text {
        "auto" => Ok(None),
        text => dotted_quad(text).map(Some),
    },
};

fn dotted_quad(text: &str) -> Result<RouterId, Bad> {
    let addr: std::net::Ipv4Addr = text.parse().map_err(|_| {
        Bad::Range("auto, or four numbers such as 192.0.2.11, also when the node has only IPv6".to_owned())
    })?;
    match RouterId::from_ipv4(addr) {
        Some(id) => Ok(id),
        None => Bad::said(
            "is not a usable identifier (RFC 6286 §2.1)",
            "use any other, or auto",
        ),
    }
}

pub(crate) const CLUSTER_ID: Kind<u32> = Kind {
    what: "a cluster id",
    example: "192.0.2.250",
    parse: |scalar| match scalar.text.parse::<std::net::Ipv4Addr>() {
        Ok(addr) if addr.is_unspecified() => {
            Bad::said("is not a usable cluster id", "use any other identifier")
        }
        Ok(addr) => Ok(addr.to_bits()),
        Err(_) => int::<u32, 1, 4_294_967_295>(scalar).map_err(|_| {
            Bad::Range("four numbers such as 192.0.2.250, or a number from 1 to 4294967295".to_owned())
        }),
    },
};

/// An operator's name for something: what commands and metrics can carry without quoting.
pub(crate) const NAME: Kind<String> = Kind {
    what: "a name",
    example: "tor-a",
    parse: name,
};

fn name(scalar: Scalar<'_>) -> Result<String, Bad> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let text = scalar.text;
    let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && text.len() <= 63 && text.chars().all(good) {
        return Ok(text.to_owned());
    }
    Err(Bad::Range(
        "up to 63 letters, digits, '-', '_' and '.', beginning with a letter or digit".to_owned(),
    ))
}

pub(crate) const NODE_NAME: Kind<String> = Kind {
    what: "a node name",
    example: "node-1",
    parse: |scalar| match scalar.text {
        text if !text.is_empty()
            && text.len() <= 253
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) =>
        {
            Ok(text.to_owned())
        }
        _ => Err(Bad::Range(
            "up to 253 letters, digits, '-', '_' and '.'".to_owned(),
        )),
    },
};

/// The key of a label, as Kubernetes writes them: `rack`, `topology.kubernetes.io/zone`.
pub(crate) const LABEL: Kind<String> = Kind {
    what: "a label",
    example: "rack",
    parse: |scalar| {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        if !scalar.text.is_empty() && scalar.text.len() <= 317 && scalar.text.chars().all(good) {
            return Ok(scalar.text.to_owned());
        }
        Err(Bad::Range(
            "up to 317 letters, digits, '-', '_', '.' and '/'".to_owned(),
        ))
    },
};

pub(crate) const TEXT: Kind<String> = Kind {
    what: "a text",
    example: "\"rack a, left\"",
    parse: |scalar| {
        let text = scalar.text;
        if text.len() > 255 || text.chars().any(is_hidden) {
            return Err(Bad::Range("one line of at most 255 octets".to_owned()));
        }
        Ok(text.to_owned())
    },
};

pub(crate) const FILE: Kind<PathBuf> = Kind {
    what: "a file's path",
    example: "/etc/podroute/secrets/tor-a",
    parse: |scalar| match scalar.text {
        text if text.contains('\0') => Err(Bad::Shape),
        text if text.starts_with('/') && !text.ends_with('/') => Ok(PathBuf::from(text)),
        _ => Bad::said(
            "is not the full path of a file",
            "write it from '/', as /etc/podroute/secrets/tor-a",
        ),
    },
};

pub(crate) const FAMILY: Kind<Family> = Kind {
    what: "an address family",
    example: "ipv4",
    parse: |scalar| match scalar.text {
        "ipv4" => Ok(Family::Ipv4),
        "ipv6" => Ok(Family::Ipv6),
        _ => Err(Bad::Range("ipv4 or ipv6".to_owned())),
    },
};

/// The names of route sources, as written in policies.
pub(crate) const SOURCES: [(&str, Source); 5] = [
    ("podBlock", Source::PodBlock),
    ("service", Source::Service),
    ("peer", Source::Peer),
    ("kernel", Source::Kernel),
    ("static", Source::Static),
];

pub(crate) const SOURCE: Kind<Source> = Kind {
    what: "a route source",
    example: "podBlock",
    parse: |scalar| match SOURCES.iter().find(|(name, _)| *name == scalar.text) {
        Some((_, source)) => Ok(*source),
        None => Err(Bad::Range("podBlock, service, peer, kernel or static".to_owned())),
    },
};

pub(crate) const COMMUNITY: Kind<Community> = Kind {
    what: "a community",
    example: "\"64512:100\"",
    parse: |scalar| scalar.text.parse().map_err(|_| not_a_community(scalar.text, "")),
};

/// `forms`: other forms of the two parts than numbers.
pub(crate) fn not_a_community(text: &str, forms: &str) -> Bad {
    let names = || Community::NAMES.iter().map(|(name, _)| *name);
    let remedy = match (nearest(text, names()), text.split(':').count()) {
        (Some(name), _) => format!("did you mean '{name}'?"),
        (None, 3) => "three numbers make a large community: use the field largeCommunities".to_owned(),
        _ => format!(
            "write HIGH:LOW with numbers up to 65535{forms}, or one of {}",
            names().collect::<Vec<_>>().join(", ")
        ),
    };
    Bad::Said("is not a community".to_owned(), remedy)
}

pub(crate) const LARGE_COMMUNITY: Kind<LargeCommunity> = Kind {
    what: "a large community",
    example: "\"64512:1:2\"",
    parse: |scalar| {
        let numbers: Option<Vec<u32>> = scalar.text.split(':').map(|part| part.parse().ok()).collect();
        match numbers.as_deref() {
            Some([global, one, two]) => Ok(LargeCommunity(*global, *one, *two)),
            _ => Err(Bad::Range(
                "three numbers up to 4294967295, as \"64512:1:2\" (RFC 8092)".to_owned(),
            )),
        }
    },
};

pub(crate) const AS_PATTERN: Kind<AsPathPattern> = Kind {
    what: "a regular expression",
    example: "\"^65001_\"",
    parse: |scalar| {
        AsPathPattern::new(scalar.text).map_err(|error| {
            Bad::Said(
                format!("is no regular expression: {error}"),
                "correct it; _ is the bound of a number".to_owned(),
            )
        })
    },
};

/// A length or count, `24`, or a range, `24-28`.
pub(crate) const RANGE: Kind<(u32, u32)> = Kind {
    what: "a number or range",
    example: "24-28",
    parse: |scalar| {
        let (low, high) = scalar.text.split_once('-').unwrap_or((scalar.text, scalar.text));
        match (low.trim().parse::<u16>(), high.trim().parse::<u16>()) {
            (Ok(low), Ok(high)) if low <= high => Ok((u32::from(low), u32::from(high))),
            (Ok(low), Ok(high)) => Bad::said("ends before it begins", format!("write {high}-{low}")),
            _ => Err(Bad::Shape),
        }
    },
};

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Scalar<'_> {
        Scalar { text, quoted: false }
    }

    #[test]
    fn numbers_are_what_they_look_like() {
        assert_eq!(int::<u16, 1, 65535>(plain("179")), Ok(179));
        for text in [
            "0",
            "65536",
            "0x10",
            "1_000",
            "+5",
            "1e3",
            "",
            "99999999999999999999999",
        ] {
            assert!(int::<u16, 1, 65535>(plain(text)).is_err(), "{text}");
        }
        assert!(matches!(int::<u16, 1, 9>(plain("08")), Err(Bad::Said(..))));
        assert_eq!(
            int::<u16, 1, 9>(Scalar {
                text: "8",
                quoted: true
            }),
            Err(Bad::Quoted)
        );
    }

    #[test]
    fn hold_times_follow_rfc_4271() {
        for (text, good) in [
            ("0", true),
            ("1s", false),
            ("2s", false),
            ("3s", true),
            ("65535s", true),
            ("65536s", false),
            ("2500ms", false),
        ] {
            assert_eq!((HOLD_TIME.parse)(plain(text)).is_ok(), good, "{text}");
        }
    }
}
