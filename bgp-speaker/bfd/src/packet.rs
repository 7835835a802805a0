//! The control packet (RFC 5880 §4.1): 24 octets, and what [`crate::Guard`] appends.
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
    /// No packets of the peer, or none that see us.
    #[default]
    Down,
    /// The peer is heard, but does not hear us yet.
    Init,
    /// Both hear each other.
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

/// Why the session last left Up (RFC 5880 §4.1). Codes that we do not know read as `Other`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Diagnostic {
    /// 0.
    #[default]
    None,
    /// 1: nothing heard for the detection time.
    TimeExpired,
    /// 3: the neighbor said that the session is down.
    NeighborDown,
    /// 7.
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
    /// Why it last went down.
    pub diagnostic: Diagnostic,
    /// P: answer with Final.
    pub poll: bool,
    /// F: the answer to Poll.
    pub is_final: bool,
    /// Packets that may be missed in a row, 1–255.
    pub multiplier: u8,
    /// The sender's discriminator.
    pub mine: NonZeroU32,
    /// Ours as the sender knows it; 0 for not at all.
    pub yours: u32,
    /// The sender would like to send this often.
    pub desired_tx: Duration,
    /// The sender can receive this often; zero for not at all.
    pub required_rx: Duration,
}

/// Why a packet is dropped (RFC 5880 §6.8.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PacketError {
    /// Shorter than 24 octets, or than it says.
    #[error("the packet is cut short")]
    Short,
    /// Not version 1.
    #[error("version {0}, want 1")]
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

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

impl Packet {
    /// The packet's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; LENGTH] {
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        // C is clear: we end with the process that decides where packets go (RFC 5880 §4.1).
        let flags = flag(self.poll, POLL) | flag(self.is_final, FINAL);
        let head = [
            VERSION << 5 | self.diagnostic.code(),
            self.state.code() << 6 | flags,
            self.multiplier,
            LENGTH as u8,
        ];
        let words = [
            self.mine.get(),
            self.yours,
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

    /// Reads a packet; whether it may be believed is for [`crate::Guard`] to say.
    ///
    /// # Errors
    /// [`PacketError`]: the packet must be dropped (RFC 5880 §6.8.6).
    pub fn decode(bytes: &[u8]) -> Result<Self, PacketError> {
        let (head, rest) = bytes.split_first_chunk::<4>().ok_or(PacketError::Short)?;
        let [version, flags, multiplier, length] = *head;
        if version >> 5 != VERSION {
            return Err(PacketError::Version(version >> 5));
        }
        // RFC 5880 §6.8.6: at least 24 octets, and no more than the payload has.
        if usize::from(length) < LENGTH || usize::from(length) > bytes.len() {
            return Err(PacketError::Short);
        }
        let (words, _) = rest.as_chunks::<4>();
        let &[mine, yours, tx, rx, _, ..] = words else {
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
            mine: NonZeroU32::new(u32::from_be_bytes(mine)).ok_or(PacketError::MyDiscriminator)?,
            yours: u32::from_be_bytes(yours),
            desired_tx: Duration::from_micros(u64::from(u32::from_be_bytes(tx))),
            required_rx: Duration::from_micros(u64::from(u32::from_be_bytes(rx))),
        };
        // RFC 5880 §6.8.6: zero only while the sender cannot know it.
        if packet.yours == 0 && !matches!(packet.state, State::Down | State::AdminDown) {
            return Err(PacketError::YourDiscriminator(packet.state));
        }
        Ok(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By hand from the figure of RFC 5880 §4.1: Up, poll, C clear, multiplier 3, 100 ms both ways.
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
            mine: NonZeroU32::new(7).unwrap(),
            yours: 9,
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
