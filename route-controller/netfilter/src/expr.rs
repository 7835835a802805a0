//! Expressions of rules, as nf_tables executes them: each reads and writes registers of four bytes.

use crate::message::{LIST_ELEM, attr, nest, number, text};
use crate::object::{Verdict, put_verdict};

/// Registers of four bytes.
pub const REGISTERS: u32 = 16;

const FIRST_REGISTER: u32 = 8;
const REG_VERDICT: u32 = 0;

/// What is loaded from a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// One byte: 2 for IPv4, 10 for IPv6.
    Family,
    /// One byte.
    Protocol,
    /// Sixteen bytes.
    InputInterface,
    /// Sixteen bytes.
    OutputInterface,
    /// Four bytes: the packet's priority in queues.
    Priority,
    Ipv4Source,
    Ipv4Destination,
    Ipv6Source,
    Ipv6Destination,
    /// Two bytes; TCP, UDP and SCTP.
    SourcePort,
    DestinationPort,
    /// One byte.
    TcpFlags,
    /// Four bytes: bits of connection tracking's states, in the host's order.
    ConntrackState,
}

/// A rule's expressions, in order. `register` counts registers of four bytes from 0.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Expressions(pub(crate) Vec<u8>);

impl Expressions {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Loads a field of the packet; the rule ends where the packet has none.
    #[must_use]
    pub fn load(self, field: Field, register: u32) -> Self {
        const NETWORK: u32 = 1;
        const TRANSPORT: u32 = 2;
        match field {
            Field::Family => self.meta(15, register),
            Field::Protocol => self.meta(16, register),
            Field::Priority => self.meta(2, register),
            Field::InputInterface => self.meta(6, register),
            Field::OutputInterface => self.meta(7, register),
            Field::Ipv4Source => self.payload(NETWORK, 12, 4, register),
            Field::Ipv4Destination => self.payload(NETWORK, 16, 4, register),
            Field::Ipv6Source => self.payload(NETWORK, 8, 16, register),
            Field::Ipv6Destination => self.payload(NETWORK, 24, 16, register),
            Field::SourcePort => self.payload(TRANSPORT, 0, 2, register),
            Field::DestinationPort => self.payload(TRANSPORT, 2, 2, register),
            Field::TcpFlags => self.payload(TRANSPORT, 13, 1, register),
            Field::ConntrackState => self.push("ct", |d| {
                number(d, 1, FIRST_REGISTER + register);
                number(d, 2, 0);
            }),
        }
    }

    fn meta(self, key: u32, register: u32) -> Self {
        self.push("meta", |d| {
            number(d, 2, key);
            number(d, 1, FIRST_REGISTER + register);
        })
    }

    fn payload(self, base: u32, offset: u32, length: u32, register: u32) -> Self {
        self.push("payload", |d| {
            number(d, 1, FIRST_REGISTER + register);
            number(d, 2, base);
            number(d, 3, offset);
            number(d, 4, length);
        })
    }

    /// Leaves only the bits of `mask`.
    #[must_use]
    pub fn and(self, register: u32, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or_default();
        self.push("bitwise", |d| {
            number(d, 1, FIRST_REGISTER + register);
            number(d, 2, FIRST_REGISTER + register);
            number(d, 3, length);
            nest(d, 4, |data| attr(data, 1, mask));
            nest(d, 5, |data| attr(data, 1, &vec![0; mask.len()]));
        })
    }

    /// The rule goes on only where the register is, or is not, this.
    #[must_use]
    pub fn compare(self, register: u32, is_equal: bool, value: &[u8]) -> Self {
        self.push("cmp", |d| {
            number(d, 1, FIRST_REGISTER + register);
            number(d, 2, u32::from(!is_equal));
            nest(d, 3, |data| attr(data, 1, value));
        })
    }

    /// The rule goes on only where the set has the key.
    #[must_use]
    pub fn is_in(self, set: &str, register: u32) -> Self {
        self.push("lookup", |d| {
            text(d, 1, set);
            number(d, 2, FIRST_REGISTER + register);
        })
    }

    /// Loads the map's value; the rule ends where the map has none.
    #[must_use]
    pub fn map(self, map: &str, register: u32, into: u32) -> Self {
        self.push("lookup", |d| {
            text(d, 1, map);
            number(d, 2, FIRST_REGISTER + register);
            number(d, 3, FIRST_REGISTER + into);
        })
    }

    /// Loads these bytes.
    #[must_use]
    pub fn constant(self, value: &[u8], register: u32) -> Self {
        self.push("immediate", |d| {
            number(d, 1, FIRST_REGISTER + register);
            nest(d, 2, |data| attr(data, 1, value));
        })
    }

    /// Gives the packet the priority of the register.
    #[must_use]
    pub fn set_priority(self, register: u32) -> Self {
        self.push("meta", |d| {
            number(d, 2, 2);
            number(d, 3, FIRST_REGISTER + register);
        })
    }

    /// Takes the map's verdict; the rule ends where the map has none.
    #[must_use]
    pub fn verdict_map(self, map: &str, register: u32) -> Self {
        self.push("lookup", |d| {
            text(d, 1, map);
            number(d, 2, FIRST_REGISTER + register);
            number(d, 3, REG_VERDICT);
        })
    }

    #[must_use]
    pub fn counter(self) -> Self {
        self.push("counter", |_| {})
    }

    /// The rule goes on at most `rate` times a second.
    #[must_use]
    pub fn limit(self, rate: u64, burst: u32) -> Self {
        self.push("limit", |d| {
            attr(d, 1, &rate.to_be_bytes());
            attr(d, 2, &1_u64.to_be_bytes());
            number(d, 3, burst);
            number(d, 4, 0);
        })
    }

    /// Sends the first `length` bytes of the packet to readers of the group ([`crate::LogReader`]).
    #[must_use]
    pub fn log(self, group: u16, prefix: &str, length: u32) -> Self {
        self.push("log", |d| {
            attr(d, 1, &group.to_be_bytes());
            text(d, 2, prefix);
            number(d, 3, length);
        })
    }

    #[must_use]
    pub fn verdict(self, verdict: &Verdict) -> Self {
        self.push("immediate", |d| {
            number(d, 1, REG_VERDICT);
            nest(d, 2, |data| put_verdict(data, verdict));
        })
    }

    fn push(mut self, name: &str, data: impl FnOnce(&mut Vec<u8>)) -> Self {
        nest(&mut self.0, LIST_ELEM, |e| {
            text(e, 1, name);
            nest(e, 2, data);
        });
        self
    }
}
