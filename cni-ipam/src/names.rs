//! Names and hardware addresses, a pure function of container id and interface name.
//!
//! Host interface: `pod` + 12 base-32 digits (60 bits of the hash). MAC: `0a:…` in the pod, `0e:…` on the host, then the
//! hash's low 40 bits (locally administered, unicast). Alias of the host interface:
//! `podroute:<network>:<container id>:<interface>`, truncated to the kernel's 255 octets. The hash is FNV-1a with a
//! finalizer; it must never change, or a DEL after an upgrade would not find its veth pair.

/// Prefix of the name of every host interface.
pub const IFNAME_PREFIX: &str = "pod";

/// Prefix of the alias of every host interface.
pub const ALIAS_PREFIX: &str = "podroute:";

/// One interface of one container: identifies an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// The container id.
    pub container: String,
    /// The interface's name inside the container.
    pub ifname: String,
}

impl Owner {
    /// `<container id>@<interface>`; neither part contains '@'.
    pub fn key(&self) -> String {
        format!("{}@{}", self.container, self.ifname)
    }

    /// Parses a key.
    pub fn from_key(key: &str) -> Option<Self> {
        let (container, ifname) = key.rsplit_once('@')?;
        if container.is_empty() || ifname.is_empty() {
            return None;
        }
        Some(Self {
            container: container.to_owned(),
            ifname: ifname.to_owned(),
        })
    }

    /// The host interface's name, 15 characters.
    pub fn host_ifname(&self) -> String {
        const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let hash = self.hash();
        let digit = |i: u32| {
            let index = usize::try_from(hash >> (i * 5) & 31).unwrap_or_default();
            DIGITS.get(index).map_or('a', |d| char::from(*d))
        };
        IFNAME_PREFIX.chars().chain((0..12).map(digit)).collect()
    }

    /// The hardware address of the pod's interface.
    pub fn pod_mac(&self) -> [u8; 6] {
        self.mac(0x0a)
    }

    /// The hardware address of the host interface.
    pub fn host_mac(&self) -> [u8; 6] {
        self.mac(0x0e)
    }

    /// The alias of the host interface.
    pub fn alias(&self, network: &str) -> String {
        let mut alias = format!("{ALIAS_PREFIX}{network}:{}:{}", self.container, self.ifname);
        alias.truncate(255);
        alias
    }

    fn mac(&self, first: u8) -> [u8; 6] {
        let [a, b, c, d, e, ..] = self.hash().to_le_bytes();
        [first, e, d, c, b, a]
    }

    fn hash(&self) -> u64 {
        hash(&[self.container.as_bytes(), b"@", self.ifname.as_bytes()])
    }
}

/// FNV-1a over all parts, then a finalizer that distributes short inputs over all bits.
pub(crate) fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().copied().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// `02:00:…` in the usual notation.
pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(container: &str, ifname: &str) -> Owner {
        Owner {
            container: container.into(),
            ifname: ifname.into(),
        }
    }

    #[test]
    fn names_are_fixed_for_ever() {
        let o = owner("0123456789abcdef", "eth0");
        assert_eq!(o.host_ifname(), "podh4dqqfugycmh");
        assert_eq!(mac_text(o.pod_mac()), "0a:35:0b:08:0f:87");
        assert_eq!(mac_text(o.host_mac()), "0e:35:0b:08:0f:87");
    }

    #[test]
    fn interfaces_of_one_container_differ() {
        assert_ne!(owner("a", "eth0").host_ifname(), owner("a", "net1").host_ifname());
        assert_eq!(owner("a", "eth0").host_ifname().len(), 15);
        assert_eq!(owner("a", "eth0").pod_mac()[0] & 3, 2, "local and unicast");
    }

    #[test]
    fn key_round_trips() {
        let o = owner("a.b_c-d", "eth0");
        assert_eq!(Owner::from_key(&o.key()), Some(o));
        assert_eq!(Owner::from_key("noat"), None);
    }

    #[test]
    fn a_long_alias_is_cut() {
        assert_eq!(owner(&"x".repeat(200), "eth0").alias(&"n".repeat(100)).len(), 255);
    }
}
