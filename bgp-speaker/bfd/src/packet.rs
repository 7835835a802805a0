//! The control packet (RFC 5880 §4.1): 24 octets, and what [`crate::Authenticator`] appends.
//!
//! ```text
//!  0                   1                   2                   3
//! |Vers |  Diag   |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
//! |                       My Discriminator                        |
//! |                      Your Discriminator                       |
//! |                    Desired Min TX Interval                    |
//! |                   Required Min RX Interval                    |
//! |                 Required Min Echo RX Interval                 |
//! ```

use std::num::NonZeroU32;
use std::time::Duration;

/// Length of a packet without authentication, in octets.
const LENGTH: usize = 24;
const VERSION: u8 = 1;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const MULTIPOINT: u8 = 0x01;

/// Session state (RFC 5880 §4.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum State {
    /// Held down by the operator.
    AdminDown,
    /// No packets of the peer are received, or none with our discriminator.
    #[default]
    Down,
    /// Packets of the peer are received, but it does not receive own packets yet.
    Init,
    /// Both sides receive each other's packets.
    Up,
}

impl State {
    fn code(self) -> u8 {
        match self {
            State::AdminDown => 0,
            State::Down => 1,
            State::Init => 2,
            State::Up => 3,
        }
    }

    fn from_code(code: u8) -> Self {
        match code & 3 {
            0 => State::AdminDown,
            1 => State::Down,
            2 => State::Init,
            _ => State::Up,
        }
    }
}

/// Why the session last left Up (RFC 5880 §4.1). Unknown codes become `Other`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Diagnostic {
    /// 0.
    #[default]
    None,
    /// 1: control detection time expired.
    TimeExpired,
    /// 3: neighbor signaled session down.
    NeighborDown,
    /// 7: administratively down.
    AdminDown,
    /// Any other.
    Other(u8),
}

impl Diagnostic {
    fn code(self) -> u8 {
        match self {
            Diagnostic::None => 0,
            Diagnostic::TimeExpired => 1,
            Diagnostic::NeighborDown => 3,
            Diagnostic::AdminDown => 7,
            Diagnostic::Other(code) => code & 0x1F,
        }
    }

    fn from_code(code: u8) -> Self {
        match code & 0x1F {
            0 => Diagnostic::None,
            1 => Diagnostic::TimeExpired,
            3 => Diagnostic::NeighborDown,
            7 => Diagnostic::AdminDown,
            code => Diagnostic::Other(code),
        }
    }
}

/// A control packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Packet {
    /// The sender's state.
    pub state: State,
    /// Why it last left Up.
    pub diagnostic: Diagnostic,
    /// P: requests a packet with Final.
    pub poll: bool,
    /// F: the answer to Poll.
    pub is_final: bool,
    /// Detection multiplier: packets that may be lost in a row, 1–255.
    pub multiplier: u8,
    /// The sender's discriminator.
    pub my_discriminator: NonZeroU32,
    /// Our discriminator as known to the sender; 0 if unknown.
    pub your_discriminator: u32,
    /// Desired Min TX Interval of the sender.
    pub desired_tx: Duration,
    /// Required Min RX Interval of the sender; zero: do not send.
    pub required_rx: Duration,
}

/// Why a packet is dropped (RFC 5880 §6.8.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PacketError {
    /// Shorter than 24 octets, or than its length field.
    #[error("the packet is truncated")]
    Short,
    /// Not version 1.
    #[error("BFD version {0} is not supported, only 1")]
    Version(u8),
    /// A multiplier of zero.
    #[error("the detection multiplier is zero")]
    Multiplier,
    /// The multipoint bit.
    #[error("the multipoint bit is set")]
    Multipoint,
    /// A discriminator of zero.
    #[error("the sender's discriminator is zero")]
    MyDiscriminator,
    /// Our discriminator is missing in a state that needs it.
    #[error("our discriminator is missing in a packet of state {0:?}")]
    YourDiscriminator(State),
}

impl Packet {
    /// Encodes the packet.
    #[must_use]
    pub fn encode(&self) -> [u8; LENGTH] {
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        // C is clear: BFD ends with the process that maintains the routes (RFC 5880 §4.1).
        let flags = flag(self.poll, POLL) | flag(self.is_final, FINAL);
        let head = [
            VERSION << 5 | self.diagnostic.code(),
            self.state.code() << 6 | flags,
            self.multiplier,
            LENGTH as u8,
        ];
        let words = [
            self.my_discriminator.get(),
            self.your_discriminator,
            micros(self.desired_tx),
            micros(self.required_rx),
            0,
        ];
        let mut bytes = [0; LENGTH];
        let all = head
            .into_iter()
            .chain(words.into_iter().flat_map(u32::to_be_bytes));
        bytes
            .iter_mut()
            .zip(all)
            .for_each(|(place, octet)| *place = octet);
        bytes
    }

    /// Decodes a packet; [`crate::Authenticator`] checks its authentication.
    ///
    /// # Errors
    /// [`PacketError`]: the packet must be dropped (RFC 5880 §6.8.6).
    pub fn decode(bytes: &[u8]) -> Result<Self, PacketError> {
        let (head, rest) = bytes.split_first_chunk::<4>().ok_or(PacketError::Short)?;
        let [version, flags, multiplier, length] = *head;
        if version >> 5 != VERSION {
            return Err(PacketError::Version(version >> 5));
        }
        // RFC 5880 §6.8.6: at least 24 octets, and at most the payload.
        if usize::from(length) < LENGTH || usize::from(length) > bytes.len() {
            return Err(PacketError::Short);
        }
        let (words, _) = rest.as_chunks::<4>();
        let &[my_discriminator, your_discriminator, tx, rx, _, ..] = words else {
            return Err(PacketError::Short);
        };
        if multiplier == 0 {
            return Err(PacketError::Multiplier);
        }
        if flags & MULTIPOINT != 0 {
            return Err(PacketError::Multipoint);
        }
        let packet = Self {
            state: State::from_code(flags >> 6),
            diagnostic: Diagnostic::from_code(version),
            poll: flags & POLL != 0,
            is_final: flags & FINAL != 0,
            multiplier,
            my_discriminator: NonZeroU32::new(u32::from_be_bytes(my_discriminator))
                .ok_or(PacketError::MyDiscriminator)?,
            your_discriminator: u32::from_be_bytes(your_discriminator),
            desired_tx: Duration::from_micros(u64::from(u32::from_be_bytes(tx))),
            required_rx: Duration::from_micros(u64::from(u32::from_be_bytes(rx))),
        };
        // RFC 5880 §6.8.6: zero only while the sender cannot know it.
        if packet.your_discriminator == 0 && !matches!(packet.state, State::Down | State::AdminDown) {
            return Err(PacketError::YourDiscriminator(packet.state));
        }
        Ok(packet)
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// After the figure of RFC 5880 §4.1: Up, poll, C clear, multiplier 3, 100 ms in both directions.
    const BYTES: [u8; 24] = [
        0x20, 0xE0, 3, 24, // version 1, no diagnostic; state Up, P; multiplier; length
        0, 0, 0, 7, // my discriminator
        0, 0, 0, 9, // your discriminator
        0, 1, 0x86, 0xA0, // desired min TX 100,000 us
        0, 1, 0x86, 0xA0, // required min RX
        0, 0, 0, 0, // no echo
    ];

    fn packet() -> Packet {
        Packet {
            state: State::Up,
            diagnostic: Diagnostic::None,
            poll: true,
            is_final: false,
            multiplier: 3,
            my_discriminator: NonZeroU32::new(7).unwrap(),
            your_discriminator: 9,
            desired_tx: Duration::from_millis(100),
            required_rx: Duration::from_millis(100),
        }
    }

    #[test]
    fn golden_both_ways() {
        assert_eq!(packet().encode(), BYTES);
        assert_eq!(Packet::decode(&BYTES), Ok(packet()));
    }

    #[test]
    fn each_rule_of_reception() {
        let with = |index: usize, value: u8| {
            let mut bytes = BYTES;
            bytes[index] = value;
            Packet::decode(&bytes)
        };
        assert_eq!(with(0, 0x40), Err(PacketError::Version(2)));
        assert_eq!(with(1, 0xE1), Err(PacketError::Multipoint));
        assert_eq!(with(2, 0), Err(PacketError::Multiplier));
        assert_eq!(with(3, 23), Err(PacketError::Short));
        assert_eq!(with(3, 25), Err(PacketError::Short));
        assert_eq!(with(7, 0), Err(PacketError::MyDiscriminator));
        assert_eq!(with(11, 0), Err(PacketError::YourDiscriminator(State::Up)));
        assert_eq!(Packet::decode(&BYTES[..23]), Err(PacketError::Short));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(packet) = Packet::decode(&bytes) {
                prop_assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
            }
        }
    }
}
